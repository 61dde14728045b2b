"""How well fitted times order observed ones: three concordances, each a share of the pairs whose order is known.

All three are the probability that of two samples the one predicted to live longer does, counted over the pairs that
say which one it was: Harrell's over all such pairs of times; Uno's the same, each pair weighted for those that
censoring hid; that of intervals over the pairs only whose intervals do not overlap. Ties in the prediction count half.
Rows may be weighted, as the cells of a count table are: a weight is a repetition. O(n log n), and exact while the
number of pairs is below 2^52.

Standard errors are those of the infinitesimal jackknife (Efron 1982; so does `survival::concordance` in R): a sample's
influence is the derivative of the concordance in its weight, and the variance is the sum of their squares, over
clusters if there are any. The prediction is taken as given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.estimates import Estimate, normal_quantile
from survival_service.observations import FloatArray, IntArray, Observations


@dataclass(frozen=True, slots=True)
class Concordance:
    """A share of pairs ordered alike, and its standard error."""

    value: float
    standard_error: float

    def estimate(self, level: float) -> Estimate:
        """With its interval, normal on the scale of log(C / (1 - C)), so that it stays in [0, 1].

        Without an interval at 0 and at 1, and where the jackknife finds no variance to go by.
        """
        c = self.value
        if not (0 < c < 1 and self.standard_error > 0):
            return Estimate(c)
        middle = math.log(c / (1 - c))
        margin = normal_quantile(level) * self.standard_error / (c * (1 - c))
        # Beyond 700 the logistic function is 0 or 1 to every digit.
        lower, upper = (1 / (1 + math.exp(-max(-700.0, min(700.0, end)))) for end in (middle - margin, middle + margin))
        return Estimate(c, lower, upper)


def concordance(
    time: FloatArray, failed: NDArray[np.bool_], predicted: FloatArray, weight: FloatArray | None = None
) -> float | None:
    """Harrell's C of exact or right-censored times, without its standard error; None without a known pair."""
    pairs = _pairs_of_times(time, failed, predicted, np.ones(time.size) if weight is None else weight)
    return pairs.concordance()


def harrell(observations: Observations, predicted: FloatArray) -> Concordance | None:
    """Harrell's C (Harrell et al. 1982) of observations and the times predicted for them.

    A failure stands at the upper end of its interval. A pair is known if the earlier time is a failure; a time censored
    when another sample fails counts as later. None without such a pair.
    """
    time, failed = _times(observations)
    pairs = _pairs_of_times(time, failed, predicted, observations.weight)
    return pairs.with_error(observations.cluster)


def uno(observations: Observations, predicted: FloatArray, horizon: float | None = None) -> Concordance | None:
    """Uno's C (Uno, Cai, Pencina, D'Agostino and Wei 2011) up to `horizon`, by default the longest time.

    A pair whose earlier sample failed at t, t <= horizon, counts 1 / G(t-)^2, with G the Kaplan-Meier estimate of the
    time to censoring: what it stands for in the end does not depend on how long samples were watched. The standard
    error contains that of G, which `survival::concordance` takes as known. None without such a pair.
    """
    time, failed = _times(observations)
    weight = observations.weight
    order = np.unique(time, return_inverse=True)[1].ravel()
    count = int(order.max(initial=-1)) + 1
    leaving = np.bincount(order, np.where(failed, 0.0, weight), count)
    beyond = np.append(np.cumsum(np.bincount(order, weight, count)[::-1])[::-1][1:], 0.0)[:count]
    # Of those watched at a time the failures leave first, then the censored.
    watched = beyond + leaving
    with np.errstate(divide="ignore"):
        stays = np.log(beyond) - np.log(watched, where=watched > 0, out=np.zeros(count))
    stays[leaving == 0] = 0.0
    before = np.append(0.0, np.cumsum(stays))[:count]  # log G(t-)
    asking = failed if horizon is None else failed & (time <= horizon)
    importance = np.exp(-2 * np.where(asking, before[order], 0.0))
    pairs = _pairs_of_times(time, failed, predicted, weight, asking=asking, importance=importance)

    def through_censoring(gain: FloatArray) -> FloatArray:
        """What a sample does to log(1 / G^2), times the gain of the pairs that depend on it."""
        later = np.append(np.cumsum(np.bincount(order, gain, count)[::-1])[::-1][1:], 0.0)[:count]
        used = (leaving > 0) & (beyond > 0)
        share = np.divide(later, watched, where=used, out=np.zeros(count))
        staying = np.divide(share * leaving, beyond, where=used, out=np.zeros(count))
        passed = np.append(0.0, np.cumsum(staying))[:count]
        result: FloatArray = -2 * (passed[order] - np.where(failed, 0.0, share[order]))
        return result

    return pairs.with_error(observations.cluster, through_censoring)


def interval_pair(observations: Observations, predicted: FloatArray) -> Concordance | None:
    """The concordance over the pairs whose order is certain: one interval ends before, or where, the other begins.

    Nothing is assumed of where in its interval (lower, upper] a failure lies, so a pair of failures found by the same
    check, or one that was censored in the other's interval, says nothing. None without a certain pair.
    """
    ends = np.unique(np.concatenate([observations.lower, observations.upper]), return_inverse=True)[1].ravel()
    lower, upper = np.split(ends, 2)
    # An exact time at the very end of an interval may be the same moment; an interval that begins there lies after it.
    begin = 2 * lower + (observations.lower < observations.upper)
    pairs = _Pairs.of(begin, 2 * upper, observations.failed, predicted, observations.weight)
    return pairs.with_error(observations.cluster)


