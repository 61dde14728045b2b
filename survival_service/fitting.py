"""Accelerated failure models fitted by maximum likelihood: what the data can carry, and the numbers if they can.

log T = x'beta + sigma epsilon. A fit has a status first and numbers second; only `Status.OK` has numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from survival_service.covariates import independent_columns
from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, log_interval
from survival_service.fits import INTERCEPT, USABLE, Coefficient, EffectBound, Fit, Status
from survival_service.likelihood import Likelihood, Maximum, maximise
from survival_service.metrics import concordance
from survival_service.observations import Clock, FloatArray, IntArray, Observations
from survival_service.predictions import FittedTime
from survival_service.profiling import median_interval

__all__ = [
    "INTERCEPT",
    "USABLE",
    "Coefficient",
    "EffectBound",
    "Fit",
    "Prepared",
    "Status",
    "described",
    "fit",
    "prepared",
    "ranked",
]

# Fewer failures than this a parameter, and a fit is refused. A floor: a report warns of many more (`limitations`).
FAILURES_PER_PARAMETER = 2
# As many clusters as parameters leave no degree of freedom for the sandwich, and up to twice as many hardly any; from
# fewer than this its errors are known to come out too small.
CLUSTERS_PER_PARAMETER = 2
FEW_CLUSTERS = 20
# With fewer failures than this, or no more of the samples than this, the interval of the median is found by profile
# likelihood: that of so many standard errors then covers too rarely.
FEW_FAILURES = 30
FEW_FAILURES_SHARE = 0.1
# Standard errors that no identified parameter has: of log sigma (about 0.8 over the root of the failures), and of a
# standardised coefficient in units of sigma (about one over the root of the failures, times its collinearity).
LARGEST_LOG_SCALE_ERROR = 3.0
LARGEST_STANDARDISED_ERROR = 30.0


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Observations laid out once for every distribution that is fitted to them. Made by `prepared`.

    `observations` have the covariates that can be told apart only, `dropped` a sentence for each other one. `design`
    is None where nothing failed.
    """

    observations: Observations
    dropped: tuple[str, ...]
    design: Design | None
    observation_count: float
    failure_count: float


def prepared(observations: Observations) -> Prepared:
    """Lay observations out for fits. Constant and collinear covariates are dropped and named."""
    n, failures = observations.observation_count, observations.failure_count
    dropped = observations.dropped
    design = Design.of(observations) if failures else None
    if observations.names and (design is None or not design.clearly_independent):
        kept, aliased = independent_columns(observations.covariates, observations.names, observations.weight)
        dropped += aliased
        if len(kept) < len(observations.names):
            observations = observations.with_columns(kept)
            design = Design.of(observations) if failures else None
    return Prepared(observations, dropped, design, n, failures)


