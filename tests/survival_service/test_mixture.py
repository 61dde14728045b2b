"""The mixture likelihood against numerical differentiation, its EM steps, and its profile."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from survival_service.cure import CURE_DISTRIBUTIONS
from survival_service.distributions import Distribution
from survival_service.fitting import Prepared, fit, prepared
from survival_service.mixture import AtShare, MixtureLikelihood, maximise_mixture, profile_bounds
from survival_service.observations import Observations


@pytest.fixture
def rows() -> Prepared:
    """Rows of all kinds of censoring with weights and a covariate."""
    return prepared(
        Observations.of(
            [1.0, 2.0, 3.0, 0.0, 1.0, 5.0, 2.0, 2.0, 0.0],
            [1.0, np.inf, 4.0, 2.0, 3.0, np.inf, 2.5, 2.0, np.inf],
            [1.0, 2.0, 1.0, 3.0, 1.0, 0.5, 1.0, 2.0, 4.0],
            {"x": [0.1, 0.5, 0.3, 0.9, 0.2, 0.4, 1.0, 2.0, 0.7]},
        )
    )


def _mixture(rows: Prepared, distribution: Distribution) -> MixtureLikelihood:
    assert rows.design is not None
    return MixtureLikelihood(rows.design, distribution.family, scale_fixed=distribution.scale_fixed)


@pytest.mark.parametrize("distribution", CURE_DISTRIBUTIONS)
def test_score_and_hessian_are_the_derivatives_of_the_value(rows: Prepared, distribution: Distribution) -> None:
    likelihood = _mixture(rows, distribution)
    at = np.array([0.3, 0.2, -0.4, 1.3])
    _, score, hessian = likelihood(at)
    for j in range(likelihood.parameter_count):
        step = np.zeros(at.size)
        step[j] = 1e-5
        above, below = likelihood(at + step), likelihood(at - step)
        assert score[j] == pytest.approx((above[0] - below[0]) / 2e-5, abs=1e-7)
        np.testing.assert_allclose(hessian[j], (above[1] - below[1]) / 2e-5, atol=1e-7)


def test_the_scores_of_rows_add_up_to_the_score(rows: Prepared) -> None:
    likelihood = _mixture(rows, Distribution.LOG_LOGISTIC)
    at = np.array([-0.5, 0.2, -0.4, 0.9])
    np.testing.assert_allclose(likelihood.row_scores(at).sum(axis=0), likelihood(at)[1], atol=1e-12)


def test_without_a_cured_share_it_is_the_plain_likelihood(rows: Prepared) -> None:
    likelihood = _mixture(rows, Distribution.WEIBULL)
    at = np.array([0.2, -0.4, 1.3])
    value, score, hessian = likelihood.plain(at)
    mixed, mixed_score, mixed_hessian = likelihood(np.append(-60.0, at))
    assert mixed == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(mixed_score[1:], score, rtol=1e-12)
    np.testing.assert_allclose(mixed_hessian[1:, 1:], hessian, rtol=1e-12)


@pytest.mark.parametrize("distribution", CURE_DISTRIBUTIONS)
def test_a_step_of_em_never_lowers_the_likelihood(rows: Prepared, distribution: Distribution) -> None:
    likelihood = _mixture(rows, distribution)
    at = likelihood.improved(np.full(likelihood.survivor_row_count, 0.9))
    heights = [likelihood(at)[0]]
    for _ in range(8):
        at = likelihood.improved(likelihood.expected(at), near=at[1:])
        heights.append(likelihood(at)[0])
    assert heights[-1] > heights[0] + 1e-4
    assert min(np.diff(heights)) > -1e-12


def test_a_survivor_beyond_every_failure_neither_overflows_nor_counts_as_one_who_can_fail() -> None:
    rows = prepared(Observations.of([1.0, 1.1, 1.2, 1e9], [1.0, 1.1, 1.2, np.inf], [5.0, 5.0, 5.0, 10.0]))
    likelihood = _mixture(rows, Distribution.WEIBULL)
    found = maximise_mixture(likelihood)
    assert found.converged
    assert expit(found.parameters[0]) == pytest.approx(10 / 25, rel=1e-9)
    assert likelihood.expected(found.parameters) == pytest.approx([1.0])


def test_the_profile_has_fallen_by_so_much_at_its_bounds() -> None:
    lower, upper = np.arange(12.0), np.append(np.arange(1.0, 12.0), np.inf)
    weight = [9.0, 14.0, 13.0, 9.0, 6.0, 5.0, 3.0, 2.0, 2.0, 1.0, 1.0, 30.0]
    rows = prepared(Observations.of(lower, upper, weight))
    likelihood = _mixture(rows, Distribution.WEIBULL)
    found = maximise_mixture(likelihood)
    floor = found.log_likelihood - 1.92
    plain = fit(rows, Distribution.WEIBULL).log_likelihood
    latency, eta = found.parameters[1:], float(found.parameters[0])
    for end in profile_bounds(likelihood, latency, eta, floor, plain):
        height = AtShare(likelihood, float(logit(end))).maximum(latency)[0]
        assert height == pytest.approx(floor, abs=2e-3)
    assert profile_bounds(likelihood, latency, eta, floor, floor)[0] == 0.0


def test_rows_that_share_covariates_have_the_likelihood_of_rows_of_their_own(rows: Prepared) -> None:
    alike = replace(rows.observations, covariates=np.array([0.1, 0.7, 0.2])[[0, 1, 2, 0, 1, 2, 0, 1, 2]][:, None])
    sharing = replace(alike, configuration=np.tile(np.arange(3), 3))
    one, other = (_mixture(prepared(data), Distribution.WEIBULL) for data in (sharing, alike))
    at = np.array([0.3, 0.2, -0.4, 1.3])
    for found, expected in zip(one(at), other(at), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.row_scores(at), other.row_scores(at), atol=1e-12)
    np.testing.assert_allclose(
        maximise_mixture(one).parameters, maximise_mixture(other).parameters, rtol=1e-9, atol=1e-9
    )


def test_weights_are_repetitions(rows: Prepared) -> None:
    whole = replace(rows.observations, weight=np.array([1.0, 2.0, 1.0, 3.0, 1.0, 2.0, 1.0, 2.0, 4.0]))
    times = whole.weight.astype(int)
    alone = Observations(
        np.repeat(whole.lower, times),
        np.repeat(whole.upper, times),
        np.ones(times.sum()),
        np.repeat(whole.covariates, times, axis=0),
        whole.names,
    )
    at = np.array([0.3, 0.2, -0.4, 1.3])
    one, many = (_mixture(prepared(data), Distribution.LOG_NORMAL)(at) for data in (whole, alone))
    assert one[0] == pytest.approx(many[0], rel=1e-13)
    np.testing.assert_allclose(one[1], many[1], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(one[2], many[2], rtol=1e-11, atol=1e-12)
