"""The streaming state of one attack job: everything its outcomes have told so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from survival_service.count_table import NEVER, CheckedSamples, CountTable
from survival_service.errors import OutcomesCorrupt
from survival_service.observations import Clock, InFlightColumns, IntArray, Observations, OutcomeColumns, Verdict


class OutcomeTable:
    """Everything one attack job has told so far.

    What it says on the queries clock is a count table, to which a batch is added by adding counts. Seconds are measured
    per sample and kept per sample.
    """

    def __init__(self) -> None:
        self._parts: list[OutcomeColumns] = []
        self._in_flight: dict[int, InFlightColumns] = {}
        self._queries = CountTable()
        self._counts = dict.fromkeys(Verdict, 0)
        self._attacking: set[int] = set()

    def add(self, columns: OutcomeColumns, in_flight: InFlightColumns | None = None, *, shard_index: int = 0) -> None:
        """Add one batch. `in_flight` replaces the snapshot of this shard; None (none was sent) empties it.

        Raises `OutcomesCorrupt`, and adds nothing, if a sample comes twice: a stream has each outcome once.
        """
        samples, times = np.unique(columns.sample_index, return_counts=True)
        twice = samples[(times > 1) | self._queries.has(np.zeros_like(samples), samples)]
        if twice.size:
            raise OutcomesCorrupt(f"the outcome of sample {twice[0]} came twice; read the job again from its start")
        at_risk, failed = columns.verdict != Verdict.MISCLASSIFIED, columns.verdict == Verdict.FAILED
        self._queries.add(
            _checked(
                columns.sample_index,
                np.where(at_risk, columns.query_count_lower, 0),
                np.where(failed, columns.query_count_upper, np.where(at_risk, NEVER, 0)),
                np.where(at_risk, columns.check_count, 0),
            )
        )
        self._parts.append(columns)
        if at_risk.any():
            self._attacking.add(shard_index)
        for verdict in Verdict:
            self._counts[verdict] += int((columns.verdict == verdict).sum())
        self.replace_in_flight(in_flight, shard_index=shard_index)

    def replace_in_flight(self, in_flight: InFlightColumns | None, *, shard_index: int = 0) -> None:
        """Replace the snapshot of the samples under attack in one shard."""
        checked = None
        if in_flight is None:
            self._in_flight.pop(shard_index, None)
        else:
            self._in_flight[shard_index] = in_flight
            if len(in_flight):
                self._attacking.add(shard_index)
            never = np.full(len(in_flight), NEVER)
            checked = _checked(in_flight.sample_index, in_flight.query_count, never, in_flight.check_count)
        self._queries.replace_in_flight(checked, shard=shard_index)

    def end(self) -> None:
        """The job has ended: nothing is in flight any more."""
        self._in_flight.clear()
        self._queries.end()

    @property
    def outcome_count(self) -> int:
        """Samples with an outcome, misclassified ones included."""
        return self._queries.sample_count

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
    def attacking_shard_count(self) -> int:
        """Shards that have begun to attack, so that all their misclassified samples are among the outcomes."""
        return len(self._attacking)

    @property
    def in_flight_count(self) -> int:
        """Samples under attack at the latest snapshots."""
        return self._queries.in_flight_count

    def columns(self) -> OutcomeColumns:
        """All outcomes so far, in the order they came."""
        return OutcomeColumns.concatenate(self._parts)

    def observations(self, clock: Clock, *, include_in_flight: bool = True) -> Observations:
        """What this job says about times to failure on one clock, equal rows merged into counts.

        Misclassified samples were never at risk and are left out. A sample in flight is right-censored at its last
        check: completed samples alone are biased towards quick failures, because those finish first.
        """
        if clock is Clock.QUERIES:
            return self._queries.observations(include_in_flight=include_in_flight)
        return self.rows(clock, include_in_flight=include_in_flight)[0].merged()

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
        return ~self._queries.has(np.zeros_like(snapshot.sample_index), snapshot.sample_index)


def _checked(sample: IntArray, lower: IntArray, upper: IntArray, check: IntArray) -> CheckedSamples:
    """Samples of this one configuration."""
    columns = (np.asarray(column, dtype=np.int64) for column in (sample, lower, upper, check))
    return CheckedSamples(np.zeros(sample.size, dtype=np.int64), *columns)
