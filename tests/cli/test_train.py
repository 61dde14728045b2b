"""`afrctl train` and `afrctl models` against a scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from afr.attack.v1 import attack_service_pb2 as attack
from afr.attack.v1.attack_service_pb2_grpc import AttackServiceServicer, add_AttackServiceServicer_to_server

DIGEST = "8a4777b4e71d" + "0" * 52


def record(**fields: Any) -> attack.ModelRecord:
    trained = attack.ModelRecord(
        **{
            "weights_digest": DIGEST,
            "training_sample_count": 1437,
            "epoch_count": 6,
            "clean_accuracy": 0.95,
            "test_sample_count": 360,
            "parameter_count": 11_175_370,
            "training_device_name": "a device",
            "training_cost_known": True,
        }
        | fields
    )
    trained.training_duration.FromMilliseconds(90_000)
    return trained


class ScriptedAttack(AttackServiceServicer):
    """An attack server whose job trains a little and then ends."""

    def __init__(self, **ended: Any) -> None:
        self.ended = {"state": attack.AttackJob.STATE_SUCCEEDED, "model_record": record()} | ended
        self.specs: list[attack.AttackSpec] = []

    def CreateAttackJob(self, request: attack.CreateAttackJobRequest, context: Any) -> attack.CreateAttackJobResponse:  # noqa: N802
        self.specs.append(request.spec)
        return attack.CreateAttackJobResponse(attack_job=self.job(state=attack.AttackJob.STATE_QUEUED))

    def StreamOutcomes(  # noqa: N802
        self, request: attack.StreamOutcomesRequest, context: Any
    ) -> Iterator[attack.StreamOutcomesResponse]:
        progress = attack.Progress(
            phase=attack.Progress.PHASE_TRAINING, done_count=45, total_count=270, epoch=2, loss=0.5, accuracy=0.875
        )
        progress.remaining_duration.FromSeconds(75)
        running = self.job(state=attack.AttackJob.STATE_RUNNING, progress=progress, warnings=["mind the gap"])
        yield attack.StreamOutcomesResponse(heartbeat=attack.Heartbeat(attack_job=running), resume_token="1")
        yield attack.StreamOutcomesResponse(end=attack.End(attack_job=self.job(**self.ended)))

    def ListModels(self, request: attack.ListModelsRequest, context: Any) -> attack.ListModelsResponse:  # noqa: N802
        spec = attack.AttackSpec(model="resnet18", dataset="digits", stem="cifar", image_size=16, seed=4)
        trained = attack.TrainedModel(spec=spec, model_record=record())
        trained.create_time.FromJsonString("2026-01-02T03:04:05Z")
        return attack.ListModelsResponse(
            models=[attack.Model(name="resnet18", description="a network", depth=18)], trained_models=[trained]
        )

    def job(self, **fields: Any) -> attack.AttackJob:
        spec = attack.AttackSpec()
        spec.CopyFrom(self.specs[-1])
        spec.dataset, spec.epoch_count, spec.image_size = "digits", 6, 16
        return attack.AttackJob(**{"attack_job_id": "job-1", "spec": spec} | fields)


@pytest.fixture
def scripted(serve: Any) -> Callable[..., tuple[list[str], ScriptedAttack]]:
    def start(**ended: Any) -> tuple[list[str], ScriptedAttack]:
        server = ScriptedAttack(**ended)
        return ["--attack-address", serve((add_AttackServiceServicer_to_server, server))], server

    return start


def test_training_shows_its_course_and_ends_with_the_record(afrctl: Any, scripted: Any) -> None:
    options, server = scripted()
    ended = afrctl("train", "--model", "resnet18", "--epochs", "6", "--defence", "jpeg", *options)
    assert ended.returncode == 0, ended.stderr
    for said in ("95.0 % of 360 test samples", "90.0 s for 6 epochs of 1\u202f437 samples on a device", DIGEST):
        assert said in ended.stdout
    assert "training resnet18   16 %  epoch 2/6  ETA 75 s; loss 0.500  accuracy 87.5 %" in ended.stderr
    assert ended.stderr.count("note: mind the gap") == 1
    (spec,) = server.specs
    assert (spec.attack, spec.model, spec.epoch_count, spec.sample_count) == ("none", "resnet18", 6, 0)
    assert spec.defence == "jpeg"


def test_the_record_as_json_stands_alone(afrctl: Any, scripted: Any) -> None:
    options, _ = scripted()
    ended = afrctl("train", "--model", "resnet18", "--format", "json", "--quiet", *options)
    assert ended.stderr == ""
    shown = json.loads(ended.stdout)
    assert (shown["weightsDigest"], shown["cleanAccuracy"], shown["trainingCostKnown"]) == (DIGEST, 0.95, True)


def test_a_model_of_ones_own_becomes_the_specification(afrctl: Any, scripted: Any) -> None:
    options, server = scripted(model_record=record(training_cost_known=False))
    ended = afrctl(
        *("train", "--model", "resnet18", "--checkpoint", "/models/own.pt", "--stem", "cifar", "--image-size", "24"),
        *("--training-seconds", "12.5", "--training-samples", "1000", "--batch-size", "8", *options),
    )
    assert "not known; pass --training-seconds and --training-samples" in ended.stdout
    assert "/models/own.pt" in ended.stdout
    (spec,) = server.specs
    assert (spec.checkpoint, spec.stem, spec.image_size, spec.batch_size) == ("/models/own.pt", "cifar", 24, 8)
    assert (spec.training_seconds, spec.training_sample_count) == (12.5, 1000)
    assert afrctl("train", "--program", "/models/own.pt2", *options).returncode == 0
    assert (server.specs[-1].model, server.specs[-1].program) == ("", "/models/own.pt2")


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({"state": attack.AttackJob.STATE_FAILED, "failure_message": "the loss became nan"}, "error: the loss became"),
        ({"state": attack.AttackJob.STATE_CANCELED}, "error: the job was canceled by someone else"),
    ],
)
def test_a_training_that_did_not_end_well_says_so(afrctl: Any, scripted: Any, ended: Any, said: str) -> None:
    options, _ = scripted(**ended)
    run = afrctl("train", "--model", "resnet18", "--quiet", *options)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(said)


def test_trained_models_are_listed_with_cost_accuracy_and_digest(afrctl: Any, scripted: Any) -> None:
    options, _ = scripted()
    shown = afrctl("models", *options).stdout
    row = shown.splitlines()[-1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()] == [
        "resnet18", "digits", "16", "cifar", "none", "6", "95.0 %", "90.0 s", "4", "2026-01-02 03:04", DIGEST[:12],
    ]  # fmt: skip
    as_json = json.loads(afrctl("models", "--format", "json", *options).stdout)
    assert as_json["trainedModels"][0]["modelRecord"]["weightsDigest"] == DIGEST


def test_a_file_that_is_not_there_is_no_file_here(afrctl: Any, tmp_path: Path) -> None:
    for option, name in (("--checkpoint", "own.pt"), ("--program", "own.pt2")):
        ended = afrctl("train", "--model", "resnet18", option, name)
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"error: {option}: {tmp_path / name} is no file; check the path")
