"""The one loop that watches attacks: it judges every iterate, keeps the clocks, and records what happened.

Which interval does a sample's failure lie in? Check k is the k-th iterate of a sample that was judged. A sample that
fails at check k held at check k-1, so its failure lies beyond what it had cost by then (nothing, for k = 1) and within
what it had cost at check k. A random start is itself an iterate: it is check 1, at one query and no gradient.

A step's synchronised seconds are shared equally among the rows that were computed in it, so a sample's seconds are
what attacking it cost, whatever the batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.iterates import Iterate, Iterates
from attack_service.clocks import Clock
from attack_service.errors import IntegrityViolated
from attack_service.jobs import Ledger, Phase, Progress
from attack_service.outcomes import InFlight, Outcome, Verdict

_RECORD_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples to attack, a row each: positions in the split, images in [0, 1], labels, and their clean evaluation."""

    indices: Tensor
    images: Tensor
    labels: Tensor
    clean_predictions: Tensor
    clean_seconds: Tensor

    def __len__(self) -> int:
        return len(self.indices)


class Journal:
    """Gathers outcomes and hands them to the ledger in slices of time, with the samples in flight.

    `recorded` are the verdicts of earlier attempts: the progress goes on where theirs stopped. `check_maximum` is the
    number of checks after which the attack gives up on a sample.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        total_count: int,
        recorded: Iterable[Verdict],
        seconds_per_query: float,
        check_maximum: int,
    ) -> None:
        self._ledger = ledger
        self._total_count = total_count
        self._check_maximum = check_maximum
        self._seconds_per_query = seconds_per_query
        self._outcomes: list[Outcome] = []
        self._counts = Counter(recorded)
        self._earlier_count = self._attacked_count
        self._begin = self._recorded_at = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)
        self._counts[outcome.verdict] += 1

    def canceled(self) -> bool:
        return self._ledger.cancel_requested()

    def record(self, in_flight: Callable[[], list[InFlight]] = list, *, now: bool = False) -> None:
        """Write down what there is, if the slice of time is over or `now`."""
        moment = time.monotonic()
        if not now and moment - self._recorded_at < _RECORD_EVERY_SECONDS:
            return
        self._recorded_at = moment
        flying = in_flight()
        self._ledger.record(self._outcomes, flying, self._seconds_per_query)
        self._outcomes = []
        done_count = self._counts.total()
        # Most samples of a batch end together at its last check: until then the checks behind them count in part.
        partly = sum(sample.check_count for sample in flying) / self._check_maximum
        attacked = self._attacked_count - self._earlier_count + partly
        remaining_seconds = None
        if attacked:
            remaining_seconds = (moment - self._begin) / attacked * (self._total_count - done_count - partly)
        self._ledger.progress(
            Progress(
                Phase.ATTACKING,
                done_count=done_count,
                total_count=self._total_count,
                remaining_seconds=remaining_seconds,
                failed_count=self._counts[Verdict.FAILED],
                survived_count=self._counts[Verdict.SURVIVED] + self._counts[Verdict.REJECTED],
                misclassified_count=self._counts[Verdict.MISCLASSIFIED],
            )
        )

    @property
    def _attacked_count(self) -> int:
        # Samples that were misclassified cost nothing, so they say nothing about the time the others will take.
        return self._counts.total() - self._counts[Verdict.MISCLASSIFIED]


class Watch:
    """Judges the iterates of one batch of samples under attack."""

    def __init__(self, samples: Samples, clock: Clock, journal: Journal) -> None:
        n = len(samples)
        self._samples = samples
        self._clock = clock
        self._journal = journal
        self._active = torch.ones(n, dtype=torch.bool)
        self._seconds = torch.zeros(n, dtype=torch.float64)
        self._query_counts = [0] * n
        self._gradient_counts = [0] * n
        self._check_counts = [0] * n
        self._last: Iterate | None = None
        self._last_predictions: list[int] = []
        self.canceled = False
        clock.restart()

    def check(self, iterate: Iterate) -> Tensor:
        """Judge an iterate; return, on its device, which of its rows stay under attack.

        Rows that have failed before may come again (an engine that does not drop them); they are charged nothing.
        Raises `IntegrityViolated` if the model's answer is no number: the largest of such logits is no class.
        """
        predictions = iterate.logits.argmax(dim=1).cpu()
        share = self._clock.lap() / len(iterate.rows)
        if bool(iterate.logits.isnan().any()):
            raise IntegrityViolated(
                "the model answers an attacked image with what is not a number, so nobody can say whether it was "
                "fooled; train another with another --seed"
            )
        rows = iterate.rows.cpu()
        active = self._active[rows]
        fooled = active & (predictions != self._samples.labels[rows])
        before = self._seconds.clone()
        self._seconds[rows[active]] += share
        positions = rows.tolist()
        for position, row in enumerate(positions):
            if active[position]:
                if fooled[position]:
                    self._end(row, iterate, position, int(predictions[position]), failed_after=float(before[row]))
                self._check_counts[row] += 1
                self._query_counts[row] = iterate.query_count
                self._gradient_counts[row] = iterate.gradient_count
        self._active[rows[fooled]] = False
        self._last, self._last_predictions = iterate, predictions.tolist()
        self._journal.record(self._in_flight)
        self.canceled = self.canceled or self._journal.canceled()
        kept = self._active[rows] & (not self.canceled)
        # What recording took is no part of the attack.
        self._clock.restart()
        return kept.to(iterate.rows.device)

    def finish(self) -> None:
        """The attack has given up, or was canceled: samples that hold have survived their last check."""
        if self._last is not None:
            for position, row in enumerate(self._last.rows.tolist()):
                if self._active[row]:
                    self._end(row, self._last, position, self._last_predictions[position], failed_after=None)
        self._active[:] = False
        self._last = None

    def _end(self, row: int, iterate: Iterate, position: int, prediction: int, failed_after: float | None) -> None:
        """Add a row's outcome; `failed_after` is the seconds at the check before the one it failed, if it failed."""
        change = iterate.inputs[position].cpu() - self._samples.images[row]
        failed = failed_after is not None
        self._journal.add(
            Outcome(
                sample_index=int(self._samples.indices[row]),
                verdict=Verdict.FAILED if failed else Verdict.SURVIVED,
                label=int(self._samples.labels[row]),
                clean_prediction=int(self._samples.clean_predictions[row]),
                adversarial_prediction=prediction,
                query_count_lower=self._query_counts[row],
                query_count_upper=iterate.query_count if failed else None,
                gradient_count_lower=self._gradient_counts[row],
                gradient_count_upper=iterate.gradient_count if failed else None,
                seconds_lower=failed_after if failed_after is not None else float(self._seconds[row]),
                seconds_upper=float(self._seconds[row]) if failed else None,
                distance_l2=float(change.norm()),
                distance_linf=float(change.abs().max()),
                distance_l0=int(change.count_nonzero()),
                check_count=self._check_counts[row] + failed,
                clean_seconds=float(self._samples.clean_seconds[row]),
            )
        )

    def _in_flight(self) -> list[InFlight]:
        return [
            InFlight(
                int(self._samples.indices[row]),
                self._check_counts[row],
                self._query_counts[row],
                self._gradient_counts[row],
                float(self._seconds[row]),
            )
            for row in self._active.nonzero().flatten().tolist()
        ]


def follow(iterates: Iterates, watch: Watch) -> None:
    """Drive an attack through a watch until it ends or nothing is left of it."""
    try:
        iterate = next(iterates)
        while True:
            iterate = iterates.send(watch.check(iterate))
    except StopIteration:
        pass
    finally:
        iterates.close()


def misclassified(samples: Samples, row: int) -> Outcome:
    """The outcome of a sample that the model got wrong before any attack: it was never at risk."""
    prediction = int(samples.clean_predictions[row])
    return Outcome(
        sample_index=int(samples.indices[row]),
        verdict=Verdict.MISCLASSIFIED,
        label=int(samples.labels[row]),
        clean_prediction=prediction,
        adversarial_prediction=prediction,
        query_count_lower=0,
        query_count_upper=0,
        gradient_count_lower=0,
        gradient_count_upper=0,
        seconds_lower=0.0,
        seconds_upper=0.0,
        distance_l2=0.0,
        distance_linf=0.0,
        distance_l0=0,
        check_count=0,
        clean_seconds=float(samples.clean_seconds[row]),
    )