def _times(observations: Observations) -> tuple[FloatArray, NDArray[np.bool_]]:
    failed = observations.failed
    return np.where(failed, observations.upper, observations.lower), failed


def _pairs_of_times(
    time: FloatArray,
    failed: NDArray[np.bool_],
    predicted: FloatArray,
    weight: FloatArray,
    *,
    asking: NDArray[np.bool_] | None = None,
    importance: FloatArray | None = None,
) -> _Pairs:
    order = 2 * np.unique(time, return_inverse=True)[1].ravel()
    asks = failed if asking is None else asking
    return _Pairs.of(order + ~failed, order, asks, predicted, weight, importance)


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """The known pairs by the row that ends first, all of length n: sums of weight over the rows that it is paired with.

    Row i is known to end before row j if i asks and `end[i] < begin[j]`; such a pair counts `importance[i]`.
    """

    begin: NDArray[np.intp]
    end: NDArray[np.intp]
    asks: NDArray[np.bool_]
    rank: NDArray[np.intp]
    weight: FloatArray
    importance: FloatArray
    known: FloatArray
    agreeing: FloatArray

    @staticmethod
    def of(
        begin: NDArray[np.intp],
        end: NDArray[np.intp],
        asks: NDArray[np.bool_],
        predicted: FloatArray,
        weight: FloatArray,
        importance: FloatArray | None = None,
    ) -> _Pairs:
        rank = np.unique(predicted, return_inverse=True)[1].ravel()
        order = np.argsort(-begin, kind="stable")
        asking = np.flatnonzero(asks)
        counts = np.ones(begin.size) if importance is None else importance
        later = np.searchsorted(-begin[order], -end[asking], side="left")  # rows before this position begin later
        pairs = np.append(0.0, np.cumsum(weight[order]))[later]
        below, equal = _prefix_ranks(rank[order], weight[order], later, rank[asking])
        known, agreeing = np.zeros(begin.size), np.zeros(begin.size)
        known[asking] = counts[asking] * pairs
        agreeing[asking] = counts[asking] * (pairs - below - 0.5 * equal)
        return _Pairs(begin, end, asks, rank, weight, counts, known, agreeing)

    def concordance(self) -> float | None:
        total = float(self.weight @ self.known)
        return min(1.0, max(0.0, float(self.weight @ self.agreeing) / total)) if total > 0 else None

    def with_error(
        self, cluster: IntArray | None, through_importance: Callable[[FloatArray], FloatArray] | None = None
    ) -> Concordance | None:
        """`through_importance` maps the rows' gains in agreeing pairs to what each sample changes by its importance."""
        value = self.concordance()
        if value is None:
            return None
        # Each row as the later one of its pairs: the asking rows that end before it begins.
        asking = np.flatnonzero(self.asks)
        asking = asking[np.argsort(self.end[asking], kind="stable")]
        earlier = np.searchsorted(self.end[asking], self.begin, side="left")
        counts = (self.weight * self.importance)[asking]
        known = np.append(0.0, np.cumsum(counts))[earlier]
        below, equal = _prefix_ranks(self.rank[asking], counts, earlier, self.rank)
        influence = self.agreeing + below + 0.5 * equal - value * (self.known + known)
        if through_importance is not None:
            influence += through_importance(self.weight * (self.agreeing - value * self.known))
        influence /= float(self.weight @ self.known)
        if cluster is None:
            return Concordance(value, math.sqrt(float(self.weight @ influence**2)))
        summed = np.bincount(np.unique(cluster, return_inverse=True)[1].ravel(), self.weight * influence)
        return Concordance(value, math.sqrt(float(summed @ summed)))


def _prefix_ranks(
    rank: NDArray[np.intp], weight: FloatArray, length: NDArray[np.intp], own: NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """For each question, the weight among the first `length` rows with a rank below `own`, and equal to it.

    A wavelet matrix (Claude, Navarro and Ordóñez 2015): the rows are divided by one bit of their rank after another,
    the highest first and in their order, and each question keeps the range that agrees with it so far.
    """
    first, last = np.zeros_like(length), length
    below = np.zeros(length.size)
    for bit in reversed(range(int(rank.max(initial=0)).bit_length())):
        ones = (rank >> bit & 1).astype(bool)
        zeros_before = np.append(0, np.cumsum(~ones))
        weight_before = np.append(0.0, np.cumsum(np.where(ones, 0.0, weight)))
        high = (own >> bit & 1).astype(bool)
        below += np.where(high, weight_before[last] - weight_before[first], 0.0)
        first, last = (
            np.where(high, zeros_before[-1] + at - zeros_before[at], zeros_before[at]) for at in (first, last)
        )
        rank = np.concatenate([rank[~ones], rank[ones]])
        weight = np.concatenate([weight[~ones], weight[ones]])
    summed = np.append(0.0, np.cumsum(weight))
    return below, summed[last] - summed[first]
