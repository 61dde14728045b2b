"""The concordances of a report: those of its fits, on the samples it was made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.fits import Status
from survival_service.fitting import described, fit
from survival_service.jobs import JobFacts
from survival_service.metrics import harrell
from survival_service.observations import Clock, Observations
from survival_service.outcome_table import OutcomeTable
from survival_service.preparing import prepared
from survival_service.ranking import fit_concordances
from survival_service.reporting import make_report
from survival_service.reports import ReportOptions

Job = Callable[..., tuple[JobFacts, OutcomeTable]]


def test_a_report_of_several_jobs_has_the_concordances_of_its_fits(
    job: Job, simulated_checks: Callable[..., list[int | None]]
) -> None:
    jobs = [
        job(simulated_checks(120, scale=scale, seed=i), attack_job_id=f"job-{i}", attack_parameters={"epsilon": size})
        for i, (scale, size) in enumerate([(12.0, 0.05), (5.0, 0.1), (2.5, 0.2)])
    ]
    report = make_report(jobs, ReportOptions())
    for clock in report.clock_reports:
        if clock.clock is Clock.DISTANCE:
            continue
        assert [one.distribution for one in clock.concordances] == [one.distribution for one in clock.fits]
        for one, found in zip(clock.concordances, clock.fits, strict=True):
            assert one.harrell is not None
            assert one.uno is not None
            assert one.interval_pair is not None
            assert one.harrell.value == found.concordance
            assert one.restriction_time == found.restriction_time
            for estimate in (one.harrell, one.uno, one.interval_pair):
                assert estimate.lower is not None
                assert estimate.value is not None
                assert estimate.upper is not None
                assert 0.5 < estimate.lower < estimate.value < estimate.upper < 1
            # Every survivor was watched as long as the others: nothing was hidden for Uno to weigh.
            assert one.uno.value == pytest.approx(one.harrell.value, rel=1e-12)


def test_one_job_predicts_the_same_for_every_sample_and_has_none(
    job: Job, simulated_checks: Callable[..., list[int | None]]
) -> None:
    report = make_report([job(simulated_checks(60))], ReportOptions())
    assert all(clock.concordances == () for clock in report.clock_reports)


def test_a_group_without_failures_is_predicted_to_outlive_all_others() -> None:
    generator = np.random.default_rng(3)
    time = np.ceil(4 * generator.exponential(size=60))
    data = Observations.of(
        [*(time - 1), *[9.0] * 20], [*time, *[np.inf] * 20], covariates={"never": [0.0] * 60 + [1.0] * 20}
    )
    rows = prepared(data)
    found = described(fit(rows, Distribution.WEIBULL), rows)
    assert found.status is Status.GROUP_WITHOUT_FAILURE
    (one,) = fit_concordances([found], rows)
    truth = harrell(data, np.repeat([0.0, 1.0], [60, 20]))
    assert truth is not None
    assert one.harrell is not None
    assert one.harrell.value == found.concordance == truth.value


def test_equal_rows_are_ties_however_many_covariates_there_are() -> None:
    """Twenty covariates at two settings: a prediction that rounds by position would order equal rows."""
    generator = np.random.default_rng(7)
    settings = generator.normal(size=(2, 20))
    which = generator.integers(0, 2, 400)
    time = np.ceil(4 * np.exp(which * 0.3) * generator.exponential(size=400))
    data = Observations.of(time - 1, time, covariates={f"x{j}": settings[which, j].tolist() for j in range(20)})
    rows = prepared(data)
    found = described(fit(rows, Distribution.WEIBULL), rows)
    truth = harrell(data, which.astype(float))
    assert truth is not None
    assert found.concordance == pytest.approx(max(truth.value, 1 - truth.value), rel=1e-12)
