"""Accelerated failure models fitted by maximum likelihood: what the data can carry, and the numbers if they can.

log T = x'beta + sigma epsilon. A fit has a status first and numbers second; `Fit.has_numbers` says whether it has any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from survival_service.advice import Advice, advice_on
from survival_service.bounding import effect_bounds
from survival_service.criteria import criteria, ranked
from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, log_interval
from survival_service.fits import INTERCEPT, USABLE, Coefficient, EffectBound, Fit, Status
from survival_service.likelihood import Likelihood, Maximum, maximise
from survival_service.maxima import doubtful, inverse_information, trouble
from survival_service.metrics import concordance
from survival_service.observations import Clock, FloatArray, IntArray, Observations
from survival_service.predictions import FittedTime, ShapedTime
from survival_service.preparing import Prepared, prepared
from survival_service.profiling import effect_interval, median_interval
from survival_service.screening import failure_probability, screened
from survival_service.shapes import LARGEST_SHAPE_ERROR, Shaped, Tied, find_shape

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
    "fitted_time",
    "prepared",
    "ranked",
]

# As many clusters as parameters leave no degree of freedom for the sandwich, and up to twice as many hardly any; from
# fewer than this its errors are known to come out too small.
CLUSTERS_PER_PARAMETER = 2
FEW_CLUSTERS = 20
# With fewer failures than this, intervals are found by profile likelihood: those of so many standard errors then cover
# too rarely, or miss on one side. How many failed is itself up to chance, so the rule must change where the two agree:
# elsewhere, one kind above some number and the other below covers less often than either alone (docs/coverage.md).
# Effects only where that is cheap: this many, of this many rows.
PROFILED_BELOW = 300
MOST_PROFILED_EFFECTS = 4
MOST_PROFILED_ROWS = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A maximum with its inverse information, in (delta, gamma) and, where it is free, the shape."""

    maximum: Maximum
    covariance: FloatArray
    shape: float | None
    row_scores: Callable[[], FloatArray]


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
    (Huber 1967, with G/(G-1)) and intervals are Student's with G-1 degrees of freedom, otherwise the inverse
    information and normal ones; where the clusters are too few for either to be trusted, the status message says so. A
    group without failures leaves the limit of the fit, and a bound for its effect. `start`, an earlier fit with the
    same covariates to nearly the same rows, saves iterations and moves no number by a thousandth of its error. The
    curve and the concordance, which cost more than the fit, are left to `described`.
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
        parameter_count=parameter_count(distribution, len(data.names)),
        dropped_covariates=rows.dropped,
    )
    status, message = screened(data, distribution, blank.parameter_count, clock)
    if status is not Status.OK or rows.design is None:
        return _without_numbers(blank, status, message, data, level)

    # With a shape, whether there is anything to find is asked of the Weibull distribution, one of all its shapes.
    plain = Distribution.WEIBULL if distribution.with_shape else distribution
    likelihood = Likelihood(rows.design, plain.family, scale_fixed=plain.scale_fixed)
    maximum = maximise(likelihood, _starting_point(likelihood, data.names, start))
    blank = replace(blank, iteration_count=maximum.iteration_count)
    covariance = inverse_information(maximum.information)
    if doubtful(maximum, covariance, len(data.names), scale_fixed=plain.scale_fixed):
        if rows.limit is not None and not rows.limit.recession.at_zero:
            return _limiting(blank, rows, level)
        status, message = trouble(rows, maximum, covariance, advice_on(clock), scale_fixed=plain.scale_fixed)
    if status is not Status.OK or covariance is None:
        return _without_numbers(blank, status, message, data, level)
    found = _Found(maximum, covariance, None, lambda: likelihood.row_scores(maximum.parameters))
    if distribution.with_shape:
        shaped = _shaped(rows.design, distribution, advice_on(clock))
        if not isinstance(shaped, _Found):
            return _without_numbers(blank, *shaped, data, level)
        found = shaped
    return _filled(blank, found, rows, level)


