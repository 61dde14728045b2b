"""Profile-likelihood intervals, for fits that rest on few failures.

With few failures the log-likelihood is lopsided, and an interval of so many standard errors covers too rarely. The
profile interval of a quantity holds the values at which the likelihood, maximised over everything else, is within
half a chi-squared quantile of its maximum (Venzon and Moolgavkar 1988). That the median has a given value is a linear
condition on (delta, gamma), so the maximum under it is as easily found as the whole.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from survival_service.estimates import Estimate, normal_quantile
from survival_service.likelihood import Likelihood, climb
from survival_service.observations import FloatArray

# Standard errors from the estimate beyond which an end is open: the data do not bound the quantity there.
_FARTHEST = 50.0
# Ends are found to this many standard errors.
_PRECISION = 3e-4


class AtMedian:
    """A likelihood on condition of the median at the covariates' means; its parameters lack the intercept.

    There gamma y - delta_0 is the family's median, with y the standardised logarithm of the time: delta_0 is linear
    in gamma.
    """

    def __init__(self, whole: Likelihood, log_time: float) -> None:
        self._whole = whole
        size = int(whole.design.terms.shape[0])
        self._embed = np.eye(size)[:, 1:]
        self._embed[0, -1] = (log_time - whole.design.time_mean) / whole.design.time_scale
        self._offset = np.zeros(size)
        self._offset[0] = -whole.family.quantile(0.5)
        self.scale_fixed = whole.scale_fixed
        self.parameter_count = whole.parameter_count - 1
        self.observation_count = whole.observation_count

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, score, hessian = self._whole(self._embed @ parameters + self._offset)
        embed = self._embed[: score.size, : self.parameter_count]
        return value, embed.T @ score, embed.T @ hessian @ embed

    def maximum(self, near: FloatArray) -> tuple[float, FloatArray]:
        """The log-likelihood at its maximum, and where that is; searched from `near`."""
        if not self.parameter_count:
            return self(near)[0], near
        found = climb(self, near)
        return found.log_likelihood, found.parameters if found.converged else near


def median_interval(likelihood: Likelihood, at: FloatArray, estimate: Estimate, level: float) -> Estimate:
    """An estimated median with its profile interval; `at` is the maximum, on the standard scale.

    An end that the data do not bound is 0 or infinite.
    """
    error, value = estimate.log_standard_error, estimate.value
    if not error or not value or not math.isfinite(value):
        return estimate
    centre = math.log(value)
    quantile = normal_quantile(level)
    with np.errstate(all="ignore"):
        floor = likelihood(at)[0] - 0.5 * quantile * quantile

        near = at[1:]

        def above(log_time: float) -> float:
            nonlocal near
            height, near = AtMedian(likelihood, log_time).maximum(near)
            return height - floor if math.isfinite(height) else -1e300

        ends = []
        for side in (-1.0, 1.0):
            near = at[1:]
            inner, distance = 0.0, quantile
            while distance < _FARTHEST and above(centre + side * distance * error) > 0:
                inner, distance = distance, 1.6 * distance
            if distance >= _FARTHEST:
                ends.append(side * math.inf)
                continue
            bounds = (centre + side * inner * error, centre + side * distance * error)
            ends.append(float(brentq(above, *bounds, xtol=_PRECISION * error)))
    lower, upper = (math.exp(min(end, 709.0)) if math.isfinite(end) else max(0.0, end) for end in ends)
    return Estimate(value, lower, upper, error)
