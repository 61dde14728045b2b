"""The watching loop: seconds are shared, snapshots are those of the last check, cancellation keeps what was found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from attack_service.attacks.iterates import Iterate
from attack_service.attacks.pgd import pgd
from attack_service.errors import IntegrityViolated
from attack_service.jobs import MemoryLedger
from attack_service.outcomes import InFlight, Outcome, Verdict
from attack_service.watching import Journal, Samples, Watch, follow, misclassified


def samples_of(labels: list[int], first_index: int = 100) -> Samples:
    n = len(labels)
    return Samples(
        indices=torch.arange(first_index, first_index + n),
        images=torch.full((n, 1, 2, 2), 0.5),
        labels=torch.tensor(labels),
        clean_predictions=torch.tensor(labels),
        clean_seconds=torch.full((n,), 0.25),
    )


def iterate_of(rows: list[int], predictions: list[int], query_count: int) -> Iterate:
    logits = torch.nn.functional.one_hot(torch.tensor(predictions), 3).float()
    return Iterate(
        torch.tensor(rows), torch.full((len(rows), 1, 2, 2), 0.75), logits, query_count, gradient_count=query_count - 1
    )


def watch_of(samples: Samples, ledger: MemoryLedger, clock) -> tuple[Watch, Journal]:
    journal = Journal(ledger, total_count=len(samples), recorded=(), seconds_per_query=0.125, check_maximum=10)
    return Watch(samples, clock, journal), journal


def by_index(ledger: MemoryLedger) -> dict[int, Outcome]:
    return {outcome.sample_index: outcome for outcome in ledger.outcomes}


def test_a_step_is_shared_equally_among_the_samples_active_in_it(ticking_clock) -> None:
    """Steps of 4, 3 and 2 seconds with 4, 3 and 1 samples: 1 second each, then 1 more, then 2 more."""
    ledger, clock = MemoryLedger(), ticking_clock([4.0, 3.0, 2.0])
    watch, journal = watch_of(samples_of([0, 0, 0, 0]), ledger, clock)
    assert watch.check(iterate_of([0, 1, 2, 3], [0, 1, 0, 0], 2)).tolist() == [True, False, True, True]
    assert watch.check(iterate_of([0, 2, 3], [2, 0, 1], 3)).tolist() == [False, True, False]
    assert watch.check(iterate_of([2], [0], 4)).tolist() == [True]
    watch.finish()
    journal.record(now=True)
    found = by_index(ledger)
    assert (found[101].seconds_lower, found[101].seconds_upper) == (0.0, 1.0)
    assert (found[100].seconds_lower, found[100].seconds_upper) == (1.0, 2.0)
    assert (found[102].seconds_lower, found[102].seconds_upper) == (4.0, None)
    assert [found[index].check_count for index in (100, 101, 102, 103)] == [2, 1, 3, 2]
    assert found[102].distance_l2 == pytest.approx(0.5)
    assert (found[102].distance_linf, found[102].distance_l0) == (0.25, 4)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_the_seconds_of_all_samples_add_up_to_the_measured_ones(
    linear_classifier, ticking_clock: Callable[[], object], batch_size: int
) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0, 0.5, 1.0]))
    images = torch.rand(10, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    labels = model(images).argmax(dim=1)
    ledger, measured = MemoryLedger(), 0.0
    journal = Journal(ledger, total_count=10, recorded=(), seconds_per_query=1.0, check_maximum=10)
    for rows in torch.arange(10).split(batch_size):
        clock = ticking_clock()
        samples = Samples(rows, images[rows], labels[rows], labels[rows], torch.zeros(len(rows)))
        watch = Watch(samples, clock, journal)  # type: ignore[arg-type]
        follow(
            pgd(model, samples.images, samples.labels, epsilon=0.2, step_size=0.05, iteration_count=6, norm="inf"),
            watch,
        )
        watch.finish()
        measured += clock.total  # type: ignore[attr-defined]
    journal.record(now=True)
    spent = [
        outcome.seconds_lower if outcome.seconds_upper is None else outcome.seconds_upper for outcome in ledger.outcomes
    ]
    assert sum(spent) == pytest.approx(measured)
    assert {outcome.verdict for outcome in ledger.outcomes} == {Verdict.FAILED, Verdict.SURVIVED}


def test_checks_of_samples_in_flight_count_towards_the_time_that_remains(monkeypatch) -> None:
    """8 of 10 samples are half way after 20 seconds, so the other 6 samples' worth will take 30."""
    moments = iter([0.0, 20.0])
    monkeypatch.setattr("attack_service.watching.time.monotonic", lambda: next(moments))
    ledger = MemoryLedger()
    journal = Journal(ledger, total_count=10, recorded=(), seconds_per_query=1.0, check_maximum=10)
    journal.record(lambda: [InFlight(index, 5, 6, 5, 1.0) for index in range(8)])
    assert ledger.progress_history[-1].remaining_seconds == pytest.approx(30.0)


