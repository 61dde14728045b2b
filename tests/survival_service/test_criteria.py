"""Criteria, weights and averages of fits, against their formulas by hand and the AICc of the linear model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from survival_service.criteria import averaged, criteria, ranked
from survival_service.distributions import Distribution
from survival_service.estimates import Estimate
from survival_service.fits import Fit, Status
from survival_service.fitting import fit
from survival_service.observations import Observations


def a_fit(aic: float, median: Estimate, **more: object) -> Fit:
    empty = Fit(Distribution.WEIBULL, None, Status.OK, "", 10, 5, aic=aic, median=median)
    return replace(empty, **more)  # type: ignore[arg-type]  # fields by name


def test_criteria_are_their_formulas_and_count_what_they_should() -> None:
    times = np.random.default_rng(0).weibull(1.4, size=30)
    end = np.quantile(times, 0.7)
    data = Observations.of(np.minimum(times, end), np.where(times <= end, times, math.inf))
    found = fit(data, Distribution.WEIBULL)
    assert (found.failure_count, found.parameter_count) == (21, 2)
    assert found.aic == pytest.approx(4 - 2 * found.log_likelihood)
    assert found.aicc == pytest.approx(found.aic + 12 / 27)
    assert found.bic == pytest.approx(2 * math.log(30) - 2 * found.log_likelihood)
    assert found.bic_events == pytest.approx(2 * math.log(21) - 2 * found.log_likelihood)


def test_aicc_is_absent_where_its_correction_is_not_finite() -> None:
    assert criteria(-5.0, 3, 4, 2)["aicc"] is None
    assert criteria(-5.0, 3, 5, 2)["aicc"] == pytest.approx(16 + 24)


def test_weights_are_akaikes_and_sum_to_one_over_the_fits_with_numbers() -> None:
    """Relative likelihoods exp(-difference / 2): 1, e^-1, e^-3."""
    fits = [a_fit(aic, Estimate(1.0, None, None, 0.1)) for aic in (12.0, 10.0, 16.0)]
    refused = replace(fits[0], status=Status.NOT_IDENTIFIED)
    order = ranked([refused, *fits])
    assert [one.aic for one in order[:3]] == [10.0, 12.0, 16.0]
    assert order[3] is refused
    total = 1 + math.exp(-1) + math.exp(-3)
    weights = [one.akaike_weight for one in order]
    assert weights == [pytest.approx(w / total) if w else None for w in (1.0, math.exp(-1), math.exp(-3), None)]
    limit = replace(fits[1], status=Status.GROUP_WITHOUT_FAILURE)
    assert [one.akaike_weight for one in ranked([limit])] == [1.0]
    assert ranked([]) == ()


def test_an_average_contains_how_the_fits_differ() -> None:
    """Two fits of one weight, medians 2 and 8, errors 0.3, 0.4: mean 4, error half of each root of var + (ln 2)^2."""
    fits = ranked([a_fit(5.0, Estimate(2.0, None, None, 0.3)), a_fit(5.0, Estimate(8.0, None, None, 0.4))])
    found = averaged(fits, "median", 0.95)
    assert found is not None
    assert found.value == pytest.approx(4.0)
    error = 0.5 * math.hypot(0.3, math.log(2)) + 0.5 * math.hypot(0.4, math.log(2))
    assert found.log_standard_error == pytest.approx(error)
    assert found.upper == pytest.approx(4 * math.exp(1.959963985 * error))
    clustered = [replace(one, degrees_of_freedom=9) for one in fits]
    wider = averaged(clustered, "median", 0.95)
    assert wider is not None
    assert wider.upper == pytest.approx(4 * math.exp(2.262157163 * error))


def test_fits_that_agree_average_to_themselves_and_a_hopeless_one_does_not_count() -> None:
    same = Estimate(3.0, None, None, 0.2)
    found = averaged(ranked([a_fit(1.0, same), a_fit(2.0, same)]), "median", 0.95)
    assert found is not None
    assert (found.value, found.log_standard_error) == (pytest.approx(3.0), pytest.approx(0.2))
    found = averaged(ranked([a_fit(1.0, same), a_fit(1e3, Estimate(99.0, None, None, 5.0))]), "median", 0.95)
    assert found is not None
    assert found.value == pytest.approx(3.0)


def test_one_fit_or_one_without_a_value_has_no_average() -> None:
    known = a_fit(1.0, Estimate(3.0, None, None, 0.2))
    assert averaged(ranked([known]), "median", 0.95) is None
    for missing in (Estimate(), Estimate(math.inf), Estimate(2.0)):
        assert averaged(ranked([known, a_fit(1.0, missing)]), "median", 0.95) is None
