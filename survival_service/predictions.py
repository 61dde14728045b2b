"""What a fitted distribution says about time: median, restricted and expected mean, survival curve, with intervals.

Everything is for one linear predictor mu. Intervals come from the delta method on the log scale, those of the curve on
the scale of z = (log t - mu) / sigma, so that no bound leaves its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from survival_service.distributions import Family
from survival_service.estimates import Curve, Estimate, interval_quantile, log_interval
from survival_service.log_gamma import shape_family
from survival_service.observations import FloatArray

CURVE_POINT_COUNT = 101


@dataclass(frozen=True, slots=True)
class FittedTime:
    """The law of T = exp(mu + sigma epsilon), with the 2x2 `covariance` of (mu, log sigma).

    Intervals are normal or, with `degrees_of_freedom`, Student's.
    """

    family: Family
    mu: float
    sigma: float
    covariance: FloatArray
    degrees_of_freedom: int | None = None

    def median(self, level: float) -> Estimate:
        """The time by which half of the samples have failed."""
        shift = self.sigma * self.family.quantile(0.5)
        return self._interval(self.mu + shift, self._error(1.0, shift), level)

    def expected(self, level: float) -> Estimate:
        """E[T]; infinite, without an interval, if the distribution has no mean."""
        log_mean = self.mu + self.family.log_mean(self.sigma)
        if math.isinf(log_mean):
            return Estimate(value=math.inf)
        slope = self.sigma * self.family.log_mean_slope(self.sigma)
        return self._interval(log_mean, self._error(1.0, slope), level)

    def restricted_mean(self, horizon: float, level: float) -> Estimate:
        """E[min(T, horizon)]; the interval never exceeds the horizon."""
        value = self._restricted_mean(self.sigma, horizon)
        if not (value > 0 and math.isfinite(value)):
            return Estimate()
        z = (math.log(horizon) - self.mu) / self.sigma
        beyond = horizon * float(self.family.survival(np.array([z]))[0])
        by_mu = (value - beyond) / value
        # The derivative in log sigma has no closed form for the Weibull; a symmetric difference is good to 1e-8.
        step = 1e-4
        up, down = (self._restricted_mean(self.sigma * math.exp(s), horizon) for s in (step, -step))
        error = self._error(by_mu, (up - down) / (2 * step * value))
        return _at_most(self._interval(math.log(value), error, level), horizon)

    def extrapolated_share(self, horizon: float) -> float:
        """The share of E[T] that lies beyond the horizon; 1 if E[T] is infinite."""
        mean = self.expected(0.5).value
        if mean is None or not math.isfinite(mean):
            return 1.0
        return min(1.0, max(0.0, 1.0 - self._restricted_mean(self.sigma, horizon) / mean))

    def curve(self, horizon: float, level: float) -> Curve:
        """The survival function on an even grid from 0 to the horizon, with a pointwise interval."""
        time = np.linspace(0.0, horizon, CURVE_POINT_COUNT)
        z = (np.log(time[1:]) - self.mu) / self.sigma
        v = self.covariance
        variance = v[0, 0] / self.sigma**2 + 2 * z * v[0, 1] / self.sigma + z * z * v[1, 1]
        margin = interval_quantile(level, self.degrees_of_freedom) * np.sqrt(np.maximum(variance, 0.0))
        return _curve(time, *(self.family.survival(np.clip(bound, -1e6, 1e6)) for bound in (z, z + margin, z - margin)))

    def _interval(self, log_value: float, error: float, level: float) -> Estimate:
        return log_interval(log_value, error, level, degrees_of_freedom=self.degrees_of_freedom)

    def _restricted_mean(self, sigma: float, horizon: float) -> float:
        return min(horizon, self.family.restricted_mean(self.mu, sigma, horizon))

    def _error(self, by_mu: float, by_log_sigma: float) -> float:
        gradient = np.array([by_mu, by_log_sigma])
        return math.sqrt(max(0.0, float(gradient @ self.covariance @ gradient)))


@dataclass(frozen=True, slots=True)
class ShapedTime:
    """The law of times with a fitted shape Q, with the 3x3 `covariance` of (mu, log sigma, Q).

    Says what `FittedTime` says, all of it with the uncertainty of Q: gradients are symmetric differences, and the
    curve's interval is made on the scale of log(-log S), which for Q = 1 is that of z.
    """

    mu: float
    sigma: float
    shape: float
    covariance: FloatArray
    degrees_of_freedom: int | None = None

    def median(self, level: float) -> Estimate:
        """The time by which half of the samples have failed."""
        return self._delta(lambda mu, sigma, family: mu + sigma * family.quantile(0.5), level)

    def expected(self, level: float) -> Estimate:
        """E[T]; infinite, without an interval, if the distribution has no mean."""
        return self._delta(lambda mu, sigma, family: mu + family.log_mean(sigma), level)

    def restricted_mean(self, horizon: float, level: float) -> Estimate:
        """E[min(T, horizon)]; the interval never exceeds the horizon."""

        def log_area(mu: float, sigma: float, family: Family) -> float:
            area = min(horizon, family.restricted_mean(mu, sigma, horizon))
            return math.log(area) if area > 0 else -math.inf

        return _at_most(self._delta(log_area, level), horizon)

    def extrapolated_share(self, horizon: float) -> float:
        """The share of E[T] that lies beyond the horizon; 1 if E[T] is infinite."""
        family = shape_family(self.shape)
        log_mean = self.mu + family.log_mean(self.sigma)
        area = family.restricted_mean(self.mu, self.sigma, horizon)
        if math.isinf(log_mean) or area <= 0:
            return 1.0
        return min(1.0, max(0.0, -math.expm1(math.log(area) - log_mean)))

    def curve(self, horizon: float, level: float) -> Curve:
        """The survival function on an even grid from 0 to the horizon, with a pointwise interval."""
        time = np.linspace(0.0, horizon, CURVE_POINT_COUNT)
        log_time = np.log(time[1:])

        def log_hazard(mu: float, sigma: float, family: Family) -> FloatArray:
            with np.errstate(divide="ignore"):
                logarithm: FloatArray = np.log(-family.right((log_time - mu) / sigma)[0])
            return np.maximum(logarithm, -700.0)

        at, gradient = self._gradient(log_hazard)
        variance = np.einsum("in,ij,jn->n", gradient, self.covariance, gradient)
        margin = interval_quantile(level, self.degrees_of_freedom) * np.sqrt(np.maximum(variance, 0.0))
        return _curve(
            time, *(np.exp(-np.exp(np.clip(bound, -700.0, 700.0))) for bound in (at, at + margin, at - margin))
        )

    def _delta(self, log_of: Callable[[float, float, Family], float], level: float) -> Estimate:
        at, gradient = self._gradient(log_of)
        if not math.isfinite(at):
            return Estimate(value=math.inf) if at > 0 else Estimate()
        if not np.isfinite(gradient).all():
            return Estimate(value=math.exp(min(at, 709.0)))
        error = math.sqrt(max(0.0, float(gradient @ self.covariance @ gradient)))
        return log_interval(float(at), error, level, degrees_of_freedom=self.degrees_of_freedom)

    def _gradient(self, of: Callable[[float, float, Family], Any]) -> tuple[Any, FloatArray]:
        """A function of (mu, sigma, family) and its derivatives in (mu, log sigma, Q), a row each."""
        step = 1e-4
        parts = []
        for j in range(3):
            ends = []
            for side in (step, -step):
                by = [side if i == j else 0.0 for i in range(3)]
                ends.append(of(self.mu + by[0], self.sigma * math.exp(by[1]), shape_family(self.shape + by[2])))
            parts.append((ends[0] - ends[1]) / (2 * step))
        return of(self.mu, self.sigma, shape_family(self.shape)), np.array(parts, dtype=np.float64)


def _at_most(estimate: Estimate, end: float) -> Estimate:
    upper = None if estimate.upper is None else min(estimate.upper, end)
    return Estimate(estimate.value, estimate.lower, upper, estimate.log_standard_error)


def _curve(time: FloatArray, survival: FloatArray, lower: FloatArray, upper: FloatArray) -> Curve:
    """A curve from 1 at time 0; where a band opens towards short times, widened so that its edges never rise."""
    survival, lower, upper = (np.append(1.0, part) for part in (survival, lower, upper))
    lower = np.minimum.accumulate(lower)
    upper = np.maximum.accumulate(upper[::-1])[::-1]
    return Curve(tuple(time.tolist()), tuple(survival.tolist()), tuple(lower.tolist()), tuple(upper.tolist()))
