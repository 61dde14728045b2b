"""Fits with a shape: the generalised gamma distribution, and the gamma distribution within it.

With the shape Q held the likelihood is that of `likelihood`, with one maximum. Weibull (Q = 1), log-normal (Q = 0) and
gamma (Q = sigma) are nested in it (Prentice 1974; Stacy 1962). The search begins at the best of a few shapes and ends
with Newton's method in everything together; derivatives in Q are differences of the fourth order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.likelihood import Likelihood, Maximum, climb, maximise
from survival_service.log_gamma import shape_family
from survival_service.observations import FloatArray

# Where the profile is looked at first. Beyond the ends the distribution is next to a Pareto tail or a bound.
_SHAPES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
_GAMMA_SHAPES = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, 4.0)
# A standard error of Q above which the data say nothing of it: it covers every named distribution.
LARGEST_SHAPE_ERROR = 5.0
# Of the differences in Q by which derivatives are formed, with errors of their fourth power.
_STEP = 1e-2
_FOURTH = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))
# Rows of the sample that a search in more of them begins with.
_SAMPLE = 6_000


@dataclass(frozen=True, slots=True, eq=False)
class ShapeMaximum:
    """Where the search ended: the shape, and the maximum in (delta, gamma) or, with a free shape, (delta, gamma, Q)."""

    shape: float
    maximum: Maximum


class Shaped:
    """The log-likelihood as a function of (Q, delta, gamma), in this order; satisfies `likelihood.Concave`.

    It is concave for every Q, not in all of them together.
    """

    scale_fixed = False

    def __init__(self, design: Design) -> None:
        self.design = design
        self.parameter_count = design.term_size + 1
        self.observation_count = design.total_weight

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        shape, inner = float(parameters[0]), parameters[1:]
        value, inner_score, inner_hessian = Likelihood(self.design, shape_family(shape))(inner)
        around = {i: Likelihood(self.design, shape_family(shape + i * _STEP))(inner) for i, _ in _FOURTH}
        score, hessian = np.empty(parameters.size), np.empty((parameters.size, parameters.size))
        score[0] = sum(factor * around[i][0] for i, factor in _FOURTH) / (12 * _STEP)
        score[1:] = inner_score
        bend = 16 * (around[1][0] + around[-1][0]) - 30 * value - (around[2][0] + around[-2][0])
        hessian[0, 0] = bend / (12 * _STEP**2)
        hessian[0, 1:] = hessian[1:, 0] = sum(factor * around[i][1] for i, factor in _FOURTH) / (12 * _STEP)
        hessian[1:, 1:] = inner_hessian
        return value, score, hessian

    def row_scores(self, parameters: FloatArray) -> FloatArray:
        """The score of each row in (Q, delta, gamma)."""
        shape, inner = float(parameters[0]), parameters[1:]
        by_shape = sum(
            factor * Likelihood(self.design, shape_family(shape + i * _STEP)).row_values(inner) for i, factor in _FOURTH
        ) / (12 * _STEP)
        return np.column_stack([by_shape, Likelihood(self.design, shape_family(shape)).row_scores(inner)])


class Tied:
    """The log-likelihood of gamma times as a function of (delta, gamma), with Q = sigma = scale of time / gamma."""

    scale_fixed = False

    def __init__(self, design: Design) -> None:
        self._free = Shaped(design)
        self.design = design
        self.parameter_count = self._free.parameter_count - 1
        self.observation_count = design.total_weight

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        whole, embed = self._embedded(parameters)
        value, score, hessian = self._free(whole)
        bent: FloatArray = embed.T @ hessian @ embed
        bent[-1, -1] += score[0] * 2 * whole[0] / float(parameters[-1]) ** 2
        return value, embed.T @ score, bent

    def row_scores(self, parameters: FloatArray) -> FloatArray:
        """The score of each row in (delta, gamma)."""
        whole, embed = self._embedded(parameters)
        scores: FloatArray = self._free.row_scores(whole) @ embed
        return scores

    def _embedded(self, parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(Q, delta, gamma) and its Jacobian."""
        gamma = float(parameters[-1])
        shape = self.design.time_scale / gamma
        embed = np.zeros((parameters.size + 1, parameters.size))
        embed[1:] = np.eye(parameters.size)
        embed[0, -1] = -shape / gamma
        return np.append(shape, parameters), embed


def find_shape(design: Design, distribution: Distribution) -> ShapeMaximum | None:
    """The maximum with its shape; None if the likelihood rises to an end of the range of shapes.

    The parameters and the information of the maximum are in (delta, gamma), followed by Q where it is free.
    """
    with np.errstate(all="ignore"):
        if distribution is Distribution.GAMMA:
            return _tied(design)
        return _free(design)


def _free(design: Design) -> ShapeMaximum | None:
    start = _best_of(_sample(design))
    if start is None and design.row_count > _SAMPLE:
        start = _best_of(design)
    if start is None:
        return None
    found = climb(Shaped(design), start)
    shape = float(found.parameters[0])
    if not _SHAPES[0] < shape < _SHAPES[-1]:
        return None
    order = [*range(1, found.parameters.size), 0]
    moved = Maximum(
        parameters=found.parameters[order],
        log_likelihood=found.log_likelihood,
        information=found.information[np.ix_(order, order)],
        iteration_count=found.iteration_count,
        converged=found.converged,
    )
    return ShapeMaximum(shape, moved)


def _tied(design: Design) -> ShapeMaximum | None:
    sample, best = _sample(design), None
    for shape in _GAMMA_SHAPES:
        found = maximise(Likelihood(sample, shape_family(shape), scale_fixed=True, fixed_scale=shape))
        if found.converged and (best is None or found.log_likelihood > best.log_likelihood):
            best = found
    if best is None:
        return None
    found = climb(Tied(design), best.parameters)
    return ShapeMaximum(design.time_scale / float(found.parameters[-1]), found)


def _sample(design: Design) -> Design:
    """The rows themselves or, of very many, one in so many."""
    return design if design.row_count <= _SAMPLE else design.thinned(design.row_count // _SAMPLE)


def _best_of(design: Design) -> FloatArray | None:
    """(Q, delta, gamma) at the best of a few shapes; None if that is at an end of their range."""
    found: dict[float, Maximum] = {}
    # From the middle outwards, so that each search has a near one to begin at.
    for shape in sorted(_SHAPES, key=lambda q: abs(q - 0.5)):
        near = min(found, key=lambda other: abs(other - shape), default=None)
        start = None if near is None else found[near].parameters
        here = maximise(Likelihood(design, shape_family(shape)), start)
        if here.converged and math.isfinite(here.log_likelihood):
            found[shape] = here
    best = max(found, key=lambda shape: found[shape].log_likelihood, default=None)
    if best is None or best in (_SHAPES[0], _SHAPES[-1]):
        return None
    return np.append(best, found[best].parameters)
