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
from survival_service.planning import Comparison, ComparisonPlan, plan_samples

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


@pytest.mark.parametrize(
    ("distribution", "checks", "most"),
    [("WEIBULL", 10, 1.032), ("LOG_NORMAL", 10, 1.03), ("LOG_LOGISTIC", 10, 1.12), ("WEIBULL", 5, 1.1),
     ("LOG_NORMAL", 5, 1.1)],
)  # fmt: skip
def test_checks_cost_little_beside_continuous_times(distribution: str, checks: int, most: float) -> None:
    """E[T] at sigma = .6, shares of .1 to .9: 10 checks cost at most 3 % (log-logistic 12 %), 5 checks 10 %."""
    law = Distribution[distribution]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        few, many = (
            plan_samples(law, scale=0.6, failure_share=share, check_count=count, interval_factor=1.001)
            for count in (checks, 20_000)
        )
        assert few.expected_sample_count is not None
        assert many.expected_sample_count is not None
        assert 1 <= few.expected_sample_count / many.expected_sample_count <= most
        assert few.continuous_median_sample_count == many.median_sample_count


def compared(law: Distribution, scale: float, share: float, comparison: Comparison, checks: int = 10) -> ComparisonPlan:
    plan = plan_samples(
        law, scale=scale, failure_share=share, check_count=checks, interval_factor=1.2, comparison=comparison
    ).comparison
    assert plan is not None
    return plan


def test_two_exponential_models_need_what_their_failures_say() -> None:
    """Schoenfeld 1981: with continuous times Var(log ratio) is 1/d1 + 1/d2, the d the failures of each model."""
    plan = compared(Distribution.EXPONENTIAL, 1.0, 0.6, Comparison(2.0, 0.9, 3.0), checks=20_000)
    shares = 0.6, 1 - 0.4**0.5
    needed = (normal_quantile(0.95) + normal_quantile(0.8)) ** 2 / math.log(2) ** 2
    assert plan.second_failure_share == pytest.approx(shares[1])
    assert plan.first_sample_count == pytest.approx(needed * (1 / shares[0] + 1 / (3 * shares[1])), abs=1.01)
    assert plan.second_sample_count == pytest.approx(3 * plan.first_sample_count, abs=3)


def test_two_shares_need_the_textbooks_number() -> None:
    """Fleiss, Levin and Paik 2003, without continuity correction: .6 against .4, power .8: 95 a group unpooled."""
    ratio = math.log(0.4) / math.log(0.6)
    plan = compared(Distribution.EXPONENTIAL, 1.0, 0.6, Comparison(ratio))
    assert plan.second_failure_share == pytest.approx(0.4)
    assert plan.first_failure_share_sample_count == plan.second_failure_share_sample_count == 95


def test_which_of_the_models_comes_first_makes_no_difference() -> None:
    """The second model at 1.5 times the first is the first at 1/1.5 times the second."""
    one = compared(Distribution.LOG_NORMAL, 0.8, 0.7, Comparison(1.5), checks=400)
    other = compared(Distribution.LOG_NORMAL, 0.8, one.second_failure_share, Comparison(1 / 1.5), checks=400)
    assert one.first_sample_count == pytest.approx(other.second_sample_count, abs=1)
    assert other.second_failure_share == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"time_ratio": 1.0}, "time_ratio"), ({"time_ratio": -2.0}, "time_ratio"), ({"power": 1.0}, "power"),
     ({"allocation_ratio": 0.0}, "allocation_ratio")],
)  # fmt: skip
def test_a_comparison_that_makes_no_sense_names_the_field(change: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Comparison(**({"time_ratio": 1.5} | change))
    assert caught.value.field == field


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "scale", "share", "ratio", "power"),
    [(Distribution.WEIBULL, 0.6, 0.7, 1.3, 0.8), (Distribution.LOG_NORMAL, 1.0, 0.5, 1.5, 0.9)],
)
def test_planned_comparisons_have_the_planned_power(
    law: Distribution, scale: float, share: float, ratio: float, power: float
) -> None:
    """1 000 experiments of the planned size: the time ratio's interval leaves out 1 as often as planned, within 4 %."""
    plan = compared(law, scale, share, Comparison(ratio, power))
    generator, noticed, checks = np.random.default_rng(11), 0, 10
    budget = math.exp(scale * law.family.quantile(share))
    for _ in range(1000):
        groups = np.repeat([0.0, 1.0], [plan.first_sample_count, plan.second_sample_count])
        z = generator.normal(size=groups.size)
        z = z if law is Distribution.LOG_NORMAL else np.log(generator.exponential(size=groups.size))
        k = np.ceil(np.exp(scale * z) * ratio**groups / budget * checks)
        seen = k <= checks
        lower, upper = np.where(seen, k - 1, checks), np.where(seen, k, math.inf)
        data = Observations.of(lower, upper, None, {"second": groups.tolist()}).merged()
        found = fit(data, law).coefficients[1].time_ratio
        assert found.lower is not None
        noticed += found.lower > 1
    print(f"\n{law.name}: power {noticed / 1000:.3f}, planned {power}")
    assert noticed / 1000 == pytest.approx(power, abs=0.04)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("check_count", {"check_count": 4_000_000_000}),
        ("interval_factor", {"interval_factor": 1 + 1e-10}),
        ("interval_factor", {"scale": 1e9}),
        ("scale", {"failure_share": 1e-305}),
        ("scale", {"failure_share": 1e-305, "distribution": Distribution.EXPONENTIAL}),
        ("time_ratio", {"comparison": Comparison(1e300)}),
        ("time_ratio", {"comparison": Comparison(1e-300)}),
        ("time_ratio", {"comparison": Comparison(1 + 1e-9)}),
    ],
)
def test_a_wish_beyond_all_numbers_is_refused_by_its_field(field: str, changed: dict[str, Any]) -> None:
    """Four thousand million checks would take more memory than a server has, and 2^64 samples fit no message."""
    asked: dict[str, Any] = {
        "distribution": Distribution.WEIBULL, "scale": 0.6, "failure_share": 0.7, "check_count": 10,
        "interval_factor": 1.1,
    }  # fmt: skip
    asked |= changed
    with pytest.raises(InvalidRequest, match=r"give|at most|choose") as caught:
        plan_samples(asked.pop("distribution"), **asked)
    assert caught.value.field == field
