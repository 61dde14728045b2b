"""Profile-likelihood intervals of the median: closed forms, brute force, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
    data = censored(Distribution.WEIBULL, 200, 0.5, seed=1)
    plain, found = both(data, Distribution.WEIBULL)
    assert found.median == plain.median
    assert found.median == log_interval(math.log(found.median.value or 0), found.median.log_standard_error or 0, 0.95)


def test_few_failures_among_clusters_keep_their_clustered_interval() -> None:
    data = censored(Distribution.WEIBULL, 60, 0.3, seed=1)
    clustered = Observations(data.lower, data.upper, data.weight, data.covariates, cluster=np.arange(60) // 3)
    plain, found = both(clustered, Distribution.WEIBULL)
    assert plain.status is Status.OK
    assert found.median == plain.median


@pytest.mark.slow
@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.EXPONENTIAL])
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
