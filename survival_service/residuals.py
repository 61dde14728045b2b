"""Cox-Snell residuals of fits to rows of all kinds of censoring: a curve to look at, and a test without simulation.

If the fit is right, U = P(T <= t | x) at the time of failure is uniform on (0, 1); -log(1 - U) is Cox and Snell's
residual (1968), which is exponential. Of a censored row, an interval that holds U is known (Farrington 2000 for
intervals).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from survival_service.advice import advice_on
from survival_service.design import Kind
from survival_service.fitted_rows import FittedRows
from survival_service.likelihood import Likelihood
from survival_service.moments import MomentTest, joint_test, moment_sums
from survival_service.observations import FloatArray
from survival_service.shapes import Shaped, Tied

# The curve is found on a grid of so many steps, by so many steps of the EM algorithm.
GRID = 100
_EM_LIMIT = 200
_EM_TOLERANCE = 1e-7
# Orders of the Legendre polynomials of Neyman's smooth test (1937).
_ORDERS = 4
# With fewer rows, or clusters, for each parameter and polynomial the covariance of the test is not worth its name.
_ROWS_PER_TERM = 3
_THIN = 1e-6


@dataclass(frozen=True, slots=True)
class ResidualCurve:
    """The share that had failed by when the fit expects the share `expected` to: equal if the fit is right."""

    expected: tuple[float, ...] = ()
    observed: tuple[float, ...] = ()

    @property
    def distance(self) -> float:
        """The largest difference."""
        return max((abs(a - b) for a, b in zip(self.expected, self.observed, strict=True)), default=0.0)


def residual_curve(fitted: FittedRows) -> ResidualCurve:
    """The distribution of U by maximum likelihood (Turnbull 1976), on a grid, up to the largest U that is known.

    Mass is spread evenly over what cannot be told apart, as the fit itself would.
    """
    data = fitted.data
    begin, end = (np.rint(GRID * fitted.failure_probability(t)).astype(int) for t in (data.lower, data.upper))
    # A failure at a point, or in less than a step, lies in the step that holds it.
    point = np.minimum((GRID * fitted.failure_probability(data.upper)).astype(int), GRID - 1)
    narrow = data.failed & (begin >= end)
    begin = np.where(narrow, point, np.where(data.failed, begin, np.minimum(begin, GRID)))
    end = np.where(data.failed, np.where(narrow, point + 1, end), GRID)
    known = begin < end
    if not known.any():
        return ResidualCurve()
    counted = np.bincount((begin * (GRID + 1) + end)[known], data.weight[known], (GRID + 1) ** 2)
    cells = np.flatnonzero(counted)
    first, after, weight = cells // (GRID + 1), cells % (GRID + 1), counted[cells]
    # Beyond the last end of an interval nothing is known but how much mass is there: it stays one step.
    last = int(np.maximum(begin, np.where(data.failed, end, 0)).max())
    mass = np.full(GRID, 1.0 / GRID)
    for _ in range(_EM_LIMIT):
        until = np.append(0.0, np.cumsum(mass))
        share = weight / np.maximum(until[after] - until[first], 1e-300)
        edge = np.bincount(first, share, GRID + 1) - np.bincount(after, share, GRID + 1)
        updated = mass * np.cumsum(edge)[:GRID] / weight.sum()
        moved = float(np.abs(np.cumsum(updated - mass)).max())
        mass = updated
        if moved < _EM_TOLERANCE:
            break
    observed = np.append(0.0, np.cumsum(mass))[: last + 1]
    return ResidualCurve(tuple((np.arange(last + 1) / GRID).tolist()), tuple(np.clip(observed, 0.0, 1.0).tolist()))


def residual_test(fitted: FittedRows) -> MomentTest | str:
    """Neyman's smooth test that U is uniform, with the parameters estimated; or why there is none, in a sentence.

    The moments are Legendre polynomials of U up to the fourth, of a censored row their means over what is known of U:
    the scores of a smooth alternative (Rayner and Best 1989). They allow for clusters.
    """
    model = _Model.of(fitted)
    data, design = fitted.data, fitted.rows.design
    if model is None or design is None:
        return "the fit has no maximum to test at"
    cluster = None if data.cluster is None else data.cluster[design.rows]
    independent = design.total_weight if cluster is None else float(np.unique(cluster).size)
    needed = _ROWS_PER_TERM * (_ORDERS + model.information.shape[0])
    if independent < needed:
        advice = advice_on(fitted.found.clock)
        few, more = (advice.one, advice.for_samples) if cluster is None else (advice.cluster, advice.for_clusters)
        return f"the residuals are not tested with fewer than {needed} {few}s; {more}"
    weight = np.ones(design.row_count) if design.weight is None else design.weight
    sums = moment_sums(model.moments, model.parameters, model.information, model.scores, weight, cluster)
    test = None if sums is None else joint_test(sums)
    if test is None:
        return "the fit has a parameter for everything that these checks tell, so there is nothing left to test"
    return test


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A fit at its maximum, in the parameters of its likelihood."""

    likelihood: Likelihood
    shape: str
    parameters: FloatArray
    information: FloatArray
    scores: FloatArray

    @staticmethod
    def of(fitted: FittedRows) -> _Model | None:
        found, design = fitted.found, fitted.rows.design
        if design is None:
            return None
        plain = Likelihood(design, found.family, scale_fixed=found.distribution.scale_fixed)
        at = plain.standardised(np.array([c.estimate for c in found.coefficients]), found.scale)
        if found.shape is None:
            return _Model(plain, "", at, -plain(at)[2], plain.row_scores(at))
        if found.shape_standard_error is not None and found.covariance is not None:
            free = found.covariance.shape[0] > at.size
            whole = Shaped(design) if free else Tied(design)
            at = np.append(found.shape, at) if free else at
            return _Model(plain, "free" if free else "tied", at, -whole(at)[2], whole.row_scores(at))
        return None

    def moments(self, parameters: FloatArray) -> FloatArray:
        """The moments of each row, weights included. (n, orders)"""
        from survival_service.log_gamma import shape_family

        design, family, inner = self.likelihood.design, self.likelihood.family, parameters
        if self.shape == "free":
            family, inner = shape_family(float(parameters[0])), parameters[1:]
        elif self.shape == "tied":
            family = shape_family(design.time_scale / float(parameters[-1]))
        z = design.locations(inner, slice(None))
        between = slice(*design.bounds[Kind.INTERVAL : Kind.INTERVAL + 2])
        half = np.zeros(z.size)
        half[between] = float(inner[-1]) * design.half
        begin, end = (1.0 - family.survival(np.clip(z + side * half, -700.0, 700.0)) for side in (-1.0, 1.0))
        begin[slice(*design.bounds[Kind.LEFT : Kind.LEFT + 2])] = 0.0
        end[slice(*design.bounds[Kind.RIGHT : Kind.RIGHT + 2])] = 1.0
        made = smooth_moments(begin, end)
        return made if design.weight is None else made * design.weight[:, None]


def smooth_moments(begin: FloatArray, end: FloatArray) -> FloatArray:
    """The means over (begin, end] within (0, 1) of the orthonormal Legendre polynomials of orders 1 to 4. (n, 4)"""
    a, b = 2.0 * begin - 1.0, 2.0 * end - 1.0
    width = b - a
    thin = width < _THIN
    at_a, at_b, middle = (_legendre(x) for x in (a, b, 0.5 * (a + b)))
    made = np.empty((begin.size, _ORDERS))
    for n in range(1, _ORDERS + 1):
        # The integral of P_n is (P_{n+1} - P_{n-1}) / (2n + 1).
        rise = (at_b[n + 1] - at_b[n - 1] - at_a[n + 1] + at_a[n - 1]) / (2 * n + 1)
        made[:, n - 1] = np.where(thin, middle[n], rise / np.where(thin, 1.0, width)) * np.sqrt(2 * n + 1)
    return made


def _legendre(x: FloatArray) -> list[FloatArray]:
    """The Legendre polynomials of x up to the order needed, by their recurrence."""
    made = [np.ones_like(x), x]
    for n in range(1, _ORDERS + 1):
        made.append(((2 * n + 1) * x * made[n] - n * made[n - 1]) / (n + 1))
    return made
