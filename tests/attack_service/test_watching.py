"""The account of an attack: seconds are shared, snapshots are of the last check, cancellation keeps what was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from attack_service.errors import IntegrityViolated
from attack_service.jobs import MemoryLedger
from attack_service.outcomes import InFlight, Outcome, Verdict
from attack_service.watching import Checks, Journal, Samples, Watch, misclassified

FIRST_INDEX = 100


def samples_of(labels: list[int]) -> Samples:
    n = len(labels)
    return Samples(
        indices=torch.arange(FIRST_INDEX, FIRST_INDEX + n),
        labels=torch.tensor(labels),
        clean_predictions=torch.tensor(labels),
        clean_seconds=torch.full((n,), 0.25),
        images=lambda indices: torch.full((len(indices), 1, 2, 2), 0.5),
    )


def checks_of(rows: Sequence[int], fooled: Sequence[int], query_count: int, **others: object) -> Checks:
    """A pass over these rows, a quarter away from their images, in which some of them fail."""
    n = len(rows)
    usual = {
        "rows": np.array(rows),
        "inputs": torch.full((n, 1, 2, 2), 0.75),
        "originals": torch.full((n, 1, 2, 2), 0.5),
        "predictions": np.array(fooled),
        "fooled": np.array(fooled, dtype=bool),
        "rejected": np.zeros(n, dtype=bool),
        "check_counts": np.ones(n, dtype=np.int64),
        "query_counts": np.full(n, query_count),
        "gradient_counts": np.full(n, query_count - 1),
        "held_counts": np.zeros(n, dtype=np.int64),
        "shares": np.ones(n, dtype=np.int64),
        "finished": np.zeros(n, dtype=bool),
    }
    return Checks(**(usual | others))  # type: ignore[arg-type]


def watch_of(samples: Samples, ledger: MemoryLedger, answer_price: int = 1) -> tuple[Watch, Journal]:
    journal = Journal(ledger, total_count=len(samples), recorded=(), seconds_per_query=0.125, check_maximum=10)
    watch = Watch(samples, journal, answer_price)
    watch.admit(range(len(samples)))
    return watch, journal


def by_index(ledger: MemoryLedger) -> dict[int, Outcome]:
    return {outcome.sample_index: outcome for outcome in ledger.outcomes}


def test_a_pass_is_shared_equally_among_the_samples_active_in_it() -> None:
    """Passes of 4, 3 and 2 seconds with 4, 3 and 1 samples: 1 second each, then 1 more, then 2 more."""
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0, 0, 0]), ledger)
    last = {"finished": np.array([False, False, True])}
    assert watch.record(checks_of([0, 1, 2, 3], [0, 1, 0, 0], 2), 4.0).tolist() == [False, True, False, False]
    assert watch.record(checks_of([0, 2, 3], [1, 0, 0], 3, **last), 3.0).tolist() == [True, False, True]
    assert watch.record(checks_of([2], [0], 4, finished=np.array([True])), 2.0).tolist() == [True]
    journal.record(now=True)
    found = by_index(ledger)
    assert (found[101].seconds_lower, found[101].seconds_upper) == (0.0, 1.0)
    assert (found[100].seconds_lower, found[100].seconds_upper) == (1.0, 2.0)
    assert (found[103].seconds_lower, found[103].seconds_upper) == (2.0, None)
    assert (found[102].seconds_lower, found[102].seconds_upper) == (4.0, None)
    assert [found[index].verdict for index in (100, 101, 102, 103)] == [
        Verdict.FAILED,
        Verdict.FAILED,
        Verdict.SURVIVED,
        Verdict.SURVIVED,
    ]
    assert [found[index].check_count for index in (100, 101, 102, 103)] == [2, 1, 3, 2]
    assert (found[100].query_count_lower, found[100].query_count_upper) == (2, 3)
    assert (found[101].query_count_lower, found[101].query_count_upper) == (0, 2)
    assert (found[102].query_count_lower, found[102].query_count_upper) == (4, None)
    assert found[102].distance_l2 == pytest.approx(0.5)
    assert (found[102].distance_linf, found[102].distance_l0) == (0.25, 4)


def test_a_sample_that_had_more_rows_of_the_pass_is_charged_more_of_it() -> None:
    """Three rows of four: three of the four seconds. One that had none is charged nothing."""
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0, 0]), ledger)
    watch.record(checks_of([0, 1, 2], [1, 1, 1], 3, shares=np.array([3, 1, 0])), 4.0)
    journal.record(now=True)
    assert [by_index(ledger)[index].seconds_upper for index in (100, 101, 102)] == [3.0, 1.0, 0.0]


def test_a_pass_that_is_no_check_ends_nothing_and_its_cost_belongs_to_the_next_check() -> None:
    """The clean sample is asked for its gradient: that it is misclassified there is no failure of the attack's."""
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0]), ledger)
    clean = checks_of([0], [1], 1, check_counts=np.array([0]))
    assert watch.record(clean, 5.0).tolist() == [False]
    watch.record(checks_of([0], [1], 2), 1.0)
    journal.record(now=True)
    (outcome,) = ledger.outcomes
    assert outcome.check_count == 1
    assert (outcome.seconds_lower, outcome.seconds_upper) == (0.0, 6.0)
    assert (outcome.query_count_lower, outcome.query_count_upper) == (0, 2)


