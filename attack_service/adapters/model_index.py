"""The trained models in the workers' stores, in Redis: a list a worker, which goes when the worker does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import redis
from afr.attack.v1 import attack_service_pb2 as attack_pb2

from attack_service.adapters import wire
from attack_service.adapters.keys import worker_models_key
from attack_service.records import MODELS, RECORDS, TrainedModel, trained_models

# Redis and a client's message take more, and nobody reads a list of more.
_LARGEST_COUNT = 2000


class ModelIndex:
    """A worker's side: keeps in Redis what is in its store."""

    def __init__(self, store_root: Path, worker_name: str) -> None:
        self._root = store_root
        self._key = worker_models_key(worker_name)
        self._published: tuple[int, ...] = ()

    def publish(self, client: redis.Redis, expiry_seconds: int) -> None:
        """Publish the store's models if they have changed, or keep what is published. Raises `redis.RedisError`."""
        state = tuple(_changed(self._root / folder) for folder in (RECORDS, MODELS))
        if state == self._published and client.expire(self._key, expiry_seconds):
            return
        models = [trained_model_to_proto(model) for model in trained_models(self._root)[:_LARGEST_COUNT]]
        payload = attack_pb2.ListModelsResponse(trained_models=models).SerializeToString()
        client.set(self._key, payload, ex=expiry_seconds)
        self._published = state

    def withdraw(self, client: redis.Redis) -> None:
        """Remove the list of a worker that ends. Raises `redis.RedisError`."""
        client.delete(self._key)


def merged(payloads: Sequence[bytes | None]) -> list[attack_pb2.TrainedModel]:
    """The models of all workers, newest first; those that share a store list the same ones."""
    known: dict[bytes, attack_pb2.TrainedModel] = {}
    for payload in payloads:
        for model in attack_pb2.ListModelsResponse.FromString(payload or b"").trained_models:
            known[model.SerializeToString(deterministic=True)] = model
    return sorted(known.values(), key=lambda model: model.create_time.ToNanoseconds(), reverse=True)


def trained_model_to_proto(model: TrainedModel) -> attack_pb2.TrainedModel:
    message = attack_pb2.TrainedModel(
        spec=wire.spec_to_proto(model.spec), model_record=wire.model_record_to_proto(model.record)
    )
    message.create_time.FromDatetime(model.create_time)
    return message


def _changed(folder: Path) -> int:
    """When an entry was last added to a folder or removed; 0 if there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0
