"""Hazard ratios against R's coxph, and as a second opinion on time ratios."""

from __future__ import annotations

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.estimates import Estimate
from survival_service.fitting import fit
from survival_service.hazards import HazardRatio, contradictions, cox
from survival_service.observations import Observations

inf = np.inf


def test_a_hazard_ratio_is_that_of_r() -> None:
    """R 4.2.2, survival 3.5-3; failures found at the end of their interval, a weight is a repetition:

    time <- c(1,2,2,3,3,4,5,5,6,7); failed <- c(1,1,0,1,1,1,0,1,1,0)
    x <- c(1,0,1,1,0,1,0,1,0,0); r <- rep(1:10, c(2,1,3,1,2,1,1,2,1,2))
    h <- coxph(Surv(time, failed)[r] ~ x[r], ties = "efron"); print(c(coef(h), sqrt(diag(vcov(h)))), digits = 12)
    """
    time = np.array([1, 2, 2, 3, 3, 4, 5, 5, 6, 7], dtype=float)
    failed = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 0], dtype=bool)
    data = Observations.of(
        np.where(failed, time - 0.5, time),
        np.where(failed, time, inf),
        [2, 1, 3, 1, 2, 1, 1, 2, 1, 2],
        {"x": [1, 0, 1, 1, 0, 1, 0, 1, 0, 0], "constant": [4.0] * 10},
    )
    found = cox(data)
    assert found is not None
    assert [one.covariate for one in found] == ["x"]
    assert found[0].estimate == pytest.approx(1.066304495067, rel=1e-5)
    assert found[0].standard_error == pytest.approx(0.725050236723, rel=1e-5)


def test_both_models_find_what_shortens_life() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    time = np.ceil(6 * np.exp(x @ [0.5, -0.4]) * generator.exponential(size=400))
    upper = np.where(time <= 20, time, inf)
    data = Observations(np.minimum(time - 1, 20), upper, np.ones(400), x, ("longer", "shorter"), np.arange(400) // 2)
    found = cox(data)
    assert found is not None
    ratios = {one.covariate: one.ratio for one in found}
    assert (ratios["longer"].upper or inf) < 1 < (ratios["shorter"].lower or 0.0)
    times = {one.covariate: one.time_ratio for one in fit(data, Distribution.LOG_NORMAL).coefficients}
    assert contradictions(found, times) == ()
    swapped = {"longer": times["shorter"], "shorter": Estimate(1.0, 0.9, 1.1)}
    assert contradictions(found, swapped) == ("longer",)
    assert contradictions((HazardRatio("x", 1.0, 0.1, Estimate(2.7, 2.2, 3.3)),), {"x": Estimate(2.0)}) == ()


@pytest.mark.parametrize(
    "data",
    [
        Observations.of([1, 2], [2, 3]),
        Observations.of([1, 2], [inf, inf], covariates={"x": [0, 1]}),
        Observations.of([1, 2, 3, 4, 4, 4], [2, 3, 4, inf, inf, inf], covariates={"x": [0, 0, 0, 1, 1, 1]}),
        Observations.of([1, 2, 3], [2, 3, 4], [1, 1.5, 1], covariates={"x": [0, 1, 0]}),
    ],
    ids=["no covariate", "no failure", "a group without failures", "weights that are no counts"],
)
def test_where_nothing_can_be_compared_there_is_no_ratio(data: Observations) -> None:
    assert cox(data) is None
