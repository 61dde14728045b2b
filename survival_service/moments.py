"""Tests of what a fitted model says about moments of its rows, with the parameters estimated from the same rows.

If the model holds, functions g_i of row i have mean zero. At the maximum their sum is, to first order, that of
e_i = g_i + J I^-1 s_i, where J is the derivative of the sum in the parameters, I the information and s_i the row's
score: so the quadratic form of the sum in the inverse of the covariance of the e_i is chi-squared (Newey
1985, Econometrica 53, 1047-1070; Boos 1992, The American Statistician 46, 327-333). With clusters the e_i are summed
over each of them first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc

from survival_service.observations import FloatArray, IntArray

_STEP = 1e-4
# A direction in which the estimated parameters leave less than this of the variance tells nothing.
_LEAST_SHARE = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """The sums of q moments at the maximum, and their covariance with and without regard to estimated parameters."""

    value: FloatArray
    covariance: FloatArray
    plain: FloatArray


@dataclass(frozen=True, slots=True)
class MomentTest:
    """A chi-squared statistic with its degrees of freedom and its p-value."""

    statistic: float
    degrees_of_freedom: int
    p_value: float


def moment_sums(
    moments: Callable[[FloatArray], FloatArray],
    parameters: FloatArray,
    information: FloatArray,
    scores: FloatArray,
    weight: FloatArray,
    cluster: IntArray | None,
) -> Sums | None:
    """The sums of `moments(parameters)`, (n, q) and weighted as `scores` (n, k) are; None if I is singular.

    A row of weight w stands for w independent ones. Without clusters every row is its own.
    """
    here, k = moments(parameters), information.shape[0]
    slope = np.empty((here.shape[1], k))
    for j in range(k):
        step = np.zeros(parameters.size)
        step[j] = _STEP * max(1.0, abs(float(parameters[j])))
        slope[:, j] = (moments(parameters + step).sum(axis=0) - moments(parameters - step).sum(axis=0)) / (2 * step[j])
    size = np.sqrt(np.abs(np.diag(information)))
    scaled = information / np.outer(size, size)
    if not np.isfinite(scaled).all() or np.linalg.eigvalsh(scaled)[0] < 1e-12:
        return None
    carried = np.linalg.solve(scaled, slope.T / size[:, None]) / size[:, None]
    if cluster is None:
        # Rows are independent, so that the sums of g s' estimate -J: fewer products of a few rows' large scores.
        root = here / np.sqrt(weight)[:, None]
        plain = root.T @ root
        covariance = plain - slope @ carried
    else:
        groups, index = np.unique(cluster, return_inverse=True)
        projected, alone = (
            np.array([np.bincount(index.ravel(), column, groups.size) for column in part.T]).T
            for part in (here + scores @ carried, here)
        )
        if groups.size < 2:
            return None
        covariance, plain = (part.T @ part * groups.size / (groups.size - 1) for part in (projected, alone))
    return Sums(here.sum(axis=0), covariance, plain)


def joint_test(sums: Sums) -> MomentTest | None:
    """That all moments are zero; in as many directions as the estimated parameters leave. None if they leave none."""
    size = np.sqrt(np.maximum(np.diag(sums.plain), 0.0))
    if not (size > 0).all():
        return None
    eigenvalues, vectors = np.linalg.eigh(sums.covariance / np.outer(size, size))
    kept = eigenvalues > _LEAST_SHARE
    if not kept.any():
        return None
    along = vectors[:, kept].T @ (sums.value / size)
    statistic = float(np.sum(along**2 / eigenvalues[kept]))
    degrees = int(kept.sum())
    return MomentTest(statistic, degrees, float(chdtrc(degrees, statistic)))


def single_test(sums: Sums, j: int) -> MomentTest | None:
    """That moment j is zero; None if the estimated parameters leave nothing of its variance."""
    if not sums.covariance[j, j] > _LEAST_SHARE * sums.plain[j, j]:
        return None
    statistic = float(sums.value[j] ** 2 / sums.covariance[j, j])
    return MomentTest(statistic, 1, float(chdtrc(1, statistic)))
