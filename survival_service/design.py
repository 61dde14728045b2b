"""Observations laid out for a likelihood: ordered by their kind of censoring, centred and scaled, read in blocks.

Every row of an accelerated failure model enters through z = gamma log t - x'delta, which is linear in the parameters
(delta, gamma): column i of `terms` is (-1, -x_i, log t_i), and z is its product with them. Log times and covariates
are centred and scaled, so that neither the unit of time nor that of a covariate matters. Where rows share their
covariates, x'delta is found once for all rows that share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np

from survival_service.observations import FloatArray, IntArray, Observations

# Rows worked on at a time: what they need stays in a core's own cache. Those that share covariates need less of it.
_BLOCK = 2048
_SHARING_BLOCK = 8192
# Configurations for each parameter in a sample of them, so that their covariates can be told apart there.
_CONFIGURATIONS_PER_TERM = 10
_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2
# The least eigenvalue of the correlations from which on no column can be a combination of others to working precision.
_CLEARLY_INDEPENDENT = 1e-6


class Kind(IntEnum):
    """How much is known of a row's time."""

    EXACT = 0
    RIGHT = 1
    LEFT = 2
    INTERVAL = 3


@dataclass(frozen=True, slots=True, eq=False)
class SharedTerms:
    """Terms of rows that share their covariates: column `configuration[i]` of `levels`, (p + 1, configurations), is
    what row i's has before its log time."""

    configuration: IntArray
    levels: FloatArray

    @property
    def level_count(self) -> int:
        """Configurations."""
        return int(self.levels.shape[1])


