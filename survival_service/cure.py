"""How many samples never fail: mixture-cure fits, and whether the attack went on long enough to tell.

S(t) = pi + (1 - pi) S_u(t) (Boag 1949; Farewell 1982). Fits without a cured share assume that every sample fails in
the end, so that what they expect grows with the attack's budget; pi and the median of those that can fail do not.
Whether pi is a finding depends on the follow-up (Maller and Zhou 1996): a fit says what share of those that can fail
it believes to have survived the attack. Where that is more than a twentieth, by this fit or by one that the data do not
rule out, it is flagged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
from scipy.special import chdtrc, expit, logit

from survival_service.advice import Advice, advice_on
from survival_service.distributions import Distribution
from survival_service.estimates import (
    DEFAULT_LEVEL,
    NO_CURVE,
    NO_ESTIMATE,
    Curve,
    Estimate,
    interval_quantile,
    log_interval,
    normal_quantile,
)
from survival_service.fits import INTERCEPT, USABLE, Coefficient, Fit, Status
from survival_service.fitting import CLUSTERS_PER_PARAMETER, FEW_CLUSTERS, MOST_PROFILED_ROWS, Prepared
from survival_service.likelihood import Maximum
from survival_service.maxima import LARGEST_LOG_SCALE_ERROR, LARGEST_STANDARDISED_ERROR, inverse_information
from survival_service.mixture import MixtureLikelihood, maximise_mixture, profile_bounds
from survival_service.observations import Clock, FloatArray, IntArray
from survival_service.predictions import CURVE_POINT_COUNT, FittedTime
from survival_service.screening import FAILURES_PER_PARAMETER

# The distributions that are fitted with a cured share: those of one location and one scale.
CURE_DISTRIBUTIONS = (
    Distribution.WEIBULL,
    Distribution.LOG_NORMAL,
    Distribution.LOG_LOGISTIC,
    Distribution.EXPONENTIAL,
)
# The greatest fitted share of those that can fail, but had not at the longest time, with which follow-up suffices.
# The fitted curve ends where the observed one does, so the cured share is what that shows surviving, less at most
# 0.05 / 0.95 of what it shows failing: no more than that is the distribution's word alone.
LARGEST_UNFAILED_SHARE = 0.05
# A fit whose AIC is no more than this above the best one is not ruled out (Burnham and Anderson 2002, section 2.6).
NOT_RULED_OUT = 4.0
# Without a profile, a cured share whose logit has a greater standard error is not identified: the odds at the ends of
# its interval of 95 % differ by a factor of 2 500 or more, as happens to shares near 0, where the logit is not normal.
# A smaller limit would keep the fits that chance has made high, and cover less (docs/coverage.md).
LARGEST_LOGIT_ERROR = 2.0
# A cured share that gains less than this, in nats, is none.
_NEGLIGIBLE_GAIN = 1e-6


class CureStatus(Enum):
    """What the data say of a share that never fails. The values are those of the wire."""

    OK = 1
    NO_CURED_SHARE = 2
    NO_FIT = 3
    TOO_FEW_FAILURES = 4
    NOT_IDENTIFIED = 5


class FollowUp(Enum):
    """Whether the attack went on long enough to tell samples that never fail from slow ones, as on the wire."""

    SUFFICIENT = 1
    SHORT = 2


@dataclass(frozen=True, slots=True)
class CureFit:
    """A mixture-cure fit on one clock. Fields are those of the contract's `CureFit`.

    `CureStatus.OK` has all numbers. `NO_CURED_SHARE` has a `cured_share` of 0 with its one-sided upper bound, the
    p-value and the follow-up; the others have none. `covariance` is of (logit of the cured share, coefficients, log
    scale), and not on the wire.
    """

    distribution: Distribution
    status: CureStatus
    status_message: str
    cured_share: Estimate = NO_ESTIMATE
    logit_standard_error: float = 0.0
    follow_up: FollowUp | None = None
    follow_up_message: str = ""
    unfailed_share: float = 0.0
    median: Estimate = NO_ESTIMATE
    restricted_mean: Estimate = NO_ESTIMATE
    restriction_time: float = 0.0
    coefficients: tuple[Coefficient, ...] = ()
    scale: float = 0.0
    log_scale_standard_error: float = 0.0
    log_likelihood: float = 0.0
    aic: float = 0.0
    parameter_count: int = 0
    p_value: float | None = None
    iteration_count: int = 0
    curve: Curve = NO_CURVE
    covariance: FloatArray | None = field(default=None, compare=False, repr=False)


def cure_fits(rows: Prepared, fits: tuple[Fit, ...], *, level: float = DEFAULT_LEVEL) -> tuple[CureFit, ...]:
    """The mixture-cure fits beside these fits of the same rows: those with numbers first, best AIC first.

    A distribution of more than one location and one scale has none.
    """
    found = [fit_cure(rows, one, level=level) for one in fits if one.distribution in CURE_DISTRIBUTIONS]
    known = sorted((one for one in found if one.follow_up is not None), key=lambda one: one.aic)
    clock = fits[0].clock if fits else None
    return tuple(_doubted(one, known, clock) for one in known) + tuple(one for one in found if one.follow_up is None)


def needs_cured_share(fits: tuple[Fit, ...], cured: tuple[CureFit, ...]) -> bool:
    """Whether a fit with a cured share rules out all without: their AIC is so much above its own."""
    plain = [one.aic for one in fits if one.has_numbers]
    with_share = [one.aic for one in cured if one.status is CureStatus.OK]
    return bool(plain and with_share) and min(plain) > min(with_share) + NOT_RULED_OUT


def _doubted(one: CureFit, known: list[CureFit], clock: Clock | None) -> CureFit:
    """The fit, flagged where a fit that the data do not rule out believes more of those that can fail to be left."""
    rivals = [other for other in known if other.aic <= known[0].aic + NOT_RULED_OUT]
    worst = max(rivals, key=lambda other: other.unfailed_share)
    if one.follow_up is FollowUp.SHORT or one not in rivals or worst.follow_up is FollowUp.SUFFICIENT:
        return one
    name = worst.distribution.name.lower().replace("_", "-")
    message = _follow_up_message(worst.unfailed_share, f"the {name} fit, which the data do not rule out", clock)
    return replace(one, follow_up=FollowUp.SHORT, follow_up_message=message)


def fit_cure(rows: Prepared, plain: Fit, *, level: float = DEFAULT_LEVEL) -> CureFit:
    """Fit the distribution of `plain`, a fit to the same rows, with a share that never fails.

    The maximum by EM (Peng and Dear 2000; Sy and Taylor 2000) and Newton's method, errors of all parameters together
    by the observed information (Louis 1982), with clusters the sandwich. The interval of the cured share is that of
    the profile likelihood; with clusters, and with more rows than that is quick for, symmetric on the logit scale, and
    the share is not identified where the logit's error is above `LARGEST_LOGIT_ERROR`. The p-value tests that there is
    none: at the edge of what a share can be, twice the log-likelihood gained is 0 half of the time and chi-squared of
    1 degree otherwise (Self and Liang 1987; Maller and Zhou 1996); clusters have no such test.
    """
    distribution, design = plain.distribution, rows.design
    k = plain.parameter_count + 1
    blank = CureFit(distribution, CureStatus.NO_FIT, plain.status_message, parameter_count=k)
    if plain.status is not Status.OK or design is None:
        return blank
    advice = advice_on(plain.clock)
    status, message = _status(rows, distribution, k, advice)
    if status is not CureStatus.OK:
        return replace(blank, status=status, status_message=message)

    likelihood = MixtureLikelihood(design, distribution.family, scale_fixed=distribution.scale_fixed)
    found = maximise_mixture(likelihood)
    gain = found.log_likelihood - plain.log_likelihood
    clustered = rows.observations.cluster is not None
    searched = replace(
        blank,
        restriction_time=plain.restriction_time,
        iteration_count=found.iteration_count,
        p_value=None if clustered else _p_value(gain),
    )
    if gain < _NEGLIGIBLE_GAIN:
        return _without_cured_share(searched, likelihood, plain, clustered=clustered, level=level)
    covariance = inverse_information(found.information)
    if not found.converged or covariance is None or _unidentified(found, covariance, distribution):
        return replace(
            searched,
            status=CureStatus.NOT_IDENTIFIED,
            status_message="a share that never fails cannot be told from a wide spread of the times to failure; "
            f"{advice.for_samples}, or {advice.for_longer}",
            p_value=None,
        )
    caveat, interval, degrees = "", None, None
    if rows.observations.cluster is not None:
        covariance, degrees, caveat = _clustered(likelihood, found, covariance, rows.observations.cluster, advice)
    elif design.row_count <= MOST_PROFILED_ROWS:
        floor = found.log_likelihood - 0.5 * normal_quantile(level) ** 2
        start = float(found.parameters[0])
        interval = profile_bounds(likelihood, found.parameters[1:], start, floor, plain.log_likelihood)
    if interval is None and covariance[0, 0] > LARGEST_LOGIT_ERROR**2:
        return replace(
            searched,
            status=CureStatus.NOT_IDENTIFIED,
            status_message="the share that never fails is too close to 0, or too uncertain, for an interval "
            f"(its logit has a standard error above {LARGEST_LOGIT_ERROR:g}); {advice.for_samples}, or "
            f"{advice.for_longer}",
            p_value=None,
        )
    return replace(
        _filled(searched, likelihood, found, covariance, rows, interval, degrees, plain.clock, level),
        status_message=USABLE + caveat,
    )


def _status(rows: Prepared, distribution: Distribution, parameter_count: int, advice: Advice) -> tuple[CureStatus, str]:
    """Whether the data can carry one more parameter than the fit without a cured share."""
    needed = FAILURES_PER_PARAMETER * parameter_count
    if rows.failure_count < needed:
        return CureStatus.TOO_FEW_FAILURES, (
            f"{rows.failure_count:g} failures are too few for {parameter_count} parameters, a cured share among them "
            f"({needed} are needed); {advice.for_samples}, or {advice.for_failures}"
        )
    data, least = rows.observations, 2 if distribution.scale_fixed else 3
    when = data.upper if data.check is None else data.check
    moments = int(np.unique(when[data.failed]).size)
    if moments < least:
        return CureStatus.NOT_IDENTIFIED, (
            f"failures were found at {moments} {'check' if moments == 1 else 'checks'} only, and {advice.one}s "
            f"that never fail are told from slow ones by at least {least}; {advice.for_checks_between}"
        )
    return CureStatus.OK, ""


def _p_value(gain: float) -> float:
    """The probability of at least this gain in log-likelihood if there is no cured share."""
    return 0.5 * float(chdtrc(1, 2 * gain)) if gain > _NEGLIGIBLE_GAIN else 1.0


def _without_cured_share(
    searched: CureFit, likelihood: MixtureLikelihood, plain: Fit, *, clustered: bool, level: float
) -> CureFit:
    """The likelihood is highest without a cured share: what is left is how great one could be."""
    beta = np.array([coefficient.estimate for coefficient in plain.coefficients])
    latency = likelihood.plain.standardised(beta, plain.scale)
    upper = None
    if not clustered:  # few steps, and the only bound there is: worth its time with any number of rows
        # As for a group without failures: a drop of z^2/2 misses in one of four where few samples could tell.
        floor = plain.log_likelihood + math.log1p(-level)
        # A share of this many samples costs less likelihood than that.
        start = -math.log(likelihood.observation_count) - 2.0
        upper = profile_bounds(likelihood, latency, start, floor, plain.log_likelihood)[1]
    unfailed = _unfailed_share(likelihood, beta, plain.scale, plain.restriction_time)
    return replace(
        searched,
        status=CureStatus.NO_CURED_SHARE,
        status_message=f"the data are likeliest if every {advice_on(plain.clock).one} fails in the end",
        cured_share=Estimate(0.0, 0.0, upper),
        follow_up=_follow_up(unfailed),
        follow_up_message=_follow_up_message(unfailed, "this fit", plain.clock),
        unfailed_share=unfailed,
        log_likelihood=plain.log_likelihood,
        aic=2 * searched.parameter_count - 2 * plain.log_likelihood,
    )


def _filled(
    searched: CureFit,
    likelihood: MixtureLikelihood,
    found: Maximum,
    standard: FloatArray,
    rows: Prepared,
    interval: tuple[float, float] | None,
    degrees_of_freedom: int | None,
    clock: Clock | None,
    level: float,
) -> CureFit:
    """The fit with its numbers, on the scale of the data."""
    share, beta, sigma, jacobian = likelihood.natural(found.parameters)
    covariance = jacobian @ standard @ jacobian.T
    errors = np.sqrt(np.maximum(np.diag(covariance), 0.0)).tolist()
    eta, margin = float(found.parameters[0]), interval_quantile(level, degrees_of_freedom) * errors[0]
    lower, upper = interval or (float(expit(eta - margin)), float(expit(eta + margin)))
    size, horizon = beta.size, searched.restriction_time
    unfailed = _unfailed_share(likelihood, beta, sigma, horizon)
    at_means = np.append(1.0, likelihood.plain.column_mean)
    project = np.zeros((3, searched.parameter_count))
    project[0, 0] = 1.0
    project[1, 1 : size + 1] = at_means
    if searched.parameter_count > size + 1:
        project[2, size + 1] = 1.0
    of_law = project @ covariance @ project.T
    susceptible = FittedTime(likelihood.family, float(at_means @ beta), sigma, of_law[1:, 1:], degrees_of_freedom)
    law = MixtureTime(susceptible, eta, of_law)
    return replace(
        searched,
        status=CureStatus.OK,
        cured_share=Estimate(share, min(lower, share), max(upper, share)),
        logit_standard_error=errors[0],
        follow_up=_follow_up(unfailed),
        follow_up_message=_follow_up_message(unfailed, "this fit", clock),
        unfailed_share=unfailed,
        median=law.susceptible.median(level),
        restricted_mean=law.restricted_mean(horizon, level),
        coefficients=tuple(
            Coefficient(name, b, e, log_interval(b, e, level, degrees_of_freedom=degrees_of_freedom))
            for name, b, e in zip((INTERCEPT, *rows.observations.names), beta.tolist(), errors[1:], strict=False)
        ),
        scale=sigma,
        log_scale_standard_error=errors[size + 1] if len(errors) > size + 1 else 0.0,
        log_likelihood=found.log_likelihood,
        aic=2 * searched.parameter_count - 2 * found.log_likelihood,
        curve=law.curve(horizon, level),
        covariance=covariance,
    )


def _unfailed_share(likelihood: MixtureLikelihood, beta: FloatArray, sigma: float, horizon: float) -> float:
    """The fitted share of those who can fail that had not at the longest time, at the covariates' means."""
    mu = float(np.append(1.0, likelihood.plain.column_mean) @ beta)
    return float(likelihood.family.survival(np.array([(math.log(horizon) - mu) / sigma]))[0])


