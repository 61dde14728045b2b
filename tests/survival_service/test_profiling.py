"""Profile-likelihood intervals of the median: closed forms, brute force, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from survival_service.distributions import Distribution
from survival_service.estimates import log_interval
from survival_service.fitting import Fit, Status, described, fit, prepared
from survival_service.likelihood import Likelihood
from survival_service.observations import Observations

inf = math.inf
HALF_CHI_SQUARED = 0.5 * 1.959963984540054**2


def censored(distribution: Distribution, n: int, share: float, seed: int) -> Observations:
    """Times exp(sigma epsilon), watched until `share` of them are expected to have failed."""
    sigma = 1.0 if distribution.scale_fixed else 0.6
    u = np.random.default_rng(seed).uniform(size=n)
    times = np.exp(sigma * np.array([distribution.family.quantile(p) for p in u]))
    end = math.exp(sigma * distribution.family.quantile(share))
    return Observations.of(np.minimum(times, end), np.where(times <= end, times, inf))


def both(data: Observations, distribution: Distribution) -> tuple[Fit, Fit]:
    rows = prepared(data)
    plain = fit(rows, distribution)
    return plain, described(plain, rows)


def test_the_interval_of_an_exponential_median_has_both_ends_at_one_likelihood() -> None:
    """l(m) = -d log(m / ln 2) - E ln 2 / m, and both ends lie half a chi-squared quantile below its maximum."""
    times, failures = [0.4, 1.0, 2.5, 4.0], 3
    data = Observations.of(times, [0.4, 1.0, 2.5, inf])
    found = both(data, Distribution.EXPONENTIAL)[1].median
    exposure = sum(times)

    def log_likelihood(median: float | None) -> float:
        assert median is not None
        mean = median / math.log(2)
        return -failures * math.log(mean) - exposure / mean

    for end in (found.lower, found.upper):
        drop = log_likelihood(found.value) - log_likelihood(end)
        assert drop == pytest.approx(HALF_CHI_SQUARED, rel=1e-3)


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC])
def test_no_scale_lifts_the_likelihood_at_an_end_higher(distribution: Distribution) -> None:
    """By brute force over sigma: at both ends the best log-likelihood is the wanted distance below the maximum."""
    data = censored(distribution, 60, 0.3, seed=4)
    plain, found = both(data, distribution)
    likelihood, quantile = Likelihood(data, distribution.family), distribution.family.quantile(0.5)
    for end in (found.median.lower, found.median.upper):
        assert end is not None
        best = max(
            likelihood(likelihood.standardised(np.array([math.log(end) - sigma * quantile]), sigma))[0]
            for sigma in np.exp(np.linspace(-2.5, 2.0, 4000))
        )
        assert plain.log_likelihood - best == pytest.approx(HALF_CHI_SQUARED, abs=2e-3)


def test_with_covariates_the_interval_is_at_their_means() -> None:
    """Moving a covariate's origin moves neither the median at the means nor its interval."""
    data = censored(Distribution.WEIBULL, 80, 0.25, seed=2)
    x = np.tile([0.0, 1.0, 2.0, 5.0], 20)
    one, other = (
        both(Observations(data.lower, data.upper, data.weight, column[:, None], ("x",)), Distribution.WEIBULL)[1].median
        for column in (x, 1000 + 3 * x)
    )
    assert one.lower == pytest.approx(other.lower, rel=1e-3)
    assert one.upper == pytest.approx(other.upper, rel=1e-3)


def test_with_many_failures_the_interval_stays_symmetric_on_the_log_scale() -> None:
    data = censored(Distribution.WEIBULL, 700, 0.5, seed=1)
    plain, found = both(data, Distribution.WEIBULL)
    assert found.median == plain.median
    symmetric = log_interval(math.log(found.median.value or 0), found.median.log_standard_error or 0, 0.95)
    assert (found.median.lower, found.median.upper) == pytest.approx((symmetric.lower, symmetric.upper), rel=1e-12)