@dataclass(frozen=True, eq=False)
class Design:
    """What a likelihood reads of m rows with p covariates. Made by `Design.of`.

    `rows` are the positions of the observations that say something (those censored at 0 do not), in the order used
    here; `bounds[k]:bounds[k + 1]` are those of `Kind` k. `time` is standardised log time, an interval's at its middle,
    and `half` half its width there. `weight` is None where every row weighs 1. `source` are the terms, (p + 2, m), or
    what they are made of where rows share covariates. Not slotted, since terms that were asked for are kept.
    """

    rows: IntArray
    bounds: tuple[int, ...]
    time: FloatArray
    half: FloatArray
    weight: FloatArray | None
    total_weight: float
    exact_weight: float
    time_mean: float
    time_scale: float
    column_mean: FloatArray
    column_scale: FloatArray
    clearly_independent: bool
    # What the change from standardised log time back to time adds to a log-likelihood, whatever the parameters.
    constant: float
    source: FloatArray | SharedTerms

    @staticmethod
    def of(observations: Observations) -> Design:
        """Lay out observations of which at least one says something; columns may be constant or collinear."""
        lower, upper, covariates = observations.lower, observations.upper, observations.covariates
        rows, bounds = _ordered(lower, upper)
        in_order = rows.size == lower.size and (len(set(bounds)) == 2 or bool((np.diff(rows) == 1).all()))
        if not in_order:
            lower, upper = lower[rows], upper[rows]
        weight = None
        if not (observations.weight == 1.0).all():
            weight = observations.weight if in_order else observations.weight[rows]
        total = float(rows.size if weight is None else weight.sum())

        column_count = covariates.shape[1]
        configuration = observations.configuration if column_count else None
        terms = np.full((1 if configuration is not None else column_count + 2, rows.size), -1.0)
        time = terms[-1]
        time[:] = lower
        left, between = slice(*bounds[Kind.LEFT : Kind.LEFT + 2]), slice(*bounds[Kind.INTERVAL : Kind.INTERVAL + 2])
        time[left] = upper[left]
        np.log(time, out=time)
        # log1p keeps the width of an interval of one bit, which a difference of logarithms loses.
        half = 0.5 * np.log1p((upper[between] - lower[between]) / lower[between])
        time[between] += half
        exact = time[: bounds[1]]
        exact_sum = float(exact.sum() if weight is None else weight[: bounds[1]] @ exact)
        exact_weight = float(exact.size if weight is None else weight[: bounds[1]].sum())
        time_mean = float(time.mean() if weight is None else weight @ time / total)
        time -= time_mean
        spread = float(np.sqrt((time @ time if weight is None else weight @ (time * time)) / total))
        time_scale = spread if spread > 1e-12 * (1.0 + abs(time_mean)) else 1.0

        time /= time_scale

        mean, scale, independent = np.empty(0), np.empty(0), True
        source: FloatArray | SharedTerms = terms
        if column_count:
            if configuration is None:
                columns = terms[1:-1]
                mean, gram = _centre(covariates, None if in_order else rows, weight, total, columns)
            else:
                configuration = configuration if in_order else configuration[rows]
                share = np.bincount(configuration, weight)
                # Any row of a configuration has its covariates.
                first = np.zeros(share.size, dtype=np.int64)
                first[configuration] = rows
                levels = np.full((column_count + 1, share.size), -1.0)
                source, columns = SharedTerms(configuration, levels), levels[1:]
                mean, gram = _centre(covariates, first, share.astype(np.float64), total, columns)
            scale = np.sqrt(np.diag(gram) / total)
            varies = scale > 1e-9 * (np.abs(mean) + scale)
            independent = bool(varies.all()) and bool(
                np.linalg.eigvalsh(gram / np.outer(scale, scale) / total)[0] > _CLEARLY_INDEPENDENT
            )
            scale = np.where(scale > 0, scale, 1.0)
            for block in _blocks(0, columns.shape[1], _BLOCK):
                columns[:, block] /= scale[:, None]
        return Design(
            rows=rows,
            bounds=bounds,
            time=time,
            half=half / time_scale,
            weight=weight,
            total_weight=total,
            exact_weight=exact_weight,
            time_mean=time_mean,
            time_scale=time_scale,
            column_mean=mean,
            column_scale=scale,
            clearly_independent=independent,
            constant=-exact_sum - exact_weight * float(np.log(time_scale)),
            source=source,
        )

    @property
    def row_count(self) -> int:
        """Rows that say something."""
        return int(self.rows.size)

    @property
    def term_size(self) -> int:
        """Parameters of location and scale: intercept, covariates, gamma."""
        return 2 + self.column_mean.size

    @cached_property
    def terms(self) -> FloatArray:
        """The terms of all rows, (p + 2, m)."""
        if not isinstance(self.source, SharedTerms):
            return self.source
        terms = np.empty((self.term_size, self.row_count))
        np.take(self.source.levels, self.source.configuration, axis=1, out=terms[:-1], mode="clip")
        terms[-1] = self.time
        return terms

    def locations(self, parameters: FloatArray, block: slice) -> FloatArray:
        """The z of the rows in a block."""
        if not isinstance(self.source, SharedTerms):
            z: FloatArray = parameters @ self.source[:, block]
            return z
        z = np.take(parameters[:-1] @ self.source.levels, self.source.configuration[block])
        z += parameters[-1] * self.time[block]
        return z

    def blocks(self) -> Iterator[tuple[Kind, slice]]:
        """All rows in blocks of one kind each."""
        size = _SHARING_BLOCK if isinstance(self.source, SharedTerms) else _BLOCK
        for kind in Kind:
            for block in _blocks(self.bounds[kind], self.bounds[kind + 1], size):
                yield kind, block

    def chosen(self, kept: IntArray) -> Design:
        """Some rows, by their positions here in rising order, on the same scales."""
        bounds = np.searchsorted(kept, self.bounds)
        interval = kept[bounds[Kind.INTERVAL] :] - self.bounds[Kind.INTERVAL]
        exact = slice(int(bounds[Kind.EXACT + 1]))
        weight = None if self.weight is None else self.weight[kept]
        source: FloatArray | SharedTerms
        if isinstance(self.source, SharedTerms):
            source, time = replace(self.source, configuration=self.source.configuration[kept]), self.time[kept]
        else:
            source = self.source[:, kept]
            time = source[-1]
        exact_weight = float(exact.stop if weight is None else weight[exact].sum())
        exact_sum = float(time[exact].sum() if weight is None else weight[exact] @ time[exact])
        return replace(
            self,
            rows=self.rows[kept],
            bounds=tuple(bounds.tolist()),
            time=time,
            half=self.half[interval],
            weight=weight,
            total_weight=float(kept.size if weight is None else weight.sum()),
            exact_weight=exact_weight,
            constant=-exact_sum * self.time_scale - exact_weight * (self.time_mean + float(np.log(self.time_scale))),
            source=source,
        )

    def thinned(self, step: int) -> Design:
        """About one row in `step`: a sample to begin a search with.

        Of many configurations it is all rows of one in `step`: where a row stands for many samples that failed alike,
        leaving rows out moves the maximum much further than leaving out as many samples.
        """
        of = self.source
        if isinstance(of, SharedTerms) and of.level_count >= step * _CONFIGURATIONS_PER_TERM * self.term_size:
            # By multiples of the golden ratio: spread evenly, and in step with no order that configurations come in.
            taken = np.arange(of.level_count) * _GOLDEN_RATIO % 1.0 < 1 / step
            return self.chosen(np.flatnonzero(taken[of.configuration]))
        return self.chosen(np.concatenate([np.arange(self.bounds[kind], self.bounds[kind + 1], step) for kind in Kind]))

    def least_squares(self) -> tuple[FloatArray, float]:
        """Coefficients (intercept first) and residual deviation of a regression of standardised log time."""
        size = self.term_size
        gram = np.zeros((size, size))
        for block in _blocks(0, self.row_count, _BLOCK):
            terms = self.terms[:, block]
            gram += (terms if self.weight is None else terms * self.weight[block]) @ terms.T
        inner, cross = gram[:-1, :-1], gram[:-1, -1]
        coefficients: FloatArray = np.linalg.lstsq(inner, -cross, rcond=1e-10)[0].astype(np.float64)
        squares = gram[-1, -1] + coefficients @ (2 * cross + inner @ coefficients)
        return coefficients, float(np.sqrt(max(squares, 0.0) / self.total_weight))