def test_rows_that_an_engine_keeps_computing_after_they_failed_are_charged_nothing(ticking_clock) -> None:
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0]), ledger, ticking_clock([2.0, 2.0]))
    assert watch.check(iterate_of([0, 1], [1, 0], 2)).tolist() == [False, True]
    # The failed row comes again and is right by chance: it stays failed.
    assert watch.check(iterate_of([0, 1], [0, 0], 3)).tolist() == [False, True]
    watch.finish()
    journal.record(now=True)
    found = by_index(ledger)
    assert (found[100].verdict, found[100].seconds_upper, found[100].query_count_upper) == (Verdict.FAILED, 1.0, 2)
    assert (found[101].verdict, found[101].seconds_lower, found[101].query_count_lower) == (Verdict.SURVIVED, 2.0, 3)
    assert len(ledger.outcomes) == 2


def test_logits_that_are_not_numbers_are_no_failure(ticking_clock) -> None:
    ledger = MemoryLedger()
    watch, _ = watch_of(samples_of([1, 1]), ledger, ticking_clock())
    iterate = iterate_of([0, 1], [1, 1], 2)
    iterate.logits[0, 0] = torch.nan
    with pytest.raises(IntegrityViolated, match="not a number"):
        watch.check(iterate)
    assert ledger.outcomes == []


def test_samples_in_flight_are_shown_at_their_last_check(ticking_clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attack_service.watching._RECORD_EVERY_SECONDS", 0.0)
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0, 0, 0]), ledger, ticking_clock([3.0, 4.0]))
    watch.check(iterate_of([0, 1, 2], [0, 1, 0], 2))
    assert [(s.sample_index, s.check_count, s.query_count, s.seconds) for s in ledger.in_flight] == [
        (100, 1, 2, 1.0),
        (102, 1, 2, 1.0),
    ]
    assert [outcome.sample_index for outcome in ledger.outcomes] == [101]
    watch.check(iterate_of([0, 2], [0, 0], 3))
    assert [(s.sample_index, s.check_count, s.gradient_count, s.seconds) for s in ledger.in_flight] == [
        (100, 2, 2, 3.0),
        (102, 2, 2, 3.0),
    ]
    watch.finish()
    journal.record(now=True)
    assert ledger.in_flight == ()
    assert ledger.progress_history[-1].done_count == 3
    assert (ledger.progress_history[-1].failed_count, ledger.progress_history[-1].survived_count) == (1, 2)


def test_outcomes_are_written_in_slices_of_time_not_a_batch_a_check(ticking_clock) -> None:
    ledger = MemoryLedger()
    watch, journal = watch_of(samples_of([0] * 5), ledger, ticking_clock())
    for check in range(1, 6):
        rows = list(range(check - 1, 5))
        watch.check(iterate_of(rows, [1] + [0] * (len(rows) - 1), check + 1))
    assert ledger.batch_count <= 1
    journal.record(now=True)
    assert len(ledger.outcomes) == 5


def test_canceling_records_samples_in_flight_as_survivors_of_their_last_check(linear_classifier, ticking_clock) -> None:
    ledger = MemoryLedger()
    samples = samples_of([1, 1])
    model = linear_classifier(torch.tensor([0.1, 0.1, 0.1, 0.1]), bias=5.0)
    watch, journal = watch_of(samples, ledger, ticking_clock())

    def cancel_at_the_third(images: Tensor) -> Tensor:
        if cancel_at_the_third.calls == 3:  # type: ignore[attr-defined]
            ledger.request_cancel()
        cancel_at_the_third.calls += 1  # type: ignore[attr-defined]
        return model(images)

    cancel_at_the_third.calls = 0  # type: ignore[attr-defined]
    follow(
        pgd(
            cancel_at_the_third,  # type: ignore[arg-type]
            samples.images,
            samples.labels,
            epsilon=0.1,
            step_size=0.01,
            iteration_count=50,
            norm="inf",
        ),
        watch,
    )
    watch.finish()
    journal.record(now=True)
    assert watch.canceled
    assert [(o.verdict, o.check_count, o.query_count_lower) for o in ledger.outcomes] == [(Verdict.SURVIVED, 3, 4)] * 2


def test_a_sample_that_was_wrong_before_the_attack_was_never_at_risk() -> None:
    samples = Samples(
        torch.tensor([9]), torch.zeros(1, 1, 2, 2), torch.tensor([2]), torch.tensor([0]), torch.tensor([0.5])
    )
    outcome = misclassified(samples, 0)
    assert (outcome.verdict, outcome.label, outcome.clean_prediction) == (Verdict.MISCLASSIFIED, 2, 0)
    assert (outcome.query_count_upper, outcome.gradient_count_upper, outcome.seconds_upper) == (0, 0, 0.0)
    assert outcome.clean_seconds == 0.5
