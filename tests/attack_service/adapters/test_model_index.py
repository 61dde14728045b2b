"""The models of the workers' stores are listed while their workers live."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
import torch

from attack_service.adapters.connecting import connect
from attack_service.adapters.keys import WORKERS, worker_models_key
from attack_service.adapters.model_index import ModelIndex
from attack_service.checkpoints import Store
from attack_service.records import StoredModel

SPECIFICATION = {
    "model": "resnet18", "dataset": "digits", "stem": "cifar", "image_size": 32, "epoch_count": 6, "seed": 3,
    "class_count": 10, "defence": "gaussian-augmentation", "defence_parameters": {"deviation": 0.25},
}  # fmt: skip


def add(root: Path, number: int) -> str:
    """Store a model; return its digest."""
    store = Store(root)
    digest = store.save_weights({"number": torch.tensor(number)})
    stored = StoredModel(digest, 12.5, 1437, 17_244, 6, 0.75, 360, "a device", 11_000_000, "float32", 1.7e9 + number)
    store.save_record(f"key{number}", stored, SPECIFICATION)
    return digest


@pytest.fixture
def client(module_redis_url: str) -> Iterator[redis.Redis]:
    """Of a Redis that no worker of another test is known to."""
    with connect(module_redis_url, 2) as client:
        client.flushdb()
        yield client


@pytest.fixture
def jobs(module_redis_url: str, client: redis.Redis, make_jobs: Any) -> Any:
    return make_jobs(module_redis_url, client)


@pytest.fixture
def listed(jobs: Any) -> Any:
    def digests() -> list[str]:
        models = jobs.call(lambda store, log: store.trained_models())
        return [model.model_record.weights_digest for model in models]

    return digests


def test_workers_say_what_their_stores_hold_and_shared_stores_count_once(
    tmp_path: Path, client: redis.Redis, jobs: Any, listed: Any
) -> None:
    assert listed() == []
    shared, own = tmp_path / "shared", tmp_path / "own"
    first = add(shared, 1)
    indices = [ModelIndex(root, f"worker:{i}") for i, root in enumerate((shared, shared, own))]
    for i, index in enumerate(indices):
        client.sadd(WORKERS, f"worker:{i}")
        index.publish(client, 60)
    assert listed() == [first]
    second = add(own, 2)
    indices[2].publish(client, 60)
    assert listed() == [second, first]
    (model, _) = jobs.call(lambda store, log: store.trained_models())
    assert (model.spec.model, model.spec.stem, model.spec.seed) == ("resnet18", "cifar", 3)
    assert dict(model.spec.defence_parameters) == {"deviation": 0.25}
    assert (model.model_record.training_evaluation_count, model.model_record.class_count) == (17_244, 10)
    assert model.create_time.ToSeconds() == 1.7e9 + 2
    indices[2].withdraw(client)
    assert listed() == [first]


def test_a_list_that_has_not_changed_is_kept_and_one_that_was_lost_is_published_again(
    tmp_path: Path, client: redis.Redis, listed: Any
) -> None:
    digest = add(tmp_path, 1)
    index = ModelIndex(tmp_path, "worker:0")
    client.sadd(WORKERS, "worker:0")
    index.publish(client, 60)
    key = worker_models_key("worker:0")
    client.expire(key, 1)
    index.publish(client, 60)
    assert client.ttl(key) > 30
    client.delete(key)
    index.publish(client, 60)
    assert listed() == [digest]


def test_the_list_of_a_worker_that_is_gone_expires(tmp_path: Path, client: redis.Redis, listed: Any) -> None:
    add(tmp_path, 1)
    client.sadd(WORKERS, "worker:0")
    ModelIndex(tmp_path, "worker:0").publish(client, 1)
    deadline = time.monotonic() + 30
    while listed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert listed() == []


def test_a_model_whose_weights_were_removed_is_no_longer_listed(
    tmp_path: Path, client: redis.Redis, listed: Any
) -> None:
    digests = [add(tmp_path, number) for number in (1, 2)]
    index = ModelIndex(tmp_path, "worker:0")
    client.sadd(WORKERS, "worker:0")
    index.publish(client, 60)
    (tmp_path / "models" / f"{digests[1]}.safetensors").unlink()
    index.publish(client, 60)
    assert listed() == [digests[0]]


def test_a_record_that_cannot_be_is_refused() -> None:
    stored = StoredModel("0", 1.0, 1, 1, 1, 0.5, 1, "", 1, "float32", 0.0)
    with pytest.raises(ValueError, match="is no record of a trained model"):
        replace(stored, training_evaluation_count=0)
