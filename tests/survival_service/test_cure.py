"""Mixture-cure fits against an independent maximiser, closed forms and simulations with a known cured share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq, minimize
from scipy.special import expit

from survival_service.cure import CureFit, CureStatus, FollowUp, cure_fits, fit_cure
from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, Estimate
from survival_service.fitting import fit, prepared
from survival_service.observations import Clock, Observations

# Survival functions of the standardised log time, by scipy alone.
SURVIVAL: dict[Distribution, Callable[[np.ndarray], np.ndarray]] = {
    Distribution.WEIBULL: stats.gumbel_l.sf,
    Distribution.LOG_NORMAL: stats.norm.sf,
    Distribution.LOG_LOGISTIC: stats.logistic.sf,
    Distribution.EXPONENTIAL: stats.gumbel_l.sf,
}
DENSITY = {
    Distribution.WEIBULL: stats.gumbel_l.pdf,
    Distribution.LOG_NORMAL: stats.norm.pdf,
    Distribution.LOG_LOGISTIC: stats.logistic.pdf,
    Distribution.EXPONENTIAL: stats.gumbel_l.pdf,
}


def checked(
    share: float,
    *,
    count: int = 600,
    check_count: int = 20,
    budget: float = 4.0,
    sigma: float = 0.7,
    seed: int = 0,
    distribution: Distribution = Distribution.WEIBULL,
) -> Observations:
    """The counts of an attack checked at even times up to its budget, of which so many samples never fail."""
    end = np.arange(1, check_count + 1) * budget / check_count
    failed = (1 - share) * (1 - SURVIVAL[distribution](np.log(end) / sigma))
    weight = np.random.default_rng(seed).multinomial(count, np.diff(np.concatenate([[0.0], failed, [1.0]])))
    lower, upper, seen = np.append(0.0, end), np.append(end, np.inf), weight > 0
    return Observations.of(lower[seen], upper[seen], weight[seen].astype(float))


def cure(observations: Observations, distribution: Distribution = Distribution.WEIBULL) -> CureFit:
    rows = prepared(observations)
    return fit_cure(rows, fit(rows, distribution))


def known(estimate: Estimate) -> tuple[float, float, float]:
    """Value, lower and upper end."""
    assert estimate.value is not None
    assert estimate.lower is not None
    assert estimate.upper is not None
    return estimate.value, estimate.lower, estimate.upper


def mixed() -> Observations:
    """Rows of all kinds, 40 % of whose samples never fail, with a covariate and weights."""
    generator = np.random.default_rng(4)
    n = 160
    x = generator.integers(0, 2, n).astype(float)
    time = np.exp(0.4 * x + 0.6 * generator.logistic(size=n))
    time[generator.random(n) < 0.4] = np.inf
    lower, upper = np.where(time > 8, 8.0, time), np.where(time > 8, np.inf, time)
    kind = generator.integers(0, 3, n)
    failed = np.isfinite(upper)
    lower = np.where(failed & (kind == 1), np.floor(4 * time) / 4, lower)
    upper = np.where(failed & (kind == 1), np.floor(4 * time) / 4 + 0.25, upper)
    lower = np.where(failed & (kind == 2) & (time < 1), 0.0, lower)
    return Observations.of(lower, upper, generator.integers(1, 4, n), {"x": x.tolist()})


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC])
def test_fits_are_those_of_an_independent_maximiser(distribution: Distribution) -> None:
    """The likelihood written out with scipy's distributions, maximised by Nelder and Mead, differenced numerically."""
    data = mixed()
    lower, upper, x, weight = data.lower, data.upper, data.covariates[:, 0], data.weight
    exact, right = lower == upper, np.isinf(upper)

    def minus_log_likelihood(at: np.ndarray) -> float:
        share, sigma, mu = expit(at[0]), math.exp(at[3]), at[1] + at[2] * x
        with np.errstate(all="ignore"):
            low = SURVIVAL[distribution]((np.log(lower) - mu) / sigma)
            high = SURVIVAL[distribution](end := (np.log(upper) - mu) / sigma)
            failed = np.where(exact, DENSITY[distribution](end) / (sigma * upper), low - high)
        return -float(weight @ np.log(np.where(right, share + (1 - share) * low, (1 - share) * failed)))

    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    reference = minimize(minus_log_likelihood, [0.0, 0.0, 0.0, 0.0], method="Nelder-Mead", options=options)
    found = cure(data, distribution)
    assert found.status is CureStatus.OK
    ours = [known(found.cured_share)[0], *(c.estimate for c in found.coefficients), found.scale]
    np.testing.assert_allclose(ours, [expit(reference.x[0]), *reference.x[1:3], math.exp(reference.x[3])], atol=2e-6)
    assert found.log_likelihood == pytest.approx(-reference.fun, rel=1e-12)
    assert found.aic == pytest.approx(2 * 4 + 2 * reference.fun, rel=1e-12)

    step, hessian = 1e-4, np.empty((4, 4))
    for i in range(4):
        for j in range(4):
            ends = [
                a * b * minus_log_likelihood(reference.x + step * (a * np.eye(4)[i] + b * np.eye(4)[j]))
                for a in (1, -1)
                for b in (1, -1)
            ]
            hessian[i, j] = sum(ends) / (4 * step * step)
    assert found.covariance is not None
    np.testing.assert_allclose(found.covariance, np.linalg.inv(hessian), rtol=2e-4, atol=1e-7)
    errors = [found.logit_standard_error, *(c.standard_error for c in found.coefficients)]
    np.testing.assert_allclose([*errors, found.log_scale_standard_error], np.sqrt(np.diag(found.covariance)))