def parameter_count(distribution: Distribution, covariate_count: int) -> int:
    """Everything that a fit estimates: intercept, effects, scale and shape."""
    free_shape = distribution is Distribution.GENERALIZED_GAMMA
    return 1 + covariate_count + (not distribution.scale_fixed) + free_shape


def described(found: Fit, observations: Observations | Prepared, *, level: float = DEFAULT_LEVEL) -> Fit:
    """A fit of these observations with what a report adds: its curve and, if it has covariates, its concordance.

    Where failures are few and rows independent, the intervals of the median and, if they are few and the rows not too
    many, of the effects become those of the profile likelihood; those of a fit with a shape stay.
    """
    if not found.has_numbers or found.covariance is None:
        return found
    whole = observations if isinstance(observations, Prepared) else prepared(observations)
    rows, ranking = _estimated(found, whole), None
    data = rows.observations
    if whole.observations.names:
        of, predicted = whole.observations, predicted_locations(found, whole)
        ranking = concordance(np.where(of.failed, of.upper, of.lower), of.failed, predicted, of.weight)
    found = replace(found, curve=fitted_time(found, whole).curve(found.restriction_time, level), concordance=ranking)
    if rows.failure_count < PROFILED_BELOW and data.cluster is None and rows.design is not None and found.shape is None:
        return _profiled(found, rows.design, level)
    return found


def predicted_locations(found: Fit, rows: Prepared) -> FloatArray:
    """What a fit with numbers predicts for each of its rows, in their order: the location of log time. (n,)

    Infinite for the groups without failures that a fit in the limit leaves out: they outlive everything.
    """
    part, limit = _estimated(found, rows), rows.limit
    intercept, *slopes = (c.estimate for c in found.coefficients)
    # Column by column, so that equal rows get equal numbers: a product of matrices may round by position.
    here = np.full(part.observations.lower.size, intercept)
    for slope, column in zip(slopes, part.observations.covariates.T, strict=True):
        here += slope * column
    if part is rows or limit is None:
        return here
    predicted = np.full(rows.observations.lower.size, math.inf)
    predicted[~limit.recession.receding] = here
    return predicted


def fitted_time(found: Fit, rows: Prepared) -> FittedTime | ShapedTime:
    """The fitted law of times at the means of the covariates. Raises `ValueError` for a fit without numbers."""
    rows = _estimated(found, rows)
    if found.covariance is None or rows.design is None:
        raise ValueError("only a fit with numbers has a law of times")
    at_means = np.append(1.0, rows.design.column_mean)
    size = at_means.size
    mu = float(at_means @ np.array([c.estimate for c in found.coefficients]))
    project = np.zeros((2 if found.shape is None else 3, found.covariance.shape[0]))
    project[0, :size] = at_means
    if found.covariance.shape[0] > size:
        project[1, size] = 1.0
    if found.shape is None:
        covariance = project @ found.covariance @ project.T
        return FittedTime(found.family, mu, found.scale, covariance, found.degrees_of_freedom)
    # The shape of a gamma distribution is its scale, so that it moves with log sigma.
    project[2, -1] = found.scale if found.distribution is Distribution.GAMMA else 1.0
    covariance = project @ found.covariance @ project.T
    return ShapedTime(mu, found.scale, found.shape, covariance, found.degrees_of_freedom)


def _without_numbers(blank: Fit, status: Status, message: str, data: Observations, level: float) -> Fit:
    """A fit that has a status, and the share of failures where that much is known."""
    share, time = failure_probability(data, level) or (None, 0.0)
    return replace(
        blank,
        status=status,
        status_message=message,
        failure_probability=share,
        failure_probability_time=time,
    )


def _estimated(found: Fit, rows: Prepared) -> Prepared:
    """The observations that the numbers of a fit are of."""
    if found.status is Status.GROUP_WITHOUT_FAILURE and rows.limit is not None:
        return rows.limit.rows
    return rows


