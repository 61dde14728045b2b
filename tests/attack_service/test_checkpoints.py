"""The store gives back what was stored or says what is wrong; it never loads damaged or executable files."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attack_service.checkpoints import Standing, Store, TrainingState
from attack_service.errors import CheckpointInvalid
from attack_service.records import StoredModel, trained_models

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}


def stored_model(digest: str) -> StoredModel:
    return StoredModel(digest, 12.5, 100, 400, 2, 0.75, 40, "a device", 7, "float32", 1.7e9)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.save_record("key", stored_model(store.save_weights(WEIGHTS)), {"model": "tiny"})
    return store


def weights_file(root: Path) -> Path:
    (path,) = (root / "models").glob("*.safetensors")
    return path


def test_a_stored_model_comes_back_and_its_file_is_named_by_its_digest(store: Store, tmp_path: Path) -> None:
    loaded = store.load("key")
    assert loaded is not None
    found, tensors = loaded
    assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)
    assert found == stored_model(hashlib.sha256(weights_file(tmp_path).read_bytes()).hexdigest())
    assert weights_file(tmp_path).stem == found.weights_digest
    assert json.loads((tmp_path / "records" / "key.json").read_text())["specification"] == {"model": "tiny"}


def test_what_was_never_stored_is_not_there(store: Store) -> None:
    assert store.load("another key") is None
    assert store.load_training("another key") is None


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-7], lambda content: content[:-1] + b"\xff", lambda _: b""]
)
def test_damaged_weights_are_named_and_moved_aside(store: Store, tmp_path: Path, damage) -> None:
    path = weights_file(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointInvalid, match=f"{path.name}.*moved to {path.name}.damaged"):
        store.load("key")
    assert not path.exists()
    # The record alone is no model: it goes too, and then the store is as if nothing had been trained.
    with pytest.raises(CheckpointInvalid, match="belongs to weights that are gone"):
        store.load("key")
    assert store.load("key") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"weights_digest": "abc"}', b"\x89\xff\x00", b"[" * 100_000])
def test_a_damaged_record_is_named_and_moved_aside(store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "records" / "key.json").write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=r"key\.json is not a record of a model"):
        store.load("key")
    assert store.load("key") is None


@pytest.mark.parametrize(
    "edit",
    [
        {"clean_accuracy": "high"},
        {"clean_accuracy": 1.5},
        {"training_seconds": None},
        {"training_seconds": float("nan")},
        {"test_sample_count": 0},
        {"weights_digest": 7},
    ],
)
def test_a_record_whose_values_cannot_be_is_no_record(store: Store, tmp_path: Path, edit: dict[str, object]) -> None:
    path = tmp_path / "records" / "key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edit))
    with pytest.raises(CheckpointInvalid, match=r"key\.json is not a record of a model"):
        store.load("key")
    assert store.load("key") is None


def test_training_under_way_is_kept_until_the_model_is_there(store: Store) -> None:
    store.save_training("other", TrainingState(1, 3.25, WEIGHTS))
    store.save_training("other", TrainingState(2, 6.5, WEIGHTS, 1234, Standing(1, 30, 0.1)))
    state = store.load_training("other")
    assert state is not None
    assert (state.epoch, state.seconds, state.evaluation_count, state.best) == (2, 6.5, 1234, Standing(1, 30, 0.1))
    assert torch.equal(state.tensors["layer.weight"], WEIGHTS["layer.weight"])
    store.save_record("other", stored_model(store.save_weights(WEIGHTS)), {})
    assert store.load_training("other") is None


def test_a_damaged_state_of_training_means_to_begin_again(store: Store, tmp_path: Path) -> None:
    store.save_training("other", TrainingState(1, 3.25, WEIGHTS))
    path = tmp_path / "training" / "other.safetensors"
    path.write_bytes(path.read_bytes()[:20])
    assert store.load_training("other") is None
    assert path.with_name("other.safetensors.damaged").exists()


def test_one_changed_byte_in_a_state_of_training_means_to_begin_again(store: Store, tmp_path: Path) -> None:
    """A loss of power can leave zeros where numbers were; safetensors reads them without a word."""
    store.save_training("other", TrainingState(1, 3.25, WEIGHTS))
    path = tmp_path / "training" / "other.safetensors"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert store.load_training("other") is None


def test_what_a_killed_worker_left_aside_is_removed_and_what_another_one_writes_is_not(
    store: Store, tmp_path: Path
) -> None:
    left, written = (tmp_path / "training" / f".other.safetensors.{n}.0a1b2c3d" for n in (1, 2))
    left.parent.mkdir()
    for path in (left, written):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    store.save_training("key", TrainingState(1, 1.0, WEIGHTS))
    assert not left.exists()
    assert written.exists()


def test_workers_that_store_the_same_model_at_once_leave_one_good_copy(tmp_path: Path) -> None:
    def work(_: int) -> None:
        store = Store(tmp_path)
        store.save_training("key", TrainingState(1, 1.0, WEIGHTS))
        store.save_record("key", stored_model(store.save_weights(WEIGHTS)), {})
        assert store.load("key") is not None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        [weights_file(tmp_path).name, "key.json"]
    )


def test_a_store_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointInvalid, match="start the worker with another --store"):
        Store(blocked).save_weights(WEIGHTS)


def test_trained_models_are_listed_newest_first_without_those_that_could_not_be_attacked(tmp_path: Path) -> None:
    store = Store(tmp_path)
    specification = {
        "model": "resnet18", "dataset": "digits", "stem": "imagenet", "image_size": 16, "epoch_count": 2, "seed": 3,
        "class_count": 10,
    }  # fmt: skip
    for number, moment in enumerate((1.7e9, 1.8e9)):
        digest = store.save_weights(WEIGHTS | {"number": torch.tensor(number)})
        store.save_record(f"key{number}", replace(stored_model(digest), create_time=moment), specification)
    store.save_record("gone", stored_model("0" * 64), specification)
    (tmp_path / "records" / "damaged.json").write_text("{")
    newest, oldest = trained_models(tmp_path)
    assert newest.create_time > oldest.create_time
    assert (newest.spec.model, newest.spec.dataset, newest.spec.seed) == ("resnet18", "digits", 3)
    assert (newest.record.class_count, newest.record.clean_accuracy, newest.record.from_store) == (10, 0.75, True)
    assert trained_models(tmp_path / "nowhere") == ()
