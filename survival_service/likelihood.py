"""The log-likelihood of an accelerated failure model, and its maximum.

With gamma = 1/sigma and delta = beta/sigma, z = gamma log t - x'delta is linear in the parameters, and every row's
log-likelihood is concave in them (Burridge 1981): Newton's method with backtracking has one maximum to find. The
results are mapped back from the standard scales of `Design`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg.lapack import dposv

from survival_service.design import Design, Kind, SharedTerms
from survival_service.distributions import Family
from survival_service.observations import FloatArray, IntArray, Observations

# The expected gain of the last step, in nats: its square, more or less, is what is left after it.
_TOLERANCE = 1e-10
# A step that promises less than this, in nats a sample, moves the parameters by its root, 1e-9, in units in which they
# are of order one: value and curvature need no looking at again.
_NEGLIGIBLE = 1e-18
# From the maximum of nearly the same rows it is this one: what such a step leaves is about its square, far below a
# thousandth of a standard error, and the curvature is that of a place so near that errors differ by less than that.
_NEGLIGIBLE_NEARBY = 3e-7
_ITERATION_LIMIT = 60
_HALVING_LIMIT = 40
# A search in more rows than this begins where one in a sample of that many ended: with n rows the sample's maximum is
# within some root of n / _SAMPLE standard errors, from where two or three steps over all rows are enough.
_MANY_ROWS = 30_000
_SAMPLE = 6_000
# The last step towards the maximum of such a sample promises no more than this, in nats a sample, and leaves far less.
_NEGLIGIBLE_IN_SAMPLE = 1e-6


@dataclass(frozen=True, slots=True)
class Maximum:
    """Where the search ended: the parameters (delta, gamma) on the standardised scale and the curvature there."""

    parameters: FloatArray
    log_likelihood: float
    information: FloatArray
    iteration_count: int
    converged: bool


class Concave(Protocol):
    """What Newton's method climbs: a function of parameters of which the last, unless fixed, must stay above 0."""

    scale_fixed: bool

    @property
    def parameter_count(self) -> int:
        """Parameters that are free; a fixed last one is passed along with them."""

    @property
    def observation_count(self) -> float:
        """Samples, which say what a negligible gain is."""

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Value, score and Hessian in the free parameters."""


class Likelihood:
    """The log-likelihood of rows of all four kinds of censoring, as a function of (delta, gamma) on standard scales.

    With `scale_fixed` gamma is no parameter and sigma is `fixed_scale`. Raises nothing: the rows were checked by
    `Observations`.
    """

    def __init__(
        self, rows: Observations | Design, family: Family, *, scale_fixed: bool = False, fixed_scale: float = 1.0
    ) -> None:
        self.design = rows if isinstance(rows, Design) else Design.of(rows)
        self.family = family
        self.scale_fixed = scale_fixed
        self.fixed_scale = fixed_scale
        self._blocks = tuple(self.design.blocks())
        sharing = isinstance(self.design.source, SharedTerms)
        width = 0 if sharing else max((block.stop - block.start for _, block in self._blocks), default=0)
        self._scratch = np.empty((self.design.term_size, width))

    @property
    def parameter_count(self) -> int:
        """Intercept, covariates and, unless fixed, the scale."""
        return self.design.term_size - self.scale_fixed

    @property
    def observation_count(self) -> float:
        """Samples that say something: those censored at 0 do not."""
        return self.design.total_weight

    @property
    def rows(self) -> IntArray:
        """The positions of the observations that say something, in the order of `row_scores`."""
        return self.design.rows

    @property
    def time_scale(self) -> float:
        """One standardised log time in units of log time."""
        return self.design.time_scale

    @property
    def column_mean(self) -> FloatArray:
        """The means of the covariates."""
        return self.design.column_mean

    def start(self) -> FloatArray:
        """Parameters to start from: least squares on the middles of the rows, with the moments of the family."""
        coefficients, spread = self.design.least_squares()
        gamma = self.family.deviation / max(spread, 1e-3)
        if self.scale_fixed:
            gamma = self.design.time_scale / self.fixed_scale
        delta = coefficients * gamma
        delta[0] -= self.family.mean
        return np.append(delta, gamma)

    def standardised(self, coefficients: FloatArray, scale: float) -> FloatArray:
        """The parameters of a model given by (beta, sigma) on the scale of the data."""
        of = self.design
        slopes = coefficients[1:] * of.column_scale
        intercept = coefficients[0] + coefficients[1:] @ of.column_mean - of.time_mean
        return np.append(np.append(intercept, slopes) / scale, of.time_scale / scale)

    def natural(self, parameters: FloatArray) -> tuple[FloatArray, float, FloatArray]:
        """(beta, sigma) on the scale of the data, and the Jacobian of (beta, log sigma) in the parameters."""
        of, gamma = self.design, parameters[-1]
        sigma = of.time_scale / gamma
        size = parameters.size - 1
        to_natural = np.zeros((size, size))
        to_natural[1:, 1:] = np.diag(1.0 / of.column_scale)
        to_natural[0] = np.append(1.0, -of.column_mean / of.column_scale)
        beta = to_natural @ (parameters[:-1] * sigma)
        jacobian = np.zeros((size + 1, size + 1))
        jacobian[:-1, :-1] = to_natural * sigma
        jacobian[:-1, -1] = -beta / gamma
        jacobian[-1, -1] = -1.0 / gamma
        beta[0] += of.time_mean
        free = self.parameter_count
        return beta, float(sigma), jacobian[:free, :free]

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The log-likelihood of the times in their own unit, its score and its Hessian in (delta, gamma)."""
        of, gamma = self.design, float(parameters[-1])
        size = parameters.size
        value, score, hessian = of.constant, np.zeros(size), np.zeros((size, size))
        if of.exact_weight:
            value += of.exact_weight * float(np.log(gamma))
            score[-1] += of.exact_weight / gamma
            hessian[-1, -1] -= of.exact_weight / gamma**2
        # What is summed by configuration, where rows have one: slopes, bends, and what widths add to the bends.
        by_row = np.zeros((3, of.row_count)) if isinstance(of.source, SharedTerms) else None
        for kind, block in self._blocks:
            weight = None if of.weight is None else of.weight[block]
            logarithm, slope, bend, wide = self._terms(kind, block, parameters)
            if weight is None:
                value += float(logarithm.sum())
            else:
                value += float(weight @ logarithm)
                slope, bend = weight * slope, weight * bend
            if by_row is None:
                terms = of.terms[:, block]
                score += terms @ slope
                bent = np.multiply(terms, bend, out=self._scratch[:, : slope.size])
                hessian += bent @ terms.T
            else:
                by_row[0, block], by_row[1, block] = slope, bend
            if wide is not None:
                by_half, mixed, by_half_twice = wide if weight is None else (weight * part for part in wide)
                half = self._half(block)
                score[-1] += by_half @ half
                hessian[-1, -1] += by_half_twice @ (half * half)
                if by_row is None:
                    cross = terms @ (mixed * half)
                    hessian[-1] += cross
                    hessian[:, -1] += cross
                else:
                    np.multiply(mixed, half, out=by_row[2, block])
        if by_row is not None:
            _add_by_configuration(of, by_row, score, hessian)
        free = self.parameter_count
        return value, score[:free], hessian[:free, :free]

    def row_scores(self, parameters: FloatArray) -> FloatArray:
        """The score of each row (in the order of `rows`), weights included."""
        of, gamma = self.design, float(parameters[-1])
        scores = np.empty((of.row_count, parameters.size))
        for kind, block in self._blocks:
            _, slope, _, wide = self._terms(kind, block, parameters)
            part = scores[block]
            np.multiply(of.terms[:, block].T, slope[:, None], out=part)
            if wide is not None:
                part[:, -1] += wide[0] * self._half(block)
            elif kind is Kind.EXACT:
                part[:, -1] += 1.0 / gamma
            if of.weight is not None:
                part *= of.weight[block, None]
        return scores[:, : self.parameter_count]

    def row_values(self, parameters: FloatArray) -> FloatArray:
        """The log-likelihood of each row (in the order of `rows`), weights included; their sum lacks `constant`."""
        of, values = self.design, np.empty(self.design.row_count)
        for kind, block in self._blocks:
            values[block] = self._terms(kind, block, parameters)[0]
        if of.exact_weight:
            values[: of.bounds[1]] += np.log(parameters[-1])
        return values if of.weight is None else values * of.weight

    def _half(self, block: slice) -> FloatArray:
        begin = self.design.bounds[Kind.INTERVAL]
        return self.design.half[block.start - begin : block.stop - begin]

    def _terms(
        self, kind: Kind, block: slice, parameters: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, tuple[FloatArray, FloatArray, FloatArray] | None]:
        """A row's logarithm and its two derivatives in z; for intervals also those in the half-width: h, mh, hh."""
        z = self.design.locations(parameters, block)
        match kind:
            case Kind.EXACT:
                return (*self.family.exact(z), None)
            case Kind.RIGHT:
                return (*self.family.right(z), None)
            case Kind.LEFT:
                return (*self.family.left(z), None)
        value, by_m, by_h, by_mm, by_mh, by_hh = self.family.interval(z, parameters[-1] * self._half(block))
        return value, by_m, by_mm, (by_h, by_mh, by_hh)


