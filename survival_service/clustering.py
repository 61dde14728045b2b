"""Errors of estimates from clustered rows: the sandwich of several estimating equations at once, also of few clusters.

An estimating equation sum_g s_g(theta) = 0 has scores s_g and informations H_g = -ds_g/dtheta of its clusters g, and
A = sum H_g. Equations that share no parameter but have their clusters in common, such as those of a fit on queries and
of a regression of seconds per query, stack to one with a block-diagonal A: the influence of cluster g on all of
their estimates together is (A_1^-1 s_1g, A_2^-1 s_2g, ...), and its sum of squares their joint sandwich (Huber 1967;
Liang and Zeger 1986).

From few clusters that sandwich is too small. The bias-reduced one (CR2, Bell and McCaffrey 2002) takes B_g s_g with
B_g = (I - H_g A^-1)^(-1/2) for s_g. For least squares that is CR2 as they wrote it,
X_g'(I - X_g (X'X)^-1 X_g')^(-1/2) e_g, since X_g' f(X_g M X_g') = f(X_g'X_g M) X_g' for every power series f; for
other equations it is the same with the curvature in place of X_g'X_g, as in McCaffrey and Bell (2006) and, with a
diagonal, in Fay and Graubard (2001). A direction that one cluster alone determines has no residual to enlarge, and is
left out by a pseudo-inverse (Pustejovsky and Tipton 2018). Its law is Student's with Satterthwaite's degrees of
freedom, of rows that are independent as the working model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.likelihood import Likelihood
from survival_service.observations import FloatArray, IntArray

# An eigenvalue of H_g A^-1 nearer to 1 than this belongs to a direction that cluster g alone determines.
_DETERMINED = 1e-9


class Informations(Protocol):
    """The information of each of a set of clusters."""

    def __call__(self, cluster: IntArray) -> FloatArray:
        """(G, P, P) of the clusters numbered 0 to G-1, an entry a row."""


@dataclass(frozen=True, slots=True, eq=False)
class Equation:
    """A solved estimating equation: p estimates of interest of P parameters, its rows and what clusters make of them.

    `estimates` is (p), `projection` (p, P) maps a score to its influence on them, D A^-1. `scores` is (n, P), zero for
    a row that says nothing. `informations` gives the (G, P, P) of clusters numbered 0 to G-1, (n), and `dispersion` the
    variance of the scores of independent rows in units of A: 1 for a likelihood, the residual variance for least
    squares.
    """

    estimates: FloatArray
    projection: FloatArray
    scores: FloatArray
    informations: Informations
    dispersion: float = 1.0

    def influence(self, cluster: IntArray) -> FloatArray:
        """(G, p): by how much each cluster moves each estimate."""
        influence: FloatArray = sums(self.scores, cluster) @ self.projection.T
        return influence


@dataclass(frozen=True, slots=True, eq=False)
class _OfLikelihood:
    likelihood: Likelihood
    parameters: FloatArray

    def __call__(self, cluster: IntArray) -> FloatArray:
        whole, size = self.likelihood, self.parameters.size - 1
        of_rows = cluster[whole.rows]
        informations = np.zeros((int(cluster.max()) + 1, size, size))
        for g in np.unique(of_rows):
            part = Likelihood(
                whole.design.chosen(np.flatnonzero(of_rows == g)),
                whole.family,
                scale_fixed=whole.scale_fixed,
                fixed_scale=whole.fixed_scale,
            )
            informations[g] = -part(self.parameters)[2][:size, :size]
        return informations


@dataclass(frozen=True, slots=True, eq=False)
class _OfLeastSquares:
    columns: FloatArray
    weight: FloatArray

    def __call__(self, cluster: IntArray) -> FloatArray:
        size = self.columns.shape[1]
        products = (self.columns[:, :, None] * self.columns[:, None, :]).reshape(-1, size * size)
        return sums(products * self.weight[:, None], cluster).reshape(-1, size, size)


def of_fit(
    design: Design, distribution: Distribution, coefficients: FloatArray, scale: float, row_count: int
) -> Equation:
    """The likelihood equation of an accelerated failure model at its maximum; of interest are its covariates' effects.

    `design` is of `row_count` rows, `coefficients` (intercept first) and `scale` are those of the fit. The scale is a
    nuisance: the equation is that of the effective score of beta, s_beta - A_bt A_tt^-1 s_t with t = log sigma, which
    has the same influences. The informations are those of beta at the fitted scale. In (delta, gamma) a cluster's own
    information would count the response among its regressors, and CR2 take the effects of clusters for leverage.
    """
    likelihood = Likelihood(design, distribution.family, scale_fixed=distribution.scale_fixed)
    parameters = likelihood.standardised(coefficients, scale)
    size = coefficients.size
    information = -likelihood(parameters)[2]
    of_rows = likelihood.row_scores(parameters)
    if not likelihood.scale_fixed:
        # Along beta at a fixed sigma, delta moves alone; along log sigma, (delta, gamma) shrinks as a whole.
        turn = np.eye(size + 1)
        turn[-1] = -parameters
        information, of_rows = turn @ information @ turn.T, of_rows @ turn.T
        share = information[:size, -1] / information[-1, -1]
        of_rows = of_rows[:, :size] - of_rows[:, -1:] * share
        information = information[:size, :size] - np.outer(share, information[-1, :size])
    scores = np.zeros((row_count, size))
    scores[likelihood.rows] = of_rows
    jacobian = likelihood.natural(parameters)[2][1:size, :size]
    return Equation(
        estimates=coefficients[1:],
        projection=np.linalg.solve(information, jacobian.T).T.astype(np.float64),
        scores=scores,
        informations=_OfLikelihood(likelihood, parameters),
    )


def least_squares(columns: FloatArray, values: FloatArray, weight: FloatArray) -> Equation:
    """The normal equation of a weighted regression of `values` (n) on `columns` (n, p) and a constant.

    Rows of weight 0 are left out. The columns must be independent; of interest are their p slopes.
    """
    total = weight.sum()
    mean = weight @ columns / total
    scale = np.sqrt(weight @ (columns - mean) ** 2 / total)
    standard = np.column_stack([np.ones(values.size), (columns - mean) / scale])
    information = (standard * weight[:, None]).T @ standard
    level = weight @ values / total
    found = np.linalg.solve(information, standard.T @ (weight * (values - level)))
    residuals = np.where(weight > 0, values - level - standard @ found, 0.0)
    freedom = max(1.0, float(total) - found.size)
    return Equation(
        estimates=found[1:] / scale,
        projection=np.linalg.inv(information)[1:] / scale[:, None],
        scores=standard * (weight * residuals)[:, None],
        informations=_OfLeastSquares(standard, weight),
        dispersion=float(weight @ residuals**2) / freedom,
    )


@dataclass(frozen=True, slots=True)
class ClusterError:
    """The standard error of a sum of estimates, and the degrees of freedom of the Student law that goes with it."""

    standard: float
    degrees: float


class Sandwich:
    """Errors of sums of estimates over many clusters: the influences with G/(G-1), and G-1 degrees of freedom."""

    def __init__(self, equations: Mapping[str, Equation], cluster: IntArray) -> None:
        self._influences = {name: equation.influence(cluster) for name, equation in equations.items()}
        self.cluster_count = int(cluster.max()) + 1

    def error(self, j: int, signs: Mapping[str, float]) -> ClusterError:
        """Of the sum over equations of sign times their j-th estimate."""
        total = sum(sign * self._influences[name][:, j] for name, sign in signs.items())
        g = self.cluster_count
        return ClusterError(float(np.sqrt(np.sum(np.square(total)) * g / (g - 1))), g - 1)

    def covariance(self) -> FloatArray:
        """Of all estimates of all equations, one equation after the other."""
        stacked = np.concatenate(list(self._influences.values()), axis=1)
        g = self.cluster_count
        covariance: FloatArray = stacked.T @ stacked * (g / (g - 1))
        return covariance


class BiasReduced:
    """Errors of sums of estimates over few clusters: CR2, with Satterthwaite's degrees of freedom."""

    def __init__(self, equations: Mapping[str, Equation], cluster: IntArray) -> None:
        self.cluster_count = int(cluster.max()) + 1
        self._influences: dict[str, FloatArray] = {}
        self._residual_covariances: dict[str, FloatArray] = {}
        for name, equation in equations.items():
            informations = equation.informations(cluster)
            root = np.linalg.cholesky(informations.sum(axis=0))
            inverse = np.linalg.inv(root)
            # In coordinates in which A is the identity, B_g is symmetric.
            shares, axes = np.linalg.eigh(inverse @ informations @ inverse.T)
            rest = 1.0 - shares
            enlarged = np.where(rest > _DETERMINED, 1 / np.sqrt(np.maximum(rest, _DETERMINED)), 0.0)
            scores = np.einsum("ij,gj->gi", inverse, sums(equation.scores, cluster))
            adjusted = np.einsum("gij,gj,gkj,gk->gi", axes, enlarged, axes, scores)
            # projection = D A^-1; times the root of A it acts on these coordinates.
            directions = equation.projection @ root
            self._influences[name] = adjusted @ directions.T
            self._residual_covariances[name] = np.stack(
                [_residual_covariance(shares, axes, enlarged, of, equation.dispersion) for of in directions]
            )

    def error(self, j: int, signs: Mapping[str, float]) -> ClusterError:
        """Of the sum over equations of sign times their j-th estimate.

        The working model takes the equations as independent of one another, and rows as independent.
        """
        total = sum(sign * self._influences[name][:, j] for name, sign in signs.items())
        covariance = sum(sign * sign * self._residual_covariances[name][j] for name, sign in signs.items())
        trace, squares = float(np.trace(covariance)), float(np.sum(np.square(covariance)))
        return ClusterError(float(np.sqrt(np.sum(np.square(total)))), trace * trace / squares if squares > 0 else 0.0)


