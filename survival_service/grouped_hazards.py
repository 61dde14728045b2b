"""Proportional hazards of grouped times: the complementary log-log model of Prentice and Gloeckler (1978).

At each distinct time k a sample at risk fails with probability 1 - exp(-exp(a_k + x'b)). Ties, of which a grid of
checks is full, are taken as they are; with times all distinct this is Cox's model but for terms of order 1/n. The a_k
do not share rows of the information, so Newton's method eliminates them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.observations import FloatArray

_ITERATION_LIMIT = 50
_TOLERANCE = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class GroupedHazards:
    """A fitted model: `effects` b, about `centre`, and the baseline's cumulative hazard until the time asked for."""

    effects: FloatArray
    centre: FloatArray
    cumulative_hazard: float

    def failure_probability(self, covariates: FloatArray) -> FloatArray:
        """P(failed by the time asked for) for rows of covariates. (n,)"""
        score = np.clip((covariates - self.centre) @ self.effects, -500.0, 500.0)
        return -np.expm1(-self.cumulative_hazard * np.exp(score))


def fit_grouped_hazards(
    time: FloatArray, failed: NDArray[np.bool_], covariates: FloatArray, weight: FloatArray, *, until: float
) -> GroupedHazards | None:
    """Fit by maximum likelihood, for predictions of failures `until` a time.

    None where there is no maximum, as when one setting fails always and another never. A time at which everybody left
    fails has an infinite hazard: it is left out of the search, and failure is certain from then on.
    """
    steps = np.unique(time[failed])
    if not steps.size:
        return None
    centre = weight @ covariates / weight.sum()
    x = covariates - centre
    if not (time > steps[-1]).any() and not (~failed & (time == steps[-1])).any():
        if until >= steps[-1]:
            return GroupedHazards(np.zeros(x.shape[1]), centre, np.inf)
        failed, steps = failed & (time < steps[-1]), steps[:-1]
        if not steps.size:
            return GroupedHazards(np.zeros(x.shape[1]), centre, 0.0)
    # Steps that a row outlives: those before its own failure, or up to its last time.
    outlived = np.searchsorted(steps, time, side="right") - failed
    own = np.searchsorted(steps, time[failed])
    survivors = np.bincount(outlived, weight, steps.size + 1)[::-1].cumsum()[::-1][1:]
    problem = _Problem(x, outlived, own, failed, weight, steps.size)
    events = np.bincount(own, weight[failed], steps.size)
    a, b = np.log(events / (survivors + 0.5 * events)), np.zeros(x.shape[1])
    value, gradient, curvature = problem(a, b)
    for _ in range(_ITERATION_LIMIT):
        step_a, step_b, gain = _step(gradient, curvature)
        if step_b is None:
            return None
        if gain < _TOLERANCE:
            return GroupedHazards(b + step_b, centre, float(np.exp(a + step_a)[steps <= until].sum()))
        length = 1.0
        while length > 1e-6:
            trial = problem(a + length * step_a, b + length * step_b)
            if np.isfinite(trial[0]) and trial[0] >= value + 1e-4 * length * gain - 1e-12 * (1.0 + abs(value)):
                break
            length *= 0.5
        else:
            return None
        a, b = a + length * step_a, b + length * step_b
        value, gradient, curvature = trial
    return None


Gradient = tuple[FloatArray, FloatArray]
Curvature = tuple[FloatArray, FloatArray, FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    x: FloatArray
    outlived: NDArray[np.intp]
    own: NDArray[np.intp]
    failed: NDArray[np.bool_]
    weight: FloatArray
    step_count: int

    def __call__(self, a: FloatArray, b: FloatArray) -> tuple[float, Gradient, Curvature]:
        """The log-likelihood, its gradient in a and b, and minus its Hessian: the diagonal of aa, ab, bb."""
        x, w, steps = self.x, self.weight, self.step_count
        with np.errstate(over="ignore", invalid="ignore"):
            relative = np.exp(x @ b)
            hazard = np.exp(a)
            # What those who outlive each step add up to: they take its hazard and do not fail.
            load = w * relative
            sums = np.column_stack([load, load[:, None] * x])
            rest = np.array([np.bincount(self.outlived, part, steps + 1) for part in sums.T])
            rest = rest[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
            until = np.append(0.0, np.cumsum(hazard))[self.outlived]
            taken = load * until
            # Those who fail: log(1 - exp(-c)), with its derivatives in log c.
            c = hazard[self.own] * relative[self.failed]
            grown = np.expm1(np.minimum(c, 700.0))
            slope = c / grown
            bend = slope * (1.0 - slope - np.minimum(c, 700.0))
            bend = np.where(c < 1e-4, -0.5 * c, bend)
            wf, xf = w[self.failed], x[self.failed]
            value = float(wf @ np.log(-np.expm1(-c)) - hazard @ rest[0])
            by_a = np.bincount(self.own, wf * slope, steps) - hazard * rest[0]
            by_b = xf.T @ (wf * slope) - x.T @ taken
            aa = hazard * rest[0] - np.bincount(self.own, wf * bend, steps)
            ab = (hazard * rest[1:]).T - np.array([np.bincount(self.own, wf * bend * col, steps) for col in xf.T]).T
            bb = (x * taken[:, None]).T @ x - (xf * (wf * bend)[:, None]).T @ xf
        return value, (by_a, by_b), (aa, ab, bb)


def _step(gradient: Gradient, curvature: Curvature) -> tuple[FloatArray, FloatArray | None, float]:
    """Newton's step in a and b and the gain that it promises; no step where the information is singular."""
    (by_a, by_b), (aa, ab, bb) = gradient, curvature
    nothing = (by_a, None, 0.0)
    if not (np.isfinite(aa).all() and (aa > 0).all() and np.isfinite(bb).all()):
        return nothing
    inner = bb - ab.T @ (ab / aa[:, None])
    size = np.sqrt(np.abs(np.diag(bb)))
    if not (size > 0).all() or np.linalg.eigvalsh(inner / np.outer(size, size))[0] < 1e-12:
        return nothing
    step_b: FloatArray = np.asarray(np.linalg.solve(inner, by_b - ab.T @ (by_a / aa)), dtype=np.float64)
    step_a = (by_a - ab @ step_b) / aa
    return step_a, step_b, float(by_a @ step_a + by_b @ step_b)
