"""Profile-likelihood intervals and bounds, for fits that rest on few failures and effects that have no estimate.

With few failures the log-likelihood is lopsided, and an interval of so many standard errors covers too rarely. The
profile interval of a quantity holds the values at which the likelihood, maximised over everything else, is within
half a chi-squared quantile of its maximum (Venzon and Moolgavkar 1988). That the median, or an effect, has a given
value is a linear condition on (delta, gamma), so the maximum under it is as easily found as the whole. Where an effect
has no estimate, because the likelihood rises for ever as it grows, the same condition still bounds it on one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from scipy.optimize import brentq

from survival_service.design import Design
from survival_service.estimates import Estimate, normal_quantile
from survival_service.likelihood import Concave, Likelihood, climb
from survival_service.observations import FloatArray

# Standard errors from the estimate beyond which an end is open: the data do not bound the quantity there.
_FARTHEST = 50.0
# Ends are found to this many standard errors.
_PRECISION = 3e-4
# A bound that lies more than so many spreads of log time away is none.
_FARTHEST_BOUND = 200.0


class LaidOut(Concave, Protocol):
    """A log-likelihood of rows laid out for it, whose last parameters are (delta, gamma)."""

    design: Design


class Conditioned:
    """A likelihood on a linear condition: parameter `fixed` is `of_gamma` gamma + `constant`, the others are free."""

    def __init__(self, whole: LaidOut, fixed: int, of_gamma: float, constant: float = 0.0) -> None:
        self._whole = whole
        size = whole.parameter_count + whole.scale_fixed
        self._embed = np.delete(np.eye(size), fixed, axis=1)
        self._embed[fixed, -1] = of_gamma
        self._offset = np.zeros(size)
        self._offset[fixed] = constant
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


def at_median(whole: Likelihood, log_time: float) -> Conditioned:
    """A likelihood on condition of the median at the covariates' means; its parameters lack the intercept.

    There gamma y - delta_0 is the family's median, with y the standardised logarithm of the time: delta_0 is linear
    in gamma.
    """
    y = (log_time - whole.design.time_mean) / whole.design.time_scale
    return Conditioned(whole, 0, y, -whole.family.quantile(0.5))


def at_effect(whole: LaidOut, covariate: int, effect: float) -> Conditioned:
    """A likelihood on condition of the coefficient of a covariate (from 0); its parameters lack that one."""
    of_gamma = effect * whole.design.column_scale[covariate] / whole.design.time_scale
    return Conditioned(whole, _position(whole, covariate), of_gamma)


def _position(whole: LaidOut, covariate: int) -> int:
    """Where a likelihood has the effect of a covariate: before it come its intercept and, if it is free, a shape."""
    size = whole.parameter_count + whole.scale_fixed
    return size - whole.design.term_size + 1 + covariate


def median_interval(likelihood: Likelihood, at: FloatArray, estimate: Estimate, level: float) -> Estimate:
    """An estimated median with its profile interval; `at` is the maximum, on the standard scale.

    An end that the data do not bound is 0 or infinite.
    """
    error, value = estimate.log_standard_error, estimate.value
    if not error or not value or not math.isfinite(value):
        return estimate
    centre = math.log(value)
    lower, upper = _ends(likelihood, at, centre, error, level, 0, lambda x: at_median(likelihood, x))
    return Estimate(value, lower, upper, error)


def effect_interval(
    likelihood: Likelihood, at: FloatArray, covariate: int, effect: float, error: float, level: float
) -> Estimate:
    """The time ratio of a covariate (from 0) with its profile interval, from its coefficient with the standard error.

    `at` is the maximum, on the standard scale. An end that the data do not bound is 0 or infinite.
    """
    condition = partial(at_effect, likelihood, covariate)
    lower, upper = _ends(likelihood, at, effect, error, level, covariate + 1, condition)
    return Estimate(_exp(effect), lower, upper, error)


def effect_bound(
    likelihood: LaidOut, start: FloatArray, covariate: int, side: int, supremum: float, level: float
) -> float | None:
    """The time ratio that the effect of a covariate is at least (side 1) or at most (side -1), one-sided.

    The likelihood rises towards `supremum` as the effect goes to that side's infinity; it is searched from `start`.
    None where nothing bounds it.

    It ends where the likelihood is 1 - level of its supremum. That quotient is the probability that nothing fails in
    the group, so this is the exact bound of Clopper and Pearson (1934) where all else is known. No chi-squared law
    holds here: z^2/2 (1.35 for 95 %) would let a group without failures stand for rates that have one in one of four.
    """
    floor = supremum + math.log1p(-level)
    column = likelihood.design.terms[covariate + 1]
    step = likelihood.design.time_scale / (likelihood.design.column_scale[covariate] * float(np.ptp(column)))
    near = np.delete(start, _position(likelihood, covariate))

    def above(distance: float) -> float:
        nonlocal near
        height, near = at_effect(likelihood, covariate, side * step * distance).maximum(near)
        return height - floor if math.isfinite(height) else -1e300

    with np.errstate(all="ignore"):
        # Steps of the spread of log time, from no effect to where the likelihood crosses the floor.
        inner, outer = 0.0, 0.0
        rising = above(0.0) < 0
        while abs(outer) < _FARTHEST_BOUND and (above(outer) < 0) == rising:
            inner, outer = outer, (2 * outer if outer else 1.0 if rising else -1.0)
        if abs(outer) >= _FARTHEST_BOUND:
            return None
        found = float(brentq(above, min(inner, outer), max(inner, outer), xtol=1e-4))
    effect = side * step * found
    return math.exp(effect) if abs(effect) < 700.0 else None


def _ends(
    likelihood: Likelihood,
    at: FloatArray,
    centre: float,
    error: float,
    level: float,
    fixed: int,
    condition: Callable[[float], Conditioned],
) -> tuple[float, float]:
    """exp of the ends of the profile interval of what `condition` sets, which fixes one of the parameters."""
    quantile = normal_quantile(level)
    with np.errstate(all="ignore"):
        floor = likelihood(at)[0] - 0.5 * quantile * quantile

        near = at

        def above(log_value: float) -> float:
            nonlocal near
            height, near = condition(log_value).maximum(near)
            return height - floor if math.isfinite(height) else -1e300

        ends = []
        for side in (-1.0, 1.0):
            near = np.delete(at, fixed)
            inner, distance = 0.0, quantile
            while distance < _FARTHEST and above(centre + side * distance * error) > 0:
                inner, distance = distance, 1.6 * distance
            if distance >= _FARTHEST:
                ends.append(0.0 if side < 0 else math.inf)
                continue
            bounds = (centre + side * inner * error, centre + side * distance * error)
            ends.append(_exp(float(brentq(above, *bounds, xtol=_PRECISION * error))))
    return ends[0], ends[1]


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf
