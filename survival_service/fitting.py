"""Accelerated failure models fitted by maximum likelihood: what the data can carry, and the numbers if they can.

log T = x'beta + sigma epsilon. A fit has a status first and numbers second; only `Status.OK` has numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from survival_service.covariates import independent_columns
from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, NO_CURVE, NO_ESTIMATE, Curve, Estimate, log_interval
from survival_service.likelihood import Likelihood, Maximum, maximise
from survival_service.metrics import concordance
from survival_service.observations import Clock, FloatArray, IntArray, Observations
from survival_service.predictions import FittedTime

INTERCEPT = "intercept"
USABLE = "the fit can be used"
# Fewer failures than this a parameter, and a fit is refused. A floor: a report warns of many more (`limitations`).
FAILURES_PER_PARAMETER = 2
# As many clusters as parameters leave no degree of freedom for the sandwich, and up to twice as many hardly any; from
# fewer than this its errors are known to come out too small.
CLUSTERS_PER_PARAMETER = 2
FEW_CLUSTERS = 20
# Standard errors that no identified parameter has: of log sigma (about 0.8 over the root of the failures), and of a
# standardised coefficient in units of sigma (about one over the root of the failures, times its collinearity).
LARGEST_LOG_SCALE_ERROR = 3.0
LARGEST_STANDARDISED_ERROR = 30.0


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
    """Fit one distribution by maximum likelihood; unpenalised, and never a number where the data carry none.

    Constant and collinear covariates are dropped and named. With clusters the covariance is the clustered sandwich
    (Huber 1967, with G/(G-1)), otherwise the inverse information; where the clusters are too few for either to be
    trusted, the status message says so. `start`, an earlier fit with the same covariates, saves iterations and changes
    nothing else.
    """
    kept, aliased = independent_columns(observations.covariates, observations.names, observations.weight)
    names = tuple(observations.names[j] for j in kept)
    data = observations if len(kept) == len(observations.names) else observations.with_columns(kept)
    blank = Fit(
        distribution=distribution,
        clock=clock,
        status=Status.OK,
        status_message=USABLE,
        observation_count=round(data.observation_count),
        failure_count=round(data.failure_count),
        parameter_count=1 + len(names) + (not distribution.scale_fixed),
        dropped_covariates=observations.dropped + aliased,
    )
    status, message = _status(data, distribution, blank.parameter_count)
    if status is not Status.OK:
        return replace(blank, status=status, status_message=message)

    likelihood = Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)
    maximum = maximise(likelihood, _starting_point(likelihood, names, start))
    blank = replace(blank, iteration_count=maximum.iteration_count)
    covariance = _standard_covariance(maximum.information)
    trouble = _trouble(maximum, covariance, names, distribution)
    if trouble or covariance is None:
        return replace(blank, status=Status.NOT_CONVERGED, status_message=trouble)
    if data.cluster is not None:
        covariance, caveat = _clustered(likelihood, maximum, covariance, data.cluster)
        blank = replace(blank, status_message=USABLE + caveat)
    return _filled(blank, likelihood, maximum, covariance, data, level)


def ranked(fits: tuple[Fit, ...]) -> tuple[Fit, ...]:
    """The fits with numbers, best AIC first, then those without."""
    return tuple(sorted(fits, key=lambda f: (f.status is not Status.OK, f.aic)))


def _status(data: Observations, distribution: Distribution, parameter_count: int) -> tuple[Status, str]:
    """What the data can carry, before anything is fitted."""
    failures = data.failure_count
    if data.observation_count == 0:
        return Status.NO_SAMPLE, (
            "no sample was at risk: the model misclassified every one before the attack; train it longer"
        )
    if failures == 0:
        return Status.NO_FAILURE, (
            "no sample failed, so there is no failure rate to fit; raise epsilon or the number of iterations"
        )
    if not (data.lower > 0).any():
        # The sooner, the likelier: the supremum is at time zero.
        once = _checked_once(data)
        status = Status.SINGLE_CHECK if once and not distribution.scale_fixed else Status.ONE_INTERVAL
        what = "every sample was checked once, and failed then" if once else "every failure came at the first check"
        return status, (
            f"{what}, so nothing tells how soon they fail; attack more gently (a smaller epsilon or step size), with "
            "an attack that is checked several times, such as pgd"
        )
    if not distribution.scale_fixed:
        if _checked_once(data):
            return Status.SINGLE_CHECK, (
                "every sample was checked once, which gives a failure share but no curve; "
                "use an attack that is checked several times, such as pgd, or raise its iterations"
            )
        if _one_interval(data):
            return Status.ONE_INTERVAL, (
                "all failures fall between the same two checks, so nothing tells how they spread; "
                "attack more gently (a smaller step size or epsilon) so that failures spread over several checks"
            )
    needed = FAILURES_PER_PARAMETER * parameter_count
    if failures < needed:
        return Status.TOO_FEW_FAILURES, (
            f"{failures:g} {'failure is' if failures == 1 else 'failures are'} too few for "
            f"{parameter_count} {'parameter' if parameter_count == 1 else 'parameters'} ({needed} are needed); "
            "attack more samples, or raise epsilon or the number of iterations"
        )
    return Status.OK, ""


def _checked_once(data: Observations) -> bool:
    if data.check is not None:
        return int(data.check.max()) <= 1
    if (data.lower == data.upper).any():
        return False
    ends = np.concatenate([data.lower, data.upper])
    return np.unique(ends[np.isfinite(ends) & (ends > 0)]).size <= 1


def _one_interval(data: Observations) -> bool:
    """Whether one moment could hold every failure: then the likelihood has its supremum at sigma = 0."""
    failed = data.failed
    if data.check is not None and np.unique(data.check[failed]).size == 1:
        return True
    lower, upper = data.lower[failed], data.upper[failed]
    if (lower == lower[0]).all() and (upper == upper[0]).all():
        return True
    # Every failure can sit at one moment, and nothing outlives it.
    censored = data.lower[~failed]
    return bool(lower.max() < upper.min() and (censored.size == 0 or censored.max() < upper.min()))


def _starting_point(likelihood: Likelihood, names: tuple[str, ...], start: Fit | None) -> FloatArray | None:
    if start is None or start.status is not Status.OK:
        return None
    if tuple(c.covariate for c in start.coefficients) != (INTERCEPT, *names):
        return None
    return likelihood.standardised(np.array([c.estimate for c in start.coefficients]), start.scale)


def _standard_covariance(information: FloatArray) -> FloatArray | None:
    size = np.sqrt(np.abs(np.diag(information)))
    if not (np.isfinite(information).all() and (size > 0).all()):
        return None
    try:
        factor = cho_factor(information / np.outer(size, size))
    except LinAlgError:
        return None
    inverse: FloatArray = cho_solve(factor, np.eye(size.size)) / np.outer(size, size)
    return inverse


def _trouble(
    maximum: Maximum, covariance: FloatArray | None, names: tuple[str, ...], distribution: Distribution
) -> str:
    """Why the maximum cannot be used, in a sentence; empty if it can.

    Where the likelihood rises for ever (a group without failures, times that one moment could explain), the search
    creeps along a plateau and may stop there. What gives it away is the standard error.
    """
    if covariance is None or not math.isfinite(maximum.log_likelihood):
        return "the likelihood has no maximum that could be found; attack more samples, or fit fewer covariates"
    errors = np.sqrt(np.diag(covariance))
    if not distribution.scale_fixed and errors[-1] / maximum.parameters[-1] > LARGEST_LOG_SCALE_ERROR:
        return "the spread of the times to failure is not identified; attack more samples, or check more often"
    worst = 1 + int(np.argmax(errors[1 : len(names) + 1])) if names else 0
    if errors[worst] > LARGEST_STANDARDISED_ERROR:
        which = f"the effect of {names[worst - 1]}" if names else "the median"
        return f"{which} is not identified, as when a group has no failure; pool groups, or attack harder or longer"
    if not maximum.converged:
        return f"no maximum found in {maximum.iteration_count} iterations; attack more samples, or fit fewer covariates"
    return ""


def _clustered(
    likelihood: Likelihood, maximum: Maximum, bread: FloatArray, cluster: IntArray
) -> tuple[FloatArray, str]:
    """The sandwich over clusters, and what to know of it.

    Where there are too few clusters to estimate one it is the inverse information, and the second entry says so.
    """
    groups, index = np.unique(cluster[likelihood.rows], return_inverse=True)
    needed = CLUSTERS_PER_PARAMETER * likelihood.parameter_count + 1
    if groups.size < needed and groups.size == likelihood.observation_count:
        return bread, ""
    if groups.size < needed:
        return bread, (
            f", but its rows lie in {groups.size} {'cluster' if groups.size == 1 else 'clusters'}, too few for "
            f"clustered errors of {likelihood.parameter_count} parameters ({needed} are needed): its intervals take "
            "the rows as independent and may be much too narrow; attack more samples"
        )
    scores = np.zeros((groups.size, likelihood.parameter_count))
    np.add.at(scores, index.ravel(), likelihood.row_scores(maximum.parameters))
    sandwich = bread @ (scores.T @ scores) @ bread * (groups.size / (groups.size - 1))
    if groups.size < FEW_CLUSTERS:
        return sandwich, (
            f", but its intervals rest on {groups.size} clusters, and those from fewer than {FEW_CLUSTERS} tend to be "
            "too narrow; attack more samples"
        )
    return sandwich, ""


def _filled(
    blank: Fit, likelihood: Likelihood, maximum: Maximum, standard: FloatArray, data: Observations, level: float
) -> Fit:
    """The fit with its numbers, on the scale of the data."""
    beta, sigma, jacobian = likelihood.natural(maximum.parameters)
    covariance = jacobian @ standard @ jacobian.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    coefficients = tuple(
        Coefficient(name, float(b), float(e), log_interval(float(b), float(e), level))
        for name, b, e in zip((INTERCEPT, *data.names), beta, errors, strict=False)
    )
    size, k = beta.size, blank.parameter_count
    at_means = np.append(1.0, likelihood.column_mean)
    project = np.zeros((2, k))
    project[0, :size] = at_means
    if k > size:
        project[1, size] = 1.0
    bounds = np.concatenate([data.lower, data.upper])
    horizon = float(bounds[np.isfinite(bounds)].max())
    law = FittedTime(blank.distribution.family, float(at_means @ beta), sigma, project @ covariance @ project.T)
    time = np.where(data.failed, data.upper, data.lower)
    return replace(
        blank,
        log_likelihood=maximum.log_likelihood,
        aic=2 * k - 2 * maximum.log_likelihood,
        bic=k * math.log(data.observation_count) - 2 * maximum.log_likelihood,
        scale=sigma,
        log_scale_standard_error=float(errors[size]) if k > size else 0.0,
        coefficients=coefficients,
        median=law.median(level),
        restricted_mean=law.restricted_mean(horizon, level),
        restriction_time=horizon,
        expected=law.expected(level),
        extrapolated_share=law.extrapolated_share(horizon),
        curve=law.curve(horizon, level),
        concordance=concordance(time, data.failed, data.covariates @ beta[1:], data.weight) if data.names else None,
        covariance=covariance,
    )
