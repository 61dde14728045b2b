"""The survival function of interval-censored times without a distribution, after Turnbull (1976).

Between two checks nobody looked, so the likelihood says only how much probability lies in each innermost interval, not
where in it. On a clock of checks that all samples share, this is Kaplan and Meier's curve with failures at the check
that found them; on a clock of seconds, where the intervals of different samples overlap, it is not.

Own code, for what lifelines has (0.30.3) takes intervals as closed: (0, 1] and (1, 2] share the moment 1 there, and of
five samples two of which failed by 1 it says that none had failed by then; and it takes seconds for a thousand rows.
With every lower end moved up by a hair its result is the same as this one, which is tested.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.observations import FloatArray, Observations

# How far the log-likelihood may lie below its maximum, in nats a sample.
_TOLERANCE = 1e-7
_ITERATION_LIMIT = 5_000


@dataclass(frozen=True, slots=True)
class TurnbullCurve:
    """Probability `share[j]` of failing in (`begin[j]`, `end[j]`], where the last end may be infinite.

    An exact time has begin equal to end. The survival function is 1 less the shares of the intervals that have ended,
    and undefined within an interval. `converged` says whether the likelihood is within 1e-7 nats a sample of its
    maximum.
    """

    begin: FloatArray
    end: FloatArray
    share: FloatArray
    log_likelihood: float
    converged: bool

    def survival(self, time: float) -> tuple[float, float]:
        """The least and the greatest that P(T > time) can be."""
        over, begun = self.end <= time, (self.begin < time) | (self.end <= time)
        return tuple(max(0.0, 1.0 - float(self.share[which].sum())) for which in (begun, over))  # type: ignore[return-value]


def turnbull(observations: Observations) -> TurnbullCurve | None:
    """The nonparametric maximum of the likelihood of weighted rows (lower, upper]; None without observations.

    The algorithm is expectation-maximisation, two steps of which are extrapolated (Varadhan and Roland 2008), on cells
    that rows cover without gaps, so that a step takes a time proportional to rows and cells. It ends by the gradient:
    at the maximum no cell could gain (Gentleman and Geyer 1994).
    """
    lower, upper, weight = observations.lower, observations.upper, observations.weight
    if not lower.size:
        return None
    # Moment t is 2 r, and what follows it before the next is 2 r + 1: half-open intervals get ends that compare.
    times, rank = np.unique(np.concatenate([lower, upper]), return_inverse=True)
    low, high = np.split(rank.ravel(), 2)
    left, right = 2 * low + (lower < upper), 2 * high
    starts, ends = np.unique(left), np.unique(right)
    # An innermost interval ends where an interval ends, and begins at the last begin before that, if no end is between.
    latest = starts[np.maximum(np.searchsorted(starts, ends, side="right") - 1, 0)]
    inner = (latest <= ends) & (latest > np.append(-1, ends[:-1]))
    begin, end = latest[inner], ends[inner]
    first = np.searchsorted(begin, left, side="left")
    last = np.searchsorted(end, right, side="right")  # row i covers the cells first[i] to last[i] - 1
    share, value, converged = _maximum(first, last, weight / weight.sum(), begin.size)
    return TurnbullCurve(times[begin // 2], times[end // 2], share, value * float(weight.sum()), converged)


def _maximum(
    first: NDArray[np.intp], last: NDArray[np.intp], weight: FloatArray, cells: int
) -> tuple[FloatArray, float, bool]:
    """The shares of the cells at which sum(weight * log(what a row covers)) is greatest, that sum, and if it was found.

    The weights sum to 1.
    """

    def covered(share: FloatArray) -> FloatArray:
        summed = np.append(0.0, np.cumsum(share))
        result: FloatArray = np.maximum(summed[last] - summed[first], 1e-300)
        return result

    def gradient(share: FloatArray) -> FloatArray:
        each = weight / covered(share)
        change = np.bincount(first, each, cells + 1) - np.bincount(last, each, cells + 1)
        return np.cumsum(change)[:cells]

    def value(share: FloatArray) -> float:
        return float(weight @ np.log(covered(share)))

    share = np.full(cells, 1.0 / cells)
    for _ in range(_ITERATION_LIMIT):
        slope = gradient(share)
        # The log-likelihood is concave: what is left to gain is at most the greatest slope less 1.
        if slope.max() - 1.0 <= _TOLERANCE:
            return share / share.sum(), value(share), True
        one = share * slope
        two = one * gradient(one)
        step, bend = one - share, (two - one) - (one - share)
        size = float(np.sqrt(bend @ bend))
        length = max(1.0, math.sqrt(float(step @ step)) / size) if size > 0 else 1.0
        leap = np.maximum(share + 2 * length * step + length**2 * bend, 0.0)
        leap /= leap.sum()
        leap *= gradient(leap)  # a plain step after the leap
        share = leap if np.isfinite(leap).all() and value(leap) >= value(two) else two
    return share / share.sum(), value(share), False