def fit(
    observations: Observations | Prepared,
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
    nothing else. The curve and the concordance, which cost more than the fit, are left to `described`.
    """
    rows = observations if isinstance(observations, Prepared) else prepared(observations)
    data = rows.observations
    blank = Fit(
        distribution=distribution,
        clock=clock,
        status=Status.OK,
        status_message=USABLE,
        observation_count=round(rows.observation_count),
        failure_count=round(rows.failure_count),
        parameter_count=1 + len(data.names) + (not distribution.scale_fixed),
        dropped_covariates=rows.dropped,
    )
    status, message = _status(rows, distribution, blank.parameter_count)
    if status is not Status.OK or rows.design is None:
        return replace(blank, status=status, status_message=message)

    likelihood = Likelihood(rows.design, distribution.family, scale_fixed=distribution.scale_fixed)
    maximum = maximise(likelihood, _starting_point(likelihood, data.names, start))
    covariance = _standard_covariance(maximum.information)
    trouble = _trouble(maximum, covariance, data.names, distribution)
    if trouble or covariance is None:
        return replace(
            blank, iteration_count=maximum.iteration_count, status=Status.NOT_CONVERGED, status_message=trouble
        )
    caveat = ""
    if data.cluster is not None:
        covariance, caveat = _clustered(likelihood, maximum, covariance, data.cluster)
    return _filled(blank, likelihood, maximum, covariance, rows, level, caveat)


def described(found: Fit, observations: Observations | Prepared, *, level: float = DEFAULT_LEVEL) -> Fit:
    """A fit of these observations with what a report adds: its curve and, if it has covariates, its concordance.

    Where failures are few and rows independent, the interval of the median becomes that of the profile likelihood.
    """
    if not found.has_numbers or found.covariance is None:
        return found
    rows = observations if isinstance(observations, Prepared) else prepared(observations)
    data = rows.observations
    beta, ranking, median = np.array([c.estimate for c in found.coefficients]), None, found.median
    if data.names:
        time = np.where(data.failed, data.upper, data.lower)
        ranking = concordance(time, data.failed, data.covariates @ beta[1:], data.weight)
    few = rows.failure_count < FEW_FAILURES or rows.failure_count <= FEW_FAILURES_SHARE * rows.observation_count
    if few and data.cluster is None and rows.design is not None:
        distribution = found.distribution
        likelihood = Likelihood(rows.design, distribution.family, scale_fixed=distribution.scale_fixed)
        median = median_interval(likelihood, likelihood.standardised(beta, found.scale), median, level)
    curve = _law(found, rows).curve(found.restriction_time, level)
    return replace(found, median=median, curve=curve, concordance=ranking)


def ranked(fits: tuple[Fit, ...]) -> tuple[Fit, ...]:
    """The fits with numbers, best AIC first, then those without."""
    return tuple(sorted(fits, key=lambda f: (not f.has_numbers, f.aic)))


def _status(rows: Prepared, distribution: Distribution, parameter_count: int) -> tuple[Status, str]:
    """What the data can carry, before anything is fitted."""
    data, failures = rows.observations, rows.failure_count
    if rows.observation_count == 0:
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
    ends = [data.lower[data.lower > 0], data.upper[data.failed]]
    return bool(max(end.max(initial=0.0) for end in ends) <= min(end.min(initial=math.inf) for end in ends))


def _one_interval(data: Observations) -> bool:
    """Whether one moment could hold every failure: then the likelihood has its supremum at sigma = 0."""
    failed = data.failed
    if data.check is not None:
        check = data.check[failed]
        if check.min() == check.max():
            return True
    lower, upper = data.lower[failed], data.upper[failed]
    least, greatest, earliest = lower.min(), lower.max(), upper.min()
    if least == greatest and earliest == upper.max():
        return True
    # Every failure can sit at one moment, and nothing outlives it.
    return bool(greatest < earliest and data.lower[~failed].max(initial=0.0) < earliest)


def _starting_point(likelihood: Likelihood, names: tuple[str, ...], start: Fit | None) -> FloatArray | None:
    if start is None or not start.has_numbers:
        return None
    if tuple(c.covariate for c in start.coefficients) != (INTERCEPT, *names):
        return None
    return likelihood.standardised(np.array([c.estimate for c in start.coefficients]), start.scale)


def _standard_covariance(information: FloatArray) -> FloatArray | None:
    size = np.sqrt(np.abs(np.diag(information)))
    if not (np.isfinite(information).all() and (size > 0).all()):
        return None
    sizes = np.outer(size, size)
    factor, failure = dpotrf(information / sizes)
    if failure:
        return None
    upper, _ = dpotri(factor)  # its lower triangle is zero
    inverse: FloatArray = (upper + upper.T - np.diag(np.diag(upper))) / sizes
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
    of_rows = likelihood.row_scores(maximum.parameters)
    scores = np.array([np.bincount(index.ravel(), column, groups.size) for column in of_rows.T])
    sandwich = bread @ (scores @ scores.T) @ bread * (groups.size / (groups.size - 1))
    if groups.size < FEW_CLUSTERS:
        return sandwich, (
            f", but its intervals rest on {groups.size} clusters, and those from fewer than {FEW_CLUSTERS} tend to be "
            "too narrow; attack more samples"
        )
    return sandwich, ""


def _filled(
    blank: Fit,
    likelihood: Likelihood,
    maximum: Maximum,
    standard: FloatArray,
    rows: Prepared,
    level: float,
    caveat: str,
) -> Fit:
    """The fit with its numbers, on the scale of the data."""
    beta, sigma, jacobian = likelihood.natural(maximum.parameters)
    covariance = jacobian @ standard @ jacobian.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()
    data = rows.observations
    coefficients = tuple(
        Coefficient(name, b, e, log_interval(b, e, level))
        for name, b, e in zip((INTERCEPT, *data.names), beta.tolist(), errors, strict=False)
    )
    k = blank.parameter_count
    horizon = max(float(data.lower.max()), float(data.upper.max(where=data.failed, initial=0.0)))
    filled = replace(
        blank,
        status_message=USABLE + caveat,
        iteration_count=maximum.iteration_count,
        log_likelihood=maximum.log_likelihood,
        aic=2 * k - 2 * maximum.log_likelihood,
        bic=k * math.log(rows.observation_count) - 2 * maximum.log_likelihood,
        scale=sigma,
        log_scale_standard_error=errors[beta.size] if k > beta.size else 0.0,
        coefficients=coefficients,
        restriction_time=horizon,
        covariance=covariance,
    )
    law = _law(filled, rows)
    return replace(
        filled,
        median=law.median(level),
        restricted_mean=law.restricted_mean(horizon, level),
        expected=law.expected(level),
        extrapolated_share=law.extrapolated_share(horizon),
    )


def _law(found: Fit, rows: Prepared) -> FittedTime:
    """The fitted law of times at the means of the covariates."""
    if found.covariance is None or rows.design is None:
        raise ValueError("only a fit with numbers has a law of times")
    at_means = np.append(1.0, rows.design.column_mean)
    size = at_means.size
    project = np.zeros((2, found.parameter_count))
    project[0, :size] = at_means
    if found.parameter_count > size:
        project[1, size] = 1.0
    mu = float(at_means @ np.array([c.estimate for c in found.coefficients]))
    return FittedTime(found.distribution.family, mu, found.scale, project @ found.covariance @ project.T)
