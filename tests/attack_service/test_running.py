"""Whole runs on real digits with a real ResNet-18: train once, attack, resume, cancel, survive damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from attack_service.errors import DatasetUnavailable, InvalidSpecification, MemoryExhausted
from attack_service.jobs import MemoryLedger, Phase, State
from attack_service.outcomes import Verdict


class Interrupted(Exception):
    """The worker died."""


class DyingLedger(MemoryLedger):
    """A worker that dies at its n-th append of outcomes."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._left = at

    def record(self, outcomes, in_flight, seconds_per_query) -> None:
        self._left -= 1
        if self._left == 0:
            raise Interrupted
        super().record(outcomes, in_flight, seconds_per_query)


def test_a_first_run_trains_measures_and_attacks_every_sample(first_run) -> None:
    root, run = first_run
    assert run.state is State.SUCCEEDED
    ledger, record = run.ledger, run.ledger.model_record
    assert len(ledger.recorded_verdicts()) == len(ledger.outcomes) == 40
    assert ledger.in_flight == ()
    assert (record.from_store, record.training_sample_count, record.test_sample_count) == (False, 1437, 360)
    assert record.clean_accuracy > 0.5
    assert record.training_seconds > 0
    assert (root / "models" / f"{record.weights_digest}.safetensors").exists()
    assert len(ledger.dataset_digest) == 64
    assert ledger.seconds_per_query > 0
    assert all(outcome.clean_seconds > 0 for outcome in ledger.outcomes)
    phases = [progress.phase for progress in ledger.progress_history]
    assert phases == sorted(phases, key=lambda phase: phase.value)
    assert set(phases) == set(Phase)
    training = [progress for progress in ledger.progress_history if progress.phase is Phase.TRAINING]
    assert training[-1].done_count == training[-1].total_count == 45
    assert ledger.progress_history[-1].done_count == ledger.progress_history[-1].total_count == 40
    assert {outcome.verdict for outcome in ledger.outcomes} == {Verdict.FAILED, Verdict.SURVIVED, Verdict.MISCLASSIFIED}


def test_labels_are_balanced_and_clean_errors_are_never_attacked(first_run) -> None:
    _, run = first_run
    for label in range(10):
        assert sum(outcome.label == label for outcome in run.ledger.outcomes) == 4
    for outcome in run.ledger.outcomes:
        wrong = outcome.clean_prediction != outcome.label
        assert wrong == (outcome.verdict is Verdict.MISCLASSIFIED)
        assert not (wrong and (outcome.check_count or outcome.query_count_upper))
        if outcome.verdict is Verdict.FAILED:
            assert outcome.adversarial_prediction != outcome.label
            assert outcome.seconds_upper > outcome.seconds_lower
        epsilon = run.spec.attack_parameters["epsilon"]
        assert outcome.distance_linf <= epsilon * (1 + 1e-5)


def test_the_second_run_trains_nothing_and_finds_the_same(first_run, run_job, fates) -> None:
    root, first = first_run
    second = run_job(root)
    assert second.ledger.model_record.from_store
    assert second.ledger.model_record.weights_digest == first.ledger.model_record.weights_digest
    assert second.ledger.model_record.training_seconds == first.ledger.model_record.training_seconds
    assert not any(progress.phase is Phase.TRAINING for progress in second.ledger.progress_history)
    assert fates(second.ledger.outcomes) == fates(first.ledger.outcomes)


@pytest.mark.parametrize("random_start", [0.0, 1.0])
def test_a_sample_fails_at_the_same_check_in_any_batch(first_run, run_job, fates, random_start: float) -> None:
    root, _ = first_run
    parameters = {"random_start": random_start}
    together = run_job(root, attack_parameters=parameters, batch_size=40)
    apart = run_job(root, attack_parameters=parameters, batch_size=3)
    assert fates(together.ledger.outcomes) == fates(apart.ledger.outcomes)


def test_an_attack_with_almost_no_budget_fools_nobody(first_run, run_job) -> None:
    root, _ = first_run
    outcomes = run_job(root, attack_parameters={"epsilon": 1e-7}).ledger.outcomes
    assert {outcome.verdict for outcome in outcomes} <= {Verdict.SURVIVED, Verdict.MISCLASSIFIED}