def _starting_point(likelihood: Likelihood, names: tuple[str, ...], start: Fit | None) -> FloatArray | None:
    if start is None or not start.has_numbers or start.shape is not None:
        return None
    if tuple(c.covariate for c in start.coefficients) != (INTERCEPT, *names):
        return None
    return likelihood.standardised(np.array([c.estimate for c in start.coefficients]), start.scale)


def _limiting(blank: Fit, rows: Prepared, level: float) -> Fit:
    """The limit of a fit that has no maximum because nothing failed in a group, with bounds for that group's effect."""
    limit = rows.limit
    if limit is None:
        raise ValueError("these observations have a maximum, and no limit")
    inner = fit(limit.rows, blank.distribution, clock=blank.clock, level=level)
    if not inner.has_numbers:
        return _without_numbers(blank, inner.status, inner.status_message, rows.observations, level)
    several, advice = len(limit.affected) > 1, advice_on(blank.clock)
    message = (
        f"nothing failed in a group that {advice.tells_apart(limit.affected)}, so {'their' if several else 'its'} "
        f"effect{'s have' if several else ' has'} a bound instead of an estimate, and the other numbers are those of "
        f"the other {advice.one}s{inner.status_message.removeprefix(USABLE)}; {advice.for_failures_of_group}"
    )
    value, k = inner.log_likelihood, blank.parameter_count
    return replace(
        inner,
        status=Status.GROUP_WITHOUT_FAILURE,
        status_message=message,
        observation_count=blank.observation_count,
        failure_count=blank.failure_count,
        parameter_count=k,
        iteration_count=blank.iteration_count + inner.iteration_count,
        dropped_covariates=blank.dropped_covariates,
        coefficients=tuple(
            replace(one, covariate=limit.renamed.get(one.covariate, one.covariate)) for one in inner.coefficients
        ),
        effect_bounds=effect_bounds(rows, limit, inner, level),
        **criteria(value, k, rows.observation_count, rows.failure_count),
    )


def _shaped(design: Design, distribution: Distribution, advice: Advice) -> _Found | tuple[Status, str]:
    """The maximum of a distribution with a shape, or why there is none."""
    shaped, simpler = find_shape(design, distribution), "or fit a Weibull or log-normal distribution"
    if shaped is None:
        return Status.NOT_IDENTIFIED, (
            "the likelihood rises to the end of the range of shapes, so no shape is found; "
            f"{advice.for_samples}, {simpler}"
        )
    maximum, covariance = shaped.maximum, inverse_information(shaped.maximum.information)
    free = distribution is Distribution.GENERALIZED_GAMMA
    if covariance is None or (free and covariance[-1, -1] > LARGEST_SHAPE_ERROR**2):
        return Status.NOT_IDENTIFIED, (
            f"the shape is not identified; {advice.for_samples}, {advice.for_checks_between}, {simpler}"
        )
    if not maximum.converged:
        return Status.NOT_CONVERGED, f"no maximum was found with a shape; {advice.for_samples}, {simpler}"

    def row_scores() -> FloatArray:
        if not free:
            return Tied(design).row_scores(maximum.parameters)
        return np.roll(Shaped(design).row_scores(np.roll(maximum.parameters, 1)), -1, axis=1)

    return _Found(maximum, covariance, shaped.shape, row_scores)


