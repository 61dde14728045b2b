"""The one account of an attack: it keeps every sample's clocks, and records what happened.

Which interval does a sample's failure lie in? Check k is the k-th of its evaluations that was judged. A sample that
fails at check k held at check k-1, so its failure lies beyond what it had cost by then (nothing, for k = 1) and within
what it had cost at check k.

The synchronised seconds of a pass through the model are shared equally among the rows that were needed in it, so a
sample's seconds are what attacking it cost, whatever the batch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attack_service.attacks.norms import lengths
from attack_service.errors import IntegrityViolated
from attack_service.jobs import Ledger, Phase, Progress
from attack_service.outcomes import InFlight, Outcome, Verdict

_RECORD_EVERY_SECONDS = 0.2
# Ended samples whose images are kept on the device until their distances are measured together.
_LARGEST_PENDING_COUNT = 256
_BOX_TOLERANCE = 1e-5

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples to attack: positions in the split, labels, clean evaluations, (n) each on the CPU, and their images.

    `images` reads images by positions in the split, (m) to (m, channels, height, width) in [0, 1].
    """

    indices: Tensor
    labels: Tensor
    clean_predictions: Tensor
    clean_seconds: Tensor
    images: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor) -> Samples:
        """Some of these samples."""
        return Samples(
            self.indices[rows], self.labels[rows], self.clean_predictions[rows], self.clean_seconds[rows], self.images
        )


@dataclass(frozen=True, slots=True)
class Checks:
    """What one pass through the model said of n different samples under attack.

    `rows` are positions in `Samples`. `inputs` and `originals` (n, channels, height, width), on the device, are the
    judged image of each (the first that fooled the model, or the last) and its clean image; with `places`, `inputs` may
    be any number of images, and these say where among them the judged ones are. `check_counts` are the
    checks that the pass made of each sample, 0 if its answer was none. `query_counts` and `gradient_counts` are what
    the sample has cost up to the judged image, and `held_counts` the queries up to the check before it, at least.
    `shares` are the rows of the pass that were computed for the sample, `finished` whether the attack gives up on it.
    """

    rows: Counts
    inputs: Tensor
    originals: Tensor
    predictions: Counts
    fooled: Flags
    rejected: Flags
    check_counts: Counts
    query_counts: Counts
    gradient_counts: Counts
    held_counts: Counts
    shares: Counts
    finished: Flags
    places: Counts | None = None

    def take(self, positions: Counts) -> Checks:
        """What was said of some of the samples, copied."""
        places = positions if self.places is None else self.places[positions]
        device = self.inputs.device
        return Checks(
            self.rows[positions],
            self.inputs[torch.from_numpy(places).to(device)],
            self.originals[torch.from_numpy(positions).to(device)],
            self.predictions[positions],
            self.fooled[positions],
            self.rejected[positions],
            self.check_counts[positions],
            self.query_counts[positions],
            self.gradient_counts[positions],
            self.held_counts[positions],
            self.shares[positions],
            self.finished[positions],
        )


