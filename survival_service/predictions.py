"""What a fitted distribution says about time: median, restricted and expected mean, survival curve, with intervals.

Everything is for one linear predictor mu. Intervals come from the delta method on the log scale, those of the curve on
the scale of z = (log t - mu) / sigma, so that no bound leaves its range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from survival_service.distributions import Family
from survival_service.estimates import Curve, Estimate, log_interval, normal_quantile
from survival_service.observations import FloatArray

CURVE_POINT_COUNT = 101


@dataclass(frozen=True, slots=True)
class FittedTime:
    """The law of T = exp(mu + sigma epsilon), with the 2x2 `covariance` of (mu, log sigma)."""

    family: Family
    mu: float
    sigma: float
    covariance: FloatArray

    def median(self, level: float) -> Estimate:
        """The time by which half of the samples have failed."""
        shift = self.sigma * self.family.quantile(0.5)
        return log_interval(self.mu + shift, self._error(1.0, shift), level)

    def expected(self, level: float) -> Estimate:
        """E[T]; infinite, without an interval, if the distribution has no mean."""
        log_mean = self.mu + self.family.log_mean(self.sigma)
        if math.isinf(log_mean):
            return Estimate(value=math.inf)
        slope = self.sigma * self.family.log_mean_slope(self.sigma)
        return log_interval(log_mean, self._error(1.0, slope), level)

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
        estimate = log_interval(math.log(value), self._error(by_mu, (up - down) / (2 * step * value)), level)
        upper = None if estimate.upper is None else min(estimate.upper, horizon)
        return Estimate(estimate.value, estimate.lower, upper, estimate.log_standard_error)

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
        margin = normal_quantile(level) * np.sqrt(np.maximum(variance, 0.0))
        survival, lower, upper = (
            np.append(1.0, self.family.survival(np.clip(bound, -1e6, 1e6))) for bound in (z, z + margin, z - margin)
        )
        # A band may open towards short times; widening it there keeps both its edges survival functions.
        lower = np.minimum.accumulate(lower)
        upper = np.maximum.accumulate(upper[::-1])[::-1]
        return Curve(tuple(time.tolist()), tuple(survival.tolist()), tuple(lower.tolist()), tuple(upper.tolist()))

    def _restricted_mean(self, sigma: float, horizon: float) -> float:
        return min(horizon, self.family.restricted_mean(self.mu, sigma, horizon))

    def _error(self, by_mu: float, by_log_sigma: float) -> float:
        gradient = np.array([by_mu, by_log_sigma])
        return math.sqrt(max(0.0, float(gradient @ self.covariance @ gradient)))