def _follow_up(unfailed: float) -> FollowUp:
    return FollowUp.SUFFICIENT if unfailed <= LARGEST_UNFAILED_SHARE else FollowUp.SHORT


def _follow_up_message(unfailed: float, by: str, clock: Clock | None) -> str:
    if _follow_up(unfailed) is FollowUp.SUFFICIENT:
        return ""
    advice = advice_on(clock)
    return (
        f"by {by}, {100 * unfailed:.0f} % of the {advice.one}s that can fail had not {advice.end}, so the share that "
        f"never fails leans on the shape of the distribution; {advice.for_longer}"
    )


def _unidentified(found: Maximum, covariance: FloatArray, distribution: Distribution) -> bool:
    """Whether a standard error is one that no identified parameter has; the share's is told by its interval."""
    errors = np.sqrt(np.diag(covariance))
    free = errors.size if distribution.scale_fixed else errors.size - 1
    log_scale = 0.0 if distribution.scale_fixed else float(errors[-1] / found.parameters[-1])
    return log_scale > LARGEST_LOG_SCALE_ERROR or bool((errors[1:free] > LARGEST_STANDARDISED_ERROR).any())


def _clustered(
    likelihood: MixtureLikelihood, found: Maximum, bread: FloatArray, cluster: IntArray, advice: Advice
) -> tuple[FloatArray, int | None, str]:
    """The sandwich over clusters (Huber 1967), the degrees of freedom of its intervals, and what to know of it.

    Where there are too few clusters to estimate one it is the inverse information, and the last entry says so.
    """
    groups, index = np.unique(cluster[likelihood.design.rows], return_inverse=True)
    if groups.size < CLUSTERS_PER_PARAMETER * likelihood.parameter_count + 1:
        caveat = f"its rows lie in {groups.size} {advice.cluster}s, too few for clustered errors"
        return bread, None, f", but {caveat}: its intervals take the rows as independent and may be much too narrow"
    of_rows = likelihood.row_scores(found.parameters)
    scores = np.array([np.bincount(index.ravel(), column, groups.size) for column in of_rows.T])
    sandwich: FloatArray = bread @ (scores @ scores.T) @ bread * (groups.size / (groups.size - 1))
    few = (
        f", but its intervals rest on {groups.size} {advice.cluster}s and tend to be too narrow; {advice.for_clusters}"
    )
    return sandwich, groups.size - 1, few if groups.size < FEW_CLUSTERS else ""


