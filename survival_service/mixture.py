"""The log-likelihood of a mixture-cure model, its maximum, and its profile in the cured share.

A share pi of the samples never fails, whatever the attack spends on them; the others fail like T = exp(mu + sigma
epsilon) (Boag 1949; Farewell 1982): S(t) = pi + (1 - pi) S_u(t). A failure is of one who can fail and counts
(1 - pi) times its likelihood; a survivor may be either. With eta = logit(pi) and q = pi / S(t), the probability that
the survivor is cured, the derivatives are those of the plain likelihood with survivors weighted by 1 - q, plus the
curvature that not knowing who is cured costs (Louis 1982).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from survival_service.design import Design, Kind
from survival_service.distributions import Family
from survival_service.likelihood import Likelihood, Maximum, climb, maximise
from survival_service.observations import FloatArray

# How likely each survivor is taken to be cured at first. The likelihood is not concave, but in 4 000 searches through
# simulated data of which 60 to 99 % of those who can fail had failed, 0.1 and 0.9 led to the same maximum.
_CURED_AT_FIRST = 0.9
# Steps of expectation and maximisation that bring a search near its maximum, before Newton's method.
_EXPECTATION_STEPS = 4
# A search in more rows than this begins where one in a sample of that many ended: two or three steps are then enough.
_MANY_ROWS = 30_000
_SAMPLE = 6_000
# Ends of an interval are searched in steps of eta that grow from this one, and found to within that precision.
_FIRST_STEP = 0.25
_PRECISION = 1e-3
# Beyond this much from where the search began a share is 0 or 1 to every digit.
_FARTHEST = 36.0
# The profile where there is none: so far below every floor that the search turns back.
_ABYSS = 1e300


@dataclass(frozen=True, slots=True)
class _Survivors:
    """What the likelihood needs of the right-censored rows at some parameters, each weighted by `weight`."""

    value: FloatArray
    cured: FloatArray
    slope: FloatArray
    bend: FloatArray
    cross: FloatArray


class MixtureLikelihood:
    """The log-likelihood as a function of (eta, delta, gamma), on the standard scales of `Likelihood`.

    With `scale_fixed` gamma is no parameter and sigma is 1.
    """

    def __init__(self, design: Design, family: Family, *, scale_fixed: bool = False) -> None:
        self.design = design
        self.family = family
        self.scale_fixed = scale_fixed
        self.plain = Likelihood(design, family, scale_fixed=scale_fixed)
        begin, end = design.bounds[Kind.RIGHT], design.bounds[Kind.RIGHT + 1]
        self._right = slice(begin, end)
        weight = np.ones(design.row_count) if design.weight is None else design.weight
        self._weight = weight[self._right]
        self._terms = design.terms[:, self._right]
        without_survivors = np.concatenate([np.arange(begin), np.arange(end, design.row_count)])
        self._failed = Likelihood(design.chosen(without_survivors), family, scale_fixed=scale_fixed)
        self._failed_weight = design.total_weight - float(self._weight.sum())

    @property
    def parameter_count(self) -> int:
        """The cured share, intercept, covariates and, unless fixed, the scale."""
        return 1 + self.plain.parameter_count

    @property
    def observation_count(self) -> float:
        """Samples that say something: those censored at 0 do not."""
        return self.design.total_weight

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The log-likelihood of the times in their own unit, its score and its Hessian in (eta, delta, gamma)."""
        eta, latency = float(parameters[0]), parameters[1:]
        share, of_failed = expit(eta), -np.logaddexp(0.0, eta)
        value, inner_score, inner_hessian = self._failed(latency)
        free = inner_score.size
        terms, weight, survivors = self._terms[:free], self._weight, self._survivors(eta, latency)
        score, hessian = np.zeros(free + 1), np.zeros((free + 1, free + 1))
        value += self._failed_weight * float(of_failed) + float(weight @ survivors.value)
        score[0] = weight @ survivors.cured - self.observation_count * share
        score[1:] = inner_score + terms @ (weight * survivors.slope)
        spread = survivors.cured * (1.0 - survivors.cured)
        hessian[0, 0] = weight @ spread - self.observation_count * share * (1.0 - share)
        hessian[0, 1:] = hessian[1:, 0] = terms @ (weight * survivors.cross)
        hessian[1:, 1:] = inner_hessian + (terms * (weight * survivors.bend)) @ terms.T
        return value, score, hessian

    def row_scores(self, parameters: FloatArray) -> FloatArray:
        """The score of each row, weights included, in the order of the design's rows."""
        eta, latency = float(parameters[0]), parameters[1:]
        share, survivors = float(expit(eta)), self._survivors(eta, latency)
        weight = np.ones(self.design.row_count) if self.design.weight is None else self.design.weight
        free = self.plain.parameter_count
        scores = np.empty((self.design.row_count, free + 1))
        scores[:, 0] = -share * weight
        scores[self._right, 0] += self._weight * survivors.cured
        failed = np.ones(self.design.row_count, dtype=bool)
        failed[self._right] = False
        scores[failed, 1:] = self._failed.row_scores(latency)
        scores[self._right, 1:] = (self._terms[:free] * (self._weight * survivors.slope)).T
        return scores

    def natural(self, parameters: FloatArray) -> tuple[float, FloatArray, float, FloatArray]:
        """(pi, beta, sigma) on the scale of the data, and the Jacobian of (eta, beta, log sigma)."""
        beta, sigma, inner = self.plain.natural(parameters[1:])
        jacobian = np.eye(inner.shape[0] + 1)
        jacobian[1:, 1:] = inner
        return float(expit(parameters[0])), beta, sigma, jacobian

    def expected(self, parameters: FloatArray) -> FloatArray:
        """The probability that each survivor is cured, in the order of the design's rows."""
        return self._survivors(float(parameters[0]), parameters[1:]).cured

    @property
    def survivor_row_count(self) -> int:
        """Right-censored rows."""
        return int(self._weight.size)

    def improved(self, cured: FloatArray, near: FloatArray | None = None) -> FloatArray:
        """One step of maximisation: the parameters if survivors are cured with these probabilities.

        The plain likelihood with survivors weighted by how likely they can fail (Peng and Dear 2000; Sy and Taylor
        2000).
        """
        weight = np.ones(self.design.row_count) if self.design.weight is None else self.design.weight.copy()
        weight[self._right] *= 1.0 - cured
        share = min(max(float(self._weight @ cured) / self.observation_count, 1e-9), 1 - 1e-9)
        weighted = replace(self.design, weight=weight, total_weight=float(weight.sum()))
        found = maximise(Likelihood(weighted, self.family, scale_fixed=self.scale_fixed), near)
        return np.append(math.log(share / (1.0 - share)), found.parameters)

    def _survivors(self, eta: float, latency: FloatArray) -> _Survivors:
        logarithm, slope, bend = self.family.right(latency @ self._terms)
        of_cured, of_susceptible = -np.logaddexp(0.0, -eta), -np.logaddexp(0.0, eta)
        value = np.logaddexp(of_cured, of_susceptible + logarithm)
        cured, other = np.exp(of_cured - value), np.exp(of_susceptible + logarithm - value)
        # Where a sample that can fail has no chance to survive so long, its slope may be infinite; it weighs nothing.
        slope, bend = (np.where(other > 0, part, 0.0) for part in (slope, bend))
        return _Survivors(
            value=value,
            cured=cured,
            slope=other * slope,
            bend=other * bend + cured * other * slope * slope,
            cross=-cured * other * slope,
        )


