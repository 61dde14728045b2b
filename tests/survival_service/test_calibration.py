"""Calibration against R (glm and coxph), closed forms and invariants."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from survival_service.calibration import Calibration, calibration, shared_time
from survival_service.distributions import Distribution
from survival_service.fitted_rows import FittedRows, weighted_quantile
from survival_service.fitting import fit, prepared
from survival_service.grouped_hazards import fit_grouped_hazards
from survival_service.observations import Observations

HERE = Path(__file__).parent


def reference() -> dict[str, float]:
    """What `diagnostics_r/diagnostics.R` printed with R 4.2.2, survival 3.5-3 and pec 2022.05.04."""
    with (HERE / "diagnostics_r" / "diagnostics.csv").open() as file:
        return {row["name"]: float(row["value"]) for row in csv.DictReader(file)}


def veteran() -> Observations:
    with (HERE / "survreg" / "veteran.csv").open() as file:
        rows = list(csv.DictReader(file))
    upper = [float(row["duration_upper"] or "inf") for row in rows]
    covariates = {name: [float(row[name]) for row in rows] for name in ("karno", "age")}
    return Observations.of([float(row["duration_lower"]) for row in rows], upper, None, covariates)


def calibrated(data: Observations, distribution: Distribution = Distribution.WEIBULL) -> Calibration:
    rows, time = prepared(data), shared_time(data)
    assert time is not None
    found = calibration(FittedRows.of(fit(rows, distribution), rows), time)
    assert found is not None
    return found


def test_calibration_is_that_of_a_person_period_regression_in_r() -> None:
    """`diagnostics_r/diagnostics.R`: a cloglog `glm` of person-periods, and `coxph`, which takes ties otherwise."""
    expected, found = reference(), calibrated(veteran())
    assert shared_time(veteran()) == expected["t0"]
    for name in ("ici", "e50", "e90", "emax"):
        assert getattr(found, name) == pytest.approx(expected[f"grouped_{name}"], abs=1e-7)
    assert found.ici == pytest.approx(expected["cox_ici"], abs=0.003)


def test_calibration_does_not_depend_on_the_unit_of_time() -> None:
    data = veteran()
    scaled = Observations(data.lower * 1e-9, data.upper * 1e-9, data.weight, data.covariates, data.names)
    ours, other = calibrated(data), calibrated(scaled)
    assert (other.ici, other.e50, other.e90, other.emax) == pytest.approx((ours.ici, ours.e50, ours.e90, ours.emax))


def test_a_weight_is_a_repetition() -> None:
    data = veteran()
    times = np.arange(data.lower.size) % 3 + 1
    weighted = Observations(data.lower, data.upper, times.astype(float), data.covariates, data.names)
    repeated = Observations(
        *(np.repeat(part, times) for part in (data.lower, data.upper, data.weight)),
        np.repeat(data.covariates, times, axis=0),
        data.names,
    )
    ours, other = calibrated(weighted), calibrated(repeated)
    assert (other.ici, other.e50, other.e90, other.emax) == pytest.approx(
        (ours.ici, ours.e50, ours.e90, ours.emax), rel=1e-8
    )
    assert shared_time(weighted) == shared_time(repeated)


def test_without_covariates_calibration_is_the_distance_from_the_share_observed() -> None:
    """Three checks find 30, 20 and 10 of 100: half of the failures at the first, where the share is 0.3."""
    data = Observations(
        np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, np.inf]), np.array([30.0, 20.0, 10.0, 40.0]),
        np.empty((4, 0)),
    )  # fmt: skip
    assert shared_time(data) == 1.0
    rows = prepared(data)
    fitted = FittedRows.of(fit(rows, Distribution.LOG_NORMAL), rows)
    found = calibration(fitted, 1.0)
    assert found is not None
    gap = abs(fitted.failure_probability(1.0)[0] - 0.3)
    assert (found.ici, found.e50, found.e90, found.emax) == pytest.approx((gap, gap, gap, gap))
    assert not found.curve.predicted


def test_two_groups_are_calibrated_to_their_own_shares() -> None:
    """With one check and two groups the model is saturated: 5 of 20 and 12 of 20 are what it says."""
    time, failed = np.ones(4), np.array([True, False, True, False])
    weight, x = np.array([5.0, 15.0, 12.0, 8.0]), np.array([[0.0], [0.0], [1.0], [1.0]])
    model = fit_grouped_hazards(time, failed, x, weight, until=1.0)
    assert model is not None
    assert model.failure_probability(x) == pytest.approx([0.25, 0.25, 0.6, 0.6])


def test_a_true_model_is_calibrated_and_a_wrong_one_is_not() -> None:
    generator = np.random.default_rng(3)
    x = generator.normal(size=2000)
    time = np.exp(1.0 + 0.8 * x + 0.5 * np.log(generator.exponential(size=2000)))
    data = Observations(time, time, np.ones(2000), x[:, None], ("x",))
    assert calibrated(data).ici < 0.02
    assert calibrated(data, Distribution.EXPONENTIAL).ici > 0.05


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    values, weight = np.array([3.0, 1.0, 2.0]), np.array([2.0, 4.0, 1.0])
    for share in (0.0, 0.1, 0.5, 0.6, 0.9, 1.0):
        repeated = np.repeat(values, weight.astype(int))
        assert weighted_quantile(values, weight, share) == pytest.approx(np.quantile(repeated, share))
