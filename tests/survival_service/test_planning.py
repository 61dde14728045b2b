"""Sample sizes from the Fisher information, against simulation and the closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.estimates import normal_quantile
from survival_service.fitting import fit
from survival_service.observations import Observations
from survival_service.planning import plan_samples

TEN_PERCENT = math.exp(0.1)


@pytest.mark.parametrize(("share", "count"), [(0.9, 156), (0.7, 209), (0.5, 388), (0.1, 9447)])
def test_the_weibull_needs_what_was_found_by_independent_computation(share: float, count: int) -> None:
    """Shape .6, ten checks, E[T] within a factor e^.1: figures of an earlier prototype."""
    plan = plan_samples(
        Distribution.WEIBULL, scale=0.6, failure_share=share, check_count=10, interval_factor=TEN_PERCENT
    )
    assert plan.expected_sample_count == count


def test_a_failure_share_needs_the_binomial_number() -> None:
    plan = plan_samples(Distribution.WEIBULL, scale=0.6, failure_share=0.5, check_count=10, interval_factor=TEN_PERCENT)
    assert plan.failure_share_sample_count == math.ceil((1.959964 / 0.1) ** 2)


def test_an_exponential_checked_often_needs_one_over_the_failures() -> None:
    plan = plan_samples(
        Distribution.EXPONENTIAL, scale=9.0, failure_share=0.5, check_count=10_000, interval_factor=TEN_PERCENT
    )
    assert plan.median_sample_count == pytest.approx((1.959964 / 0.1) ** 2 / 0.5, rel=0.01)
    assert plan.expected_sample_count == plan.median_sample_count


def test_a_planned_experiment_has_the_planned_precision() -> None:
    """400 simulated experiments of the planned size: the spread of log medians is the planned one within 10 %."""
    sigma, share, checks = 0.7, 0.8, 8
    plan = plan_samples(
        Distribution.LOG_NORMAL, scale=sigma, failure_share=share, check_count=checks, interval_factor=1.2
    )
    budget = math.exp(sigma * Distribution.LOG_NORMAL.family.quantile(share))
    generator = np.random.default_rng(0)
    medians = []
    for _ in range(400):
        times = np.exp(sigma * generator.normal(size=plan.median_sample_count))
        k = np.ceil(times / budget * checks)
        seen = k <= checks
        data = Observations.of(np.where(seen, k - 1, checks), np.where(seen, k, math.inf)).merged()
        median = fit(data, Distribution.LOG_NORMAL).median.value
        assert median is not None
        medians.append(math.log(median))
    assert np.std(medians) == pytest.approx(math.log(1.2) / normal_quantile(0.95), rel=0.1)


def test_an_expected_time_that_is_infinite_has_no_sample_size() -> None:
    plan = plan_samples(Distribution.LOG_LOGISTIC, scale=1.2, failure_share=0.5, check_count=9, interval_factor=1.2)
    assert plan.expected_sample_count is None
    assert plan.median_sample_count > 0


@pytest.mark.parametrize(
    "change",
    [{"scale": 0.0}, {"scale": math.nan}, {"failure_share": 0.0}, {"failure_share": 1.0}, {"check_count": 1},
     {"interval_factor": 1.0}, {"level": 1.0}],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)  # fmt: skip
def test_a_plan_that_makes_no_sense_names_the_field(change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"scale": 0.6, "failure_share": 0.5, "check_count": 10, "interval_factor": 1.1} | change
    with pytest.raises(InvalidRequest) as caught:
        plan_samples(Distribution.WEIBULL, **request)
    assert caught.value.field == next(iter(change)).replace("level", "confidence_level")