def test_after_a_long_attack_the_cured_share_is_that_of_the_survivors() -> None:
    """Exponential failures, seen exactly, and survivors at 200 times their mean: then pi and the rate part."""
    generator = np.random.default_rng(1)
    time = generator.exponential(size=70)
    found = cure(Observations.of([*time, 200.0], [*time, np.inf], [1.0] * 70 + [30.0]), Distribution.EXPONENTIAL)
    assert found.cured_share.value == pytest.approx(0.3, rel=1e-9)
    assert found.logit_standard_error == pytest.approx(math.sqrt(1 / 30 + 1 / 70), rel=1e-6)
    assert found.median.value == pytest.approx(time.mean() * math.log(2), rel=1e-6)
    assert found.follow_up is FollowUp.SUFFICIENT
    # The profile of a share of which the data are 30 of 100.
    height = 30 * math.log(0.3) + 70 * math.log(0.7) - 0.5 * stats.chi2.ppf(DEFAULT_LEVEL, 1)
    ends = [brentq(lambda p: 30 * math.log(p) + 70 * math.log(1 - p) - height, *b) for b in ((1e-9, 0.3), (0.3, 0.9))]
    np.testing.assert_allclose(known(found.cured_share)[1:], ends, rtol=1e-3)


def test_the_p_value_is_that_of_a_share_at_the_edge_of_its_range() -> None:
    """Twice the log-likelihood gained is 0 half of the time, else the square of a normal number (Self, Liang 1987)."""
    observations = checked(0.05, count=300, budget=2.5)
    found = cure(observations)
    gain = found.log_likelihood - fit(observations, Distribution.WEIBULL).log_likelihood
    assert found.p_value == pytest.approx(stats.norm.sf(math.sqrt(2 * gain)), rel=1e-6)
    assert 0.001 < (found.p_value or 0.0) < 0.4


def test_a_budget_a_hundred_times_as_large_leaves_the_cured_share_alone() -> None:
    """30 % never fail: what a plain Weibull expects runs off with the budget, the cured share is found from 3 on."""
    fits, expected = {}, {}
    for budget in (1, 3, 10, 30, 100):
        observations = checked(0.3, count=4000, check_count=20 * budget, budget=float(budget), seed=budget)
        rows = prepared(observations)
        plain = fit(rows, Distribution.WEIBULL, clock=Clock.QUERIES)
        fits[budget], expected[budget] = fit_cure(rows, plain), plain.expected.value or 0.0
    assert expected[100] > 20 * expected[1]
    assert expected[100] > 3 * expected[10]
    for budget in (3, 10, 30, 100):
        share, least, greatest = known(fits[budget].cured_share)
        assert least <= 0.3 <= greatest
        assert share == pytest.approx(0.3, abs=0.025)
        assert fits[budget].median.value == pytest.approx(math.log(2) ** 0.7, rel=0.05)
        assert (fits[budget].p_value or 0.0) < 1e-6
    assert fits[1].follow_up is FollowUp.SHORT
    assert "raise the number of iterations" in fits[1].follow_up_message
    assert all(fits[budget].follow_up is FollowUp.SUFFICIENT for budget in (10, 30, 100))


def test_no_cured_share_is_called_for_where_every_sample_fails_in_the_end() -> None:
    found = cure(checked(0.0, budget=1.2, seed=4))
    assert found.status is CureStatus.NO_CURED_SHARE
    assert (found.cured_share.value, found.cured_share.lower, found.p_value) == (0.0, 0.0, 1.0)
    assert 0.0 < (found.cured_share.upper or 0.0) < 0.5
    assert found.median.value is None
    assert found.aic == pytest.approx(2 * 3 - 2 * found.log_likelihood)


def test_where_everything_failed_the_bound_is_that_of_a_share_never_seen() -> None:
    """With no survivor the likelihood falls like (1 - pi)^n, whatever the distribution: Clopper and Pearson's bound."""
    time = np.random.default_rng(2).weibull(1.4, size=50)
    for distribution in (Distribution.WEIBULL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL):
        found = cure(Observations.of(time, time), distribution)
        assert found.status is CureStatus.NO_CURED_SHARE
        assert found.cured_share.upper == pytest.approx(1 - 0.05 ** (1 / 50), rel=2e-3)


def test_a_weight_is_a_repetition() -> None:
    data = mixed()
    times = data.weight.astype(int)
    alone = Observations(
        np.repeat(data.lower, times),
        np.repeat(data.upper, times),
        np.ones(times.sum()),
        np.repeat(data.covariates, times, axis=0),
        data.names,
    )
    one, many = cure(data), cure(alone)
    assert one.log_likelihood == pytest.approx(many.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(known(one.cured_share), known(many.cured_share), rtol=1e-6)
    np.testing.assert_allclose(known(one.median), known(many.median), rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-12, 1e6])
def test_the_unit_of_time_matters_to_times_only(unit: float) -> None:
    data = mixed()
    other = Observations(data.lower * unit, data.upper * unit, data.weight, data.covariates, data.names)
    one, scaled = cure(data), cure(other)
    np.testing.assert_allclose(known(scaled.cured_share), known(one.cured_share), rtol=1e-6)
    np.testing.assert_allclose(known(scaled.median), unit * np.array(known(one.median)), rtol=1e-6)
    np.testing.assert_allclose(known(scaled.restricted_mean), unit * np.array(known(one.restricted_mean)), rtol=1e-6)
    assert scaled.unfailed_share == pytest.approx(one.unfailed_share, rel=1e-6)
    assert scaled.p_value == pytest.approx(one.p_value, rel=1e-6)


def test_doubled_rows_in_clusters_are_worth_no_more_than_single_ones() -> None:
    data = mixed()
    n = data.lower.size
    lone = Observations(data.lower, data.upper, np.ones(n), data.covariates, data.names, np.arange(n))
    twice = Observations(
        np.tile(data.lower, 2),
        np.tile(data.upper, 2),
        np.ones(2 * n),
        np.tile(data.covariates, (2, 1)),
        data.names,
        np.tile(np.arange(n), 2),
    )
    one, two = cure(lone), cure(twice)
    assert one.covariance is not None
    assert two.covariance is not None
    np.testing.assert_allclose(two.covariance, one.covariance, rtol=1e-6)
    value, *ends = known(two.cured_share)
    margin = stats.t.ppf(0.975, n - 1) * math.sqrt(two.covariance[0, 0])
    np.testing.assert_allclose(ends, expit(math.log(value / (1 - value)) + np.array([-margin, margin])), rtol=1e-9)
    assert two.cured_share.lower == pytest.approx(one.cured_share.lower, rel=1e-6)
    assert one.p_value is two.p_value is None


