"""How many samples a wanted precision needs, from the Fisher information of an attack with equally spaced checks."""

from __future__ import annotations

from dataclasses import dataclass

from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL


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
    raise NotImplementedError
