"""The mean over all samples, those misclassified before the attack counted as 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from survival_service.estimates import NO_ESTIMATE, Estimate
from survival_service.hurdle import hurdle_restricted_mean
from survival_service.reporting import make_report
from survival_service.reports import ReportOptions

Job = Callable[..., object]


def test_it_is_the_share_classified_correctly_times_their_mean() -> None:
    found = hurdle_restricted_mean(Estimate(4.0, 3.5, 4.6, 0.07), 0.9, 200, 10.0, 0.95)
    likely = 180.5 / 201
    assert found.value == pytest.approx(3.6)
    assert found.log_standard_error == pytest.approx(math.sqrt(0.07**2 + (1 - likely) / (likely * 200)))
    assert found.lower == pytest.approx(3.6 * math.exp(-1.959964 * (found.log_standard_error or 0.0)), rel=1e-6)


def test_a_share_of_one_is_not_certain() -> None:
    found = hurdle_restricted_mean(Estimate(4.0, 3.5, 4.6, 0.07), 1.0, 50, 10.0, 0.95)
    assert found.value == pytest.approx(4.0)
    assert 0.07 < (found.log_standard_error or 0.0) < 0.075


def test_its_interval_never_exceeds_the_horizon_and_nothing_comes_of_nothing() -> None:
    assert hurdle_restricted_mean(Estimate(9.9, 9.0, 10.0, 0.05), 1.0, 50, 10.0, 0.95).upper == 10.0
    assert hurdle_restricted_mean(NO_ESTIMATE, 0.9, 50, 10.0, 0.95) == NO_ESTIMATE
    assert hurdle_restricted_mean(Estimate(4.0, 3.5, 4.6, 0.07), 0.0, 50, 10.0, 0.95) == NO_ESTIMATE


def test_its_interval_covers_the_mean_over_all_samples() -> None:
    """Exponential times cut off at 2, 15 % misclassified: the truth is .85 (1 - exp(-2)); 400 replicates of 120."""
    generator, truth, covered = np.random.default_rng(0), 0.85 * (1 - math.exp(-2)), 0
    for _ in range(400):
        correct = generator.binomial(120, 0.85)
        time = generator.exponential(size=correct)
        failures = (time < 2).sum()
        rate = np.minimum(time, 2).sum() / failures
        mean = rate * (1 - math.exp(-2 / rate))
        by_log_rate = 1 - (2 / rate) * math.exp(-2 / rate) / (1 - math.exp(-2 / rate))
        fitted = Estimate(mean, None, None, by_log_rate / math.sqrt(failures))
        found = hurdle_restricted_mean(fitted, correct / 120, 120, 2.0, 0.95)
        covered += (found.lower or 0.0) <= truth <= (found.upper or 0.0)
    assert 0.925 <= covered / 400 <= 0.975


def test_its_interval_has_the_degrees_of_freedom_of_the_fit() -> None:
    mean = Estimate(4.0, None, None, 0.07)
    normal = hurdle_restricted_mean(mean, 1.0, 1e12, 100.0, 0.95)
    student = hurdle_restricted_mean(mean, 1.0, 1e12, 100.0, 0.95, degrees_of_freedom=4)
    widths = [math.log((one.upper or 0.0) / 4.0) for one in (student, normal)]
    assert widths[0] / widths[1] == pytest.approx(2.7764451 / 1.9599640)


def test_a_report_counts_misclassified_samples_at_zero(job: Job) -> None:
    checks: list[int | None] = [*([1, 2, 3, 4, 5] * 8), *([None] * 20)]
    clean = make_report([job(checks)], ReportOptions()).clock_reports[0]  # type: ignore[list-item]
    with_missed = make_report([job([*checks, *([0] * 20)])], ReportOptions()).clock_reports[0]  # type: ignore[list-item]
    assert clean.hurdle_restricted_mean is not None
    assert with_missed.hurdle_restricted_mean is not None
    assert clean.hurdle_restricted_mean.value == pytest.approx(clean.fits[0].restricted_mean.value)
    # Of 80 samples 60 are at risk; the fits, which see only those, are the same.
    assert with_missed.hurdle_restricted_mean.value == pytest.approx(0.75 * (clean.fits[0].restricted_mean.value or 0))


def test_a_report_says_how_many_never_fail_on_each_clock(job: Job) -> None:
    made = job([*([1, 2, 3, 4, 5, 6] * 10), *([None] * 40)])
    (queries, seconds) = make_report([made], ReportOptions()).clock_reports  # type: ignore[list-item]
    for clock in (queries, seconds):
        assert {fit.distribution for fit in clock.cure_fits} == {fit.distribution for fit in clock.fits}
        assert clock.cure_fits[0].cured_share.value == pytest.approx(0.4, abs=0.01)