class TwoWay:
    """Errors of sums of estimates over few trained models that may have been attacked on the same images.

    What a setting does may differ from image to image, and models attacked on the same images agree about that: they
    alone leave it out. The variance is then that over models plus that over images (Cameron, Gelbach and Miller 2011),
    without taking off that over pairs of both: over few models, whose shared images' hardness cancels, that is more
    than what is counted twice. So it is a little too large, by what single samples add. The degrees of freedom are
    Satterthwaite's for the sum. Where no two models share an image there is nothing to add.
    """

    def __init__(self, equations: Mapping[str, Equation], models: IntArray, images: IntArray) -> None:
        self._over_models = BiasReduced(equations, models)
        pair_count = len(np.unique(np.column_stack([models, images]), axis=0))
        self._over_images = Sandwich(equations, images) if pair_count > len(np.unique(images)) else None
        self.cluster_count = self._over_models.cluster_count

    def error(self, j: int, signs: Mapping[str, float]) -> ClusterError:
        """Of the sum over equations of sign times their j-th estimate."""
        among = self._over_models.error(j, signs)
        if self._over_images is None:
            return among
        within = self._over_images.error(j, signs)
        variance, squares = among.standard**2 + within.standard**2, within.standard**4 / within.degrees
        if among.degrees > 0:
            squares += among.standard**4 / among.degrees
        return ClusterError(float(np.sqrt(variance)), variance**2 / squares if squares > 0 else among.degrees)


def sums(rows: FloatArray, cluster: IntArray) -> FloatArray:
    """(G, k): the sums of the rows (n, k) of each cluster."""
    count = int(cluster.max()) + 1
    return np.stack([np.bincount(cluster, column, count) for column in rows.T], axis=1)


def _residual_covariance(
    shares: FloatArray, axes: FloatArray, enlarged: FloatArray, direction: FloatArray, dispersion: float
) -> FloatArray:
    """(G, G): what the working model expects of the products of the clusters' enlarged influences on one estimate.

    With p_g = B_g' direction, it is p_g'(H_g [g = h] - H_g A^-1 H_h) p_h, here in coordinates in which A is 1.
    """
    turned = np.einsum("gij,i->gj", axes, direction) * enlarged
    reach = np.einsum("gij,gj->gi", axes, shares * turned)
    covariance: FloatArray = dispersion * (np.diag(np.sum(shares * turned**2, axis=1)) - reach @ reach.T)
    return covariance
