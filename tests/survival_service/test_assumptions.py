"""Whether a covariate stretches time by one factor: found where it does not, not where it does."""

from __future__ import annotations

import numpy as np
import pytest

from survival_service.assumptions import AssumptionCheck, assumption_checks
from survival_service.distributions import Distribution
from survival_service.fitted_rows import FittedRows
from survival_service.fitting import fit, prepared
from survival_service.likelihood import Likelihood
from survival_service.moments import moment_sums
from survival_service.observations import Observations


def simulated(spread: float, n: int = 800, seed: int = 0, *, checked: bool = True) -> Observations:
    """Two treatments: `wide` multiplies the spread of log times by `spread`, `shift` doubles every time."""
    generator = np.random.default_rng(seed)
    wide, shift = (generator.random((2, n)) > 0.5).astype(float)
    time = np.exp(2.0 + np.log(2) * shift + 0.5 * spread**wide * generator.normal(size=n))
    lower, upper = (np.ceil(time) - 1, np.ceil(time)) if checked else (time, time)
    return Observations(lower, upper, np.ones(n), np.column_stack([wide, shift]), ("wide", "shift"))


def checked(data: Observations, distribution: Distribution = Distribution.LOG_NORMAL) -> dict[str, AssumptionCheck]:
    rows = prepared(data)
    return {one.covariate: one for one in assumption_checks(FittedRows.of(fit(rows, distribution), rows))}


def test_a_covariate_that_changes_the_spread_is_found_and_the_other_is_not() -> None:
    found = checked(simulated(1.6))
    assert (found["wide"].adjusted_p_value or 1) < 0.001
    assert "spread more" in found["wide"].finding
    assert (found["shift"].adjusted_p_value or 0) > 0.05
    assert "spread less" in checked(simulated(1 / 1.6))["wide"].finding


def test_one_factor_passes() -> None:
    assert all((one.p_value or 0) > 0.05 for one in checked(simulated(1.0)).values())


def test_p_values_are_corrected_by_holms_method() -> None:
    found = sorted(checked(simulated(1.1)).values(), key=lambda one: one.p_value or 0)
    assert found[0].adjusted_p_value == pytest.approx(min(1.0, 2 * (found[0].p_value or 0)))
    assert found[1].adjusted_p_value == pytest.approx(max(found[1].p_value or 0, found[0].adjusted_p_value or 0))


def test_the_score_is_the_derivative_of_the_likelihood_in_the_spread() -> None:
    """Two groups fitted with one sigma: the derivative of the log-likelihood in log sigma of the second group alone."""
    data = simulated(1.4, n=120)
    rows = prepared(data)
    design = rows.design
    assert design is not None
    found = fit(rows, Distribution.LOG_NORMAL)
    likelihood = Likelihood(design, found.family)
    at = likelihood.standardised(np.array([c.estimate for c in found.coefficients]), found.scale)
    second = data.covariates[design.rows, 0] > 0
    ours = -(likelihood.row_scores(at) @ at)[second].sum()

    def value(log_change: float) -> float:
        # gamma and delta both shrink where sigma grows and beta stays.
        return float(likelihood.row_values(at * np.exp(-log_change))[second].sum())

    assert ours == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)


def test_the_sums_allow_for_what_was_estimated() -> None:
    """The scores themselves are moments of which nothing is left: their variance is that of the parameters."""
    rows = prepared(simulated(1.0, n=200))
    design = rows.design
    assert design is not None
    found = fit(rows, Distribution.LOG_NORMAL)
    likelihood = Likelihood(design, found.family)
    at = likelihood.standardised(np.array([c.estimate for c in found.coefficients]), found.scale)
    scores, weight = likelihood.row_scores(at), np.ones(200)
    cluster = np.arange(200)
    sums = moment_sums(likelihood.row_scores, at, -likelihood(at)[2], scores, weight, cluster)
    assert sums is not None
    assert np.abs(sums.covariance).max() < 1e-6 * np.abs(sums.plain).max()


def test_quantiles_of_a_shift_lie_on_a_line_of_slope_one() -> None:
    quantiles = checked(simulated(1.0, n=4000, checked=False))["shift"].quantiles
    assert quantiles is not None
    ratios = np.array(quantiles.treated) / np.array(quantiles.reference)
    assert len(ratios) == 19
    assert ratios == pytest.approx(2.0, rel=0.15)
    assert quantiles.slope == pytest.approx(1.0, abs=0.05)
    wide = checked(simulated(1.6, n=4000, checked=False))["wide"].quantiles
    assert wide is not None
    assert wide.slope == pytest.approx(1.6, abs=0.1)


def test_the_unit_of_time_does_not_matter() -> None:
    data = simulated(1.2)
    scaled = Observations(data.lower * 1e-6, data.upper * 1e-6, data.weight, data.covariates, data.names)
    ours, other = checked(data)["wide"], checked(scaled)["wide"]
    assert other.statistic == pytest.approx(ours.statistic, rel=1e-6)


def test_a_fixed_scale_cannot_be_tested() -> None:
    with pytest.raises(ValueError, match="free scale"):
        checked(simulated(1.0), Distribution.EXPONENTIAL)