def test_few_failures_among_clusters_keep_their_clustered_interval() -> None:
    data = censored(Distribution.WEIBULL, 60, 0.3, seed=1)
    clustered = Observations(data.lower, data.upper, data.weight, data.covariates, cluster=np.arange(60) // 3)
    plain, found = both(clustered, Distribution.WEIBULL)
    assert plain.status is Status.OK
    assert found.median == plain.median


@pytest.mark.slow
def with_group(distribution: Distribution, seed: int = 5) -> Observations:
    """A hundred samples, about one in five of them failing; those of the group take twice as long."""
    data = censored(distribution, 100, 0.3, seed)
    group = (np.arange(100) % 2).astype(float)
    slower = np.where(group == 1, 2.0, 1.0)
    time = np.where(data.failed, data.upper, data.lower) * np.where(data.failed, slower, 1.0)
    seen = data.failed & (time <= data.lower.max())
    time = np.minimum(time, data.lower.max())
    return Observations.of(time, np.where(seen, time, inf), covariates={"group": group.tolist()})


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.EXPONENTIAL])
def test_at_the_ends_of_a_time_ratio_nothing_lifts_the_likelihood_higher(distribution: Distribution) -> None:
    """By brute force over intercept and scale, both ends lie half a chi-squared quantile below the maximum."""
    data = with_group(distribution)
    plain, found = both(data, distribution)
    ratio, likelihood = (
        found.coefficients[1].time_ratio,
        Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed),
    )
    assert ratio.value == plain.coefficients[1].time_ratio.value
    assert found.coefficients[0] == plain.coefficients[0]
    for end in (ratio.lower, ratio.upper):
        assert end is not None

        def short(p: np.ndarray, end: float = end) -> float:
            sigma = 1.0 if distribution.scale_fixed else math.exp(p[1])
            return -likelihood(likelihood.standardised(np.array([p[0], math.log(end)]), sigma))[0]

        best = minimize(short, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
        assert plain.log_likelihood + best.fun == pytest.approx(HALF_CHI_SQUARED, rel=2e-3)


def test_time_ratios_are_profiled_where_failures_are_few_and_effects_and_rows_are_not_many() -> None:
    data = with_group(Distribution.WEIBULL)
    plain, found = both(data, Distribution.WEIBULL)
    assert found.coefficients[1].time_ratio != plain.coefficients[1].time_ratio
    many = np.random.default_rng(0).normal(size=(100, 5))
    wide = Observations(data.lower, data.upper, data.weight, many, tuple("abcde"))
    plain, found = both(wide, Distribution.WEIBULL)
    assert plain.status is Status.OK
    assert found.coefficients == plain.coefficients
    assert found.median != plain.median
    raw = Observations(data.lower, data.upper, data.weight, 1e-5 * data.covariates, ("tiny",))
    ratio = both(raw, Distribution.WEIBULL)[1].coefficients[1].time_ratio
    assert ratio.value == inf  # e to the power of tens of thousands
    assert ratio.upper == inf


@pytest.mark.parametrize(
    "distribution",
    [
        Distribution.EXPONENTIAL,
        pytest.param(Distribution.WEIBULL, marks=pytest.mark.slow),
        pytest.param(Distribution.LOG_NORMAL, marks=pytest.mark.slow),
    ],
)
def test_with_one_failure_in_ten_the_profile_interval_covers(distribution: Distribution) -> None:
    """800 replicates of 120 samples of which 10 % are expected to fail; Monte-Carlo error 0.8 points."""
    sigma = 1.0 if distribution.scale_fixed else 0.6
    truth = math.exp(sigma * distribution.family.quantile(0.5))
    fitted = hits = 0
    for seed in range(800):
        plain, found = both(censored(distribution, 120, 0.1, seed), distribution)
        if plain.status is Status.OK:
            assert found.median.lower is not None
            assert found.median.upper is not None
            fitted += 1
            hits += found.median.lower <= truth <= found.median.upper
    assert fitted > 780
    assert 0.92 <= hits / fitted <= 0.98