@pytest.mark.parametrize(("longest", "status"), [(1.0, CureStatus.NOT_IDENTIFIED), (1.3, CureStatus.OK)])
def test_a_clustered_share_near_zero_is_not_identified(longest: float, status: CureStatus) -> None:
    """On the logit scale the first interval would be 3e-7 to 0.986; the same rows without clusters have a profile."""
    time = stats.expon.ppf((np.arange(60) + 0.5) / 60)
    bounds = np.append(time, longest * time[-1]), np.append(time, np.inf)
    rest = np.ones(61), np.empty((61, 0)), ()
    alone, clustered = cure(Observations(*bounds, *rest)), cure(Observations(*bounds, *rest, np.arange(61)))
    assert clustered.status is status
    assert (clustered.cured_share.value is None) == (clustered.follow_up is None) == (status is not CureStatus.OK)
    assert ("close to 0" in clustered.status_message) == (status is not CureStatus.OK)
    assert alone.status is CureStatus.OK
    assert known(alone.cured_share)[2] < 0.1


def test_few_clusters_are_said_to_be_few() -> None:
    data = mixed()
    n = data.lower.size
    found = cure(Observations(data.lower, data.upper, data.weight, data.covariates, data.names, np.arange(n) % 5))
    assert "5 clusters, too few" in found.status_message


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC])
def test_median_mean_and_curve_are_those_of_the_fitted_mixture(distribution: Distribution) -> None:
    found = cure(checked(0.3, distribution=distribution, budget=6.0), distribution)
    share, mu = found.cured_share.value or 0.0, found.coefficients[0].estimate

    def survival(time: float) -> float:
        z = (np.log(np.maximum(time, 1e-300)) - mu) / found.scale
        return share + (1 - share) * float(SURVIVAL[distribution](z))

    assert survival(found.median.value or 0.0) == pytest.approx(share + (1 - share) / 2)
    area = quad(survival, 0.0, found.restriction_time, limit=200)[0]
    assert found.restricted_mean.value == pytest.approx(area, rel=1e-7)
    assert known(found.restricted_mean)[2] < found.restriction_time
    np.testing.assert_allclose(found.curve.survival, [survival(time) for time in found.curve.time], rtol=1e-9)
    assert (np.array(found.curve.survival_lower) <= found.curve.survival).all()
    assert (np.array(found.curve.survival_upper) >= found.curve.survival).all()
    assert found.unfailed_share == pytest.approx((survival(found.restriction_time) - share) / (1 - share), rel=1e-6)


def test_the_band_of_the_curve_ends_like_the_share_of_survivors() -> None:
    """At the end of a long attack the curve is the cured share, and its band that of a share of 30 of 100."""
    time = np.random.default_rng(1).exponential(size=70)
    found = cure(Observations.of([*time, 200.0], [*time, np.inf], [1.0] * 70 + [30.0]), Distribution.EXPONENTIAL)
    margin = stats.norm.ppf(0.975) * math.sqrt(1 / 30 + 1 / 70)
    centre = math.log(0.3 / 0.7)
    assert found.curve.survival_lower[-1] == pytest.approx(expit(centre - margin), rel=1e-6)
    assert found.curve.survival_upper[-1] == pytest.approx(expit(centre + margin), rel=1e-6)


STATUSES: dict[str, tuple[Observations, CureStatus, str]] = {
    "nothing failed": (Observations.of([3.0], [np.inf], [50.0]), CureStatus.NO_FIT, "no observation failed"),
    "one check": (Observations.of([0.0, 3.0], [3.0, np.inf], [30.0, 20.0]), CureStatus.NO_FIT, "checked once"),
    "two checks": (
        Observations.of([0.0, 1.0, 2.0], [1.0, 2.0, np.inf], [30.0, 20.0, 10.0]),
        CureStatus.NOT_IDENTIFIED,
        "2 checks only",
    ),
    "few failures": (
        Observations.of([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, np.inf], [2.0, 2.0, 1.0, 50.0]),
        CureStatus.TOO_FEW_FAILURES,
        "6 are needed",
    ),
}


@pytest.mark.parametrize("name", STATUSES)
def test_a_status_comes_before_a_number(name: str) -> None:
    observations, status, sentence = STATUSES[name]
    found = cure(observations)
    assert found.status is status
    assert sentence in found.status_message
    assert found.cured_share.value is None
    assert found.p_value is None


def test_an_exponential_needs_two_checks() -> None:
    once, twice = STATUSES["one check"][0], STATUSES["two checks"][0]
    assert cure(once, Distribution.EXPONENTIAL).status is CureStatus.NOT_IDENTIFIED
    assert cure(twice, Distribution.EXPONENTIAL).status in (CureStatus.OK, CureStatus.NO_CURED_SHARE)