class Journal:
    """Gathers outcomes and hands them to the ledger in slices of time, with the samples in flight.

    `recorded` are the verdicts of earlier attempts: the progress goes on where theirs stopped. `check_maximum` is the
    number of checks after which the attack gives up on a sample, 0 if nobody knows.
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

    def due(self) -> bool:
        """Whether the slice of time is over."""
        return time.monotonic() - self._recorded_at >= _RECORD_EVERY_SECONDS

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
        partly = sum(sample.check_count for sample in flying) / self._check_maximum if self._check_maximum else 0.0
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
    """Keeps the clocks of samples under attack, and writes their outcomes to a journal.

    `answer_price` is the number of queries that one answer of the target costs: several, if the defence answers by
    chance and the attacker has to average. `on_failed` is given every batch of failing images, (n, …), with their clean
    images and true classes; what it takes is charged to nobody.
    """

    def __init__(
        self,
        samples: Samples,
        journal: Journal,
        answer_price: int = 1,
        on_failed: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    ) -> None:
        n = len(samples)
        self._samples = samples
        # To take numbers out of tensors one by one is slow.
        self._indices: list[int] = samples.indices.tolist()
        self._labels: list[int] = samples.labels.tolist()
        self._clean_predictions: list[int] = samples.clean_predictions.tolist()
        self._clean_seconds: list[float] = samples.clean_seconds.tolist()
        self._journal = journal
        self._answer_price = answer_price
        self._on_failed = on_failed
        self._active = np.zeros(n, dtype=bool)
        self._seconds = np.zeros(n)
        self._query_counts = np.zeros(n, dtype=np.int64)
        self._gradient_counts = np.zeros(n, dtype=np.int64)
        self._check_counts = np.zeros(n, dtype=np.int64)
        # What a sample had cost at its last check; what came after belongs to the next one.
        self._checked_seconds = np.zeros(n)
        # What passes said of samples that have ended. They are written down together: for a few at a time the many
        # small operations of measuring them would be a part of the attack's time that can be seen.
        self._pending: list[Checks] = []
        self._pending_count = 0
        self.canceled = False
        self.survivors: list[int] = []
        """Rows of the samples that the attack gave up on."""

    def admit(self, rows: Sequence[int]) -> None:
        """These samples are under attack from now on."""
        self._active[list(rows)] = True

    def record(self, checks: Checks, seconds: float) -> Flags:
        """Account for a pass that took so many seconds; return which of its samples have ended (n).

        A sample ends when it has failed, when the attack gives up on it, or when the job is canceled: then it has
        survived its last check. Raises `IntegrityViolated` if a sample that has ended lies outside the box of images.
        """
        rows = checks.rows
        if checks.shares.any():
            self._seconds[rows] += seconds * checks.shares / checks.shares.sum()
        self.canceled = self.canceled or self._journal.canceled()
        fooled = checks.fooled & (checks.check_counts > 0)
        ended: Flags = fooled | checks.finished | self.canceled
        held = np.flatnonzero(~fooled & (checks.check_counts > 0))
        self._settle(checks, held)
        if ended.any():
            self._pending.append(checks.take(np.flatnonzero(ended)))
            self._pending_count += len(self._pending[-1].rows)
            self._active[rows[ended]] = False
        if self._journal.due() or not self._active.any() or self._pending_count >= _LARGEST_PENDING_COUNT:
            self._write_down()
            self._journal.record(self._in_flight)
        return ended

    def finish(self) -> None:
        """Nobody is under attack any more, whatever was said of those who were: write down what is known."""
        self._active[:] = False
        self._write_down()

    def _settle(self, checks: Checks, held: Counts) -> None:
        """Samples that have held at a check: their failure lies beyond what they have cost until now."""
        rows = checks.rows[held]
        self._check_counts[rows] += checks.check_counts[held]
        self._query_counts[rows] = checks.query_counts[held]
        self._gradient_counts[rows] = checks.gradient_counts[held]
        self._checked_seconds[rows] = self._seconds[rows]

    def _write_down(self) -> None:
        """Measure the samples that have ended since the last time, and give their outcomes to the journal."""
        if not self._pending:
            return
        ended = _joined(self._pending)
        self._pending, self._pending_count = [], 0
        measures = _measures(ended.inputs, ended.originals)
        failed = ended.fooled & (ended.check_counts > 0)
        if self._on_failed is not None and failed.any():
            device, at = ended.inputs.device, torch.from_numpy(np.flatnonzero(failed))
            labels = self._samples.labels[torch.from_numpy(ended.rows)[at]].to(device)
            at = at.to(device)
            self._on_failed(ended.inputs[at], ended.originals[at], labels)
        self._add(ended, failed, measures)

    def _add(self, ended: Checks, failed: Flags, measures: list[list[float]]) -> None:
        rows = ended.rows
        columns = (
            rows,
            failed,
            # Canceled before its first check: nothing is known of such a sample.
            failed | (self._check_counts[rows] > 0),
            ended.rejected,
            ended.predictions,
            np.maximum(self._query_counts[rows], np.where(failed, ended.held_counts, 0)) * self._answer_price,
            ended.query_counts * self._answer_price,
            self._gradient_counts[rows],
            ended.gradient_counts,
            self._checked_seconds[rows],
            self._seconds[rows],
            self._check_counts[rows] + np.where(failed, ended.check_counts, 0),
        )
        for (
            (row, fooled, known, rejected, prediction, held, queries, held_gradients, gradients, begin, end, checks),
            (l2, linf, l0),
        ) in zip(zip(*(column.tolist() for column in columns), strict=True), measures, strict=True):
            if not known:
                continue
            if not fooled:
                self.survivors.append(row)
            self._journal.add(
                Outcome(
                    sample_index=self._indices[row],
                    verdict=Verdict.FAILED if fooled else Verdict.REJECTED if rejected else Verdict.SURVIVED,
                    label=self._labels[row],
                    clean_prediction=self._clean_predictions[row],
                    adversarial_prediction=prediction,
                    query_count_lower=held,
                    query_count_upper=queries if fooled else None,
                    gradient_count_lower=held_gradients,
                    gradient_count_upper=gradients if fooled else None,
                    seconds_lower=begin,
                    seconds_upper=end if fooled else None,
                    distance_l2=l2,
                    distance_linf=linf,
                    distance_l0=int(l0),
                    check_count=checks,
                    clean_seconds=self._clean_seconds[row],
                )
            )

    def _in_flight(self) -> list[InFlight]:
        return [
            InFlight(
                self._indices[row],
                int(self._check_counts[row]),
                int(self._query_counts[row]) * self._answer_price,
                int(self._gradient_counts[row]),
                float(self._checked_seconds[row]),
            )
            for row in np.flatnonzero(self._active).tolist()
        ]


def _joined(pending: list[Checks]) -> Checks:
    """What passes said, one after the other; without `places`."""
    if len(pending) == 1:
        return pending[0]
    columns: dict[str, npt.NDArray[np.generic]] = {
        name: np.concatenate([getattr(checks, name) for checks in pending])
        for name in Checks.__dataclass_fields__
        if name not in ("inputs", "originals", "places")
    }
    return Checks(
        inputs=torch.cat([checks.inputs for checks in pending]),
        originals=torch.cat([checks.originals for checks in pending]),
        **columns,  # type: ignore[arg-type]  # each column has the kind that it had
    )


def _measures(inputs: Tensor, originals: Tensor) -> list[list[float]]:
    """The lengths of n changes in the norms 2, inf and 0, (n, 3). Raises `IntegrityViolated` outside the box."""
    change = (inputs - originals).flatten(1)
    values = inputs.flatten(1)
    measures = torch.cat(
        [
            lengths(change, "2"),
            lengths(change, "inf"),
            change.count_nonzero(dim=1)[:, None],
            torch.maximum(-values.amin(dim=1), values.amax(dim=1) - 1)[:, None],
        ],
        dim=1,
    ).cpu()
    # The other way round a value that is not a number would pass.
    if not bool((measures[:, 3] <= _BOX_TOLERANCE).all()):
        raise IntegrityViolated(
            "the attack left the box of images with values in [0, 1]; report this as a defect of the attack"
        )
    found: list[list[float]] = measures[:, :3].tolist()
    return found


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
