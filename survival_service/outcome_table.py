"""The streaming state of one attack job: everything its outcomes have told so far."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from survival_service.errors import OutcomesCorrupt
from survival_service.observations import Clock, InFlightColumns, IntArray, Observations, OutcomeColumns, Verdict


class OutcomeTable:
    """Everything one attack job has told so far.

    On the queries clock its state is a count table: samples per cell (lower, upper, check), an exact sufficient
    statistic, so that adding a batch adds counts. Seconds are measured per sample and kept per sample.
    """

    def __init__(self) -> None:
        self._parts: list[OutcomeColumns] = []
        self._samples: set[int] = set()
        self._in_flight: dict[int, InFlightColumns] = {}
        self._cells: Counter[tuple[int, int, int]] = Counter()
        self._counts = dict.fromkeys(Verdict, 0)

    def add(self, columns: OutcomeColumns, in_flight: InFlightColumns | None = None, *, shard_index: int = 0) -> None:
        """Add one batch. `in_flight` replaces the snapshot of this shard; None (none was sent) empties it.

        Raises `OutcomesCorrupt`, and adds nothing, if a sample comes twice: a stream has each outcome once.
        """
        samples = columns.sample_index.tolist()
        twice = self._samples.intersection(samples)
        if twice or len(set(samples)) < len(samples):
            sample = min(twice) if twice else next(s for s in samples if samples.count(s) > 1)
            raise OutcomesCorrupt(f"the outcome of sample {sample} came twice; read the job again from its start")
        self._samples.update(samples)
        self._parts.append(columns)
        for verdict in Verdict:
            self._counts[verdict] += int((columns.verdict == verdict).sum())
        at_risk = columns.verdict != Verdict.MISCLASSIFIED
        failed = columns.verdict[at_risk] == Verdict.FAILED
        upper = np.where(failed, columns.query_count_upper[at_risk], -1)
        lower, check = columns.query_count_lower[at_risk], columns.check_count[at_risk]
        self._cells.update(zip(lower.tolist(), upper.tolist(), check.tolist(), strict=True))
        self.replace_in_flight(in_flight, shard_index=shard_index)

    def replace_in_flight(self, in_flight: InFlightColumns | None, *, shard_index: int = 0) -> None:
        """Replace the snapshot of the samples under attack in one shard."""
        if in_flight is None:
            self._in_flight.pop(shard_index, None)
        else:
            self._in_flight[shard_index] = in_flight

    def end(self) -> None:
        """The job has ended: nothing is in flight any more."""
        self._in_flight.clear()

    @property
    def outcome_count(self) -> int:
        """Samples with an outcome, misclassified ones included."""
        return len(self._samples)

    @property
    def failed_count(self) -> int:
        """Samples that failed."""
        return self._counts[Verdict.FAILED]

    @property
    def survived_count(self) -> int:
        """Samples that survived, rejected ones included."""
        return self._counts[Verdict.SURVIVED] + self._counts[Verdict.REJECTED]

    @property
    def rejected_count(self) -> int:
        """Samples whose last check a defence rejected."""
        return self._counts[Verdict.REJECTED]

    @property
    def misclassified_count(self) -> int:
        """Samples that were never at risk."""
        return self._counts[Verdict.MISCLASSIFIED]

    @property
    def in_flight_count(self) -> int:
        """Samples under attack at the latest snapshots."""
        return sum(int(self._under_attack(snapshot).sum()) for snapshot in self._in_flight.values())

    def columns(self) -> OutcomeColumns:
        """All outcomes so far, in the order they came."""
        return OutcomeColumns.concatenate(self._parts)

    def observations(self, clock: Clock, *, include_in_flight: bool = True) -> Observations:
        """What this job says about times to failure on one clock, equal rows merged into counts.

        Misclassified samples were never at risk and are left out. A sample in flight is right-censored at its last
        check: completed samples alone are biased towards quick failures, because those finish first.
        """
        if clock is not Clock.QUERIES:
            return self.rows(clock, include_in_flight=include_in_flight)[0].merged()
        cells = Counter(self._cells)
        if include_in_flight:
            for snapshot in self._in_flight.values():
                here = self._under_attack(snapshot)
                cells.update(
                    (q, -1, c) for q, c in zip(snapshot.query_count[here], snapshot.check_count[here], strict=True)
                )
        table = np.array(sorted(cells), dtype=float).reshape(-1, 3)
        weight = np.array([cells[cell] for cell in sorted(cells)], dtype=float)
        upper = np.where(table[:, 1] < 0, np.inf, table[:, 1])
        return Observations(table[:, 0], upper, weight, np.empty((weight.size, 0)), check=table[:, 2].astype(np.int64))

    def rows(self, clock: Clock, *, include_in_flight: bool = True) -> tuple[Observations, IntArray]:
        """The observations sample by sample, and the index of each sample in the attacked split."""
        if clock is Clock.DISTANCE:
            raise ValueError("a table does not know its norm and its epsilon; see `distances`")
        columns = self.columns()
        at_risk = columns.verdict != Verdict.MISCLASSIFIED
        quantity = "query_count" if clock is Clock.QUERIES else "seconds"
        lower = getattr(columns, f"{quantity}_lower")[at_risk].astype(float)
        upper = getattr(columns, f"{quantity}_upper")[at_risk].astype(float)
        upper[columns.verdict[at_risk] != Verdict.FAILED] = np.inf
        check, samples = columns.check_count[at_risk], columns.sample_index[at_risk]
        if include_in_flight:
            for snapshot in self._in_flight.values():
                here = self._under_attack(snapshot)
                lower = np.concatenate([lower, getattr(snapshot, quantity)[here].astype(float)])
                upper = np.concatenate([upper, np.full(int(here.sum()), np.inf)])
                check = np.concatenate([check, snapshot.check_count[here]])
                samples = np.concatenate([samples, snapshot.sample_index[here]])
        n = lower.size
        rows = Observations(lower, upper, np.ones(n), np.empty((n, 0)), check=check.astype(np.int64))
        return rows, samples.astype(np.int64)

    def _under_attack(self, snapshot: InFlightColumns) -> NDArray[np.bool_]:
        # A snapshot of one shard can be older than an outcome that a new attempt recorded.
        return np.array([sample not in self._samples for sample in snapshot.sample_index.tolist()], dtype=bool)
