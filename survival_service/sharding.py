"""One likelihood of rows that lie in several places: values, scores and Hessians add up, estimates do not.

On a clock of seconds no two samples share a bound, so there is nothing to count: each shard keeps its rows and answers
for them. The sums are those of all rows together, and so is their maximum; the average of the shards' own maxima is
another number, off by the bias of small samples, which no number of shards averages out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from survival_service.likelihood import Likelihood
from survival_service.observations import FloatArray


class ShardedLikelihood:
    """The log-likelihood of all rows of several likelihoods with the same covariates, a `Concave` to climb.

    Its parameters are on the scales of the first shard. They are linear in those of every other, so that a shard's
    score and Hessian are mapped back by one matrix. Raises `ValueError` for shards that are not of one model.
    """

    def __init__(self, shards: Sequence[Likelihood]) -> None:
        if not shards:
            raise ValueError("a likelihood needs at least one shard")
        first = shards[0]
        if any(
            (one.parameter_count, one.scale_fixed, one.family)
            != (first.parameter_count, first.scale_fixed, first.family)
            for one in shards
        ):
            raise ValueError("all shards must have the same covariates, distribution and kind of scale")
        self._shards = tuple(shards)
        inverse = np.linalg.inv(_from_natural(first))
        self._maps = tuple(_from_natural(one) @ inverse for one in shards)
        self.scale_fixed = first.scale_fixed

    @property
    def parameter_count(self) -> int:
        """Intercept, covariates and, unless fixed, the scale."""
        return self._shards[0].parameter_count

    @property
    def observation_count(self) -> float:
        """Samples that say something."""
        return sum(one.observation_count for one in self._shards)

    def start(self) -> FloatArray:
        """Parameters to start from: those of the first shard alone."""
        return self._shards[0].start()

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Value, score and Hessian in the free parameters."""
        free = self.parameter_count
        value, score, hessian = 0.0, np.zeros(free), np.zeros((free, free))
        for shard, to_shard in zip(self._shards, self._maps, strict=True):
            own_value, own_score, own_hessian = shard(to_shard @ parameters)
            of_free = to_shard[:free, :free]
            value += own_value
            score += of_free.T @ own_score
            hessian += of_free.T @ own_hessian @ of_free
        return value, score, hessian


def _from_natural(likelihood: Likelihood) -> FloatArray:
    """What maps (beta / sigma, 1 / sigma) to the parameters on the standardised scales of a likelihood."""
    design = likelihood.design
    size = design.column_mean.size
    result = np.diag(np.concatenate([[1.0], design.column_scale, [design.time_scale]]))
    result[0, 1 : size + 1] = design.column_mean
    result[0, -1] = -design.time_mean
    return result
