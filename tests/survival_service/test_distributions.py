"""The distributions against fifty-digit arithmetic and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from survival_service.distributions import Distribution, Family

FAMILIES = [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC]
STEP = mp.mpf(10) ** -25

# Survival and distribution function of epsilon, each in the form that does not cancel in its own tail.
SURVIVAL: dict[Distribution, Callable[[Any], Any]] = {
    Distribution.WEIBULL: lambda z: mp.exp(-mp.exp(z)),
    Distribution.LOG_NORMAL: lambda z: mp.erfc(z / mp.sqrt(2)) / 2,
    Distribution.LOG_LOGISTIC: lambda z: 1 / (1 + mp.exp(z)),
}
BELOW: dict[Distribution, Callable[[Any], Any]] = {
    Distribution.WEIBULL: lambda z: -mp.expm1(-mp.exp(z)),
    Distribution.LOG_NORMAL: lambda z: mp.erfc(-z / mp.sqrt(2)) / 2,
    Distribution.LOG_LOGISTIC: lambda z: 1 / (1 + mp.exp(-z)),
}


@pytest.fixture(autouse=True)
def _precise() -> Any:
    with mp.workdps(110):
        yield


def derivatives(f: Callable[[Any], Any], z: float) -> tuple[Any, Any, Any]:
    at = mp.mpf(z)
    low, here, high = f(at - STEP), f(at), f(at + STEP)
    return here, (high - low) / (2 * STEP), (high - 2 * here + low) / STEP**2


def assert_close(found: Any, expected: Any, *, relative: float, absolute: float) -> None:
    for number, truth in zip(found, expected, strict=True):
        assert abs(mp.mpf(float(number[0])) - truth) <= relative * abs(truth) + absolute


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
@given(z=st.floats(-35, 6))
@settings(max_examples=60, deadline=None)
def test_the_terms_of_a_row_have_every_digit_in_both_tails(distribution: Distribution, z: float) -> None:
    family, survival, below = distribution.family, SURVIVAL[distribution], BELOW[distribution]
    at = np.array([z])
    assert_close(family.right(at), derivatives(lambda x: mp.log(survival(x)), z), relative=1e-13, absolute=1e-50)
    assert_close(family.left(at), derivatives(lambda x: mp.log(below(x)), z), relative=1e-12, absolute=1e-14)


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
@given(middle=st.floats(-8, 4), log_half=st.floats(-12, 0.7))
@settings(max_examples=80, deadline=None)
def test_an_interval_has_its_digits_down_to_the_thinnest(
    distribution: Distribution, middle: float, log_half: float
) -> None:
    half = 10**log_half

    def log_probability(m: Any, h: Any) -> Any:
        if m > 0:
            return mp.log(SURVIVAL[distribution](m - h) - SURVIVAL[distribution](m + h))
        return mp.log(BELOW[distribution](m + h) - BELOW[distribution](m - h))

    m, h = mp.mpf(middle), mp.mpf(half)
    e = h * mp.mpf(10) ** -20

    def f(i: int, j: int) -> Any:
        return log_probability(m + i * e, h + j * e)

    truth = (
        f(0, 0),
        (f(1, 0) - f(-1, 0)) / (2 * e),
        (f(0, 1) - f(0, -1)) / (2 * e),
        (f(1, 0) - 2 * f(0, 0) + f(-1, 0)) / e**2,
        (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / (4 * e**2),
        (f(0, 1) - 2 * f(0, 0) + f(0, -1)) / e**2,
    )
    found = distribution.family.interval(np.array([middle]), np.array([half]))
    assert_close(found, truth, relative=2e-10, absolute=1e-9)


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
def test_an_exact_row_has_the_slopes_of_its_density(distribution: Distribution) -> None:
    z = np.linspace(-12, 4, 33)
    value, slope, bend = distribution.family.exact(z)
    step = 1e-5
    up, down = distribution.family.exact(z + step), distribution.family.exact(z - step)
    np.testing.assert_allclose((up[0] - down[0]) / (2 * step), slope, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose((up[1] - down[1]) / (2 * step), bend, rtol=1e-7, atol=1e-7)
    survival = distribution.family.survival
    np.testing.assert_allclose((survival(z - step) - survival(z + step)) / (2 * step), np.exp(value), atol=1e-9)


def area_under(family: Family, mu: float, sigma: float, horizon: float) -> float:
    def survival(time: float) -> float:
        return float(family.survival(np.array([(math.log(time) - mu) / sigma]))[0]) if time > 0 else 1.0

    edges = [0.0, *(horizon * 10.0**-k for k in range(9, -1, -1))]
    return sum(quad(survival, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] for a, b in pairwise(edges))


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.89, 0.9, 1.0, 1.7, 3.0])
@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
def test_the_restricted_mean_is_the_area_under_the_survival_function(distribution: Distribution, sigma: float) -> None:
    family = distribution.family
    for mu in (-3.0, 0.0, 2.0):
        for factor in (0.01, 0.5, 1.0, 5.0, 100.0):
            horizon = factor * math.exp(mu)
            expected = area_under(family, mu, sigma, horizon)
            assert family.restricted_mean(mu, sigma, horizon) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("sigma", [0.2, 0.6, 0.8])
@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
def test_the_restricted_mean_tends_to_the_mean(distribution: Distribution, sigma: float) -> None:
    family = distribution.family
    assert family.restricted_mean(0.4, sigma, 1e15) == pytest.approx(math.exp(0.4 + family.log_mean(sigma)), rel=2e-3)


def test_a_log_logistic_time_with_scale_one_or_more_has_no_mean() -> None:
    assert Distribution.LOG_LOGISTIC.family.log_mean(1.0) == math.inf
    assert math.isfinite(Distribution.LOG_LOGISTIC.family.log_mean(0.999))


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
def test_the_slope_of_the_log_mean_is_its_derivative(distribution: Distribution) -> None:
    family = distribution.family
    for sigma in (0.1, 0.5, 0.9):
        slope = (family.log_mean(sigma + 1e-6) - family.log_mean(sigma - 1e-6)) / 2e-6
        assert family.log_mean_slope(sigma) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda d: d.name.lower())
def test_the_quantile_inverts_the_survival_function(distribution: Distribution) -> None:
    for p in (1e-9, 0.1, 0.5, 0.99):
        z = distribution.family.quantile(p)
        assert 1 - float(distribution.family.survival(np.array([z]))[0]) == pytest.approx(p, rel=1e-6)
