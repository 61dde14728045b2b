"""Whole runs behind defences: what they share, what they record, and that chance does not depend on the schedule."""

from __future__ import annotations

import shutil

import pytest
import torch

from attack_service import defences
from attack_service.attacking import require_sound_start
from attack_service.jobs import MemoryLedger, Phase, Progress, State
from attack_service.outcomes import Verdict

NOISE = {"defence": "gaussian-noise", "defence_parameters": {"deviation": 2.0}}


def test_defences_that_do_not_train_share_the_weights(first_run, run_job) -> None:
    root, undefended = first_run
    plain = undefended.ledger.model_record
    assert (plain.defended_accuracy, plain.clean_rejection_share, plain.randomized) == (
        plain.clean_accuracy,
        0.0,
        False,
    )
    for defence in ("jpeg", "gaussian-noise"):
        record = run_job(root, defence=defence, sample_count=10).ledger.model_record
        assert (record.from_store, record.weights_digest) == (True, plain.weights_digest)
        assert record.clean_accuracy == plain.clean_accuracy
        assert abs(record.defended_accuracy - plain.clean_accuracy) < 0.1
        assert record.randomized == (defence == "gaussian-noise")


class ImpatientLedger(MemoryLedger):
    """Asks for a stop as soon as it hears of training."""

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        if progress.phase is Phase.TRAINING:
            self.request_cancel()

    @property
    def trained(self) -> bool:
        return any(progress.phase is Phase.TRAINING for progress in self.progress_history)


def test_a_defence_that_trains_has_weights_of_its_own(tmp_path, first_run, run_job) -> None:
    """One for each of its strengths; the same strength again is in the store."""
    shared, undefended = first_run
    root = shutil.copytree(shared, tmp_path / "store")

    def run(ledger: MemoryLedger | None, deviation: float):
        parameters = {"deviation": deviation}
        return run_job(
            root, ledger, defence="gaussian-augmentation", defence_parameters=parameters, sample_count=10
        ).ledger

    record = run(None, 0.1).model_record
    assert not record.from_store
    assert record.weights_digest != undefended.ledger.model_record.weights_digest
    assert (record.defended_accuracy, record.randomized) == (record.clean_accuracy, False)
    again = run(ImpatientLedger(), 0.1)
    assert not again.trained
    assert again.model_record.weights_digest == record.weights_digest
    assert run(ImpatientLedger(), 0.5).trained


def test_what_is_rejected_is_at_risk_and_has_not_failed(first_run, run_job) -> None:
    root, undefended = first_run
    run = run_job(root, defence="high-confidence", defence_parameters={"cutoff": 0.6})
    outcomes = run.ledger.outcomes
    record = run.ledger.model_record
    assert 0 < record.clean_rejection_share < 1
    assert record.defended_accuracy <= min(record.clean_accuracy, 1 - record.clean_rejection_share)
    verdicts = {outcome.verdict for outcome in outcomes}
    assert Verdict.REJECTED in verdicts
    plain = {outcome.sample_index: outcome for outcome in undefended.ledger.outcomes}
    assert {outcome.sample_index for outcome in outcomes} == set(plain)
    for outcome in outcomes:
        before = plain[outcome.sample_index]
        # The defence changes no logits: the attack goes the same way, and fails a sample no sooner.
        assert outcome.clean_prediction == before.clean_prediction
        if outcome.verdict is Verdict.FAILED and before.verdict is Verdict.FAILED:
            assert outcome.check_count >= before.check_count
        if outcome.verdict is Verdict.REJECTED:
            assert outcome.query_count_upper is None
            assert outcome.check_count > 0
    wrong = [outcome for outcome in outcomes if outcome.clean_prediction != outcome.label]
    assert any(outcome.verdict is not Verdict.MISCLASSIFIED for outcome in wrong)
    assert all(outcome.clean_prediction != outcome.label for outcome in outcomes if not outcome.check_count)


def test_a_run_behind_chance_goes_on_after_a_stop_as_if_there_had_been_none(
    first_run, run_job, fates, canceling
) -> None:
    root, _ = first_run
    whole = run_job(root, **NOISE)
    stopped = run_job(root, canceling(12), batch_size=8, **NOISE)
    assert stopped.state is State.CANCELED
    ledger = stopped.ledger
    # What was under attack was recorded as it stood; only finished samples are compared.
    finished = {index for index, fate in fates(ledger.outcomes).items() if fate[0] is not Verdict.SURVIVED}
    assert finished
    expected = fates(whole.ledger.outcomes)
    assert {index: fates(ledger.outcomes)[index] for index in finished} == {
        index: expected[index] for index in finished
    }


def test_every_query_of_an_attacker_without_weights_has_its_price(first_run, run_job, fates, monkeypatch) -> None:
    root, _ = first_run
    own = fates(run_job(root, sample_count=20, **NOISE).ledger.outcomes)
    monkeypatch.setattr(defences, "answer_price", lambda name, parameters, access: 7)
    priced = fates(run_job(root, sample_count=20, **NOISE).ledger.outcomes)

    def at_price(fate: tuple) -> tuple:
        lower, upper = fate[4], fate[5]
        return (*fate[:4], 7 * lower, None if upper is None else 7 * upper, *fate[6:])

    assert priced == {index: at_price(fate) for index, fate in own.items()}


@pytest.mark.parametrize("parameters", [{"deviation": 1000.0, "repeats": 1.0}])
def test_a_model_drowned_in_noise_is_flagged(first_run, run_job, parameters: dict[str, float]) -> None:
    root, _ = first_run
    run = run_job(root, defence="gaussian-noise", defence_parameters=parameters, sample_count=10)
    assert any("behind the defence only" in warning for warning in run.ledger.warnings)


def test_a_value_that_almost_nothing_rounds_otherwise_is_no_defect_of_the_measurement(linear_classifier) -> None:
    """At 0.5 exactly one bit changes with the least change of a value: so is the defence, and it is to be measured."""
    images, labels = torch.full((16, 1, 2, 2), 0.5), torch.zeros(16, dtype=torch.int64)
    target = defences.defend(
        linear_classifier(torch.ones(4), bias=-3.0), "feature-squeezing", {"bit_depth": 1.0}, seed=0
    )
    assert bool((target(images).argmax(dim=1) == labels).all())
    assert bool((target(images + 1e-6).argmax(dim=1) != labels).all())
    require_sound_start(target, images, labels)