def test_a_failure_within_a_question_lies_beyond_the_rows_before_it() -> None:
    """The third of ten rows fooled the model, and the two before it held: failed within (12, 13] queries."""
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0]), ledger)
    watch.record(checks_of([0], [0], 10, check_counts=np.array([10])), 1.0)
    watch.record(checks_of([0], [1], 13, check_counts=np.array([3]), held_counts=np.array([12])), 1.0)
    journal.record(now=True)
    (outcome,) = ledger.outcomes
    assert (outcome.check_count, outcome.query_count_lower, outcome.query_count_upper) == (13, 12, 13)


def test_an_abstention_at_the_last_check_is_no_failure_and_no_survival() -> None:
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0]), ledger)
    watch.record(checks_of([0], [0], 2, rejected=np.array([True]), finished=np.array([True])), 1.0)
    journal.record(now=True)
    assert [outcome.verdict for outcome in ledger.outcomes] == [Verdict.REJECTED]


def test_an_answer_that_takes_several_evaluations_costs_as_many_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attack_service.watching._RECORD_EVERY_SECONDS", 0.0)
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0]), ledger, answer_price=8)
    watch.record(checks_of([0], [0], 2), 1.0)
    assert [sample.query_count for sample in ledger.in_flight] == [16]
    watch.record(checks_of([0], [1], 3), 1.0)
    journal.record(now=True)
    (outcome,) = ledger.outcomes
    assert (outcome.check_count, outcome.query_count_lower, outcome.query_count_upper) == (2, 16, 24)


def test_checks_of_samples_in_flight_count_towards_the_time_that_remains(monkeypatch) -> None:
    """8 of 10 samples are half way after 20 seconds, so the other 6 samples' worth will take 30."""
    moments = iter([0.0, 20.0])
    monkeypatch.setattr("attack_service.watching.time.monotonic", lambda: next(moments))
    ledger = MemoryLedger()
    journal = Journal(ledger, total_count=10, recorded=(), seconds_per_query=1.0, check_maximum=10)
    journal.record(lambda: [InFlight(index, 5, 6, 5, 1.0) for index in range(8)])
    assert ledger.progress_history[-1].remaining_seconds == pytest.approx(30.0)


def test_samples_in_flight_are_shown_at_their_last_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attack_service.watching._RECORD_EVERY_SECONDS", 0.0)
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0, 0]), ledger)
    watch.record(checks_of([0, 1, 2], [0, 1, 0], 2), 3.0)
    assert [(s.sample_index, s.check_count, s.query_count, s.seconds) for s in ledger.in_flight] == [
        (100, 1, 2, 1.0),
        (102, 1, 2, 1.0),
    ]
    assert [outcome.sample_index for outcome in ledger.outcomes] == [101]
    # A pass without a check moves no snapshot.
    watch.record(checks_of([0, 2], [0, 0], 3, check_counts=np.array([1, 0])), 4.0)
    assert [(s.sample_index, s.check_count, s.gradient_count, s.seconds) for s in ledger.in_flight] == [
        (100, 2, 2, 3.0),
        (102, 1, 1, 1.0),
    ]
    watch.record(checks_of([0, 2], [0, 0], 4, finished=np.array([True, True])), 1.0)
    journal.record(now=True)
    assert ledger.in_flight == ()
    assert ledger.progress_history[-1].done_count == 3
    assert (ledger.progress_history[-1].failed_count, ledger.progress_history[-1].survived_count) == (1, 2)


def test_outcomes_are_written_in_slices_of_time_not_a_batch_a_check() -> None:
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0] * 5), ledger)
    for check in range(1, 6):
        rows = list(range(check - 1, 5))
        watch.record(checks_of(rows, [1] + [0] * (len(rows) - 1), check + 1), 1.0)
    assert ledger.batch_count <= 1
    journal.record(now=True)
    assert len(ledger.outcomes) == 5


def test_canceling_records_samples_in_flight_as_survivors_of_their_last_check() -> None:
    """One of them was not checked yet: nothing is known of it, and another attempt will attack it."""
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0]), ledger)
    watch.record(checks_of([0, 1], [0, 0], 2, check_counts=np.array([1, 0])), 2.0)
    ledger.request_cancel()
    ended = watch.record(checks_of([0, 1], [0, 0], 3, check_counts=np.array([0, 0])), 2.0)
    journal.record(now=True)
    assert watch.canceled
    assert ended.tolist() == [True, True]
    (outcome,) = ledger.outcomes
    assert (outcome.sample_index, outcome.verdict, outcome.check_count) == (100, Verdict.SURVIVED, 1)
    assert (outcome.query_count_lower, outcome.seconds_lower) == (2, 1.0)


def test_an_attack_that_leaves_the_box_of_images_is_refused() -> None:
    watch, _ = watch_of(samples_of([0]), MemoryLedger())
    with pytest.raises(IntegrityViolated, match="left the box"):
        watch.record(checks_of([0], [1], 2, inputs=torch.full((1, 1, 2, 2), 1.1)), 1.0)


def test_a_sample_that_was_wrong_before_the_attack_was_never_at_risk() -> None:
    samples = Samples(
        torch.tensor([9]), torch.tensor([2]), torch.tensor([0]), torch.tensor([0.5]), lambda indices: torch.zeros(0)
    )
    outcome = misclassified(samples, 0)
    assert (outcome.verdict, outcome.label, outcome.clean_prediction) == (Verdict.MISCLASSIFIED, 2, 0)
    assert (outcome.query_count_upper, outcome.gradient_count_upper, outcome.seconds_upper) == (0, 0, 0.0)
    assert outcome.clean_seconds == 0.5
