"""Models of every origin are attacked alike; what they cost, and whether that is known, is in their record."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attack_service import models
from attack_service.datasets import Split
from attack_service.errors import CheckpointInvalid, DatasetUnavailable
from attack_service.jobs import MemoryLedger, State
from attack_service.records import trained_models


@pytest.fixture(scope="module")
def own_weights(first_run) -> Path:
    """The file of the model that the first run has trained, as if it had come from elsewhere."""
    root, _ = first_run
    (path,) = (root / "models").glob("*.safetensors")
    return path


def test_a_job_without_an_attack_fills_the_store_for_one_with(tmp_path: Path, run_job) -> None:
    alone = run_job(tmp_path, attack="none", sample_count=0, image_size=8)
    assert (alone.state, alone.ledger.outcomes) == (State.SUCCEEDED, [])
    record = alone.ledger.model_record
    assert not record.from_store
    assert record.training_cost_known
    # 1437 samples, a forward and a backward evaluation each.
    assert record.training_evaluation_count == 2 * 1437
    (listed,) = trained_models(tmp_path)
    assert (listed.record.weights_digest, listed.spec.dataset) == (record.weights_digest, "digits")
    (stored,) = (tmp_path / "records").glob("*.json")
    assert json.loads(stored.read_text())["precision"] == "float32"

    attacked = run_job(tmp_path, sample_count=10, image_size=8).ledger.model_record
    assert attacked.from_store
    assert attacked.weights_digest == record.weights_digest
    again = run_job(tmp_path, alone.ledger, attack="none", sample_count=0, image_size=8)
    assert again.state is State.SUCCEEDED


def test_a_checkpoint_is_attacked_as_the_stored_model_it_is(
    tmp_path: Path, own_weights, first_run, run_job, fates
) -> None:
    _, first = first_run
    run = run_job(tmp_path, checkpoint=str(own_weights), epoch_count=0)
    assert fates(run.ledger.outcomes) == fates(first.ledger.outcomes)
    record = run.ledger.model_record
    assert record.weights_digest == hashlib.sha256(own_weights.read_bytes()).hexdigest()
    assert record.clean_accuracy == first.ledger.model_record.clean_accuracy
    assert (record.training_cost_known, record.training_seconds, record.training_evaluation_count) == (False, 0.0, 0)
    assert not list(tmp_path.rglob("*.json"))


def test_torchvisions_layout_is_measured_too_and_its_cost_is_what_its_owner_says(
    tmp_path: Path, own_weights, first_run, run_job
) -> None:
    named = {f"module.{name.removeprefix('network.')}": tensor for name, tensor in load_file(own_weights).items()}
    del named["module.mean"], named["module.deviation"]
    torch.save({"state_dict": named, "epoch": 1}, tmp_path / "own.pt")
    run = run_job(
        tmp_path, checkpoint=str(tmp_path / "own.pt"), attack="none", sample_count=0, epoch_count=3,
        training_seconds=12.5, training_sample_count=1000,
    )  # fmt: skip
    record = run.ledger.model_record
    _, first = first_run
    assert record.clean_accuracy == first.ledger.model_record.clean_accuracy
    assert (record.training_cost_known, record.training_seconds, record.training_sample_count) == (True, 12.5, 1000)
    assert record.training_evaluation_count == 2 * 3 * 1000
    assert any("does not say how its images were normalised" in warning for warning in run.ledger.warnings)


def test_a_program_is_attacked_as_the_network_it_was_exported_from(
    tmp_path: Path, own_weights, first_run, run_job
) -> None:
    classifier = models.build(models.Architecture("resnet18", "imagenet", 1, 10))
    classifier.load_state_dict(load_file(own_weights))
    # torch warns, when it saves weights in any other format.
    classifier = classifier.to(memory_format=torch.contiguous_format).eval()
    free: Any = ({0: torch.export.Dim("n")},)
    exported = torch.export.export(classifier, (torch.rand(2, 1, 16, 16),), dynamic_shapes=free)
    torch.export.save(exported, str(tmp_path / "own.pt2"))
    run = run_job(tmp_path, model="", program=str(tmp_path / "own.pt2"), sample_count=20, epoch_count=0)
    assert run.state is State.SUCCEEDED
    assert len(run.ledger.outcomes) == 20
    _, first = first_run
    expected = first.ledger.model_record
    # Rounding differs where batch norm is not folded: one sample of the test split may lie on a boundary.
    assert run.ledger.model_record.clean_accuracy == pytest.approx(expected.clean_accuracy, abs=1.01 / 360)
    assert run.ledger.model_record.parameter_count == expected.parameter_count


def test_another_file_than_the_job_was_prepared_with_is_refused(tmp_path: Path, own_weights, run_job) -> None:
    """A worker whose file of the same name is another one would attack another model."""
    path = tmp_path / "own.safetensors"
    shutil.copy(own_weights, path)
    ledger = MemoryLedger()
    run_job(tmp_path, ledger, checkpoint=str(path), sample_count=5, epoch_count=0)
    prepared = ledger.preparation()
    assert prepared is not None
    other = MemoryLedger(replace(prepared, record=replace(prepared.record, weights_digest="0" * 64)))
    with pytest.raises(CheckpointInvalid, match="is not the file that the job was prepared with"):
        run_job(tmp_path, other, checkpoint=str(path), sample_count=5, epoch_count=0)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.tensor([-2.1, 2.6]), r"float32 from -2\.1 to 2\.6; give them as bytes, or as floats in \[0, 1\]"),
        (torch.tensor([0.0, 255.0]), "float32 from 0 to 255"),
        (torch.tensor([0.5, float("nan")]), "float32 from nan to nan"),
        (torch.tensor([0, 255], dtype=torch.int32), "int32 from 0 to 255"),
    ],
)
def test_images_outside_the_unit_range_are_refused(pixels: torch.Tensor, said: str) -> None:
    with pytest.raises(DatasetUnavailable, match=said):
        Split(pixels.reshape(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64), image_size=8)