def test_an_interrupted_run_goes_on_and_ends_with_the_same_outcomes(
    first_run, run_job, fates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attack_service.watching._RECORD_EVERY_SECONDS", 0.0)
    root, first = first_run
    ledger = DyingLedger(at=25)
    with pytest.raises(Interrupted):
        run_job(root, ledger, batch_size=8)
    recorded = ledger.recorded_verdicts()
    assert 0 < len(recorded) < 40
    resumed = run_job(root, ledger, batch_size=8)
    assert resumed.state is State.SUCCEEDED
    assert fates(ledger.outcomes) == fates(first.ledger.outcomes)
    last, verdicts = ledger.progress_history[-1], list(ledger.recorded_verdicts().values())
    assert last.done_count == 40
    assert last.failed_count == verdicts.count(Verdict.FAILED)
    assert last.survived_count == verdicts.count(Verdict.SURVIVED)
    assert last.misclassified_count == verdicts.count(Verdict.MISCLASSIFIED)


def test_canceling_during_the_attack_keeps_what_was_found(first_run, run_job, fates, canceling) -> None:
    root, first = first_run
    run = run_job(root, canceling(after_passes=5), batch_size=10)
    assert run.state is State.CANCELED
    whole = fates(first.ledger.outcomes)
    found = {outcome.sample_index: outcome for outcome in run.ledger.outcomes}
    assert 0 < len(found) < 40
    assert run.ledger.in_flight == ()
    held = [outcome for outcome in found.values() if outcome.verdict is Verdict.SURVIVED]
    assert held
    # Whoever came later, when a slot had become free, had fewer checks.
    # The first pass is of the clean samples, and no check.
    assert max(outcome.check_count for outcome in held) == 4
    assert all(0 < outcome.check_count <= 4 for outcome in held)
    failed = {index for index, outcome in found.items() if outcome.verdict is Verdict.FAILED}
    assert all(whole[index] == fate for index, fate in fates(run.ledger.outcomes).items() if index in failed)


def test_canceling_during_the_training_stops_it(tmp_path: Path, run_job) -> None:
    ledger = MemoryLedger()
    ledger.request_cancel()
    assert run_job(tmp_path, ledger).state is State.CANCELED
    assert ledger.outcomes == []
    assert ledger.model_record is None


@pytest.mark.parametrize("from_store", [True, False])
def test_canceling_during_the_clean_evaluation_stops_it(tmp_path: Path, first_run, run_job, from_store: bool) -> None:
    class CancelingAtTheSecondBatch(MemoryLedger):
        def cancel_requested(self) -> bool:
            latest = self.progress_history[-1]
            return latest.phase is Phase.EVALUATING and latest.done_count > 0

    root, _ = first_run
    ledger = CancelingAtTheSecondBatch()
    assert run_job(root if from_store else tmp_path, ledger, batch_size=30).state is State.CANCELED
    assert ledger.progress_history[-1].done_count == 30
    assert ledger.outcomes == []


def test_running_out_of_memory_says_what_to_do(first_run, run_job, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object, **__: object) -> None:
        torch.empty(2**50)

    root, _ = first_run
    monkeypatch.setattr("attack_service.handles.Handle.probe", out_of_memory)
    with pytest.raises(MemoryExhausted, match=r"ran out of memory with batches of 64 .* pass a smaller --batch-size"):
        run_job(root)


def test_damaged_weights_are_trained_anew_and_the_reader_is_told(tmp_path: Path, first_run, run_job) -> None:
    root, first = first_run
    shutil.copytree(root, tmp_path / "store")
    digest = first.ledger.model_record.weights_digest
    weights = tmp_path / "store" / "models" / f"{digest}.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = run_job(tmp_path / "store", sample_count=10)
    assert run.state is State.SUCCEEDED
    assert not run.ledger.model_record.from_store
    (warning,) = run.ledger.warnings
    assert "trained anew" in warning
    assert digest in warning
    assert run_job(tmp_path / "store", sample_count=10).ledger.model_record.from_store


def test_a_folder_with_fewer_test_images_than_asked_says_how_many_there_are(tmp_path: Path, run_job) -> None:
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    with pytest.raises(InvalidSpecification, match="sample_count is 40, but the test split has 4 samples"):
        run_job(tmp_path, dataset=f"imagefolder:{tmp_path}/images")


def test_a_folder_that_is_not_there_says_so(tmp_path: Path, run_job) -> None:
    with pytest.raises(DatasetUnavailable, match="is not a folder that the worker can read"):
        run_job(tmp_path, dataset=f"imagefolder:{tmp_path}/nowhere")