def _ordered(lower: FloatArray, upper: FloatArray) -> tuple[IntArray, tuple[int, ...]]:
    """The rows that say something, those of one kind together, and where each kind begins and the last ends."""
    exact, right, left = lower == upper, np.isinf(upper), lower == 0
    if right.any():
        kinds = [exact, right & ~left, left & ~right, ~(exact | right | left)]
    else:
        kinds = [exact, right, left & ~exact, ~(exact | left)]
    parts = [np.flatnonzero(kind) for kind in kinds]
    bounds = np.cumsum([part.size for part in parts])
    return np.concatenate(parts), (0, *bounds.tolist())


def _blocks(begin: int, end: int, size: int) -> Iterator[slice]:
    for at in range(begin, end, size):
        yield slice(at, min(at + size, end))


def _centre(
    covariates: FloatArray, rows: IntArray | None, weight: FloatArray | None, total: float, out: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Write mean - x into `out`, a row a covariate; the means, and the weighted products of the differences."""
    # The mean of values about the first row: exact for a constant column, whatever its size.
    origin = covariates[0 if rows is None else rows[0]]
    size, summed = origin.size, np.zeros(origin.size)
    for block in _blocks(0, out.shape[1], _BLOCK):
        taken = covariates[block if rows is None else rows[block]]
        np.subtract(origin[:, None], taken.T, out=out[:, block])
        summed += out[:, block].sum(axis=1) if weight is None else out[:, block] @ weight[block]
    shift = summed / total
    gram = np.zeros((size, size))
    for block in _blocks(0, out.shape[1], _BLOCK):
        part = out[:, block]
        part -= shift[:, None]
        gram += (part if weight is None else part * weight[block]) @ part.T
    return origin - shift, gram
