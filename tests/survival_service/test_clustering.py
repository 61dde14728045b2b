"""Errors over clusters, against numerical differentiation, brute-force matrices and R's clubSandwich."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from survival_service.clustering import BiasReduced, Equation, Sandwich, TwoWay, least_squares, of_fit
from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.fitting import fit
from survival_service.observations import FloatArray, IntArray, Observations


def simulated(n: int = 90, groups: int = 9, seed: int = 1) -> tuple[Observations, FloatArray, IntArray]:
    """Rows of all kinds of censoring in clusters with effects of their own, and a second response."""
    generator = np.random.default_rng(seed)
    cluster = generator.integers(0, groups, n)
    columns = np.column_stack([(cluster % 2).astype(float), generator.normal(3.0, 2.0, n)])
    log_time = (
        1.0 + columns @ [0.5, -0.2] + 0.6 * generator.normal(size=n) + 0.4 * generator.normal(size=groups)[cluster]
    )
    time, kind = np.exp(log_time), np.arange(n) % 4
    lower = np.where(kind == 2, 0.0, np.where(kind == 3, 0.8 * time, time))
    upper = np.where(kind == 1, np.inf, np.where(kind == 3, 1.3 * time, time))
    second = columns @ [0.3, 0.1] + generator.normal(size=groups)[cluster] + 0.2 * log_time
    rows = Observations(lower, upper, np.ones(n), columns, ("group", "strength"), cluster)
    return rows, second, cluster


def equation(rows: Observations, distribution: Distribution = Distribution.LOG_NORMAL) -> Equation:
    found = fit(rows, distribution)
    coefficients = np.array([c.estimate for c in found.coefficients])
    return of_fit(Design.of(rows), distribution, coefficients, found.scale, rows.lower.size)


def test_the_joint_covariance_is_that_of_the_stacked_estimating_equations_differentiated_numerically() -> None:
    """One function of all parameters at once, written out with scipy; its Jacobian by central differences."""
    rows, second, cluster = simulated()
    equations = {"queries": equation(rows), "latency": least_squares(rows.covariates, second, rows.weight)}
    design = np.column_stack([np.ones(second.size), rows.covariates])
    exact, right = rows.lower == rows.upper, np.isinf(rows.upper)

    def log_likelihood(theta: FloatArray) -> FloatArray:
        middle, sigma = design @ theta[:3], math.exp(theta[3])
        with np.errstate(divide="ignore"):
            low, high = (np.log(rows.lower) - middle) / sigma, (np.log(rows.upper) - middle) / sigma
        between = norm.cdf(high) - norm.cdf(low)
        terms: FloatArray = np.where(right, norm.logsf(low), np.log(between + exact))
        return np.where(exact, norm.logpdf(low) - theta[3], terms)

    def scores(theta: FloatArray) -> FloatArray:
        steps = 1e-5 * np.eye(4)
        of_fit_ = [(log_likelihood(theta[:4] + step) - log_likelihood(theta[:4] - step)) / 2e-5 for step in steps]
        return np.column_stack([*of_fit_, design * (second - design @ theta[4:])[:, None]])

    found = fit(rows, Distribution.LOG_NORMAL)
    at = np.array(
        [*(c.estimate for c in found.coefficients), math.log(found.scale), *np.linalg.lstsq(design, second)[0]]
    )
    jacobian = np.column_stack([(scores(at + h) - scores(at - h)).sum(axis=0) / 2e-4 for h in 1e-4 * np.eye(7)])
    of_clusters = np.array([scores(at)[cluster == g].sum(axis=0) for g in range(9)])
    bread = np.linalg.inv(jacobian)
    expected = (bread @ of_clusters.T @ of_clusters @ bread.T * 9 / 8)[np.ix_([1, 2, 5, 6], [1, 2, 5, 6])]
    np.testing.assert_allclose(Sandwich(equations, cluster).covariance(), expected, rtol=2e-4, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([e.estimates for e in equations.values()]), at[[1, 2, 5, 6]], rtol=1e-8)


def test_the_error_of_a_sum_is_that_of_its_covariance() -> None:
    rows, second, cluster = simulated()
    sandwich = Sandwich({"a": equation(rows), "b": least_squares(rows.covariates, second, rows.weight)}, cluster)
    signs = np.array([0.0, 1.0, 0.0, -1.0])
    expected = math.sqrt(signs @ sandwich.covariance() @ signs)
    assert sandwich.error(1, {"a": 1.0, "b": -1.0}).standard == pytest.approx(expected, rel=1e-12)


def test_the_informations_of_clusters_add_up_and_are_those_of_their_rows_alone() -> None:
    rows, _, cluster = simulated()
    of = equation(rows, Distribution.WEIBULL)
    informations = of.informations(cluster)
    one_each = of.informations(np.arange(cluster.size))
    np.testing.assert_allclose(informations.sum(axis=0), one_each.sum(axis=0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(informations[3], one_each[cluster == 3].sum(axis=0), rtol=1e-9, atol=1e-10)


def brute_force(columns: FloatArray, values: FloatArray, cluster: IntArray) -> tuple[FloatArray, FloatArray]:
    """CR2's standard errors and Satterthwaite's degrees of freedom, by the n x n matrices of the definition."""
    design = np.column_stack([np.ones(values.size), columns])
    inverse = np.linalg.inv(design.T @ design)
    residual_maker = np.eye(values.size) - design @ inverse @ design.T
    meat, directions = np.zeros_like(inverse), []
    for g in np.unique(cluster):
        own = np.flatnonzero(cluster == g)
        shares, axes = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        root = axes @ np.diag([1 / math.sqrt(s) if s > 1e-9 else 0.0 for s in shares]) @ axes.T
        score = design[own].T @ root @ (residual_maker @ values)[own]
        meat += np.outer(score, score)
        directions.append(residual_maker[own].T @ root @ design[own] @ inverse)
    degrees = []
    for j in range(1, design.shape[1]):
        products = np.array([[a[:, j] @ b[:, j] for a in directions] for b in directions])
        degrees.append(np.trace(products) ** 2 / np.sum(products**2))
    return np.sqrt(np.diag(inverse @ meat @ inverse))[1:], np.array(degrees)


def test_the_bias_reduced_error_of_least_squares_is_that_of_bell_and_mccaffrey() -> None:
    rows, second, cluster = simulated(n=50, groups=7)
    errors = BiasReduced({"": least_squares(rows.covariates, second, np.ones(50))}, cluster)
    standard, degrees = brute_force(rows.covariates, second, cluster)
    for j in range(2):
        found = errors.error(j, {"": 1.0})
        assert found.standard == pytest.approx(standard[j], rel=1e-10)
        assert found.degrees == pytest.approx(degrees[j], rel=1e-10)


@pytest.mark.parametrize(
    ("modulus", "standard", "degrees"),
    [
        (1000, [0.00517779518439, 0.0777317111367, 0.10363137356], [10.0113459281, 12.1216192546, 9.7299735012]),
        (5, [0.00418710295717, 0.0611722729396, 0.0654451278788], [2.28606444163, 2.2880705199, 2.39889065506]),
    ],
)
def test_the_bias_reduced_errors_are_those_of_clubsandwich(
    modulus: int, standard: list[float], degrees: list[float]
) -> None:
    """R 4.2.2, clubSandwich 0.5.8, in the folder survreg:

    d <- read.csv("lung.csv"); g <- read.csv("lung_institutions.csv")$cluster
    m <- lm(log(duration_lower) ~ age + sex + ph.ecog, data = d)
    o <- coef_test(m, vcov = "CR2", cluster = g %% MODULUS, test = "Satterthwaite")
    cat(sprintf("%.12g %.12g\\n", o$SE[-1], o$df_Satt[-1]))
    """
    folder = Path(__file__).parent / "survreg"
    table = np.loadtxt(folder / "lung.csv", delimiter=",", skiprows=1)
    institution = np.loadtxt(folder / "lung_institutions.csv", skiprows=1).astype(np.int64) % modulus
    cluster = np.unique(institution, return_inverse=True)[1].ravel()
    errors = BiasReduced({"": least_squares(table[:, 3:], np.log(table[:, 0]), table[:, 2])}, cluster)
    found = [errors.error(j, {"": 1.0}) for j in range(3)]
    assert [one.standard for one in found] == pytest.approx(standard, rel=1e-10)
    assert [one.degrees for one in found] == pytest.approx(degrees, rel=1e-9)


def test_a_level_of_one_cluster_leaves_its_direction_out() -> None:
    """The column of a single cluster's indicator: nothing tells its error (Pustejovsky and Tipton's pseudo-inverse)."""
    rows, second, cluster = simulated(n=50, groups=7)
    columns = np.column_stack([(cluster == 0).astype(float), rows.covariates[:, 1]])
    errors = BiasReduced({"": least_squares(columns, second, np.ones(50))}, cluster)
    standard, _ = brute_force(columns, second, cluster)
    assert [errors.error(j, {"": 1.0}).standard for j in range(2)] == pytest.approx(standard.tolist(), rel=1e-6)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_two_levels_of_equal_models_give_the_two_sample_t_test_of_their_means(seeds: int) -> None:
    """Balanced and between clusters, CR2 is the unpooled variance of their means, with 2(m - 1) degrees of freedom."""
    generator, rows_each = np.random.default_rng(seeds), 11
    cluster = np.repeat(np.arange(2 * seeds), rows_each)
    level = (cluster >= seeds).astype(float)
    values = generator.normal(size=cluster.size) + generator.normal(size=2 * seeds)[cluster]
    means = np.array([values[cluster == g].mean() for g in range(2 * seeds)])
    expected = math.sqrt((means[:seeds].var(ddof=1) + means[seeds:].var(ddof=1)) / seeds)
    found = BiasReduced({"": least_squares(level[:, None], values, np.ones(values.size))}, cluster).error(0, {"": 1.0})
    assert found.standard == pytest.approx(expected, rel=1e-10)
    assert found.degrees == pytest.approx(2 * (seeds - 1), rel=1e-10)


def test_the_normal_likelihood_of_exact_times_gives_the_errors_of_least_squares() -> None:
    """There the curvature at the fitted scale is X'X and the score X'e, but for sigma, which cancels."""
    rows, second, cluster = simulated()
    exact = Observations(np.exp(second), np.exp(second), rows.weight, rows.covariates, rows.names, cluster)
    by_fit = BiasReduced({"": equation(exact)}, cluster)
    by_squares = BiasReduced({"": least_squares(rows.covariates, second, rows.weight)}, cluster)
    for j in range(2):
        one, other = (errors.error(j, {"": 1.0}) for errors in (by_fit, by_squares))
        assert (one.standard, one.degrees) == pytest.approx((other.standard, other.degrees), rel=1e-6)
    np.testing.assert_allclose(
        Sandwich({"": equation(exact)}, cluster).covariance(),
        Sandwich({"": least_squares(rows.covariates, second, rows.weight)}, cluster).covariance(),
        rtol=1e-6,
    )


def test_models_attacked_on_images_of_their_own_are_the_only_clusters() -> None:
    rows, second, models = simulated()
    equations = {"": least_squares(rows.covariates, second, rows.weight)}
    both, alone = TwoWay(equations, models, np.arange(models.size)), BiasReduced(equations, models)
    assert [both.error(j, {"": 1.0}) for j in range(2)] == [alone.error(j, {"": 1.0}) for j in range(2)]


def test_an_effect_that_differs_from_image_to_image_adds_its_variance() -> None:
    """Six models of two levels on the same 40 images, nothing but an effect of the image in the second level.

    Models of a level agree, so that nothing is left among models; the mean effect has the error of a mean of 40.
    """
    model, image = np.repeat(np.arange(6), 40), np.tile(np.arange(40), 6)
    level, own = (model >= 3).astype(float), np.random.default_rng(3).normal(size=40)
    found = TwoWay({"": least_squares(level[:, None], level * own[image], np.ones(240))}, model, image)
    assert found.error(0, {"": 1.0}).standard == pytest.approx(own.std(ddof=1) / math.sqrt(40), rel=1e-10)
    assert found.error(0, {"": 1.0}).degrees == pytest.approx(39, rel=1e-10)


@pytest.mark.parametrize("errors", [Sandwich, BiasReduced])
def test_a_weight_is_a_repetition(errors: Callable[..., Sandwich | BiasReduced]) -> None:
    rows, second, cluster = simulated()
    weight = (1 + np.arange(second.size) % 3).astype(np.float64)
    weighted = Observations(rows.lower, rows.upper, weight, rows.covariates, rows.names, cluster)
    again = np.repeat(np.arange(second.size), weight.astype(int))
    repeated = Observations(
        rows.lower[again], rows.upper[again], np.ones(again.size), rows.covariates[again], rows.names, cluster[again]
    )
    one = errors({"fit": equation(weighted), "squares": least_squares(rows.covariates, second, weight)}, cluster)
    other = errors(
        {"fit": equation(repeated), "squares": least_squares(repeated.covariates, second[again], repeated.weight)},
        cluster[again],
    )
    for j in range(2):
        for signs in ({"fit": 1.0}, {"squares": 1.0}, {"fit": 1.0, "squares": 1.0}):
            assert one.error(j, signs).standard == pytest.approx(other.error(j, signs).standard, rel=1e-7)
            assert one.error(j, signs).degrees == pytest.approx(other.error(j, signs).degrees, rel=1e-6)
