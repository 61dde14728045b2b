"""How many samples a wanted precision needs, from the Fisher information of an attack with equally spaced checks.

An attack of K checks sorts a sample into one of K + 1 cells, so the information a sample carries about (mu, log sigma)
is that of a multinomial: the sum over cells of (dp)(dp)'/p. Checks are equally spaced in what the clock counts, as
those of an iterative attack are in queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from survival_service.distributions import Distribution, Family
from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL, normal_quantile
from survival_service.observations import FloatArray

DEFAULT_POWER = 0.8
# With so many checks an attack tells every time but the censored ones, to four digits of the information.
_ALL_BUT_CONTINUOUS = 20_000
# Far beyond any attack; without a bound one request could take all of the server's memory.
_MOST_CHECKS = 1_000_000
# What the contract's whole numbers and a double both hold exactly.
_MOST_SAMPLES = 2**53


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models to tell apart. Raises `InvalidRequest`, naming the field of `PlanSamplesRequest`.

    Samples of the second survive `time_ratio` times as long as those of the first; it gets `allocation_ratio` samples
    for each sample of the first. `power` is the probability that the test notices.
    """

    time_ratio: float
    power: float = DEFAULT_POWER
    allocation_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.time_ratio) and self.time_ratio > 0 and self.time_ratio != 1):
            raise InvalidRequest("time_ratio", f"time_ratio must be above 0 and not 1, not {self.time_ratio:g}")
        if not 0 < self.power < 1:
            raise InvalidRequest("power", f"power must lie between 0 and 1, such as 0.8, not {self.power:g}")
        if not (math.isfinite(self.allocation_ratio) and self.allocation_ratio > 0):
            message = f"allocation_ratio must be a number above 0, not {self.allocation_ratio:g}"
            raise InvalidRequest("allocation_ratio", message)


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """Samples at risk of each model that tell the two apart. Fields are those of the contract's `ComparisonPlan`.

    `failure_share` counts are those of a test of the shares that fail within the budget; None where these differ too
    little for any number of samples that can be written down.
    """

    first_sample_count: int
    second_sample_count: int
    first_failure_share_sample_count: int | None
    second_failure_share_sample_count: int | None
    second_failure_share: float


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """Samples at risk needed for each quantity; `expected_sample_count` is None where the expected time is infinite."""

    median_sample_count: int
    expected_sample_count: int | None
    failure_share_sample_count: int
    continuous_median_sample_count: int
    comparison: ComparisonPlan | None = None


