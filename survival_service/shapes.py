"""The generalised gamma fit: which shape the data ask for, and whether they rule the named ones out.

With the shape Q held fixed the likelihood is that of `likelihood`, with one maximum; Q maximises the profile. Weibull
(Q = 1), log-normal (Q = 0) and gamma (Q = sigma) are nested in it, so likelihood-ratio tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import chdtrc

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, NO_ESTIMATE, Estimate, log_interval
from survival_service.fitting import (
    FAILURES_PER_PARAMETER,
    INTERCEPT,
    USABLE,
    Coefficient,
    Prepared,
    Status,
    fit,
    prepared,
)
from survival_service.likelihood import Likelihood, Maximum, maximise
from survival_service.log_gamma import shape_family
from survival_service.observations import FloatArray, Observations

# Where the profile is looked at first. Beyond the ends the distribution is next to a Pareto tail or a bound.
_SHAPES = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
# A standard error of Q above which the data say nothing of it: it covers every named distribution.
LARGEST_SHAPE_ERROR = 5.0
# Of the differences in Q by which derivatives are formed, with errors of their fourth power.
_STEP = 1e-2


@dataclass(frozen=True, slots=True)
class RatioTest:
    """A distribution within the generalised gamma against all of it: twice the gain, and chi-squared's tail at it."""

    name: str
    log_likelihood: float
    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class ShapeFit:
    """A generalised gamma fit. Without `Status.OK` its numbers mean nothing, and the message says what to do.

    Standard errors are joint in all parameters; `covariance` is of (coefficients, log scale, shape). The median and
    the restricted mean are at the covariates' means.
    """

    status: Status
    status_message: str
    observation_count: int
    failure_count: int
    parameter_count: int
    log_likelihood: float = 0.0
    aic: float = 0.0
    bic: float = 0.0
    coefficients: tuple[Coefficient, ...] = ()
    scale: float = 0.0
    log_scale_standard_error: float = 0.0
    shape: float = 0.0
    shape_standard_error: float = 0.0
    median: Estimate = NO_ESTIMATE
    restricted_mean: Estimate = NO_ESTIMATE
    restriction_time: float = 0.0
    ratio_tests: tuple[RatioTest, ...] = ()
    covariance: FloatArray | None = field(default=None, compare=False, repr=False)


def fit_shape(observations: Observations | Prepared, *, level: float = DEFAULT_LEVEL) -> ShapeFit:
    """Fit the generalised gamma distribution and test the named distributions within it.

    Rows are taken as independent: likelihood-ratio tests have no clustered form. Where the data carry no two-parameter
    fit, or not this one, the result is a status with a sentence.
    """
    rows = observations if isinstance(observations, Prepared) else prepared(observations)
    simpler = fit(rows, Distribution.WEIBULL, level=level)
    k = simpler.parameter_count + 1
    blank = ShapeFit(
        status=simpler.status,
        status_message=simpler.status_message,
        observation_count=simpler.observation_count,
        failure_count=simpler.failure_count,
        parameter_count=k,
    )
    design = rows.design
    if design is None or simpler.status is not Status.OK:
        return blank
    if rows.failure_count < FAILURES_PER_PARAMETER * k:
        return replace(
            blank,
            status=Status.TOO_FEW_FAILURES,
            status_message=f"{rows.failure_count:g} failures are too few for {k} parameters "
            f"({FAILURES_PER_PARAMETER * k} are needed); attack more samples, or fit a Weibull distribution",
        )
    profile = _Profile(design)
    shape = _best_shape(profile)
    if shape is None:
        return replace(
            blank,
            status=Status.NOT_CONVERGED,
            status_message="the likelihood rises to the end of the range of shapes, so no shape is found; "
            "attack more samples, or fit a Weibull or log-normal distribution",
        )
    found = profile(shape)
    covariance = _joint_covariance(design, found, shape)
    if covariance is None or not covariance[-1, -1] < LARGEST_SHAPE_ERROR**2:
        return replace(
            blank,
            status=Status.NOT_CONVERGED,
            status_message="the shape is not identified; attack more samples, check more often, or fit a Weibull or "
            "log-normal distribution",
        )
    return _filled(blank, rows, design, profile, found, shape, covariance, simpler.restriction_time, level)


class _Profile:
    """The maximum over everything but the shape, each search begun where the nearest one ended."""

    def __init__(self, design: Design) -> None:
        self._design = design
        self._known: dict[float, Maximum] = {}

    def __call__(self, shape: float) -> Maximum:
        if shape not in self._known:
            near = min(self._known, key=lambda other: abs(other - shape), default=None)
            start = None if near is None else self._known[near].parameters
            found = maximise(Likelihood(self._design, shape_family(shape)), start)
            if not found.converged:
                return found
            self._known[shape] = found
        return self._known[shape]

    def height(self, shape: float) -> float:
        """The profile; nothing where no maximum was found."""
        found = self(shape)
        return found.log_likelihood if found.converged and math.isfinite(found.log_likelihood) else -math.inf


def _best_shape(profile: _Profile) -> float | None:
    """The shape at which the profile is highest; None at an end of the range."""
    # From the middle outwards, so that each search has a near one to begin at.
    heights = {shape: profile.height(shape) for shape in sorted(_SHAPES, key=lambda q: abs(q - 0.5))}
    best = max(_SHAPES, key=lambda shape: heights[shape])
    at = _SHAPES.index(best)
    if at in (0, len(_SHAPES) - 1) or not math.isfinite(heights[best]):
        return None
    bounds = (_SHAPES[at - 1], _SHAPES[at + 1])
    found = minimize_scalar(
        lambda shape: -profile.height(float(shape)), bounds=bounds, method="bounded", options={"xatol": 1e-5}
    )
    shape = float(found.x)
    # Brent's minimum is as sharp as the square root of rounding; a Newton step on the slope is sharper.
    low, high = profile.height(shape - _STEP), profile.height(shape + _STEP)
    lower, higher = profile.height(shape - 2 * _STEP), profile.height(shape + 2 * _STEP)
    here = profile.height(shape)
    slope = (8 * (high - low) - (higher - lower)) / (12 * _STEP)
    bend = (16 * (high + low) - 30 * here - (higher + lower)) / (12 * _STEP**2)
    if math.isfinite(slope) and math.isfinite(bend) and bend < 0 and abs(slope / bend) < _STEP:
        return shape - slope / bend
    return shape if math.isfinite(here) else None