class AtShare:
    """A mixture likelihood on condition of its cured share; its parameters are (delta, gamma)."""

    def __init__(self, whole: MixtureLikelihood, eta: float) -> None:
        self._whole, self._eta = whole, eta
        self.scale_fixed = whole.scale_fixed
        self.parameter_count = whole.parameter_count - 1
        self.observation_count = whole.observation_count

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, score, hessian = self._whole(np.append(self._eta, parameters))
        return value, score[1:], hessian[1:, 1:]

    def maximum(self, near: FloatArray) -> tuple[float, FloatArray]:
        """The log-likelihood at its maximum, and where that is; searched from `near`."""
        found = climb(self, near)
        return (found.log_likelihood, found.parameters) if math.isfinite(found.log_likelihood) else (-_ABYSS, near)


def maximise_mixture(likelihood: MixtureLikelihood) -> Maximum:
    """The maximum: some steps of expectation and maximisation, then Newton's method in all parameters.

    A share that belongs at 0 ends at an eta far below, where the likelihood is that without a cured share. Never
    raises; `converged` says whether a maximum was reached.
    """
    # A trial step may leave every float behind; it is then refused for not being finite.
    with np.errstate(all="ignore"):
        if likelihood.design.row_count > _MANY_ROWS:
            thinned = likelihood.design.thinned(likelihood.design.row_count // _SAMPLE)
            sample = MixtureLikelihood(thinned, likelihood.family, scale_fixed=likelihood.scale_fixed)
            found = climb(likelihood, maximise_mixture(sample).parameters)
            if found.converged:
                return found
        at = likelihood.improved(np.full(likelihood.survivor_row_count, _CURED_AT_FIRST))
        for _ in range(_EXPECTATION_STEPS):
            at = likelihood.improved(likelihood.expected(at), near=at[1:])
        return climb(likelihood, at)


def profile_bounds(
    likelihood: MixtureLikelihood,
    latency: FloatArray,
    eta: float,
    floor: float,
    log_likelihood_without: float,
) -> tuple[float, float]:
    """The least and the greatest cured share whose profile log-likelihood is at least `floor`.

    Searched from (eta, latency), where it is. `log_likelihood_without` is that of no cured share: where it is no lower
    than the floor, the least is 0.
    """

    def end(side: float) -> float:
        near = latency

        def above(distance: float) -> float:
            nonlocal near
            height, near = AtShare(likelihood, eta + side * distance).maximum(near)
            return height - floor

        inside, outside = 0.0, _FIRST_STEP
        while above(outside) > 0:
            if outside > _FARTHEST:
                return side * math.inf
            inside, outside = outside, 1.6 * outside
        return eta + side * float(brentq(above, inside, outside, xtol=_PRECISION))

    with np.errstate(all="ignore"):
        lower = 0.0 if log_likelihood_without >= floor else float(expit(end(-1.0)))
        return lower, float(expit(end(1.0)))
