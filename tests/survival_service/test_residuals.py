"""Cox-Snell residuals: a curve against closed forms, a test of the right size that finds what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import eval_legendre

from survival_service.distributions import Distribution
from survival_service.fitted_rows import FittedRows
from survival_service.fitting import fit, prepared
from survival_service.moments import MomentTest
from survival_service.observations import Observations
from survival_service.residuals import residual_curve, residual_test, smooth_moments


def fitted(data: Observations, distribution: Distribution) -> FittedRows:
    rows = prepared(data)
    return FittedRows.of(fit(rows, distribution), rows)


def simulated(n: int, seed: int, kind: str) -> Observations:
    """Weibull times with one treatment: exact, right-censored at random times, or found by eight checks."""
    generator = np.random.default_rng(seed)
    x = (generator.random(n) > 0.5).astype(float)
    time = np.exp(1.5 + 0.5 * x + 0.6 * np.log(generator.exponential(size=n)))
    if kind == "exact":
        lower = upper = time
    elif kind == "censored":
        end = generator.uniform(2, 9, size=n)
        lower, upper = np.minimum(time, end), np.where(time <= end, time, np.inf)
    else:
        check = np.ceil(time)
        lower, upper = np.where(check > 8, 8.0, check - 1), np.where(check > 8, np.inf, check)
    return Observations(lower, upper, np.ones(n), x[:, None], ("x",))


def test_moments_are_means_of_orthonormal_polynomials() -> None:
    begin, end = np.array([0.0, 0.2, 0.5]), np.array([1.0, 0.9, 0.5])
    made = smooth_moments(begin, end)
    for n in range(1, 5):
        root = np.sqrt(2 * n + 1)
        assert made[0, n - 1] == pytest.approx(0.0, abs=1e-12)  # the mean over all of (0, 1)
        area = quad(lambda u, n=n, r=root: r * eval_legendre(n, 2 * u - 1), 0.2, 0.9)[0] / 0.7
        assert made[1, n - 1] == pytest.approx(area)
        assert made[2, n - 1] == pytest.approx(root * eval_legendre(n, 0.0))


def test_the_curve_of_uncensored_residuals_is_their_distribution() -> None:
    one = fitted(simulated(400, 1, "exact"), Distribution.WEIBULL)
    curve, u = residual_curve(one), one.failure_probability(one.data.upper)
    for expected, observed in zip(curve.expected, curve.observed, strict=True):
        assert observed == pytest.approx(np.mean(u < expected), abs=1 / 400 + 1e-9)


def test_the_curve_meets_the_shares_that_checks_found() -> None:
    """Without covariates it passes, at what the fit expects by each check, through the share failed by it."""
    data = Observations(
        np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, np.inf]), np.array([30.0, 25.0, 15.0, 30.0]),
        np.empty((4, 0)),
    )  # fmt: skip
    one = fitted(data, Distribution.LOG_LOGISTIC)
    curve = residual_curve(one)
    for time, share in ((1.0, 0.30), (2.0, 0.55), (3.0, 0.70)):
        k = round(100 * float(one.failure_probability(time)[0]))
        assert curve.observed[k] == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("kind", ["exact", "censored", "checks"])
def test_a_true_model_passes_and_a_wrong_one_does_not(kind: str) -> None:
    data = simulated(600, 2, kind)
    right, wrong = (residual_test(fitted(data, d)) for d in (Distribution.WEIBULL, Distribution.LOG_NORMAL))
    assert isinstance(right, MomentTest)
    assert isinstance(wrong, MomentTest)
    assert right.p_value > 0.05
    assert wrong.p_value < 0.001


def test_a_weight_is_a_repetition() -> None:
    data, times = simulated(80, 3, "checks"), np.arange(80) % 3 + 1
    weighted = Observations(data.lower, data.upper, times.astype(float), data.covariates, data.names)
    repeated = Observations(
        *(np.repeat(part, times) for part in (data.lower, data.upper, data.weight)),
        np.repeat(data.covariates, times, axis=0),
        data.names,
    )
    ours, other = (residual_test(fitted(of, Distribution.LOG_NORMAL)) for of in (weighted, repeated))
    assert isinstance(ours, MomentTest)
    assert isinstance(other, MomentTest)
    assert other.statistic == pytest.approx(ours.statistic, rel=1e-5)


def test_two_equal_rows_in_a_cluster_are_no_more_evidence_than_one() -> None:
    """The statistic of doubled rows is that of single ones if the pairs are clusters, and about twice it if not."""
    data = simulated(300, 4, "checks")
    cluster = np.arange(300)
    doubled = Observations(
        *(np.tile(part, 2) for part in (data.lower, data.upper, data.weight)),
        np.tile(data.covariates, (2, 1)),
        data.names,
        cluster=np.tile(cluster, 2),
    )
    single = Observations(data.lower, data.upper, data.weight, data.covariates, data.names, cluster=cluster)
    ours, other = (residual_test(fitted(of, Distribution.LOG_NORMAL)) for of in (single, doubled))
    assert isinstance(ours, MomentTest)
    assert isinstance(other, MomentTest)
    assert other.statistic == pytest.approx(ours.statistic, rel=1e-4)


def test_few_samples_are_not_tested() -> None:
    assert "gather more observations" in str(residual_test(fitted(simulated(15, 5, "exact"), Distribution.WEIBULL)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "censored", "checks"])
def test_the_test_rejects_a_true_model_as_often_as_it_says(kind: str) -> None:
    """At most 8 % of 500 jobs of 200 samples at the nominal 5 %: three Monte-Carlo errors of 1 point above it."""
    tests = [residual_test(fitted(simulated(200, 1000 + seed, kind), Distribution.WEIBULL)) for seed in range(500)]
    rejected = np.mean([isinstance(one, MomentTest) and one.p_value < 0.05 for one in tests])
    assert 0.01 < rejected < 0.08