@dataclass(frozen=True, slots=True)
class MixtureTime:
    """The law of times of which a share never ends, with the 3x3 `covariance` of (eta, mu, log sigma)."""

    susceptible: FittedTime
    eta: float
    covariance: FloatArray

    def restricted_mean(self, horizon: float, level: float) -> Estimate:
        """E[min(T, horizon)] = pi horizon + (1 - pi) E[min(T_u, horizon)], by the delta method on the log scale."""
        at = np.array([self.eta, self.susceptible.mu, math.log(self.susceptible.sigma)])
        gradient = np.empty(3)
        for j in range(3):
            step = np.zeros(3)
            step[j] = 1e-4
            gradient[j] = (self._log_mean(at + step, horizon) - self._log_mean(at - step, horizon)) / 2e-4
        error = math.sqrt(max(0.0, float(gradient @ self.covariance @ gradient)))
        degrees = self.susceptible.degrees_of_freedom
        estimate = log_interval(self._log_mean(at, horizon), error, level, degrees_of_freedom=degrees)
        return replace(estimate, upper=None if estimate.upper is None else min(estimate.upper, horizon))

    def curve(self, horizon: float, level: float) -> Curve:
        """The survival function on an even grid from 0 to the horizon; its interval is symmetric on the logit scale."""
        time, of = np.linspace(0.0, horizon, CURVE_POINT_COUNT), self.susceptible
        z = (np.log(time[1:]) - of.mu) / of.sigma
        share, still = float(expit(self.eta)), of.family.survival(np.clip(z, -1e6, 1e6))
        survival = share + (1.0 - share) * still
        with np.errstate(all="ignore"):
            density = (1.0 - share) * np.exp(of.family.exact(z)[0])
            by_eta = share * (1.0 - share) * (1.0 - still)
            gradient = np.array([by_eta, density / of.sigma, density * z]) / (survival * (1.0 - survival))
            variance = np.einsum("it,ij,jt->t", gradient, self.covariance, gradient)
            margin = interval_quantile(level, of.degrees_of_freedom) * np.sqrt(np.maximum(variance, 0.0))
            centre = logit(survival)
        # Where nobody is expected to have failed yet there is nothing to be uncertain about.
        known = np.isfinite(centre) & np.isfinite(margin)
        lower = np.append(1.0, np.where(known, expit(centre - margin), survival))
        upper = np.append(1.0, np.where(known, expit(centre + margin), 1.0))
        lower = np.minimum.accumulate(lower)
        upper = np.maximum.accumulate(upper[::-1])[::-1]
        survival = np.append(1.0, survival)
        return Curve(tuple(time.tolist()), tuple(survival.tolist()), tuple(lower.tolist()), tuple(upper.tolist()))

    def _log_mean(self, at: FloatArray, horizon: float) -> float:
        share, sigma = float(expit(at[0])), math.exp(at[2])
        of_susceptible = self.susceptible.family.restricted_mean(float(at[1]), sigma, horizon)
        return math.log(share * horizon + (1.0 - share) * min(horizon, of_susceptible))
