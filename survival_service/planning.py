"""How many samples a wanted precision needs, from the Fisher information of an attack with equally spaced checks.

An attack of K checks sorts a sample into one of K + 1 cells, so the information a sample carries about (mu, log sigma)
is that of a multinomial: the sum over cells of (dp)(dp)'/p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from survival_service.distributions import Distribution, Family
from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL, normal_quantile
from survival_service.observations import FloatArray


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Samples at risk needed for each quantity; `expected_sample_count` is None where the expected time is infinite."""

    median_sample_count: int
    expected_sample_count: int | None
    failure_share_sample_count: int


def plan_samples(
    distribution: Distribution,
    *,
    scale: float,
    failure_share: float,
    check_count: int,
    interval_factor: float,
    level: float = DEFAULT_LEVEL,
) -> SamplePlan:
    """Say how many samples make an interval from 1/factor to factor times the estimate.

    Raises `InvalidRequest`, naming the field of `PlanSamplesRequest`, for values out of range.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InvalidRequest("scale", f"scale must be a number above 0, not {scale:g}")
    if not 0 < failure_share < 1:
        raise InvalidRequest("failure_share", f"failure_share must lie between 0 and 1, not {failure_share:g}")
    if check_count < 2:
        raise InvalidRequest("check_count", "check_count must be at least 2: a single check identifies no curve")
    if not (math.isfinite(interval_factor) and interval_factor > 1):
        raise InvalidRequest("interval_factor", f"interval_factor must be above 1, not {interval_factor:g}")
    if not 0 < level < 1:
        raise InvalidRequest("confidence_level", f"confidence_level must lie between 0 and 1, not {level:g}")

    family = distribution.family
    sigma = 1.0 if distribution.scale_fixed else scale
    information = _information(family, sigma, failure_share, check_count)
    if distribution.scale_fixed:
        information = information[:1, :1]

    def samples(slope: float) -> int:
        gradient = np.array([1.0, slope])[: information.shape[0]]
        variance = float(gradient @ np.linalg.solve(information, gradient))
        return _needed(variance, interval_factor, level)

    mean_exists = math.isfinite(family.log_mean(sigma))
    return SamplePlan(
        median_sample_count=samples(sigma * family.quantile(0.5)),
        expected_sample_count=samples(sigma * family.log_mean_slope(sigma)) if mean_exists else None,
        failure_share_sample_count=_needed((1 - failure_share) / failure_share, interval_factor, level),
    )


def _information(family: Family, sigma: float, failure_share: float, check_count: int) -> FloatArray:
    """Fisher information of one sample in (mu, log sigma), mu = 0, checks evenly up to the budget."""
    budget = sigma * family.quantile(failure_share)
    z = (budget + np.log(np.arange(1, check_count + 1) / check_count)) / sigma
    survival = np.concatenate([[1.0], family.survival(z), [0.0]])
    density = np.exp(family.exact(z)[0])
    by_mu = np.concatenate([[0.0], density / sigma, [0.0]])
    by_log_sigma = np.concatenate([[0.0], z * density, [0.0]])
    probability = -np.diff(survival)
    slopes = -np.column_stack([np.diff(by_mu), np.diff(by_log_sigma)])
    seen = probability > 1e-300
    information: FloatArray = (slopes[seen] / probability[seen, None]).T @ slopes[seen]
    return information


def _needed(variance: float, interval_factor: float, level: float) -> int:
    return max(1, math.ceil(variance * (normal_quantile(level) / math.log(interval_factor)) ** 2))
