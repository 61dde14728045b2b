"""Stopping an attack as soon as an interval is narrow enough, without losing its level by having looked before.

Whoever looks at an interval of 95 % again and again, and stops at a moment that the data chose, has one that holds
less. Here every look spends a part of the error (Lan and DeMets 1983): with t the share of the information wanted that
the look has, 4 - 4 Phi(z / sqrt t) in all by then, z the upper quantile of a quarter of the error. That is the spending
function of the type of O'Brien and Fleming (1979), which spends next to nothing while the interval is too wide to stop
anyway. The critical values follow from the joint law of the estimates at all looks, that of a Brownian motion observed
at their information (Jennison and Turnbull 1997; Scharfstein, Tsiatis and Robins 1997), by recursive integration
(Armitage, McPherson and Rowe 1969). So all intervals of all looks hold together with the wanted level, and therefore
the one at which the attack stops, whatever made it stop.

All is pure: the looks so far are the whole state, and a monitor that was given them goes on where another one ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL, Estimate, wilson
from survival_service.observations import FloatArray, Observations

FEWEST_FAILURES = 20
"""No look before so many samples have failed: the estimates are not near enough to normal."""

FEWEST_AT_END = 30
"""No look at a quantity up to the attack's budget before so many samples were watched that long."""

# The next look is due when failures have grown by at least and at most so much.
_SHORTEST_STEP, _LONGEST_STEP = 1.05, 1.5
# A look that brings less information than so much of the last one is none: nothing is spent on it.
_LEAST_GAIN = 1.01
# A look that would spend less than this is none: its interval would have no end.
_LEAST_ERROR = 1e-13
# A look beyond this share of the wanted information counts only if it stops.
_LAST_FRACTION = 0.9
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(161)


class Quantity(Enum):
    """What the interval is of. The values are those of the wire."""

    MEDIAN = 1
    RESTRICTED_MEAN = 2
    FAILURE_SHARE = 3


@dataclass(frozen=True, slots=True)
class Look:
    """One look. Fields are those of the contract's `Look`."""

    failure_count: int
    sample_count: int
    information_fraction: float
    spent_error: float
    critical_value: float
    estimate: Estimate
    interval_factor: float
    information: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """What was decided about stopping a job early. Fields are those of the contract's `Stopping`.

    What is saved is None while the job runs.
    """

    quantity: Quantity
    interval_factor: float
    met: bool
    looks: tuple[Look, ...]
    next_failure_count: int
    saved_sample_count: int | None = None
    saved_query_count: float | None = None
    saved_seconds: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Monitor:
    """Watches one quantity until its interval reaches from 1/`interval_factor` to `interval_factor` times its value.

    Raises `InvalidRequest`, naming the field of `CreateReportRequest`.
    """

    interval_factor: float
    quantity: Quantity = Quantity.MEDIAN
    level: float = DEFAULT_LEVEL
    looks: tuple[Look, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.interval_factor) and self.interval_factor > 1):
            raise InvalidRequest(
                "precision.interval_factor",
                f"interval_factor must be above 1, such as 1.2 for an interval of x/1.2 to x*1.2, not "
                f"{self.interval_factor:g}",
            )

    @property
    def met(self) -> bool:
        """Whether the last look found the interval narrow enough."""
        return bool(self.looks) and self.looks[-1].interval_factor <= self.interval_factor

    @property
    def next_failure_count(self) -> int:
        """How many failures make the next look due; 0 if none will be.

        As many as would suffice if each told as much as those until the last look, but at least a twentieth and at
        most a half more than there were.
        """
        if self.met:
            return 0
        if not self.looks:
            return FEWEST_FAILURES
        last = self.looks[-1]
        growth = 1.0 / last.information_fraction if last.information_fraction > 0 else math.inf
        return math.ceil(min(max(growth, _SHORTEST_STEP), _LONGEST_STEP) * last.failure_count)

    def due(self, failure_count: float, *, last: bool = False) -> bool:
        """Whether to look now. `last` says that no more data will come."""
        if self.met or failure_count < FEWEST_FAILURES:
            return False
        return last or failure_count >= self.next_failure_count

    def look(self, known: Evidence, failure_count: int, sample_count: int, *, last: bool = False) -> Monitor:
        """Look once: the monitor with one more look, or the same if there is hardly anything new to see.

        With `last` everything is spent that is left, since no other look will come.
        """
        before = self.looks[-1] if self.looks else None
        gain = _LEAST_GAIN if not last else 1.0 + 1e-9
        if before is not None and known.information < gain * before.information:
            return self
        wanted, whole = math.log(self.interval_factor), _promised(self.level)
        # All may be spent once the interval is as narrow as wanted even if it was looked at without end.
        widest = _half_width(*known.interval(_upper_quantile(self.level)))
        fraction = min(1.0, (wanted / widest) ** 2) if widest > 0 else 1.0
        spent = whole if last else spent_error(fraction, self.level)
        if spent < (before.spent_error if before else 0.0) + _LEAST_ERROR:
            return self
        quantile = critical_values(
            [*(one.information for one in self.looks), known.information],
            [*(one.spent_error for one in self.looks), spent],
        )[-1]
        low, high = known.interval(quantile)
        reached = _half_width(low, high)
        if fraction > _LAST_FRACTION and not last and reached > wanted:
            # Too little would be left for the look that stops. That only the width decides whether this one counts
            # does no harm, as none of the estimates that it has come to is asked.
            return self
        estimate = Estimate(known.value, low, high)
        found = Look(failure_count, sample_count, fraction, spent, quantile, estimate, _exp(reached), known.information)
        return replace(self, looks=(*self.looks, found))


