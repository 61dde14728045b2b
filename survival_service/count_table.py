"""Samples counted by configuration and by the checks between which they failed: what a likelihood needs of them.

A sample that is looked at only when its attack checks it fails in one of finitely many intervals. Samples of one
configuration (one setting of every covariate) that fail in the same interval have the same likelihood, so how many they
are says everything: the counts are a sufficient statistic, for clustering by configuration too. Adding a batch adds
counts, and the table of two shards is the sum of their tables, to the bit and in any order.

Not for what is measured per sample: seconds differ from sample to sample, and errors clustered by sample over several
configurations need to know which rows are one sample's. Those keep a row a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from survival_service.errors import InvalidObservations, OutcomesCorrupt
from survival_service.observations import FloatArray, IntArray, Observations

NEVER = -1
"""The upper end of a sample that has not failed."""

# A table keeps a byte for every sample that each configuration could have, whether it came or not.
_FLAG_LIMIT = 2**28
# Codes up to this many a row are counted in an array of all of them, larger ones by sorting.
_CODES_PER_ROW = 4
_FEW_CODES = 2**16
# Rows worked on at a time: what they need stays in a core's own cache.
_BLOCK = 2**16

_COLUMNS = ("configuration", "sample_index", "lower", "upper", "check")
_CELL = ("configuration", "lower", "upper", "check")

Cells = tuple[IntArray, IntArray]
"""Distinct rows of (configuration, lower, upper, check), sorted, a column each; and how many samples each counts."""


@dataclass(frozen=True, slots=True, eq=False)
class CheckedSamples:
    """Samples by the checks between which they failed, one array of integers a quantity.

    Sample `sample_index[i]` of configuration `configuration[i]`, a pair that names it, failed in (lower[i], upper[i]]
    and was found at its check number `check[i]`. An upper end of -1 (`NEVER`) is that of a sample which had not failed
    at `lower[i]`; one of 0 that of a sample which had failed before any attack and was never at risk. `greatest` is the
    greatest entry of each column, -1 of an empty one. Raises `InvalidObservations`, naming the column.
    """

    configuration: IntArray
    sample_index: IntArray
    lower: IntArray
    upper: IntArray
    check: IntArray
    greatest: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        size, greatest = self.sample_index.size, {}
        for name in _COLUMNS:
            values = getattr(self, name)
            if values.ndim != 1 or values.size != size or values.dtype != np.int64:
                raise InvalidObservations(name, f"{name} must be {size} integers of 64 bits in a row")
            # Read without their signs negative numbers are the greatest: one look finds them and the greatest entry.
            looked_at = values if name == "upper" else values.view(np.uint64)
            greatest[name] = int(looked_at.max()) if size else NEVER
            if greatest[name] > np.iinfo(np.int64).max:
                raise InvalidObservations(name, f"{name} must not be negative")
        object.__setattr__(self, "greatest", greatest)
        if (self.upper[self.upper < self.lower] != NEVER).any():
            raise InvalidObservations("upper", "upper must be at least lower, or -1 for a sample that has not failed")

    def __len__(self) -> int:
        return int(self.sample_index.size)

    def chosen(self, rows: NDArray[np.bool_] | IntArray) -> CheckedSamples:
        """Some of the rows."""
        return CheckedSamples(*(getattr(self, name)[rows] for name in _COLUMNS))

    def joined(self, other: CheckedSamples) -> CheckedSamples:
        """These rows, then the other's."""
        return CheckedSamples(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _COLUMNS))


_NOBODY = CheckedSamples(*(np.empty(0, dtype=np.int64) for _ in _COLUMNS))
_NO_CELLS: Cells = (np.empty((4, 0), dtype=np.int64), np.empty(0, dtype=np.int64))


class CountTable:
    """How many samples of each configuration failed between which checks, and which samples those were.

    Its state depends on what was added, never on the order or the batches: equal tables give equal bits.
    """

    def __init__(self) -> None:
        self._cells: Cells = _NO_CELLS
        self._counted = np.zeros((0, 0), dtype=bool)  # [configuration, sample]; grows by doubling
        self._in_flight: dict[int, CheckedSamples] = {}

    def add(self, samples: CheckedSamples) -> int:
        """Count samples whose attack has ended; how many of them are new.

        Idempotent: a sample that was counted before is ignored, whatever is said of it now.
        """
        new = self._enter(samples)
        batch = samples if new is None else samples.chosen(new)
        self._cells = _sum([self._cells, _tallied(batch)])
        return len(batch)

    def replace_in_flight(self, samples: CheckedSamples | None, *, shard: int = 0) -> None:
        """Replace what is known of the samples under attack in one shard; None if there are none any more.

        Each was last seen alive at `lower`, at check number `check`.
        """
        if samples is None:
            self._in_flight.pop(shard, None)
        elif (samples.upper != NEVER).any():
            raise InvalidObservations("upper", "a sample in flight has not failed: its upper end must be -1")
        else:
            self._in_flight[shard] = samples

    def end(self) -> None:
        """Every attack has ended: nothing is in flight any more."""
        self._in_flight.clear()

    def merged(self, other: CountTable) -> CountTable:
        """The table of both tables' samples.

        Raises `OutcomesCorrupt` if a sample is in both: counts cannot tell in which cell it stands twice.
        """
        result = CountTable()
        rows, columns = other._counted.shape
        counted = _grown(self._counted, np.array([rows, columns])).copy()
        twice = np.argwhere(counted[:rows, :columns] & other._counted)
        if twice.size:
            raise OutcomesCorrupt(
                f"sample {twice[0, 1]} of configuration {twice[0, 0]} is in both tables; "
                "give each shard samples of its own"
            )
        counted[:rows, :columns] |= other._counted
        result._counted = counted
        result._cells = _sum([self._cells, other._cells])
        result._in_flight = dict(self._in_flight)
        for shard, samples in other._in_flight.items():
            result._in_flight[shard] = result._in_flight.get(shard, _NOBODY).joined(samples)
        return result

    def has(self, configuration: IntArray, sample_index: IntArray) -> NDArray[np.bool_]:
        """Which of these samples are counted."""
        rows, columns = self._counted.shape
        inside = (configuration < rows) & (sample_index < columns)
        found = np.zeros(sample_index.size, dtype=bool)
        found[inside] = self._counted[configuration[inside], sample_index[inside]]
        return found

    @property
    def sample_count(self) -> int:
        """Samples counted, those never at risk included, those in flight not."""
        return int(self._cells[1].sum())

    @property
    def failed_count(self) -> int:
        """Samples that failed under attack."""
        cells, counts = self._cells
        return int(counts[cells[2] > 0].sum())

    @property
    def misclassified_count(self) -> int:
        """Samples that were never at risk."""
        cells, counts = self._cells
        return int(counts[cells[2] == 0].sum())

    @property
    def in_flight_count(self) -> int:
        """Samples under attack."""
        return len(self._under_attack())

    def counts(self) -> Mapping[tuple[int, int, int, int], int]:
        """The number of samples by (configuration, lower, upper, check), those in flight left out."""
        cells, counts = self._cells
        return dict(zip(map(tuple, cells.T.tolist()), counts.tolist(), strict=True))

    def observations(
        self,
        covariates: FloatArray | None = None,
        names: tuple[str, ...] = (),
        *,
        clustered: bool = False,
        include_in_flight: bool = True,
    ) -> Observations:
        """One weighted observation a cell, for a fit; row c of `covariates` is configuration c's.

        `clustered` makes every configuration a cluster. Samples never at risk are left out; one in flight is
        right-censored at its last check, for the samples that have ended are biased towards quick failures. Raises
        `InvalidObservations` if a configuration has no row of covariates.
        """
        cells, counts = self._cells
        if include_in_flight and self._in_flight:
            cells, counts = _sum([self._cells, _tallied(self._under_attack())])
        configuration, lower, upper, check = cells
        levels = np.empty((1 + int(configuration.max(initial=-1)), 0)) if covariates is None else covariates
        if configuration.size and configuration.max() >= len(levels):
            raise InvalidObservations(
                "covariates", f"configuration {configuration.max()} has no covariates; there are {len(levels)} rows"
            )
        # In the order, and with the layout, in which a fit reads them: without it a refit would mostly be moving rows.
        never = upper == NEVER
        rows = [np.flatnonzero(never), np.flatnonzero((upper > 0) & (lower == 0)), np.flatnonzero((lower > 0) & ~never)]
        order = np.concatenate(rows)
        end = upper[order].astype(np.float64)
        end[: rows[0].size] = np.inf
        configuration = configuration[order]
        return Observations(
            lower=lower[order].astype(np.float64),
            upper=end,
            weight=counts[order].astype(np.float64),
            covariates=np.take(np.ascontiguousarray(levels.T), configuration, axis=1).T,
            names=names,
            cluster=configuration if clustered else None,
            check=check[order],
            configuration=configuration,
        )

    def _under_attack(self) -> CheckedSamples:
        """Each sample in flight once, as it was seen last: a snapshot can be older than an outcome or another's."""
        samples = _NOBODY
        for snapshot in self._in_flight.values():
            samples = samples.joined(snapshot)
        order = np.lexsort([samples.lower, samples.check, samples.sample_index, samples.configuration])
        named = np.stack([samples.configuration[order], samples.sample_index[order]])
        last = np.append((named[:, 1:] != named[:, :-1]).any(axis=0), True)[: order.size]
        found = samples.chosen(order[last])
        return found.chosen(~self.has(found.configuration, found.sample_index))

    def _enter(self, samples: CheckedSamples) -> IntArray | None:
        """Note samples as counted; the positions of those that were not before, None for all."""
        if not len(samples):
            return None
        shape = np.array([samples.greatest["configuration"] + 1, samples.greatest["sample_index"] + 1])
        self._counted = _grown(self._counted, shape)
        flags = self._counted.reshape(-1)
        before = np.count_nonzero(flags)
        known = np.zeros(len(samples), dtype=bool)
        for block in _blocks(len(samples), _BLOCK):
            place = samples.configuration[block] * self._counted.shape[1]
            place += samples.sample_index[block]
            if before:
                known[block] = flags[place]
            flags[place] = True
        known_count = np.count_nonzero(known)
        alone = np.count_nonzero(flags) == before + known.size - known_count
        if alone and not known_count:
            return None
        fresh = np.flatnonzero(~known)
        if alone:
            return fresh
        # Some come twice in this batch.
        place = samples.configuration[fresh] * self._counted.shape[1] + samples.sample_index[fresh]
        return fresh[np.sort(np.unique(place, return_index=True)[1])]


def _grown(flags: NDArray[np.bool_], shape: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The same flags in an array of at least that shape, twice as long where it must grow."""
    have = np.array(flags.shape)
    if (shape <= have).all():
        return flags
    least, ample = np.maximum(shape, have), np.where(shape > have, np.maximum(shape, 2 * have), have)
    rows, columns = (ample if ample.astype(float).prod() <= _FLAG_LIMIT else least).tolist()
    if rows * columns > _FLAG_LIMIT:
        raise InvalidObservations(
            "sample_index", f"{rows} configurations of {columns} samples are too many; number both from 0, without gaps"
        )
    grown = np.zeros((rows, columns), dtype=bool)
    grown[: flags.shape[0], : flags.shape[1]] = flags
    return grown


def _tallied(samples: CheckedSamples) -> Cells:
    """The cells of samples."""
    if not len(samples):
        return _NO_CELLS
    return _tally([getattr(samples, name) for name in _CELL], [samples.greatest[name] for name in _CELL], None)


def _sum(tables: Sequence[Cells]) -> Cells:
    """Several tables of cells and counts as one."""
    tables = [table for table in tables if table[1].size]
    if not tables:
        return _NO_CELLS
    if len(tables) == 1:
        return tables[0]
    cells = np.concatenate([cells for cells, _ in tables], axis=1)
    return _tally(tuple(cells), cells.max(axis=1).tolist(), np.concatenate([counts for _, counts in tables]))


def _tally(columns: Sequence[IntArray], greatest: Sequence[int], counts: IntArray | None) -> Cells:
    """The distinct rows of at least one, sorted by their first column, then the second and so on, and their numbers.

    A row becomes one integer, a digit a column, and integers are counted; `counts` says how often each row stands.
    """
    limit = max(_CODES_PER_ROW * columns[0].size, _FEW_CODES)
    radix = [entry + 1 - NEVER for entry in greatest]
    if math.prod(radix[1:]) <= limit:
        columns_of, summed = _counted_in_blocks(columns, radix, counts)
    else:
        code = _code_of(columns, limit)
        # Counts are whole and far below 2^53, so their sum as floats is exact.
        columns_of, summed = code.columns, np.bincount(code.rows, counts, minlength=code.size).astype(np.int64)
    cells = np.flatnonzero(summed)
    return np.stack(columns_of(cells)), summed[cells]


def _counted_in_blocks(
    columns: Sequence[IntArray], radix: Sequence[int], counts: IntArray | None
) -> tuple[Callable[[IntArray], list[IntArray]], IntArray]:
    """How often each code of rows occurs, and the columns of codes; the columns after the first have few combinations.

    No entry is below `NEVER`. In blocks of rows: memory that is touched once costs more than the arithmetic on it.
    """
    row_count = columns[0].size
    # A digit is an entry less the least there can be; what that adds to a code is the same for every row.
    shift = -NEVER * sum(math.prod(radix[i + 1 :]) for i in range(1, len(radix)))
    occurs, place = np.zeros(math.prod(radix[1:]), dtype=bool), np.empty(row_count, dtype=np.int32)
    for block in _blocks(row_count, _BLOCK):
        code = columns[1][block] * radix[2]
        for column, size in zip(columns[2:-1], radix[3:], strict=True):
            code += column[block]
            code *= size
        code += columns[-1][block]
        code += shift
        occurs[code] = True
        place[block] = code
    # The first column last: the others tend to say the same, so that few of their combinations occur.
    used = np.flatnonzero(occurs)
    rank = np.cumsum(occurs)
    rank -= 1 + NEVER * used.size
    summed = np.zeros(radix[0] * used.size, dtype=np.int64)
    for block in _blocks(row_count, max(_BLOCK, 2 * summed.size)):
        code = columns[0][block] * used.size
        code += rank.take(place[block], mode="clip")  # nothing is clipped; the other modes look at every index twice
        # Counts are whole and far below 2^53, so their sum as floats is exact.
        found = np.bincount(code, None if counts is None else counts[block], minlength=summed.size)
        summed += found if counts is None else found.astype(np.int64)

    def columns_of(codes: IntArray) -> list[IntArray]:
        rest, digits = used[codes % used.size], []
        for size in radix[:1:-1]:
            digits.append(rest % size + NEVER)
            rest = rest // size
        return [codes // used.size + NEVER, rest + NEVER, *reversed(digits)]

    return columns_of, summed


def _blocks(row_count: int, size: int) -> Iterator[slice]:
    for begin in range(0, row_count, size):
        yield slice(begin, min(begin + size, row_count))


def _code_of(columns: Sequence[IntArray], limit: int) -> _Code:
    """The rows by codes up to the limit, however far their digits spread."""
    first, *rest = (_digits(column, limit) for column in columns)
    code = rest[0]
    for digit in rest[1:]:
        code = _joined(code, digit, limit)
    if first.size * code.size > limit:
        code = _used(code, limit)
    code = _joined(first, code, limit)
    return _used(code, limit) if code.size > limit else code


@dataclass(frozen=True, slots=True)
class _Code:
    """Rows as integers below `size`, in the order of the rows; `columns` says what rows integers stand for."""

    rows: IntArray
    size: int
    columns: Callable[[IntArray], list[IntArray]]


def _digits(column: IntArray, limit: int) -> _Code:
    least = int(column.min())
    code = _Code(column - least, int(column.max()) - least + 1, lambda digits: [digits + least])
    return _used(code, limit) if code.size > limit else code


def _joined(high: _Code, low: _Code, limit: int) -> _Code:
    """The pairs of two codes, which are used up: pairs are written in the place of the first."""
    if high.size * low.size > limit:
        high = _used(high, limit)
    rows, size = high.rows, low.size
    rows *= size
    rows += low.rows
    return _Code(rows, high.size * size, lambda pairs: [*high.columns(pairs // size), *low.columns(pairs % size)])


def _used(code: _Code, limit: int) -> _Code:
    """The same rows by codes of which each occurs."""
    if code.size > limit:
        values, rows = np.unique(code.rows, return_inverse=True)
        rows = rows.ravel()
    else:
        occurs = np.bincount(code.rows, minlength=code.size) > 0
        values, rows = np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[code.rows]
    return _Code(rows, values.size, lambda codes: code.columns(values[codes]))
