"""What a fit found, or why it found nothing: the values that fitting makes and everything else reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from survival_service.distributions import Distribution, Family
from survival_service.estimates import NO_CURVE, NO_ESTIMATE, Curve, Estimate
from survival_service.log_gamma import shape_family
from survival_service.observations import Clock, FloatArray

INTERCEPT = "intercept"
USABLE = "the fit can be used"


class Status(Enum):
    """What the data can carry. The values are those of the wire; `has_numbers` says which have numbers."""

    OK = 1
    NO_FAILURE = 2
    SINGLE_CHECK = 3
    ONE_INTERVAL = 4
    NOT_CONVERGED = 5
    TOO_FEW_FAILURES = 6
    NO_SAMPLE = 7
    GROUP_WITHOUT_FAILURE = 8
    NOT_IDENTIFIED = 9

    @property
    def has_numbers(self) -> bool:
        """Whether a fit with this status has numbers."""
        return self in (Status.OK, Status.GROUP_WITHOUT_FAILURE)


@dataclass(frozen=True, slots=True)
class Coefficient:
    """The effect of one covariate on log time; `time_ratio` is the factor that one unit stretches time by."""

    covariate: str
    estimate: float
    standard_error: float
    time_ratio: Estimate


@dataclass(frozen=True, slots=True)
class EffectBound:
    """What is known of an effect that no estimate can be given for, because nothing failed in a group.

    With the one-sided confidence `level`, one unit of the covariate multiplies time by at least `lower`, or by at most
    `upper`. Both are None where the data bound the effect on neither side; `message` says all that in a sentence.
    """

    covariate: str
    lower: float | None
    upper: float | None
    level: float
    message: str


@dataclass(frozen=True, slots=True)
class Fit:
    """One accelerated failure model on one clock. Fields are those of the contract's `Fit`.

    Where `has_numbers` is false the numbers are zero or empty and mean nothing; `status_message` says what to do, and
    `failure_probability` what is known all the same. `covariance` is of (coefficients, log scale, shape), as far as
    they are estimated, and not on the wire; that of a gamma distribution, whose shape is its scale, ends at log scale.
    """

    distribution: Distribution
    clock: Clock | None
    status: Status
    status_message: str
    observation_count: int
    failure_count: int
    log_likelihood: float = 0.0
    aic: float = 0.0
    bic: float = 0.0
    parameter_count: int = 0
    scale: float = 0.0
    log_scale_standard_error: float = 0.0
    coefficients: tuple[Coefficient, ...] = ()
    median: Estimate = NO_ESTIMATE
    restricted_mean: Estimate = NO_ESTIMATE
    restriction_time: float = 0.0
    expected: Estimate = NO_ESTIMATE
    extrapolated_share: float = 0.0
    iteration_count: int = 0
    dropped_covariates: tuple[str, ...] = ()
    curve: Curve = NO_CURVE
    concordance: float | None = None
    aicc: float | None = None
    bic_events: float = 0.0
    akaike_weight: float | None = None
    degrees_of_freedom: int | None = None
    shape: float | None = None
    shape_standard_error: float | None = None
    failure_probability: Estimate | None = None
    failure_probability_time: float = 0.0
    effect_bounds: tuple[EffectBound, ...] = ()
    covariance: FloatArray | None = field(default=None, compare=False, repr=False)

    @property
    def has_numbers(self) -> bool:
        """Whether the fit has numbers: a maximum, or the limit where a group had no failure."""
        return self.status.has_numbers

    @property
    def family(self) -> Family:
        """What the standardised log times follow. Raises `ValueError` if that takes a shape that was not found."""
        return self.distribution.family if self.shape is None else shape_family(self.shape)
