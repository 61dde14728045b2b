"""Fits with a shape: R's numbers, the truth of simulated shapes, joint errors, what is nested in what, and statuses."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from scipy.stats import gamma

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.fitting import Fit, Status, described, fit, fitted_time, prepared
from survival_service.likelihood import Likelihood
from survival_service.log_gamma import LogGamma, shape_family
from survival_service.observations import Observations
from survival_service.predictions import ShapedTime
from survival_service.shapes import Shaped, Tied

inf = math.inf
GENERALIZED = Distribution.GENERALIZED_GAMMA
NESTED = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.GAMMA)
# R's survival::ovarian: futime, fustat.
DAYS = [59, 115, 156, 421, 431, 448, 464, 475, 477, 563, 638, 744, 769, 770, 803, 855, 1040, 1106, 1129, 1206, 1227]
DAYS += [268, 329, 353, 365, 377]
DIED = [1, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0]
OVARIAN = Observations.of(DAYS, [t if d else inf for t, d in zip(DAYS, DIED, strict=True)])


def checked(shape: float, n: int, *, seed: int = 1) -> Observations:
    """Times T = exp(1 + 0.6 epsilon), checked 60 times up to 15."""
    family = shape_family(shape)
    u = np.random.default_rng(seed).uniform(size=n)
    check = np.ceil(4 * np.exp(1 + 0.6 * np.array([family.quantile(p) for p in u])))
    seen = check <= 60
    return Observations.of(np.where(seen, check - 1, 60) / 4, np.where(seen, check / 4, inf)).merged()


def test_the_fit_of_ovarian_is_that_of_r() -> None:
    """R 4.2.2, base and survival 3.5-3 (flexsurv was not to be had; this is the density of its dgengamma):

    o <- survival::ovarian; t <- o$futime; d <- o$fustat
    f <- function(p) { s <- exp(p[2]); Q <- p[3]; k <- Q^-2; w <- (log(t)-p[1])/s; u <- k*exp(Q*w)
      lf <- log(abs(Q)) + k*log(k) - lgamma(k) + k*(Q*w-exp(Q*w)) - log(s) - log(t)
      -sum(ifelse(d==1, lf, pgamma(u, k, lower.tail = Q < 0, log.p=TRUE))) }
    a <- optim(c(6.5, 0, -.5), f, control=list(maxit=20000, reltol=1e-15))
    a <- optim(a$par, f, method="BFGS", control=list(maxit=2000, reltol=1e-16, ndeps=rep(1e-5,3)))
    sqrt(diag(solve(optimHess(a$par, f, control=list(ndeps=rep(1e-4,3))))))
    """
    found = fit(OVARIAN, GENERALIZED)
    assert found.status is Status.OK
    assert found.log_likelihood == pytest.approx(-96.949065760, abs=1e-8)
    assert found.coefficients[0].estimate == pytest.approx(6.4270395, abs=1e-5)
    assert math.log(found.scale) == pytest.approx(0.3547609, abs=1e-5)
    assert found.shape == pytest.approx(-0.7645658, abs=1e-5)
    errors = (found.coefficients[0].standard_error, found.log_scale_standard_error, found.shape_standard_error)
    np.testing.assert_allclose(errors, (0.7358454, 0.2421647, 1.3136747), rtol=1e-5)
    assert found.aic == pytest.approx(6 + 2 * 96.949065760)


@pytest.mark.parametrize("shape", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_a_known_shape_is_recovered(shape: float) -> None:
    found = fit(checked(shape, 4000), GENERALIZED)
    assert found.status is Status.OK
    assert found.shape is not None
    assert found.shape_standard_error is not None
    assert abs(found.shape - shape) < 3.5 * found.shape_standard_error


def test_the_named_distributions_are_nested_and_the_right_one_loses_nothing() -> None:
    """Times are gamma: sigma = Q = 0.6. Twice the log-likelihood lost is chi-squared for it, and large else."""
    data = checked(0.6, 4000)
    whole = fit(data, GENERALIZED)
    lost = {one: 2 * (whole.log_likelihood - fit(data, one).log_likelihood) for one in NESTED}
    assert all(value >= -1e-7 for value in lost.values())
    assert lost[Distribution.GAMMA] < 6.63
    assert lost[Distribution.WEIBULL] > 15
    assert lost[Distribution.LOG_NORMAL] > 15


def test_gamma_times_are_those_of_their_closed_form() -> None:
    """Exact gamma times: ln k - digamma(k) = ln mean - mean ln, and E[T] is the mean; sigma = Q = k^(-1/2)."""
    times = np.random.default_rng(5).gamma(2.5, 3.0, size=400)
    found = fit(Observations.of(times, times), Distribution.GAMMA)
    k = brentq(lambda k: math.log(k) - digamma(k) - math.log(times.mean()) + np.log(times).mean(), 0.1, 50)
    assert found.scale == pytest.approx(k**-0.5, rel=1e-7)
    assert found.shape == found.scale
    assert found.expected.value == pytest.approx(times.mean(), rel=1e-7)
    assert found.median.value == pytest.approx(gamma.ppf(0.5, k, scale=times.mean() / k), rel=1e-7)
    assert found.log_likelihood == pytest.approx(gamma.logpdf(times, k, scale=times.mean() / k).sum(), rel=1e-10)
    # The inverse information of (ln mean, ln k) is diagonal: 1/(n k) and 1/(n (k^2 trigamma(k) - k)).
    assert found.expected.log_standard_error == pytest.approx((400 * k) ** -0.5, rel=1e-4)
    of_log_k = (400 * (k * k * polygamma(1, k) - k)) ** -0.5
    assert found.log_scale_standard_error == pytest.approx(0.5 * of_log_k, rel=1e-4)
    assert found.shape_standard_error == pytest.approx(found.scale * found.log_scale_standard_error)
    assert found.parameter_count == 2


@pytest.mark.parametrize("of", [Shaped, Tied])
def test_score_and_curvature_are_the_slopes_of_the_likelihood(of: type[Shaped] | type[Tied]) -> None:
    generator = np.random.default_rng(6)
    lower = generator.exponential(size=40)
    upper = lower * generator.choice([1.0, 1.5, inf], size=40)
    weight, x = generator.uniform(0.5, 3, size=40), generator.normal(size=40)
    whole = of(Design.of(Observations(lower, upper, weight, x[:, None], ("x",))))
    at = np.array([0.7, 0.1, -0.2, 1.3])[4 - whole.parameter_count :]
    _, score, hessian = whole(at)
    for j in range(at.size):
        step = 1e-5 * np.eye(at.size)[j]
        up, down = whole(at + step), whole(at - step)
        assert score[j] == pytest.approx((up[0] - down[0]) / 2e-5, rel=1e-5, abs=1e-5)
        np.testing.assert_allclose(hessian[j], (up[1] - down[1]) / 2e-5, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(whole.row_scores(at).sum(axis=0), score, rtol=1e-8, atol=1e-8)


def test_the_maximum_is_flat_in_every_direction_and_the_errors_are_its_curvature() -> None:
    """The whole information by second differences of the likelihood, with code that shares only the likelihood."""
    x = np.random.default_rng(3).normal(size=300)
    times = np.exp(1 + 0.4 * x + 0.5 * np.array([LogGamma(0.5).quantile(p) for p in np.linspace(0.001, 0.999, 300)]))
    data = Observations.of(times, np.where(times < 6, times, inf), covariates={"x": x.tolist()})
    found = fit(data, GENERALIZED)
    assert found.shape is not None
    design = Design.of(data)

    def value(p: np.ndarray) -> float:
        likelihood = Likelihood(design, shape_family(p[3]))
        return likelihood(likelihood.standardised(p[:2], math.exp(p[2])))[0]

    best = np.array([*(c.estimate for c in found.coefficients), math.log(found.scale), found.shape])
    steps = np.eye(4) * 1e-3
    slopes = [(value(best + s) - value(best - s)) / 2e-3 for s in steps]
    np.testing.assert_allclose(slopes, 0, atol=2e-3)  # of a curvature of hundreds
    hessian = np.array(
        [
            [
                (value(best + a + b) - value(best + a - b) - value(best - a + b) + value(best - a - b)) / 4e-6
                for b in steps
            ]
            for a in steps
        ]
    )
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance, np.linalg.inv(-hessian), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("distribution", [GENERALIZED, Distribution.GAMMA])
def test_the_unit_of_time_moves_the_intercept_alone(distribution: Distribution) -> None:
    data = checked(0.6, 500)
    one = fit(data, distribution)
    other = fit(Observations(1e-9 * data.lower, 1e-9 * data.upper, data.weight, data.covariates), distribution)
    assert other.shape == pytest.approx(one.shape, abs=1e-5)
    assert other.scale == pytest.approx(one.scale, rel=1e-5)
    for name in ("median", "restricted_mean", "expected"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert theirs.value == pytest.approx(1e-9 * ours.value, rel=1e-5)
        assert theirs.log_standard_error == pytest.approx(ours.log_standard_error, rel=1e-3)


def test_at_the_shape_of_a_named_distribution_the_law_is_its_own() -> None:
    """At Q = 1 and with a known Q everything must be what the Weibull law says, curve and intervals included."""
    data = checked(1.0, 300)
    rows, named = prepared(data), fit(data, Distribution.WEIBULL)
    assert named.covariance is not None
    exact = fitted_time(named, rows)
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = exact.covariance
    law = ShapedTime(exact.mu, exact.sigma, 1.0, covariance)
    horizon = named.restriction_time
    for found, expected in (
        (law.median(0.95), exact.median(0.95)),
        (law.expected(0.95), exact.expected(0.95)),
        (law.restricted_mean(horizon, 0.95), exact.restricted_mean(horizon, 0.95)),
    ):
        np.testing.assert_allclose(astuple(found), astuple(expected), rtol=1e-6)
    assert law.extrapolated_share(horizon) == pytest.approx(exact.extrapolated_share(horizon), rel=1e-6)
    found_curve, expected_curve = law.curve(horizon, 0.95), exact.curve(horizon, 0.95)
    for name in ("time", "survival", "survival_lower", "survival_upper"):
        np.testing.assert_allclose(getattr(found_curve, name), getattr(expected_curve, name), atol=1e-7)


def test_a_free_shape_widens_intervals_and_a_heavy_tail_has_no_mean() -> None:
    data = checked(1.0, 400)
    named, free = fit(data, Distribution.WEIBULL), fit(data, GENERALIZED)
    assert (free.expected.log_standard_error or 0) > (named.expected.log_standard_error or inf)
    whole = described(fit(OVARIAN, GENERALIZED), OVARIAN)
    assert whole.expected.value == inf
    assert whole.expected.lower is None
    assert whole.extrapolated_share == 1
    assert len(whole.curve.time) == 101
    assert all(np.diff(whole.curve.survival) <= 0)


def test_clustered_errors_of_copies_are_those_of_one_copy() -> None:
    data = checked(0.6, 60)
    rows = Observations(np.repeat(data.lower, 1), data.upper, np.ones(data.lower.size), data.covariates)
    copies = np.tile(np.arange(rows.lower.size), 4)

    def clustered(index: np.ndarray, distribution: Distribution) -> Fit:
        chosen = Observations(rows.lower[index], rows.upper[index], rows.weight[index], rows.covariates[index])
        return fit(replace(chosen, cluster=index.astype(np.int64)), distribution)

    for distribution in (GENERALIZED, Distribution.GAMMA):
        once, four = clustered(np.arange(rows.lower.size), distribution), clustered(copies, distribution)
        assert four.degrees_of_freedom == rows.lower.size - 1
        assert four.shape == pytest.approx(once.shape, abs=1e-4)
        assert four.shape_standard_error == pytest.approx(once.shape_standard_error, rel=1e-3)
        assert four.median.log_standard_error == pytest.approx(once.median.log_standard_error, rel=1e-3)


def test_few_failures_and_few_cells_get_a_status() -> None:
    few = Observations.of([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, inf])
    assert fit(few, GENERALIZED).status is Status.TOO_FEW_FAILURES
    # Three cells for three parameters leave nothing to tell the shape by.
    two_checks = Observations.of([0, 1, 2], [1, 2, inf], [20, 30, 50])
    assert fit(two_checks, GENERALIZED).status is Status.NOT_IDENTIFIED
    assert "shape" in fit(two_checks, GENERALIZED).status_message
    nothing = Observations.of([4.0], [inf], [30])
    assert fit(nothing, GENERALIZED).status is Status.NO_FAILURE


def test_a_search_in_many_rows_ends_where_that_in_all_of_them_does() -> None:
    """More rows than the sample that the search begins with; the score there is nothing in every direction."""
    times = np.exp(1 + 0.5 * np.random.default_rng(8).normal(size=20_000))
    data = Observations.of(times, times)
    found = fit(data, GENERALIZED)
    assert found.status is Status.OK
    design = Design.of(data)
    inner = Likelihood(design, shape_family(found.shape or 0.0))
    at = inner.standardised(np.array([found.coefficients[0].estimate]), found.scale)
    score = Shaped(design)(np.append(found.shape or 0.0, at))[1]
    np.testing.assert_allclose(score, 0, atol=1e-3)  # of curvatures of thousands