def _clustered(
    found: _Found, rows: IntArray, cluster: IntArray, total: float, advice: Advice
) -> tuple[FloatArray, int | None, str]:
    """The sandwich over clusters, the degrees of freedom of its intervals, and what to know of it.

    Where there are too few clusters to estimate one it is the inverse information, and the last entry says so.
    """
    bread, k = found.covariance, found.covariance.shape[0]
    groups, index = np.unique(cluster[rows], return_inverse=True)
    needed = CLUSTERS_PER_PARAMETER * k + 1
    if groups.size < needed and groups.size == total:
        return bread, None, ""
    if groups.size < needed:
        return (
            bread,
            None,
            f", but its rows lie in {groups.size} {advice.cluster}{'' if groups.size == 1 else 's'}, too few for "
            f"clustered errors of {k} parameters ({needed} are needed): its intervals take "
            f"the rows as independent and may be much too narrow; {advice.for_clusters}",
        )
    scores = np.array([np.bincount(index.ravel(), column, groups.size) for column in found.row_scores().T])
    sandwich = bread @ (scores @ scores.T) @ bread * (groups.size / (groups.size - 1))
    caveat = ""
    if groups.size < FEW_CLUSTERS:
        caveat = (
            f", but its intervals rest on {groups.size} {advice.cluster}s, and those from fewer than {FEW_CLUSTERS} "
            f"tend to be too narrow; {advice.for_clusters}"
        )
    return sandwich, groups.size - 1, caveat


def _filled(blank: Fit, found: _Found, rows: Prepared, level: float) -> Fit:
    """The fit with its numbers, on the scale of the data."""
    design, data, distribution, maximum = rows.design, rows.observations, blank.distribution, found.maximum
    if design is None:
        raise ValueError("without a failure there is no fit")
    standard, freedom, caveat = found.covariance, None, ""
    if data.cluster is not None:
        standard, freedom, caveat = _clustered(
            found, design.rows, data.cluster, design.total_weight, advice_on(blank.clock)
        )
    family = Distribution.LOG_NORMAL.family  # the change of scale is the same for every family
    scales = Likelihood(design, family, scale_fixed=distribution.scale_fixed)
    size = 2 + len(data.names)
    beta, sigma, inner = scales.natural(maximum.parameters[:size])
    jacobian = np.eye(standard.shape[0])
    jacobian[: inner.shape[0], : inner.shape[0]] = inner
    covariance = jacobian @ standard @ jacobian.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()
    log_scale_error = 0.0 if distribution.scale_fixed else errors[beta.size]
    shape_error = None
    if found.shape is not None:
        shape_error = errors[-1] if distribution is Distribution.GENERALIZED_GAMMA else sigma * log_scale_error
    filled = replace(
        blank,
        status_message=USABLE + caveat,
        iteration_count=maximum.iteration_count,
        log_likelihood=maximum.log_likelihood,
        scale=sigma,
        log_scale_standard_error=log_scale_error,
        coefficients=tuple(
            Coefficient(name, b, e, log_interval(b, e, level, degrees_of_freedom=freedom))
            for name, b, e in zip((INTERCEPT, *data.names), beta.tolist(), errors, strict=False)
        ),
        restriction_time=max(float(data.lower.max()), float(data.upper.max(where=data.failed, initial=0.0))),
        degrees_of_freedom=freedom,
        shape=found.shape,
        shape_standard_error=shape_error,
        covariance=covariance,
        **criteria(maximum.log_likelihood, blank.parameter_count, rows.observation_count, rows.failure_count),
    )
    law = fitted_time(filled, rows)
    return replace(
        filled,
        median=law.median(level),
        restricted_mean=law.restricted_mean(filled.restriction_time, level),
        expected=law.expected(level),
        extrapolated_share=law.extrapolated_share(filled.restriction_time),
    )


def _profiled(found: Fit, design: Design, level: float) -> Fit:
    """The fit with profile intervals of its median and, where that is cheap, of its effects."""
    likelihood = Likelihood(design, found.family, scale_fixed=found.distribution.scale_fixed)
    at = likelihood.standardised(np.array([c.estimate for c in found.coefficients]), found.scale)
    effects = found.coefficients
    if len(effects) - 1 <= MOST_PROFILED_EFFECTS and design.row_count <= MOST_PROFILED_ROWS:
        effects = (
            effects[0],
            *(
                replace(c, time_ratio=effect_interval(likelihood, at, j, c.estimate, c.standard_error, level))
                for j, c in enumerate(effects[1:])
            ),
        )
    return replace(found, median=median_interval(likelihood, at, found.median, level), coefficients=effects)
