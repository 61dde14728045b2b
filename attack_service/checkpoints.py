"""The model store: weights under their SHA-256, records under what was asked for, training under way.

    STORE/models/<sha256 of the file>.safetensors      weights, never a pickle
    STORE/records/<digest of the training specification>.json
    STORE/training/<digest of the training specification>.safetensors    the last finished epoch

Every file is written aside and renamed into place, so that a reader sees all of it or nothing, and two workers that
train the same model at once leave one good copy. What a killed worker left aside is removed by the next that writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from attack_service.errors import CheckpointInvalid
from attack_service.records import MODELS, RECORDS, StoredModel, decode

Tensors = dict[str, Tensor]

# A file that is being written changes all the time; one that has not changed for so long is nobody's.
_ABANDONED_SECONDS = 3600.0

# What a state of training says of its best epoch, and how each number is read.
_STANDING: dict[str, Callable[[str], Any]] = {"best_epoch": int, "best_correct_count": int, "best_loss": float}


@dataclass(frozen=True, slots=True)
class Standing:
    """How a model stood on the samples held out of its training, after an epoch: how many correct, the mean loss."""

    epoch: int = 0
    correct_count: int = -1
    loss: float = math.inf

    def better_than(self, other: Standing) -> bool:
        return (self.correct_count, -self.loss) > (other.correct_count, -other.loss)


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Training after its last finished epoch: weights, momentum, the best weights, what was spent so far."""

    epoch: int
    seconds: float
    tensors: Tensors
    evaluation_count: int = 0
    best: Standing = Standing()


class Store:
    """Trained models in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        return self._root

    def load(self, key: str) -> tuple[StoredModel, Tensors] | None:
        """The model trained for a specification, or None if there is none.

        Raises `CheckpointInvalid` if its files are damaged; they are moved aside first, so that training anew, or
        asking again, is enough.
        """
        path = self._record_path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            stored, _ = decode(content)
        except ValueError as error:
            raise _move_aside(path, "is not a record of a model") from error
        weights_path = self._weights_path(stored.weights_digest)
        try:
            content = weights_path.read_bytes()
        except FileNotFoundError as error:
            raise _move_aside(path, f"belongs to weights that are gone ({weights_path})") from error
        except OSError as error:
            raise _unreadable(weights_path, error) from error
        if hashlib.sha256(content).hexdigest() != stored.weights_digest:
            raise _move_aside(weights_path, "is damaged: its SHA-256 is not its name")
        return stored, load(content)

    def save_weights(self, tensors: Mapping[str, Tensor]) -> str:
        """Store weights and return their digest, the SHA-256 of the file, in hexadecimal."""
        content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(content).hexdigest()
        self._write(self._weights_path(digest), content)
        return digest

    def save_record(self, key: str, stored: StoredModel, specification: Mapping[str, object]) -> None:
        """Store the record of a model whose weights are stored; forget its training state."""
        entries = asdict(stored) | {"specification": dict(specification)}
        self._write(self._record_path(key), json.dumps(entries, indent=2, sort_keys=True).encode())
        with contextlib.suppress(OSError):
            self._training_path(key).unlink()

    def load_training(self, key: str) -> TrainingState | None:
        """The last finished epoch of a training that did not end, or None; a damaged one is moved aside."""
        path = self._training_path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
            if metadata["digest"] != _digest(tensors):
                raise ValueError("the tensors are not those that were stored")
            best = Standing(*(read(metadata[name]) for name, read in _STANDING.items()))
            return TrainingState(
                int(metadata["epoch"]), float(metadata["seconds"]), tensors, int(metadata["evaluation_count"]), best
            )
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError, KeyError):
            _move_aside(path, "is damaged")
            return None

    def save_training(self, key: str, state: TrainingState) -> None:
        """Store an epoch's end; the latest wins."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        metadata = {"epoch": str(state.epoch), "seconds": repr(state.seconds), "digest": _digest(tensors)}
        metadata["evaluation_count"] = str(state.evaluation_count)
        standing = (state.best.epoch, state.best.correct_count, state.best.loss)
        metadata |= {name: repr(value) for name, value in zip(_STANDING, standing, strict=True)}
        self._write(self._training_path(key), save(tensors, metadata), durable=False)

    def _weights_path(self, digest: str) -> Path:
        return self._root / MODELS / f"{digest}.safetensors"

    def _record_path(self, key: str) -> Path:
        return self._root / RECORDS / f"{key}.json"

    def _training_path(self, key: str) -> Path:
        return self._root / "training" / f"{key}.safetensors"

    def _write(self, path: Path, content: bytes, *, durable: bool = True) -> None:
        """Write a file whole; one that is not `durable` may be damaged by a loss of power, and is then found to be."""
        aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path.parent)
            with aside.open("wb") as file:
                file.write(content)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise CheckpointInvalid(
                f"cannot write {path}: {error.strerror or error}; "
                "make room there, or start the worker with another --store"
            ) from error


def _digest(tensors: Tensors) -> str:
    """SHA-256, hexadecimal, of named tensors: safetensors itself would not notice other bytes of the same length."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _remove_abandoned(folder: Path) -> None:
    """Remove what workers that were killed while they wrote have left aside."""
    for aside in folder.glob(".*"):
        # Whoever removes it first, or keeps it because it is not ours to remove: it does not matter.
        with contextlib.suppress(OSError):
            if time.time() - aside.stat().st_mtime > _ABANDONED_SECONDS:
                aside.unlink()


def _unreadable(path: Path, error: OSError) -> CheckpointInvalid:
    reason = error.strerror or error
    return CheckpointInvalid(f"cannot read {path}: {reason}; repair it, or start the worker with another --store")


def _move_aside(path: Path, what: str) -> CheckpointInvalid:
    aside = path.with_name(f"{path.name}.damaged")
    # Another worker may have found the damage first and moved it; a store that is read-only stays as it is.
    with contextlib.suppress(OSError):
        path.replace(aside)
    return CheckpointInvalid(f"{path} {what}; it was moved to {aside.name}")