# At the ends of the range exponents overflow; what comes of it is refused by what is not finite.
@np.errstate(over="ignore", invalid="ignore")
def plan_samples(
    distribution: Distribution,
    *,
    scale: float,
    failure_share: float,
    check_count: int,
    interval_factor: float,
    level: float = DEFAULT_LEVEL,
    comparison: Comparison | None = None,
) -> SamplePlan:
    """Say how many samples make an interval from 1/factor to factor times the estimate, or tell two models apart.

    Raises `InvalidRequest`, naming the field of `PlanSamplesRequest`, for values out of range.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InvalidRequest("scale", f"scale must be a number above 0, not {scale:g}")
    if not 0 < failure_share < 1:
        raise InvalidRequest("failure_share", f"failure_share must lie between 0 and 1, not {failure_share:g}")
    if check_count < 2:
        raise InvalidRequest("check_count", "check_count must be at least 2: a single check identifies no curve")
    if check_count > _MOST_CHECKS:
        message = f"check_count must be at most {_MOST_CHECKS}, which tells every time as well as more checks would"
        raise InvalidRequest("check_count", message)
    if not (math.isfinite(interval_factor) and interval_factor > 1):
        raise InvalidRequest("interval_factor", f"interval_factor must be above 1, not {interval_factor:g}")
    if not 0 < level < 1:
        raise InvalidRequest("confidence_level", f"confidence_level must lie between 0 and 1, not {level:g}")

    design = _Design(distribution, 1.0 if distribution.scale_fixed else scale, failure_share, check_count)
    median = design.sigma * design.family.quantile(0.5)
    mean_exists = math.isfinite(design.family.log_mean(design.sigma))
    continuous = _Design(distribution, design.sigma, failure_share, _ALL_BUT_CONTINUOUS)
    return SamplePlan(
        median_sample_count=_needed(design.variance(median), interval_factor, level),
        expected_sample_count=(
            _needed(design.variance(design.sigma * design.family.log_mean_slope(design.sigma)), interval_factor, level)
            if mean_exists
            else None
        ),
        failure_share_sample_count=_needed((1 - failure_share) / failure_share, interval_factor, level),
        continuous_median_sample_count=_needed(continuous.variance(median), interval_factor, level),
        comparison=None if comparison is None else _compared(design, comparison, level),
    )


@dataclass(frozen=True, slots=True)
class _Design:
    """An attack on samples of which `failure_share` fail at mu = 0 within a budget of evenly spaced checks."""

    distribution: Distribution
    sigma: float
    failure_share: float
    check_count: int

    @property
    def family(self) -> Family:
        return self.distribution.family

    def variance(self, slope: float) -> float:
        """n times the variance of mu + slope * (log sigma - log its value), estimated from n samples."""
        size = 1 if self.distribution.scale_fixed else 2
        variance = _solved(self.information()[:size, :size], np.array([1.0, slope])[:size])
        if variance is None:
            message = (
                f"with scale {self.sigma:g} and a failure share of {self.failure_share:g} these checks carry no "
                "information that can be computed; give a scale nearer to 1, or a share nearer to 0.5"
            )
            raise InvalidRequest("scale", message)
        return variance

    def information(self, mu: float = 0.0) -> FloatArray:
        """Fisher information of one sample in (mu, log sigma), checked at the moments of the samples with mu = 0."""
        sigma, family = self.sigma, self.family
        z = (self._checks() - mu) / sigma
        survival = np.concatenate([[1.0], family.survival(z), [0.0]])
        density = np.exp(family.exact(z)[0])
        by_mu = np.concatenate([[0.0], density / sigma, [0.0]])
        by_log_sigma = np.concatenate([[0.0], z * density, [0.0]])
        probability = -np.diff(survival)
        slopes = -np.column_stack([np.diff(by_mu), np.diff(by_log_sigma)])
        seen = probability > 1e-300
        information: FloatArray = (slopes[seen] / probability[seen, None]).T @ slopes[seen]
        return information

    def share(self, mu: float) -> float:
        """The share that fails within the budget of samples with another mu."""
        z = (self._checks()[-1:] - mu) / self.sigma
        return float(np.exp(self.family.left(z)[0])[0])

    def _checks(self) -> FloatArray:
        """The logarithms of the moments of the checks."""
        budget = self.sigma * self.family.quantile(self.failure_share)
        checks: FloatArray = budget + np.log(np.arange(1, self.check_count + 1) / self.check_count)
        return checks


def _compared(design: _Design, wanted: Comparison, level: float) -> ComparisonPlan:
    """Wald's test of the time ratio in one fit of both models, which share sigma; and that of two shares."""
    effect, ratio = math.log(wanted.time_ratio), wanted.allocation_ratio
    first, second = design.information(), ratio * design.information(effect)
    # (mu of the first, log of the time ratio, log sigma): the second model's mu is the sum of the first two.
    joint = np.zeros((3, 3))
    for part, columns in ((first, ((1, 0, 0), (0, 0, 1))), (second, ((1, 1, 0), (0, 0, 1)))):
        by = np.array(columns, dtype=float)
        joint += by.T @ part @ by
    if design.distribution.scale_fixed:
        joint = joint[:2, :2]
    variance = _solved(joint, np.eye(len(joint))[1])
    if variance is None:
        message = (
            f"time_ratio {wanted.time_ratio:g} is too extreme: {'no' if effect > 0 else 'every'} sample of the second "
            f"model would fail {'within the budget' if effect > 0 else 'at its first check'}; give one nearer to 1"
        )
        raise InvalidRequest("time_ratio", message)
    quantiles = normal_quantile(level) + float(ndtri(wanted.power))
    share, other = design.failure_share, design.share(effect)
    spread = share * (1 - share) + other * (1 - other) / ratio
    gap = share - other

    def both(count: float) -> tuple[int, int]:
        # No fewer than one, also where a power below the test's own error asks for none.
        if not max(1.0, ratio) * count <= _MOST_SAMPLES:
            message = f"time_ratio {wanted.time_ratio:g} asks for more samples than can be counted; choose another"
            raise InvalidRequest("time_ratio", message)
        return max(1, math.ceil(count)), max(1, math.ceil(ratio * count))

    squared = max(quantiles, 0.0) ** 2
    of_times = both(squared * variance / effect**2)
    of_shares = both(squared * spread / gap**2) if abs(gap) > 1e-8 else None
    return ComparisonPlan(
        first_sample_count=of_times[0],
        second_sample_count=of_times[1],
        first_failure_share_sample_count=of_shares[0] if of_shares else None,
        second_failure_share_sample_count=of_shares[1] if of_shares else None,
        second_failure_share=other,
    )


def _solved(information: FloatArray, gradient: FloatArray) -> float | None:
    """g' I⁻¹ g, the variance of what has the gradient g; None if the information does not tell it."""
    try:
        variance = float(gradient @ np.linalg.solve(information, gradient))
    except np.linalg.LinAlgError:
        return None
    return variance if math.isfinite(variance) and variance > 0 else None


def _needed(variance: float, interval_factor: float, level: float) -> int:
    count = variance * (normal_quantile(level) / math.log(interval_factor)) ** 2
    if not count <= _MOST_SAMPLES:
        message = (
            f"an interval of ×/÷ {interval_factor:.12g} asks for more samples than can be counted; give a wider one, "
            "or a scale nearer to 1"
        )
        raise InvalidRequest("interval_factor", message)
    return max(1, math.ceil(count))