def test_many_rows_have_the_maximum_of_their_counts() -> None:
    """A search that begins in a sample of the rows, against one in 21 cells; the intervals are then the same but for
    what the profile's is skewed."""
    counts = checked(0.3, count=40_000)
    times = counts.weight.astype(int)
    alone = Observations(
        np.repeat(counts.lower, times), np.repeat(counts.upper, times), np.ones(40_000), np.empty((40_000, 0))
    )
    few, many = cure(counts), cure(alone)
    assert many.log_likelihood == pytest.approx(few.log_likelihood, rel=1e-12)
    assert many.logit_standard_error == pytest.approx(few.logit_standard_error, rel=1e-5)
    np.testing.assert_allclose(known(many.cured_share), known(few.cured_share), atol=1e-4)


def test_fits_come_best_first() -> None:
    rows = prepared(checked(0.3, count=2000))
    fits = tuple(fit(rows, one) for one in (Distribution.LOG_NORMAL, Distribution.WEIBULL, Distribution.EXPONENTIAL))
    found = cure_fits(rows, fits)
    assert len(found) == 3
    assert [one.aic for one in found] == sorted(one.aic for one in found)
    assert found[0].distribution is Distribution.WEIBULL


def test_a_fit_is_flagged_where_one_that_is_not_ruled_out_would_have_gone_on() -> None:
    """A Weibull takes the few late failures of a log-logistic sample for the last; the log-logistic does not."""
    rows = prepared(checked(0.3, count=200, budget=3.0, distribution=Distribution.LOG_LOGISTIC))
    fits = tuple(fit(rows, one) for one in (Distribution.WEIBULL, Distribution.LOG_LOGISTIC))
    alone = cure_fits(rows, fits[:1])[0]
    beside = next(one for one in cure_fits(rows, fits) if one.distribution is Distribution.WEIBULL)
    assert alone.follow_up is FollowUp.SUFFICIENT
    assert beside.follow_up is FollowUp.SHORT
    assert beside.cured_share == alone.cured_share
    assert "log-logistic fit, which the data do not rule out" in beside.follow_up_message


def test_on_the_clock_of_distance_a_short_attack_is_one_with_a_small_epsilon() -> None:
    rows = prepared(checked(0.3, budget=1.0))
    found = [fit_cure(rows, fit(rows, Distribution.WEIBULL, clock=clock)) for clock in (Clock.DISTANCE, Clock.QUERIES)]
    assert [one.follow_up_message.rpartition("; ")[2] for one in found] == [
        "try larger epsilons",
        "raise the number of iterations",
    ]


def test_no_replicate_raises_or_gives_a_share_outside_its_interval() -> None:
    known_count = 0
    for seed in range(16):
        share, budget = seed % 4 / 4, (0.3, 0.8, 6.0, 60.0)[seed // 4]
        rows = prepared(checked(share, count=60, budget=budget, seed=seed))
        for distribution in (Distribution.WEIBULL, Distribution.LOG_LOGISTIC):
            found = fit_cure(rows, fit(rows, distribution))
            if found.cured_share.value is not None:
                known_count += 1
                value, lower, upper = known(found.cured_share)
                assert 0.0 <= lower <= value <= upper <= 1.0
    assert known_count > 12


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_intervals_of_the_cured_share_cover_it_where_follow_up_suffices(share: float) -> None:
    """500 replicates of 200 samples checked 20 times, until 99 % of those that can fail have failed."""
    covered = []
    for seed in range(500):
        _, lower, upper = known(cure(checked(share, count=200, budget=math.log(100) ** 0.7, seed=seed)).cured_share)
        covered.append(lower <= share <= upper)
    assert 0.925 <= np.mean(covered) <= 0.975


@pytest.mark.slow
def test_a_test_for_a_cured_share_keeps_its_level() -> None:
    """Without a cured share, p is below 0.05 in at most 5 % of 600 replicates, within 2.5 Monte-Carlo errors."""
    p = [cure(checked(0.0, count=300, budget=3.0, seed=seed)).p_value or 0.0 for seed in range(600)]
    assert np.mean(np.array(p) < 0.05) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 600)
