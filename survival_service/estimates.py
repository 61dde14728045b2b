"""Numbers with their uncertainty: estimates, curves, histograms, and intervals for shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri, stdtrit

DEFAULT_LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval. What the data cannot support is None; no field is ever NaN.

    `log_standard_error` is the standard error of the logarithm of the value, where the interval was made on
    that scale. An infinite value is an answer: the distribution has no mean.
    """

    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    log_standard_error: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A survival function: rising times, P(T > time) in [0, 1] never rising, and a pointwise interval or none."""

    time: tuple[float, ...] = ()
    survival: tuple[float, ...] = ()
    survival_lower: tuple[float, ...] = ()
    survival_upper: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """Failures counted by when they happened: `edge` has one entry more than `failure_count`."""

    edge: tuple[float, ...] = ()
    failure_count: tuple[int, ...] = ()


NO_ESTIMATE = Estimate()
NO_CURVE = Curve()


@lru_cache(maxsize=64)
def normal_quantile(level: float) -> float:
    """The half-width, in standard errors, of a two-sided interval of this level: 1.96 for 0.95."""
    return float(ndtri(0.5 + level / 2))


def interval_quantile(level: float, degrees_of_freedom: float | None) -> float:
    """The same from Student's t with so many degrees of freedom; without them, the normal one."""
    return normal_quantile(level) if degrees_of_freedom is None else float(stdtrit(degrees_of_freedom, 0.5 + level / 2))


def log_interval(
    log_value: float, log_standard_error: float, level: float, *, degrees_of_freedom: float | None = None
) -> Estimate:
    """The estimate exp(log_value), its interval symmetric on the log scale. Overflows to infinity, never to NaN.

    With `degrees_of_freedom` the interval is Student's, otherwise the normal one.
    """
    margin = interval_quantile(level, degrees_of_freedom) * log_standard_error
    return Estimate(_exp(log_value), _exp(log_value - margin), _exp(log_value + margin), log_standard_error)


def wilson(successes: float, trials: float, level: float) -> Estimate:
    """A share with Wilson's score interval (Wilson 1927); nothing without trials."""
    if trials <= 0:
        return NO_ESTIMATE
    share, z2 = successes / trials, normal_quantile(level) ** 2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    margin = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * trials)) / trials) / (1 + z2 / trials)
    # At a share of 0 or 1 one end equals the share exactly; rounding must not push it past.
    return Estimate(share, max(0.0, min(centre - margin, share)), min(1.0, max(centre + margin, share)))


def effective_trials(
    events: NDArray[np.bool_], cluster: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> float:
    """How many independent trials tell as much about a share as these, of which some belong to one cluster.

    The number of trials over Kish's design effect (1965), the variance of the share over clusters against that over
    trials. Never more than the trials; where all of them agree, which leaves no variance to compare, the clusters. A
    row of weight w stands for w trials; where every row is its own cluster, for independent ones.
    """
    w = np.ones(events.size) if weight is None else weight
    n, index = float(w.sum()), np.unique(cluster, return_inverse=True)[1].ravel()
    clusters = int(index.max(initial=-1)) + 1
    if clusters == events.size:
        return n
    share = float(w @ events) / n
    if clusters < 2 or share in (0.0, 1.0):
        return float(clusters)
    sums = np.bincount(index, w * (events - share))
    variance = float(sums @ sums) / n**2 * clusters / (clusters - 1)
    return min(n, share * (1 - share) / variance) if variance > 0 else n


def share_upper_bound(successes: int, trials: float, level: float) -> float:
    """The one-sided upper confidence bound of a share after Clopper and Pearson (1934).

    Without a success it is 1 - (1 - level)^(1/trials), the "rule of three": about 3/trials for 0.95.
    """
    if successes >= trials:
        return 1.0
    return float(betaincinv(successes + 1, trials - successes, level))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf
