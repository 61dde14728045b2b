"""Likelihood-ratio tests of nested distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, weibull_min

from survival_service.distributions import Distribution
from survival_service.fitting import fit, prepared
from survival_service.nesting import NestingTest, nesting_tests
from survival_service.observations import Observations


def exact(time: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Observations:
    return Observations(time, time, np.ones(time.size), np.empty((time.size, 0)))


def of_pairs(data: Observations, *distributions: Distribution) -> dict[tuple[Distribution, Distribution], NestingTest]:
    rows = prepared(data)
    made = nesting_tests([fit(rows, one) for one in distributions], rows)
    return {(one.narrow, one.wide): one for one in made}


def test_the_exponential_within_the_weibull_is_tested_as_scipy_would() -> None:
    time = 3.0 * np.random.default_rng(1).exponential(size=80) ** 0.8
    shape, _, scale = weibull_min.fit(time, floc=0)
    gained = weibull_min.logpdf(time, shape, 0, scale).sum() - (-80 * np.log(time.mean()) - 80)
    found = of_pairs(exact(time), Distribution.WEIBULL)[Distribution.EXPONENTIAL, Distribution.WEIBULL]
    assert found.statistic == pytest.approx(2 * gained, rel=1e-5)
    assert found.p_value == pytest.approx(chi2.sf(2 * gained, 1), rel=1e-5)


def test_log_normal_times_rule_the_weibull_out_and_keep_the_log_normal() -> None:
    time = np.exp(1 + 0.6 * np.random.default_rng(2).normal(size=140))
    found = of_pairs(exact(time), Distribution.WEIBULL, Distribution.LOG_NORMAL)
    weibull = found[Distribution.WEIBULL, Distribution.GENERALIZED_GAMMA]
    normal = found[Distribution.LOG_NORMAL, Distribution.GENERALIZED_GAMMA]
    assert (weibull.p_value or 1) < 0.01
    assert "rule the Weibull one out" in weibull.finding
    assert (normal.p_value or 0) > 0.05
    assert "is enough" in normal.finding


def test_a_fit_without_numbers_has_no_test_but_a_reason() -> None:
    data = Observations(np.array([0.0, 1.0]), np.array([1.0, np.inf]), np.array([30.0, 20.0]), np.empty((2, 0)))
    for test in of_pairs(data, Distribution.WEIBULL, Distribution.GAMMA).values():
        assert test.statistic is None
        assert test.p_value is None
        assert "no numbers" in test.finding


def test_many_distinct_rows_are_not_fitted_with_a_shape_that_nobody_asked_for() -> None:
    time = np.random.default_rng(3).exponential(size=400)
    found = of_pairs(exact(time), Distribution.WEIBULL)
    assert found[Distribution.EXPONENTIAL, Distribution.WEIBULL].statistic is not None
    assert "--distribution generalized-gamma" in found[Distribution.WEIBULL, Distribution.GENERALIZED_GAMMA].finding


def test_rows_in_clusters_have_no_p_value() -> None:
    time = np.repeat(np.random.default_rng(0).exponential(size=40), 2)
    data = Observations(time, time, np.ones(80), np.empty((80, 0)), cluster=np.repeat(np.arange(40), 2))
    rows = prepared(data)
    (test,) = (
        one
        for one in nesting_tests([fit(rows, Distribution.EXPONENTIAL), fit(rows, Distribution.WEIBULL)], rows)
        if one.narrow is Distribution.EXPONENTIAL
    )
    assert test.statistic is not None
    assert test.p_value is None
    assert "not independent" in test.finding