def _add_by_configuration(of: Design, by_row: FloatArray, score: FloatArray, hessian: FloatArray) -> None:
    """Add what every row has in z, slope and bend, and between z and its width: first within a configuration."""
    assert isinstance(of.source, SharedTerms)
    (slope, bend, twist), time, configuration, levels = by_row, of.time, of.source.configuration, of.source.levels
    count = of.source.level_count
    timed = bend * time
    score[:-1] += levels @ np.bincount(configuration, slope, count)
    score[-1] += slope @ time
    hessian[:-1, :-1] += (levels * np.bincount(configuration, bend, count)) @ levels.T
    cross = levels @ np.bincount(configuration, timed + twist, count)
    hessian[-1, :-1] += cross
    hessian[:-1, -1] += cross
    hessian[-1, -1] += timed @ time + 2 * twist @ time


def maximise(likelihood: Likelihood, start: FloatArray | None = None) -> Maximum:
    """Newton's method with backtracking, from `start` or, if that leads nowhere, from least squares.

    `start` is taken for the maximum of nearly the same rows, as they were a batch ago: a step or two are enough then.
    Never raises; `converged` says whether the maximum was reached.
    """
    # A trial step may leave every float behind; it is then refused for not being finite.
    with np.errstate(all="ignore"):
        negligible = _NEGLIGIBLE_NEARBY
        if start is None and likelihood.design.row_count > _MANY_ROWS:
            start, negligible = _sampled(likelihood), _NEGLIGIBLE
        if start is not None:
            warm = climb(likelihood, start, negligible=negligible)
            if warm.converged:
                return warm
        return climb(likelihood, likelihood.start())