def _joint_covariance(design: Design, found: Maximum, shape: float) -> FloatArray | None:
    """The inverse information of (delta, gamma, Q), derivatives in Q by differences of the fourth order."""
    size = found.parameters.size
    values, scores = {}, {}
    for i in (-2, -1, 0, 1, 2):
        values[i], scores[i], hessian = Likelihood(design, shape_family(shape + i * _STEP))(found.parameters)
        if i == 0:
            inner = -hessian
    information = np.empty((size + 1, size + 1))
    information[:size, :size] = inner
    cross = -(8 * (scores[1] - scores[-1]) - (scores[2] - scores[-2])) / (12 * _STEP)
    information[:size, size] = information[size, :size] = cross
    second = 16 * (values[1] + values[-1]) - 30 * values[0] - (values[2] + values[-2])
    information[size, size] = -second / (12 * _STEP**2)
    if not np.isfinite(information).all() or np.linalg.eigvalsh(information)[0] <= 0:
        return None
    inverse: FloatArray = np.linalg.inv(information).astype(np.float64)
    return inverse


def _filled(
    blank: ShapeFit,
    rows: Prepared,
    design: Design,
    profile: _Profile,
    found: Maximum,
    shape: float,
    standard: FloatArray,
    horizon: float,
    level: float,
) -> ShapeFit:
    beta, sigma, inner = Likelihood(design, shape_family(shape)).natural(found.parameters)
    size = beta.size
    jacobian = np.eye(size + 2)
    jacobian[: size + 1, : size + 1] = inner
    covariance = jacobian @ standard @ jacobian.T
    errors = np.sqrt(np.diag(covariance)).tolist()
    names = (INTERCEPT, *rows.observations.names)
    project = np.zeros((3, size + 2))
    project[0, :size] = at_means = np.append(1.0, design.column_mean)
    project[1, size] = project[2, size + 1] = 1.0
    at = np.array([float(at_means @ beta), math.log(sigma), shape])
    of_law = project @ covariance @ project.T

    def log_median(law: NDArray[np.float64]) -> float:
        return float(law[0]) + math.exp(law[1]) * shape_family(float(law[2])).quantile(0.5)

    def log_restricted_mean(law: NDArray[np.float64]) -> float:
        family = shape_family(float(law[2]))
        return math.log(family.restricted_mean(float(law[0]), math.exp(law[1]), horizon))

    bounded = _delta(log_restricted_mean, at, of_law, level)
    k, value = blank.parameter_count, found.log_likelihood
    return replace(
        blank,
        status=Status.OK,
        status_message=USABLE,
        log_likelihood=value,
        aic=2 * k - 2 * value,
        bic=k * math.log(rows.observation_count) - 2 * value,
        coefficients=tuple(
            Coefficient(name, b, e, log_interval(b, e, level))
            for name, b, e in zip(names, beta.tolist(), errors, strict=False)
        ),
        scale=sigma,
        log_scale_standard_error=errors[size],
        shape=shape,
        shape_standard_error=errors[size + 1],
        median=_delta(log_median, at, of_law, level),
        restricted_mean=replace(bounded, upper=None if bounded.upper is None else min(bounded.upper, horizon)),
        restriction_time=horizon,
        ratio_tests=_ratio_tests(design, profile, value, sigma),
        covariance=covariance,
    )


def _delta(log_of: Callable[[FloatArray], float], at: FloatArray, covariance: FloatArray, level: float) -> Estimate:
    """exp of a function of (mu, log sigma, Q) with its interval, the gradient by symmetric differences."""
    gradient = np.empty(at.size)
    for j in range(at.size):
        step = np.zeros(at.size)
        step[j] = 1e-4
        gradient[j] = (log_of(at + step) - log_of(at - step)) / 2e-4
    return log_interval(log_of(at), math.sqrt(max(0.0, float(gradient @ covariance @ gradient))), level)


def _ratio_tests(design: Design, profile: _Profile, best: float, sigma: float) -> tuple[RatioTest, ...]:
    """Each named distribution against the generalised gamma; those whose maximum was not found are left out."""
    # The gamma distribution, Q = sigma, has one search of its own: over both at once, everything else profiled.
    gamma = minimize_scalar(
        lambda log_shape: -_gamma_height(design, math.exp(log_shape)),
        bounds=(math.log(min(0.02, sigma / 4)), math.log(max(4.0, 2 * sigma))),
        method="bounded",
        options={"xatol": 1e-7},
    )
    heights = {"Weibull": profile.height(1.0), "log-normal": profile.height(0.0), "gamma": -float(gamma.fun)}
    tests = []
    for name, height in heights.items():
        if math.isfinite(height):
            statistic = max(0.0, 2 * (best - height))
            tests.append(RatioTest(name, height, statistic, float(chdtrc(1, statistic))))
    return tuple(tests)


def _gamma_height(design: Design, shape: float) -> float:
    found = maximise(Likelihood(design, shape_family(shape), scale_fixed=True, fixed_scale=shape))
    return found.log_likelihood if found.converged and math.isfinite(found.log_likelihood) else -math.inf
