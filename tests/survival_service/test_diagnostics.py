"""The diagnostics of a report as a whole: what they say, and that they say nothing where there is nothing to say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from survival_service import diagnostics
from survival_service.diagnostics import Diagnostics, diagnose
from survival_service.distributions import Distribution
from survival_service.fitting import described, fit, prepared, ranked
from survival_service.observations import Observations
from survival_service.reporting import fit_observations, make_report
from survival_service.reports import ReportOptions

Job = Callable[..., Any]
Checks = Callable[..., list[int | None]]
THREE = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC)


def diagnosed(data: Observations, *distributions: Distribution) -> Diagnostics | None:
    rows = prepared(data)
    return diagnose(ranked([described(fit(rows, one), rows) for one in distributions]), rows)


def test_every_clock_of_a_report_is_diagnosed(job: Job, simulated_checks: Checks) -> None:
    """Three jobs on the same images, on queries, on seconds, and on distance without a fit."""
    jobs = [
        job(
            simulated_checks(80, scale=scale, seed=seed),
            attack_job_id=f"job-{seed}",
            attack_parameters={"epsilon": epsilon},
        )
        for seed, (scale, epsilon) in enumerate([(10.0, 0.05), (7.0, 0.1), (5.0, 0.2)])
    ]
    for clock in make_report(jobs, ReportOptions()).clock_reports:
        of = clock.diagnostics
        assert (of is None) == (not any(fit.has_numbers for fit in clock.fits))
        if of is None:
            continue
        assert [one.distribution for one in of.distributions] == [fit.distribution for fit in clock.fits]
        assert all(one.ici is not None and 0 <= one.ici <= one.emax <= 1 for one in of.distributions if one.emax)
        assert of.cross_validation is not None
        assert of.cross_validation.finding == "3 folds of whole configurations"
        assert [one.covariate for one in of.assumption_checks] == ["log_epsilon"]
        assert of.fit_finding.endswith(".")
        assert of.assumption_finding.endswith(".")


def test_one_job_says_that_every_sample_is_predicted_alike(job: Job, simulated_checks: Checks) -> None:
    clock = make_report([job(simulated_checks(100))], ReportOptions()).clock_reports[0]
    of = clock.diagnostics
    assert of is not None
    assert "the same prediction" in of.notes[0]
    assert of.assumption_finding.startswith("There is one setting")
    assert of.cross_validation is not None
    assert of.cross_validation.finding == "5 folds of samples, for there is one configuration"
    assert [test.statistic is not None for test in of.nesting_tests] == [
        True,
        True,
        True,
        False,
    ]  # nobody asked for a gamma fit


def test_without_numbers_there_is_nothing_to_diagnose() -> None:
    assert diagnosed(Observations.of([5.0, 5.0], [np.inf, np.inf]), *THREE) is None


def test_more_rows_than_can_be_looked_at_leave_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "ROW_LIMIT", 59)
    time = np.random.default_rng(1).exponential(size=60)
    found = diagnosed(Observations(time, time, np.ones(60), np.empty((60, 0))), Distribution.WEIBULL)
    assert found is not None
    assert "fit a sample of them" in found.fit_finding
    assert not found.distributions


def test_numbers_are_those_of_the_samples_that_a_limit_leaves() -> None:
    """A group without failures is left out of the fit, of its calibration and of its residuals."""
    generator = np.random.default_rng(0)
    time = np.append(generator.exponential(size=60), np.full(20, 9.0))
    upper = np.where(np.arange(80) < 60, time, np.inf)
    data = Observations(time, upper, np.ones(80), (np.arange(80)[:, None] >= 60).astype(float), ("held",))
    found = diagnosed(data, Distribution.WEIBULL)
    alone = diagnosed(Observations(time[:60], time[:60], np.ones(60), np.empty((60, 0))), Distribution.WEIBULL)
    assert found is not None
    assert alone is not None
    assert found.distributions[0].ici == alone.distributions[0].ici
    assert found.distributions[0].residual_p_value == alone.distributions[0].residual_p_value


@pytest.mark.parametrize(("size", "few"), [(40, True), (400, False)])
def test_a_fault_found_in_few_samples_is_said_to_mean_little(size: int, few: bool) -> None:
    group = np.repeat([0.0, 1.0], size // 2)
    time = np.random.default_rng(2).exponential(size=size) ** np.where(group == 1, 0.2, 2.0)
    found = diagnosed(Observations(time, time, np.ones(size), group[:, None], ("x",)), Distribution.WEIBULL)
    assert found is not None
    assert found.assumption_finding.startswith("Not for x")
    assert ("With fewer than 100 samples" in found.assumption_finding) == few


def test_observations_of_any_origin_are_diagnosed() -> None:
    time = np.random.default_rng(1).exponential(size=60)
    found = fit_observations(Observations(time, time, np.ones(60), np.empty((60, 0))), ReportOptions())
    assert found.diagnostics is not None
    assert found.diagnostics.calibration_time == np.sort(time)[29]
    assert found.diagnostics.brier_horizon == time.max()
