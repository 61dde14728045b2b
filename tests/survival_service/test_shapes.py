"""Generalised gamma fits: R's numbers, the truth of simulated shapes, joint errors, ratio tests, and statuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.fitting import Status, fit
from survival_service.likelihood import Likelihood
from survival_service.log_gamma import LogGamma, shape_family
from survival_service.observations import Observations
from survival_service.shapes import fit_shape

inf = math.inf
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
    found = fit_shape(OVARIAN)
    assert found.status is Status.OK
    assert found.log_likelihood == pytest.approx(-96.949065760, abs=1e-8)
    assert found.coefficients[0].estimate == pytest.approx(6.4270395, abs=1e-5)
    assert math.log(found.scale) == pytest.approx(0.3547609, abs=1e-5)
    assert found.shape == pytest.approx(-0.7645658, abs=1e-5)
    errors = (found.coefficients[0].standard_error, found.log_scale_standard_error, found.shape_standard_error)
    np.testing.assert_allclose(errors, (0.7358454, 0.2421647, 1.3136747), rtol=1e-5)
    assert found.aic == pytest.approx(6 + 2 * 96.949065760)


@pytest.mark.parametrize("shape", [-1.0, 0.0, 0.6, 1.0, 2.0])
def test_a_known_shape_is_recovered_and_only_the_right_one_survives_its_test(shape: float) -> None:
    found = fit_shape(checked(shape, 4000))
    assert found.status is Status.OK
    assert abs(found.shape - shape) < 3.5 * found.shape_standard_error
    p_values = {test.name: test.p_value for test in found.ratio_tests}
    assert set(p_values) == {"Weibull", "log-normal", "gamma"}
    right = {0.0: "log-normal", 0.6: "gamma", 1.0: "Weibull"}.get(shape)
    for name, p_value in p_values.items():
        assert p_value > 0.01 if name == right else p_value < 1e-3


def test_the_nested_distributions_are_those_fitted_alone() -> None:
    data = checked(0.6, 800)
    tests = {test.name: test.log_likelihood for test in fit_shape(data).ratio_tests}
    assert tests["Weibull"] == pytest.approx(fit(data, Distribution.WEIBULL).log_likelihood, abs=1e-8)
    assert tests["log-normal"] == pytest.approx(fit(data, Distribution.LOG_NORMAL).log_likelihood, abs=1e-8)


def test_the_maximum_is_flat_in_every_direction_and_the_errors_are_its_curvature() -> None:
    """The whole information by second differences of the likelihood, with code that shares only the likelihood."""
    x = np.random.default_rng(3).normal(size=300)
    times = np.exp(1 + 0.4 * x + 0.5 * np.array([LogGamma(0.5).quantile(p) for p in np.linspace(0.001, 0.999, 300)]))
    data = Observations.of(times, np.where(times < 6, times, inf), covariates={"x": x.tolist()})
    found = fit_shape(data)
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


def test_the_unit_of_time_moves_the_intercept_alone() -> None:
    data = checked(0.6, 500)
    one = fit_shape(data)
    other = fit_shape(Observations(1e-9 * data.lower, 1e-9 * data.upper, data.weight, data.covariates))
    assert other.shape == pytest.approx(one.shape, abs=1e-5)
    assert other.scale == pytest.approx(one.scale, rel=1e-5)
    assert other.median.value == pytest.approx(1e-9 * (one.median.value or 0.0), rel=1e-5)
    assert other.restricted_mean.value == pytest.approx(1e-9 * (one.restricted_mean.value or 0.0), rel=1e-5)


def test_few_failures_and_few_cells_get_a_status() -> None:
    few = Observations.of([1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, inf])
    assert fit_shape(few).status is Status.TOO_FEW_FAILURES
    # Three cells for three parameters leave nothing to tell the shape by.
    two_checks = Observations.of([0, 1, 2], [1, 2, inf], [20, 30, 50])
    assert fit_shape(two_checks).status is Status.NOT_CONVERGED
    nothing = Observations.of([4.0], [inf], [30])
    assert fit_shape(nothing).status is Status.NO_FAILURE
