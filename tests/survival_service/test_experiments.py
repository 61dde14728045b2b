"""Totals of experiments carry a rate of failure and a cost, clustered by experiment, and no shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from survival_service.aggregating import report_experiments
from survival_service.distributions import Distribution
from survival_service.errors import InvalidObservations, InvalidRequest
from survival_service.experiments import Experiments, groups, share
from survival_service.fitting import Status, fit
from survival_service.observations import Clock
from survival_service.reports import ReportOptions
from survival_service.scoring import Conclusion


def experiments(**columns: Any) -> Experiments:
    """Four experiments of 100 samples, ten of them wrong before; `columns` replace what they are given."""
    values: dict[str, Any] = {
        "group": ("fgm", "fgm", "pgd", "pgd"),
        "sample_count": [100, 100, 100, 100],
        "failure_count": [45, 60, 80, 72],
        "misclassified_count": [10, 10, 10, 10],
        "attack_seconds": [10.0, 12.0, 200.0, 260.0],
        "training_seconds_per_sample": [0.5, 0.6, 0.5, 0.6],
    } | columns
    names = values.pop("names", ())
    covariates = np.array(values.pop("covariates", [[]] * len(values["sample_count"])), dtype=float)
    group = tuple(values.pop("group"))
    arrays = {name: np.array(column, dtype=float) for name, column in values.items()}
    return Experiments(group=group, covariates=covariates, names=names, **arrays)


def test_the_rate_of_one_experiment_is_that_of_its_current_status_counts() -> None:
    """S(t) = exp(-t/lambda) and 45 of 90 failed by t = 0.1 s a sample: lambda = t / ln 2."""
    one = experiments(
        group=["a"], sample_count=[100], failure_count=[45], misclassified_count=[10], attack_seconds=[10.0],
        training_seconds_per_sample=[0.5],
    )  # fmt: skip
    fitted = fit(one.observations(), Distribution.EXPONENTIAL)
    assert fitted.status is Status.OK
    assert fitted.expected.value == pytest.approx(0.1 / math.log(2), rel=1e-9)
    assert (fitted.observation_count, fitted.failure_count) == (90, 45)


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC])
def test_no_number_of_experiments_gives_a_shape(distribution: Distribution) -> None:
    assert fit(experiments().observations(), distribution).status is Status.SINGLE_CHECK


def test_costs_and_rates_are_ratios_of_totals() -> None:
    fgm, pgd = groups(experiments(), 0.95)
    assert (fgm.group, fgm.experiment_count, fgm.sample_count, fgm.failed_count) == ("fgm", 2, 200, 105)
    assert fgm.misclassified_count == 20
    assert fgm.cost_per_failure.value == pytest.approx(22 / 105)
    assert fgm.training_cost_per_sample == pytest.approx(0.55)
    assert fgm.cost_normalized_failure_rate.value == pytest.approx(0.55 * 105 / 22)
    assert fgm.median_rate == pytest.approx((0.5 * 45 / 10 + 0.6 * 60 / 12) / 2)
    assert pgd.cost_normalized_failure_rate.value == pytest.approx(0.55 * 152 / 460)
    for group in (fgm, pgd):
        rate = group.cost_normalized_failure_rate
        assert rate.lower is not None
        assert rate.upper is not None
        assert rate.lower < rate.value < rate.upper  # type: ignore[operator]


def test_prices_multiply_the_rate_and_leave_the_cost() -> None:
    plain, dear = groups(experiments(), 0.95)[0], groups(experiments(), 0.95, price_ratio=3.0)[0]
    assert dear.cost_per_failure == plain.cost_per_failure
    assert dear.median_rate == pytest.approx(3 * (plain.median_rate or 0))
    assert dear.cost_normalized_failure_rate.value == pytest.approx(3 * (plain.cost_normalized_failure_rate.value or 0))


def test_one_experiment_has_no_interval() -> None:
    (one,) = groups(
        experiments(
            group=["a"], sample_count=[100], failure_count=[45], misclassified_count=[10], attack_seconds=[10.0],
            training_seconds_per_sample=[0.5],
        ),
        0.95,
    )  # fmt: skip
    assert one.cost_per_failure.value == pytest.approx(10 / 45)
    assert one.cost_normalized_failure_rate.lower is None
    assert one.conclusion is Conclusion.UNDECIDED


def test_experiments_that_agree_promise_no_more_than_their_samples() -> None:
    """Without any spread between experiments the error is that of the share: sqrt((1 - p) / (p n)), about."""
    alike = experiments(failure_count=[45] * 4, attack_seconds=[10.0] * 4, training_seconds_per_sample=[0.5] * 4)
    error = groups(alike, 0.95)[0].cost_per_failure.log_standard_error
    assert error == pytest.approx(math.sqrt(0.5 / (0.5 * 180)), rel=0.01)


def test_the_interval_covers_how_experiments_differ() -> None:
    """Of 500 draws of 30 experiments 95 % of the intervals hold the true ratio, but for 3 % (three standard errors)."""
    generator = np.random.default_rng(5)
    n, covered, draws = 30, 0, 500
    for _ in range(draws):
        chance = generator.beta(6, 3, size=n)
        failed = generator.binomial(90, chance)
        seconds = 20 * generator.gamma(4, 0.25, size=n)
        drawn = experiments(
            group=["a"] * n, sample_count=[100] * n, failure_count=failed, misclassified_count=[10] * n,
            attack_seconds=seconds, training_seconds_per_sample=[1.0] * n,
        )  # fmt: skip
        cost = groups(drawn, 0.95)[0].cost_per_failure
        covered += (cost.lower or 0) <= 20 / 60 <= (cost.upper or 0)
    assert 0.92 <= covered / draws <= 0.98


def test_nothing_failed_and_unknown_training_conclude_nothing() -> None:
    unfailed = groups(experiments(failure_count=[0, 0, 80, 72]), 0.95)[0]
    assert unfailed.cost_per_failure.value is None
    assert (unfailed.median_rate, unfailed.conclusion) == (0.0, Conclusion.UNDECIDED)
    unknown = groups(experiments(training_seconds_per_sample=[0.5, 0, 0.5, 0.6]), 0.95)[0]
    assert unknown.cost_per_failure.value == pytest.approx(22 / 105)
    assert unknown.cost_normalized_failure_rate.value is None
    assert (unknown.median_rate, unknown.training_cost_per_sample) == (None, 0.0)
    report = report_experiments(experiments(training_seconds_per_sample=[0.0] * 4), ReportOptions())
    assert report.conclusion is Conclusion.UNDECIDED
    assert "what training cost is not known" in report.summary


def test_a_report_counts_everything_once_and_says_what_it_rests_on() -> None:
    report = report_experiments(
        experiments(names=("depth",), covariates=[[18.0], [34.0], [18.0], [34.0]]), ReportOptions()
    )
    assert (report.sample_count, report.failed_count, report.misclassified_count) == (400, 257, 40)
    assert report.survived_count == 103
    assert report.clean_accuracy.value == pytest.approx(0.9)
    assert report.failure_share.value == pytest.approx(257 / 360)
    (clock,) = report.clock_reports
    assert clock.clock is Clock.SECONDS
    best, *others = clock.fits
    assert best.distribution is Distribution.EXPONENTIAL
    assert {one.status for one in others} == {Status.SINGLE_CHECK}
    # Whoever published the totals has made the attacks: another attack is no advice.
    assert {one.status_message.rpartition("; ")[2] for one in others} == {"submit one row a sample"}
    assert best.concordance is not None
    assert [group.group for group in report.experiment_groups] == ["fgm", "pgd"]
    assert any("totals of experiments" in sentence for sentence in report.limitations)
    assert any("10 % of the samples were wrong" in sentence for sentence in report.limitations)


def test_one_rate_for_unlike_experiments_is_held_against_what_a_failure_cost() -> None:
    """All fail in 20 s of PGD, half in 0.01 s of FGM, whose rate says nothing of what PGD costs."""
    slow = experiments(attack_seconds=[1.0, 1.2, 2000.0, 2600.0], failure_count=[45, 60, 90, 90])
    unlike = report_experiments(slow, ReportOptions())
    alike = report_experiments(experiments(attack_seconds=[10.0, 12.0, 20.0, 22.0]), ReportOptions())
    assert any("at rates too unlike for one" in sentence for sentence in unlike.limitations)
    assert not any("at rates too unlike for one" in sentence for sentence in alike.limitations)


def test_a_group_that_is_broken_alone_is_named_where_all_together_are_not() -> None:
    """Eight cheap experiments and eight dear ones: the total is the dear ones', and an attacker takes a cheap one."""
    failed = [50, 60, 55, 58, 52, 61, 57, 54]
    columns: dict[str, Any] = {
        "group": ["fgm"] * 8 + ["pixel"] * 8, "sample_count": [100] * 16, "failure_count": failed * 2,
        "misclassified_count": [10] * 16, "attack_seconds": [1.0] * 8 + [5000.0] * 8,
        "training_seconds_per_sample": [0.5] * 16,
    }  # fmt: skip
    report = report_experiments(experiments(**columns), ReportOptions())
    assert report.conclusion is Conclusion.NOT_REJECTED
    assert report.summary.endswith("But fgm alone: broken, and an attacker may choose.")
    assert not any("average setting" in text for text in report.limitations)
    covered = experiments(**columns, covariates=[[float(i < 8)] for i in range(16)], names=("cheap",))
    assert any("average setting" in text for text in report_experiments(covered, ReportOptions()).limitations)
    columns["attack_seconds"] = [1.0] * 16
    together = report_experiments(experiments(**columns), ReportOptions())
    assert together.conclusion is Conclusion.BROKEN
    assert "alone" not in together.summary


