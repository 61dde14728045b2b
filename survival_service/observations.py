"""Observations of times to failure, and the outcomes of attacked samples that they come from.

One observation is one attacked sample, or a number of samples whose failure times lie in the same interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum, IntEnum

import numpy as np
from numpy.typing import NDArray

from survival_service.errors import InvalidObservations

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Clock(Enum):
    """What a time to failure is counted in. The values are those of the wire."""

    SECONDS = 1
    QUERIES = 2
    DISTANCE = 3

    @property
    def of_costs(self) -> Clock:
        """The clock on which costs are counted beside this one: nothing is spent in distance, so there in queries."""
        return Clock.QUERIES if self is Clock.DISTANCE else self


class Verdict(IntEnum):
    """What happened to one attacked sample. The values are those of the wire."""

    SURVIVED = 1
    FAILED = 2
    MISCLASSIFIED = 3
    REJECTED = 4


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeColumns:
    """Outcomes of attacked samples, one array a quantity, named as in the contract's `OutcomeBatch`.

    A failure's time lies in (lower, upper]; a survivor's upper entry is -1 in counts and infinite in seconds. Raises
    `InvalidObservations` for columns of unequal length, unknown verdicts and bounds that are no interval.
    """

    sample_index: IntArray
    verdict: IntArray
    label: IntArray
    clean_prediction: IntArray
    adversarial_prediction: IntArray
    query_count_lower: IntArray
    query_count_upper: IntArray
    gradient_count_lower: IntArray
    gradient_count_upper: IntArray
    seconds_lower: FloatArray
    seconds_upper: FloatArray
    distance_l2: FloatArray
    distance_linf: FloatArray
    distance_l0: IntArray
    check_count: IntArray
    clean_seconds: FloatArray

    def __post_init__(self) -> None:
        _require_equal_lengths(self)
        if not np.isin(self.verdict, [int(verdict) for verdict in Verdict]).all():
            raise InvalidObservations("verdict", "a verdict must be 1 (survived), 2 (failed), 3 (misclassified) or 4")
        failed = self.verdict == Verdict.FAILED
        for quantity in ("query_count", "gradient_count", "seconds"):
            lower, upper = getattr(self, f"{quantity}_lower"), getattr(self, f"{quantity}_upper")
            if not (np.isfinite(lower).all() and (lower >= 0).all()):
                raise InvalidObservations(f"{quantity}_lower", f"{quantity}_lower must be finite and not negative")
            if not (np.isfinite(upper[failed]).all() and (upper[failed] >= lower[failed]).all()):
                raise InvalidObservations(
                    f"{quantity}_upper",
                    f"{quantity}_upper of a failed sample must be finite and at least its lower bound",
                )
        if not ((self.query_count_upper[failed] > 0).all() and (self.seconds_upper[failed] > 0).all()):
            raise InvalidObservations("query_count_upper", "a failure must have cost at least one query and some time")
        if not (np.isfinite(self.clean_seconds).all() and (self.clean_seconds >= 0).all()):
            raise InvalidObservations("clean_seconds", "clean_seconds must be finite and not negative")

    def __len__(self) -> int:
        return int(self.sample_index.size)

    @staticmethod
    def concatenate(parts: Sequence[OutcomeColumns]) -> OutcomeColumns:
        """All parts in one, in their order; no rows from no parts."""
        if not parts:
            empty = {column.name: np.empty(0) for column in fields(OutcomeColumns)}
            return OutcomeColumns(**empty)  # type: ignore[arg-type]  # no value, so no dtype to get wrong
        return OutcomeColumns(
            **{
                column.name: np.concatenate([getattr(part, column.name) for part in parts])
                for column in fields(parts[0])
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class InFlightColumns:
    """Samples under attack at one moment: what each had cost at its last check, which it survived."""

    sample_index: IntArray
    check_count: IntArray
    query_count: IntArray
    gradient_count: IntArray
    seconds: FloatArray

    def __post_init__(self) -> None:
        _require_equal_lengths(self)
        for name in ("query_count", "gradient_count", "seconds"):
            column = getattr(self, name)
            if not (np.isfinite(column).all() and (column >= 0).all()):
                raise InvalidObservations(name, f"{name} of samples in flight must be finite and not negative")

    def __len__(self) -> int:
        return int(self.sample_index.size)


# What a double and the contract's whole numbers both count exactly.
_MOST_SAMPLES = 2.0**53
# The squares of covariates must neither overflow nor vanish.
_FARTHEST = 1e100


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Times to failure: row i failed in (lower[i], upper[i]], `weight[i]` times over.

    lower == upper is an exact time, an infinite upper bound a right-censored row, a lower bound of 0 a left-censored
    one. `covariates` has a row a row and a column a name, no intercept. `cluster` numbers what rows belong together,
    or is None if rows are independent. `check` is the check that ended each row, where the source knows it: only that
    tells two checks apart on a clock of seconds, where no two samples share a bound. `dropped` says in sentences
    which covariates were left out before. `configuration` numbers, from 0, which rows have the same covariates, where
    the source knows it: sums over rows are then made by configuration. Raises `InvalidObservations`, naming the column
    of `ObservationBatch`.
    """

    lower: FloatArray
    upper: FloatArray
    weight: FloatArray
    covariates: FloatArray
    names: tuple[str, ...] = ()
    cluster: IntArray | None = None
    check: IntArray | None = None
    dropped: tuple[str, ...] = ()
    configuration: IntArray | None = None

    def __post_init__(self) -> None:
        n = self.lower.size
        if self.upper.size != n or self.weight.size != n or self.covariates.shape != (n, len(self.names)):
            raise InvalidObservations("duration_upper", "all columns of observations must have one length")
        if self.configuration is not None and self.configuration.size != n:
            raise InvalidObservations("configuration", "every row of observations must have a configuration, or none")
        if not (np.isfinite(self.lower).all() and (self.lower >= 0).all()):
            raise InvalidObservations("duration_lower", "duration_lower must be finite and not negative")
        if not ((self.upper >= self.lower).all() and (self.upper > 0).all()):
            raise InvalidObservations("duration_upper", "duration_upper must be above 0 and at least duration_lower")
        if not (np.isfinite(self.weight).all() and (self.weight > 0).all()):
            raise InvalidObservations("weight", "weights must be finite and above 0")
        with np.errstate(over="ignore"):
            countable = self.weight.sum() <= _MOST_SAMPLES
        if not countable:
            message = "the weights add up to more samples than can be counted; a weight is how often a row occurred"
            raise InvalidObservations("weight", message)
        if not np.isfinite(self.covariates).all():
            raise InvalidObservations("covariates", "covariates must be finite numbers")
        # Without a copy of all covariates, which may be most of what a process holds.
        squares = np.einsum("ij,ij->j", self.covariates, self.covariates)
        if (squares > _FARTHEST**2).any() or self.covariates[:, squares < _FARTHEST**-2].any():
            message = f"covariates must not lie farther from 1 than {_FARTHEST:g} times; give them another unit"
            raise InvalidObservations("covariates", message)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which rows are failures."""
        return np.isfinite(self.upper)

    @property
    def observation_count(self) -> float:
        """Samples, censored ones included."""
        return float(self.weight.sum())

    @property
    def failure_count(self) -> float:
        """Samples that failed."""
        return float(self.weight[self.failed].sum())

    def with_columns(self, kept: Sequence[int]) -> Observations:
        """The same observations with some of their covariates."""
        names = tuple(self.names[j] for j in kept)
        return replace(self, covariates=self.covariates[:, list(kept)], names=names)

    def merged(self) -> Observations:
        """The same observations with equal rows counted once; rows in clusters stay apart."""
        if self.cluster is not None or self.lower.size == 0:
            return self
        check = np.zeros(self.lower.size) if self.check is None else self.check
        table = np.column_stack([self.lower, self.upper, check, self.covariates])
        cells: FloatArray
        cells, inverse = np.unique(table, axis=0, return_inverse=True)
        return Observations(
            lower=cells[:, 0].copy(),
            upper=cells[:, 1].copy(),
            weight=np.bincount(inverse.ravel(), self.weight).astype(np.float64),
            covariates=cells[:, 3:].copy(),
            names=self.names,
            check=None if self.check is None else cells[:, 2].astype(np.int64),
            dropped=self.dropped,
        )

    @staticmethod
    def of(
        lower: Iterable[float],
        upper: Iterable[float],
        weight: Iterable[float] | None = None,
        covariates: dict[str, Sequence[float]] | None = None,
        cluster: Sequence[str] | None = None,
    ) -> Observations:
        """Observations from plain sequences, as `ObservationBatch` carries them; weights default to 1."""
        low = np.asarray(list(lower), dtype=float)
        high = np.asarray(list(upper), dtype=float)
        weights = np.ones(low.size) if weight is None else np.asarray(list(weight), dtype=float)
        for name, values in (covariates or {}).items():
            if len(values) != low.size:
                raise InvalidObservations(
                    "covariates", f"covariate {name!r} has {len(values)} values for {low.size} rows"
                )
        matrix = np.empty((low.size, len(covariates or ())))
        for j, values in enumerate((covariates or {}).values()):
            matrix[:, j] = values
        clusters = None
        if cluster is not None:
            if len(cluster) != low.size:
                raise InvalidObservations("cluster", f"cluster has {len(cluster)} values for {low.size} rows")
            clusters = np.unique(np.asarray(cluster), return_inverse=True)[1].astype(np.int64)
        return Observations(low, high, weights, matrix, tuple(covariates or ()), clusters)


def _require_equal_lengths(columns: OutcomeColumns | InFlightColumns) -> None:
    lengths = {column.name: getattr(columns, column.name).size for column in fields(columns)}
    if len(set(lengths.values())) > 1:
        odd = next(name for name, length in lengths.items() if length != lengths["sample_index"])
        raise InvalidObservations(
            odd, f"column {odd} has {lengths[odd]} entries, sample_index has {lengths['sample_index']}"
        )
