"""Shards whose scores and Hessians are summed are the whole; averages of their estimates are not."""

from __future__ import annotations

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.fitting import fit
from survival_service.likelihood import Likelihood, climb
from survival_service.observations import Observations
from survival_service.sharding import ShardedLikelihood

NAMES = ("x", "y")
FAMILIES = [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL]


def simulated(n: int, seed: int = 0) -> Observations:
    """Seconds of every kind: exact, right-, left- and interval-censored, of weights 1 to 3."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, 2)) * [1.0, 40.0] + [3.0, 100.0]
    time = 1e-3 * np.exp(0.4 * x[:, 0] - 0.01 * x[:, 1]) * generator.exponential(size=n) ** 0.7
    kind = generator.integers(0, 4, n)
    lower = np.select([kind == 0, kind == 1, kind == 2], [time, 0.8 * time, 0.0], 0.7 * time)
    upper = np.select([kind == 0, kind == 1], [time, np.inf], 1.2 * time)
    return Observations(lower, upper, generator.integers(1, 4, n).astype(float), x, NAMES)


def some(data: Observations, rows: np.ndarray) -> Observations:
    return Observations(data.lower[rows], data.upper[rows], data.weight[rows], data.covariates[rows], data.names)


def likelihood(data: Observations, distribution: Distribution) -> Likelihood:
    return Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)


@pytest.mark.parametrize("distribution", FAMILIES, ids=lambda one: one.name.lower())
def test_scores_and_hessians_of_shards_add_up_to_those_of_the_whole(distribution: Distribution) -> None:
    data = simulated(300)
    parts = np.array_split(np.random.default_rng(1).permutation(300), 7)
    shards = ShardedLikelihood([likelihood(some(data, part), distribution) for part in parts])
    # The same rows, the first shard's on top, so that the whole can be asked on the first shard's scales.
    whole = ShardedLikelihood(
        [
            likelihood(some(data, parts[0]), distribution),
            likelihood(some(data, np.concatenate(parts[1:])), distribution),
        ]
    )
    parameters = shards.start() * 1.1
    for one, other in zip(shards(parameters), whole(parameters), strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-10, atol=1e-9)
    maximum, truth = climb(shards, shards.start()), fit(data, distribution)
    assert maximum.converged
    assert maximum.log_likelihood == pytest.approx(truth.log_likelihood, rel=1e-12)
    first = likelihood(some(data, parts[0]), distribution)
    beta, sigma, jacobian = first.natural(maximum.parameters)
    assert sigma == pytest.approx(truth.scale, rel=1e-8)
    errors = np.sqrt(np.diag(jacobian @ np.linalg.inv(maximum.information) @ jacobian.T))
    for own, error, coefficient in zip(beta, errors, truth.coefficients, strict=False):
        assert own == pytest.approx(coefficient.estimate, abs=1e-6 * coefficient.standard_error)
        assert error == pytest.approx(coefficient.standard_error, rel=1e-6)


def test_the_average_of_the_shards_estimates_is_another_number() -> None:
    """100 shards of 25 samples: the summed likelihood has the maximum of the whole, the average lies far beside it."""
    data = simulated(2500, seed=2)
    parts = np.array_split(np.arange(2500), 100)
    truth = fit(data, Distribution.WEIBULL)
    alone = [fit(some(data, part), Distribution.WEIBULL) for part in parts]
    averaged = np.mean([one.scale for one in alone if one.scale > 0])
    assert abs(np.log(averaged / truth.scale)) > 2 * truth.log_scale_standard_error
    shards = ShardedLikelihood([likelihood(some(data, part), Distribution.WEIBULL) for part in parts])
    maximum = climb(shards, shards.start())
    first = likelihood(some(data, parts[0]), Distribution.WEIBULL)
    assert first.natural(maximum.parameters)[1] == pytest.approx(truth.scale, rel=1e-8)


def test_shards_of_different_models_are_refused() -> None:
    data = simulated(40)
    with pytest.raises(ValueError, match="same covariates"):
        ShardedLikelihood([likelihood(data, Distribution.WEIBULL), likelihood(data, Distribution.LOG_NORMAL)])
    with pytest.raises(ValueError, match="at least one"):
        ShardedLikelihood([])
