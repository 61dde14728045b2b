"""Accuracies of jobs that did not reach their end: what is known of the whole, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from survival_service.accuracies import adversarial_accuracy, clean_share
from survival_service.estimates import NO_ESTIMATE, wilson
from survival_service.jobs import JobFacts
from survival_service.observations import OutcomeColumns
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import make_report
from survival_service.reports import ReportOptions

Job = Callable[..., tuple[JobFacts, OutcomeTable]]


def test_a_whole_job_has_the_shares_of_its_outcomes(job: Job) -> None:
    jobs = [job([0] * 10 + [3] * 60 + [None] * 30)]
    clean = clean_share(jobs)
    assert clean is not None
    assert clean.estimate(0.95) == wilson(90, 100, 0.95)
    assert adversarial_accuracy(jobs, 0.95) == wilson(30, 100, 0.95)


def test_a_job_canceled_in_mid_run_has_the_clean_accuracy_of_its_whole(job: Job) -> None:
    """All 100 misclassified of 1 000 come first; of the 900 others 250 were attacked: that is 90 %, and not 71 %."""
    report = make_report([job([0] * 100 + [2, 3, 4, 5, 6] * 50, canceled=True, sample_count=1000)], ReportOptions())
    assert report.clean_accuracy == wilson(900, 1000, 0.95)
    assert report.adversarial_accuracy is NO_ESTIMATE
    assert any("no accuracy under attack" in sentence for sentence in report.limitations)
    clock = report.clock_reports[0]
    mean = next(fit.restricted_mean.value for fit in clock.fits if fit.has_numbers)
    assert clock.hurdle_restricted_mean is not None
    assert clock.hurdle_restricted_mean.value == pytest.approx(0.9 * mean)  # type: ignore[operator]


def test_a_job_canceled_before_its_first_attack_has_no_accuracy(job: Job) -> None:
    report = make_report([job([0] * 10, canceled=True, sample_count=100)], ReportOptions())
    assert (report.clean_accuracy, report.adversarial_accuracy) == (NO_ESTIMATE, NO_ESTIMATE)
    assert any("no accuracy before the attack" in sentence for sentence in report.limitations)
    nothing = make_report([job([], canceled=True, sample_count=100)], ReportOptions())
    assert nothing.clean_accuracy is NO_ESTIMATE


def test_every_shard_must_have_told_its_misclassified_samples(
    facts: Callable[..., JobFacts], outcome_columns: Callable[..., OutcomeColumns]
) -> None:
    def columns(checks: list[int | None], first: int) -> Any:
        return outcome_columns(checks, budget=20, first_sample=first)

    told, table = facts(sample_count=100, shard_count=2, canceled=True), OutcomeTable()
    table.add(columns([0, 0, 3], 0), shard_index=0)
    table.add(columns([0, 0, 0], 50), shard_index=1)
    assert clean_share([(told, table)]) is None
    table.add(columns([4], 60), shard_index=1)
    known = clean_share([(told, table)])
    assert known is not None
    assert (known.value, known.trials) == pytest.approx((0.95, 100))
    assert clean_share([(replace(told, shard_count=3), table)]) is None


def test_a_canceled_job_beside_a_whole_one_leaves_its_clean_accuracy_out_of_nothing(job: Job) -> None:
    jobs = [
        job([0] * 10 + [3] * 90),
        job([0] * 30 + [3] * 20, canceled=True, sample_count=100, attack_job_id="job-2", dataset_digest="e" * 64),
    ]
    known = clean_share(jobs)
    assert known is not None
    assert (known.value, known.trials) == pytest.approx((0.8, 200))
    assert adversarial_accuracy(jobs, 0.95) is NO_ESTIMATE
