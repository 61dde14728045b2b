"""Accelerated failure models fitted by maximum likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, NO_CURVE, NO_ESTIMATE, Curve, Estimate
from survival_service.observations import Clock, FloatArray, Observations


class Status(Enum):
    """What the data can carry. The values are those of the wire; only OK has numbers."""

    OK = 1
    NO_FAILURE = 2
    SINGLE_CHECK = 3
    ONE_INTERVAL = 4
    NOT_CONVERGED = 5
    TOO_FEW_FAILURES = 6
    NO_SAMPLE = 7


@dataclass(frozen=True, slots=True)
class Coefficient:
    """The effect of one covariate on log time; `time_ratio` is the factor that one unit stretches time by."""

    covariate: str
    estimate: float
    standard_error: float
    time_ratio: Estimate


@dataclass(frozen=True, slots=True)
class Fit:
    """One accelerated failure model on one clock. Fields are those of the contract's `Fit`.

    Without `Status.OK` the numbers are zero or empty and mean nothing; `status_message` says what to do.
    `covariance` is of (coefficients, log scale), and not on the wire.
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
    covariance: FloatArray | None = field(default=None, compare=False, repr=False)


def fit(
    observations: Observations,
    distribution: Distribution,
    *,
    clock: Clock | None = None,
    level: float = DEFAULT_LEVEL,
    start: Fit | None = None,
) -> Fit:
    """Fit one distribution. `start`, a fit with the same covariates, saves iterations and changes nothing else."""
    raise NotImplementedError


def ranked(fits: tuple[Fit, ...]) -> tuple[Fit, ...]:
    """The fits with numbers, best AIC first, then those without."""
    return tuple(sorted(fits, key=lambda f: (f.status is not Status.OK, f.aic)))