def spent_error(fraction: float, level: float = DEFAULT_LEVEL) -> float:
    """The error spent by the look with this share of the wanted information: of the type of O'Brien and Fleming.

    Lan and DeMets (1983), equation for alpha_1*, on each side half of the error.
    """
    if fraction <= 0:
        return 0.0
    return min(_promised(level), 4.0 * float(ndtr(-_upper_quantile(level) / math.sqrt(min(fraction, 1.0)))))


def _promised(level: float) -> float:
    """The error that all looks may spend, without the rounding by which 1 - 0.95 is more than 0.05."""
    return min(1.0 - level, round(1.0 - level, 15))


def critical_values(information: Sequence[float], spent: Sequence[float]) -> tuple[float, ...]:
    """How many standard errors each look's interval reaches to either side, so that in all `spent` is spent.

    `information` rises and `spent` does not fall. Where a look spends nothing the value is infinite. The error that
    all looks but one have left untouched is carried as a density on 161 nodes of Gauss and Legendre.
    """
    found: list[float] = []
    nodes, density = np.zeros(1), np.ones(1)
    before, used = 0.0, 0.0
    for now, total in zip(information, spent, strict=True):
        deviation = math.sqrt(now - before)
        share = total - used

        def beyond(
            edge: float, nodes: FloatArray = nodes, density: FloatArray = density, deviation: float = deviation
        ) -> float:
            return float(density @ (ndtr((nodes - edge) / deviation) + ndtr((-nodes - edge) / deviation)))

        scale = math.sqrt(now)
        quantile = math.inf
        if share >= _LEAST_ERROR:
            quantile = float(
                brentq(lambda z, f=beyond, s=scale, wanted=share: f(z * s) - wanted, 0.0, 40.0, xtol=1e-10)
            )
            used = total
        found.append(quantile)
        # Beyond nine standard errors nothing is left to carry.
        edge = min(quantile, 9.0) * scale
        at = edge * _NODES
        kernel = np.exp(-0.5 * ((at[:, None] - nodes[None, :]) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
        nodes, density = at, (kernel @ density) * edge * _WEIGHTS
        before = now
    return tuple(found)


def evidence(quantity: Quantity, observations: Observations, end: float | None) -> Evidence | None:
    """What these observations say about a quantity, from the curve of Kaplan and Meier; no distribution is assumed.

    A failure stands at the check that found it. `end` is the attack's budget, None as long as no sample has survived
    it: the median needs none, the others at least 30 samples that came as far. None where there is nothing to say yet.
    """
    if quantity is not Quantity.MEDIAN and end is None:
        return None
    time = np.where(observations.failed, observations.upper, observations.lower)
    times, index = np.unique(time, return_inverse=True)
    index = index.ravel()
    fell = np.bincount(index, observations.weight * observations.failed)
    at_risk = np.bincount(index, observations.weight)[::-1].cumsum()[::-1]
    kept = fell > 0
    if end is not None:
        kept &= times <= end
    if not kept.any():
        return None
    if end is not None and quantity is not Quantity.MEDIAN and (time >= end) @ observations.weight < FEWEST_AT_END:
        return None
    times, fell, at_risk = times[kept], fell[kept], at_risk[kept]
    hazard = fell / at_risk
    survival = np.cumprod(1.0 - hazard)
    # Greenwood's sum; where the last one at risk fails it has no end, and the curve none of its variance left.
    with np.errstate(divide="ignore"):
        growth = hazard / (at_risk - fell)
    greenwood = growth.cumsum()
    if quantity is Quantity.MEDIAN:
        return _Median.of(times, survival, _effective(survival, greenwood, at_risk))
    if quantity is Quantity.FAILURE_SHARE:
        return _Share(1.0 - float(survival[-1]), float(_effective(survival, greenwood, at_risk)[-1]))
    if survival[-1] <= 0 or end is None:
        return None
    # By how much each hazard's log(1 - h) moves the mean: all of the area after it.
    area = survival * np.diff(np.append(times, end))
    value = float(times[0] + area.sum())
    after = area[::-1].cumsum()[::-1]
    error = math.sqrt(float((after**2 * growth).sum()))
    return _Mean(value, end, error) if error > 0 else None


def mean_spent(observations: Observations) -> float:
    """What a sample spends on average up to the longest time observed: the area under the curve of Kaplan and Meier."""
    time = np.where(observations.failed, observations.upper, observations.lower)
    times, index = np.unique(time, return_inverse=True)
    fell = np.bincount(index.ravel(), observations.weight * observations.failed)
    at_risk = np.bincount(index.ravel(), observations.weight)[::-1].cumsum()[::-1]
    before = np.append(1.0, np.cumprod(1.0 - fell / at_risk)[:-1])
    return float(before @ np.diff(np.append(0.0, times)))


def _effective(survival: FloatArray, greenwood: FloatArray, at_risk: FloatArray) -> FloatArray:
    """How many samples without censoring would know each point of the curve as well: S (1 - S) over its variance."""
    ended = survival <= 0
    odds = (1.0 - survival) / np.where(ended, 1.0, survival)
    return np.where(ended, at_risk, odds / np.where(ended, 1.0, greenwood))


class Evidence(Protocol):
    """What is known of a quantity at one moment."""

    @property
    def value(self) -> float:
        """The estimate; infinite if it lies beyond what was observed."""

    @property
    def information(self) -> float:
        """One over a variance, up to a factor: only how it grows from look to look matters."""

    def interval(self, quantile: float) -> tuple[float, float]:
        """The interval of so many standard errors to either side."""


@dataclass(frozen=True, slots=True, eq=False)
class _Median:
    """The times at which half may have failed: those at which a test of S(t) = 1/2 does not say otherwise.

    So Brookmeyer and Crowley (1982), with the variance that a half has, and straight lines between checks. It takes no
    density, which few failures tell badly, and whose error would decide when to stop.
    """

    times: FloatArray
    deviation: FloatArray
    information: float

    @staticmethod
    def of(times: FloatArray, survival: FloatArray, effective: FloatArray) -> _Median:
        deviation = 2.0 * (survival - 0.5) * np.sqrt(effective)
        at = min(int(np.searchsorted(-survival, -0.5)), survival.size - 1)
        start = math.sqrt(float(effective[0]))
        return _Median(
            np.append(0.0, times),
            np.minimum.accumulate(np.append(start, np.minimum(deviation, start))),
            float(effective[at]),
        )

    @property
    def value(self) -> float:
        return self._reached(0.0)

    def interval(self, quantile: float) -> tuple[float, float]:
        return self._reached(quantile), self._reached(-quantile)

    def _reached(self, deviation: float) -> float:
        """When the curve is so many standard errors above a half; infinite if never."""
        if self.deviation[0] < deviation:
            return 0.0
        if self.deviation[-1] > deviation:
            return math.inf
        return float(np.interp(-deviation, -self.deviation, self.times))


@dataclass(frozen=True, slots=True)
class _Share:
    """A share with Wilson's interval (1927), of as many samples as know it as well without censoring."""

    value: float
    information: float

    def interval(self, quantile: float) -> tuple[float, float]:
        if math.isinf(quantile):
            return 0.0, 1.0
        found = wilson(self.value * self.information, self.information, 2.0 * float(ndtr(quantile)) - 1.0)
        return found.lower or 0.0, 1.0 if found.upper is None else found.upper


@dataclass(frozen=True, slots=True)
class _Mean:
    """A mean time restricted to `end`, its interval symmetric in the log odds of its share of `end`.

    On that scale it is nearest to normal: a mean that comes out too long seems more certain than one too short.
    """

    value: float
    end: float
    standard_error: float

    @property
    def information(self) -> float:
        return (self.value * (1.0 - self.value / self.end) / self.standard_error) ** 2

    def interval(self, quantile: float) -> tuple[float, float]:
        odds, margin = self.value / (self.end - self.value), quantile / math.sqrt(self.information)
        low, high = odds * _exp(-margin), odds * _exp(margin)
        return self.end * low / (1.0 + low), self.end if math.isinf(high) else self.end * high / (1.0 + high)


def _half_width(lower: float, upper: float) -> float:
    """Half of an interval on the log scale."""
    if not 0 < lower < math.inf or math.isinf(upper):
        return math.inf
    return 0.5 * math.log(upper / lower)


def _upper_quantile(level: float) -> float:
    return -float(ndtri((1.0 - level) / 4.0))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf
