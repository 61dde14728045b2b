"""The log-gamma family: its limits among the named families, hundred-digit arithmetic, quadrature."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import gamma

from survival_service.distributions import Distribution
from survival_service.log_gamma import LogGamma

Z = np.array([-4.0, -1.5, -0.2, 0.3, 1.1, 2.0])
SHAPES = [-2.0, -0.6, 0.05, 0.5, 1.0, 2.3]


def all_terms(family: Any) -> list[np.ndarray]:
    wide = family.interval(Z, np.full(Z.size, 0.4))
    return [*family.exact(Z), *family.right(Z), *family.left(Z), *wide]


def test_shape_one_is_weibull() -> None:
    for found, expected in zip(all_terms(LogGamma(1.0)), all_terms(Distribution.WEIBULL.family), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [1e-4, -1e-4])
def test_a_shape_near_zero_is_nearly_log_normal(shape: float) -> None:
    """The difference is of the order of the shape."""
    for found, expected in zip(all_terms(LogGamma(shape)), all_terms(Distribution.LOG_NORMAL.family), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)


def test_the_shape_that_equals_the_scale_is_a_gamma_distribution() -> None:
    """With Q = sigma, T = exp(mu + sigma epsilon) is gamma of shape 1/sigma^2 and mean exp(mu)."""
    sigma, mu = 0.7, 0.4
    of_times = gamma(sigma**-2, scale=math.exp(mu) * sigma**2)
    times = np.array([0.1, 1.0, 2.5, 6.0])
    found = LogGamma(sigma).survival((np.log(times) - mu) / sigma)
    np.testing.assert_allclose(found, of_times.sf(times), rtol=1e-12)
    assert mu + LogGamma(sigma).log_mean(sigma) == pytest.approx(math.log(of_times.mean()))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_terms_of_a_row_keep_their_digits_in_both_tails(shape: float) -> None:
    with mp.workdps(100):
        q = mp.mpf(shape)
        k = 1 / q**2

        def below(z: Any) -> Any:
            u = k * mp.exp(q * z)
            part = mp.gammainc(k, 0, u) if shape > 0 else mp.gammainc(k, u)
            return part / mp.gamma(k)

        def above(z: Any) -> Any:
            u = k * mp.exp(q * z)
            part = mp.gammainc(k, u) if shape > 0 else mp.gammainc(k, 0, u)
            return part / mp.gamma(k)

        family, step = LogGamma(shape), mp.mpf(10) ** -20
        for z in (-9.0, -2.0, -0.1, 1.3, 4.0):
            for terms, share in ((family.left, below), (family.right, above)):
                low, here, high = (mp.log(share(mp.mpf(z) + i * step)) for i in (-1, 0, 1))
                truth = (here, (high - low) / (2 * step), (high - 2 * here + low) / step**2)
                for number, expected in zip(terms(np.array([z])), truth, strict=True):
                    assert abs(number[0] - float(expected)) <= 1e-7 * abs(float(expected)) + 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("half", [3e-4, 0.02, 0.8])
def test_an_interval_has_the_probability_and_slopes_of_its_ends(shape: float, half: float) -> None:
    family, h = LogGamma(shape), np.full(5, half)
    z = np.array([family.quantile(p) for p in (0.001, 0.1, 0.5, 0.8, 0.999)])
    value, by_m, by_h, by_mm, by_mh, by_hh = family.interval(z, h)
    probability = family.survival(z - h) - family.survival(z + h)
    np.testing.assert_allclose(np.exp(value), probability, rtol=1e-10, atol=1e-15)
    step = 1e-4
    for moved, slope, bends in (
        ([family.interval(z + s, h) for s in (step, -step)], by_m, (by_mm, by_mh)),
        ([family.interval(z, h * (1 + s)) for s in (step, -step)], by_h * h, (by_mh * h, by_hh * h)),
    ):
        for j, truth in zip((0, 1, 2), (slope, *bends), strict=True):
            found = (moved[0][j] - moved[1][j]) / (2 * step)
            size = 1 + np.abs(truth) + (by_h if j == 2 else 0.0)
            np.testing.assert_allclose(found / size, truth / size, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_thinnest_interval_is_a_density_times_its_width(shape: float) -> None:
    family, h = LogGamma(shape), np.full(5, 1e-12)
    z = np.array([family.quantile(p) for p in (0.001, 0.1, 0.5, 0.8, 0.999)])
    value, by_m, by_h, by_mm, _, by_hh = family.interval(z, h)
    density, slope, bend = family.exact(z)
    np.testing.assert_allclose(value, density + np.log(2 * h), rtol=1e-12)
    np.testing.assert_allclose([by_m, by_mm], [slope, bend], atol=1e-9)
    np.testing.assert_allclose([by_h * h, by_hh * h * h], [h / h, -h / h])


@pytest.mark.parametrize("shape", SHAPES)
def test_times_far_beyond_every_float_of_probability_stay_finite(shape: float) -> None:
    far = np.array([-40.0, 40.0]) / max(1.0, abs(shape))
    family = LogGamma(shape)
    for terms in (family.exact, family.left, family.right):
        value, slope, bend = terms(far)
        assert np.isfinite([value, slope, bend]).all()
        assert (value <= 1.0).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_quantile_mean_and_restricted_mean_are_those_of_the_survival_function(shape: float) -> None:
    family, mu, sigma = LogGamma(shape), 0.3, 0.4
    for p in (1e-6, 0.2, 0.9):
        assert 1 - float(family.survival(np.array([family.quantile(p)]))[0]) == pytest.approx(p, rel=1e-8)

    def survival(time: float) -> float:
        return float(family.survival(np.array([(math.log(time) - mu) / sigma]))[0]) if time > 0 else 1.0

    for horizon in (0.2, 1.5, 8.0):
        edges = [0.0, *(horizon * 10.0**-j for j in range(6, -1, -1))]
        area = sum(quad(survival, a, b, epsabs=1e-12, epsrel=1e-10)[0] for a, b in pairwise(edges))
        assert family.restricted_mean(mu, sigma, horizon) == pytest.approx(area, rel=1e-7)
    slope = (family.log_mean(sigma + 1e-5) - family.log_mean(sigma - 1e-5)) / 2e-5
    assert family.log_mean_slope(sigma) == pytest.approx(slope, rel=1e-5)


def test_a_heavy_tail_has_no_mean() -> None:
    """Q < 0: the tail is a Pareto's, of index 1 / (sigma |Q|)."""
    assert LogGamma(-2.0).log_mean(0.6) == math.inf
    assert math.isfinite(LogGamma(-2.0).log_mean(0.4))
