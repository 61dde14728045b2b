"""The score and the Hessian are the derivatives of the log-likelihood, whatever the rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.likelihood import Likelihood, maximise
from survival_service.observations import Observations

WITHOUT_SHAPE = [distribution for distribution in Distribution if not distribution.with_shape]

time = st.floats(0.05, 20)


@st.composite
def rows(draw: st.DrawFn) -> tuple[float, float]:
    kind = draw(st.sampled_from(["exact", "right", "left", "interval", "thin"]))
    at = draw(time)
    if kind == "exact":
        return at, at
    if kind == "right":
        return at, math.inf
    if kind == "left":
        return 0.0, at
    return at, at * (1 + (draw(st.floats(0.01, 3)) if kind == "interval" else 1e-9))


@st.composite
def observations(draw: st.DrawFn) -> Observations:
    table = draw(st.lists(rows(), min_size=2, max_size=12))
    weight = draw(st.lists(st.floats(0.1, 50), min_size=len(table), max_size=len(table)))
    # Steps of a thousandth: a covariate of 1e-144 is refused, and an effect of it is no float.
    x = draw(st.lists(st.integers(-3000, 3000).map(lambda n: n / 1000), min_size=len(table), max_size=len(table)))
    return Observations.of([r[0] for r in table], [r[1] for r in table], weight, covariates={"x": x})


@pytest.mark.parametrize("distribution", WITHOUT_SHAPE, ids=lambda d: d.name.lower())
@given(data=observations(), delta=st.tuples(st.floats(-1, 1), st.floats(-1, 1)), gamma=st.floats(0.4, 2))
@settings(max_examples=80, deadline=None)
def test_score_and_hessian_are_derivatives_for_all_kinds_of_censoring(
    distribution: Distribution, data: Observations, delta: tuple[float, float], gamma: float
) -> None:
    likelihood = Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)
    at = np.array([*delta, likelihood.time_scale if distribution.scale_fixed else gamma])
    _, score, hessian = likelihood(at)
    assert np.allclose(hessian, hessian.T)
    assert np.linalg.eigvalsh(hessian).max() <= 1e-7 * np.abs(hessian).max()
    for j in range(likelihood.parameter_count):
        step = np.zeros(3)
        step[j] = 1e-5
        up, down = likelihood(at + step), likelihood(at - step)
        size = 1 + np.abs(score).max() + np.abs(hessian).max()
        assert (up[0] - down[0]) / 2e-5 == pytest.approx(score[j], abs=1e-6 * size + 1e-9 * abs(up[0]))
        np.testing.assert_allclose((up[1] - down[1]) / 2e-5, hessian[:, j], atol=1e-6 * size)
    np.testing.assert_allclose(likelihood.row_scores(at).sum(axis=0), score, atol=1e-9 * (1 + np.abs(score).max()))


def test_an_interval_row_has_the_probability_of_its_interval() -> None:
    """Weibull, shape 2, scale 3: P(1 < T <= 4) = exp(-1/9) - exp(-16/9), and a density at an exact time."""
    data = Observations.of([1, 2], [4, 2])
    likelihood = Likelihood(data, Distribution.WEIBULL.family)
    at = likelihood.standardised(np.array([math.log(3)]), 0.5)
    density = 2 * 2 / 9 * math.exp(-4 / 9)
    expected = math.log(math.exp(-1 / 9) - math.exp(-16 / 9)) + math.log(density)
    assert likelihood(at)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distribution", WITHOUT_SHAPE, ids=lambda d: d.name.lower())
def test_the_natural_parameters_are_those_standardised(distribution: Distribution) -> None:
    generator = np.random.default_rng(1)
    x = 4000 + 7 * generator.normal(size=30)
    data = Observations.of(*[1e-5 * generator.exponential(size=30) + 1e-9] * 2, covariates={"x": x.tolist()})
    likelihood = Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)
    beta, sigma = np.array([2.0, -0.003]), 1.0 if distribution.scale_fixed else 0.7
    found, scale, jacobian = likelihood.natural(likelihood.standardised(beta, sigma))
    np.testing.assert_allclose(found, beta, rtol=1e-9)
    assert scale == pytest.approx(sigma)
    at = likelihood.standardised(beta, sigma)
    for j in range(likelihood.parameter_count):
        moved = at.copy()
        moved[j] += 1e-6
        other, other_scale, _ = likelihood.natural(moved)
        slope = np.append(other - found, math.log(other_scale / scale))[: likelihood.parameter_count] / 1e-6
        np.testing.assert_allclose(jacobian[:, j], slope, rtol=1e-4, atol=1e-6 * np.abs(slope).max())


@pytest.mark.parametrize("distribution", WITHOUT_SHAPE, ids=lambda d: d.name.lower())
def test_the_search_finds_the_maximum_wherever_it_starts(distribution: Distribution) -> None:
    generator = np.random.default_rng(2)
    times = np.ceil(5 * generator.exponential(size=200))
    data = Observations.of(times - 1, times)
    likelihood = Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)
    near = maximise(likelihood)
    far = maximise(likelihood, likelihood.standardised(np.array([50.0]), 1.0 if distribution.scale_fixed else 1e-3))
    assert near.converged
    assert far.converged
    np.testing.assert_allclose(far.parameters, near.parameters, rtol=1e-5)