def _sampled(likelihood: Likelihood) -> FloatArray | None:
    """Where the maximum of a sample of the rows lies; None if it has none."""
    sample = likelihood.design.thinned(likelihood.design.row_count // _SAMPLE)
    thinned = Likelihood(
        sample, likelihood.family, scale_fixed=likelihood.scale_fixed, fixed_scale=likelihood.fixed_scale
    )
    near = climb(thinned, thinned.start(), negligible=_NEGLIGIBLE_IN_SAMPLE)
    return near.parameters if near.converged else None


def climb(likelihood: Concave, parameters: FloatArray, *, negligible: float = _NEGLIGIBLE) -> Maximum:
    """Newton's method with backtracking from these parameters. Never raises; overflow is the caller's to silence.

    A step that promises less than `negligible` nats a sample is the last, and is not looked at again.
    """
    free = likelihood.parameter_count
    value, score, hessian = likelihood(parameters)
    for iteration in range(1, _ITERATION_LIMIT + 1):
        step = _newton_step(hessian, score)
        if step is None or not np.isfinite(value):
            return Maximum(parameters, value, -hessian, iteration, False)
        gain = float(score @ step)
        length = 1.0
        if not likelihood.scale_fixed and parameters[-1] + step[-1] <= 0:
            length = 0.9 * parameters[-1] / -step[-1]
        elif gain <= negligible * likelihood.observation_count:
            last = parameters.copy()
            last[:free] += step
            return Maximum(last, value + 0.5 * gain, -hessian, iteration, True)
        rounding = 1e-12 * (1.0 + abs(value))
        for _ in range(_HALVING_LIMIT):
            trial = parameters.copy()
            trial[:free] += length * step
            trial_value, trial_score, trial_hessian = likelihood(trial)
            risen = trial_value >= value + 1e-4 * length * gain - rounding
            if risen and np.isfinite(trial_score).all() and np.isfinite(trial_hessian).all():
                break
            length *= 0.5
        else:
            return Maximum(parameters, value, -hessian, iteration, False)
        parameters, value, score, hessian = trial, trial_value, trial_score, trial_hessian
        if gain < _TOLERANCE and length == 1.0:
            return Maximum(parameters, value, -hessian, iteration, True)
    return Maximum(parameters, value, -hessian, _ITERATION_LIMIT, False)


def _newton_step(hessian: FloatArray, score: FloatArray) -> FloatArray | None:
    """The step -H^-1 s; damped where rounding or a far start leaves H not negative definite, None beyond repair."""
    size = np.sqrt(np.abs(np.diag(hessian)))
    if not (np.isfinite(hessian).all() and np.isfinite(score).all() and (size > 0).all()):
        return None
    scaled = -hessian / np.outer(size, size)
    damping = 0.0
    while damping < 1e3:
        _, solution, failure = dposv(scaled + damping * np.eye(size.size) if damping else scaled, score / size)
        if failure:
            damping = max(1e-10, 10 * damping)
            continue
        step: FloatArray = solution / size
        return step if np.isfinite(step).all() else None
    return None
