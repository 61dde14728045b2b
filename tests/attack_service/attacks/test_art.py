"""The native engine and the adversarial-robustness-toolbox agree on every sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from attack_service.jobs import State
from attack_service.outcomes import Verdict

pytest.importorskip("art")


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
@pytest.mark.parametrize("attack", ["fgm", "pgd"])
def test_both_engines_agree_on_which_samples_fail_at_which_check_and_cost(
    first_run, run_job, fates, attack: str, norm: str
) -> None:
    root, _ = first_run
    native = run_job(root, attack=attack, norm=norm)
    art = run_job(root, attack=attack, norm=norm, engine="art")
    assert fates(native.ledger.outcomes) == fates(art.ledger.outcomes)
    distances = {outcome.sample_index: outcome.distance_l2 for outcome in native.ledger.outcomes}
    for outcome in art.ledger.outcomes:
        assert outcome.distance_l2 == pytest.approx(distances[outcome.sample_index], rel=1e-3, abs=1e-4)
    if norm == "inf":
        assert {outcome.verdict for outcome in art.ledger.outcomes} >= {Verdict.FAILED, Verdict.SURVIVED}


def test_failed_samples_in_the_toolbox_batch_are_charged_nothing_more(first_run, run_job) -> None:
    root, _ = first_run
    outcomes = run_job(root, engine="art").ledger.outcomes
    for outcome in outcomes:
        if outcome.verdict is Verdict.FAILED:
            assert outcome.query_count_upper == outcome.check_count + 1
            assert outcome.gradient_count_upper == outcome.check_count
    longest = max(outcome.seconds_lower for outcome in outcomes if outcome.verdict is Verdict.SURVIVED)
    assert all(outcome.seconds_upper < longest for outcome in outcomes if outcome.verdict is Verdict.FAILED)


def test_an_attack_by_the_toolbox_stops_when_it_is_canceled(first_run: tuple[Path, object], run_job, canceling) -> None:
    root, _ = first_run
    run = run_job(root, canceling(after_passes=2), engine="art", batch_size=8)
    assert run.state is State.CANCELED
    assert 0 < len(run.ledger.outcomes) < 40