def test_concordance_is_how_the_fit_orders_the_experiments() -> None:
    """A covariate that orders the times a sample perfectly, the same way as the failures: C = 1."""
    ordered = experiments(
        failure_count=[80, 40, 30, 10], attack_seconds=[10, 20, 30, 40], names=("x",),
        covariates=[[0.0], [1.0], [2.0], [3.0]],
    )  # fmt: skip
    assert report_experiments(ordered, ReportOptions()).clock_reports[0].fits[0].concordance == 1.0


def test_a_share_of_unlike_experiments_is_less_certain_than_its_samples() -> None:
    alike = share(np.full(10, 50.0), np.full(10, 100.0), 0.95)
    unlike = share(np.tile([0.0, 100.0], 5), np.full(10, 100.0), 0.95)
    assert alike.value == unlike.value == 0.5
    assert (unlike.upper or 0) - (unlike.lower or 0) > 5 * ((alike.upper or 0) - (alike.lower or 0))


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"sample_count": [100, 0, 100, 100]}, "sample_count"),
        ({"attack_seconds": [1, 0, 1, 1]}, "attack_seconds"),
        ({"failure_count": [1, -1, 1, 1]}, "failure_count"),
        ({"failure_count": [1, 95, 1, 1]}, "failure_count"),
        ({"misclassified_count": [1, math.nan, 1, 1]}, "misclassified_count"),
        ({"training_seconds_per_sample": [1, 1, 1]}, "training_seconds_per_sample"),
        ({"group": ["a"]}, "group"),
        ({"names": ("x",), "covariates": [[1.0], [math.inf], [1.0], [1.0]]}, "covariates"),
    ],
)
def test_what_is_no_experiment_is_refused_by_its_column(columns: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidObservations) as refused:
        experiments(**columns)
    assert refused.value.field == field


def test_no_experiment_is_no_report() -> None:
    none = experiments(
        group=[], sample_count=[], failure_count=[], misclassified_count=[], attack_seconds=[],
        training_seconds_per_sample=[], covariates=np.empty((0, 0)),
    )  # fmt: skip
    with pytest.raises(InvalidRequest, match="no experiment was sent"):
        report_experiments(none, ReportOptions())
