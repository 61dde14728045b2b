"""The log-likelihood of an accelerated failure model, and its maximum.

With gamma = 1/sigma and delta = beta/sigma, z = gamma log t - x'delta is linear in the parameters, and every row's
log-likelihood is concave in them (Burridge 1981): Newton's method with backtracking has one maximum to find. Times are
centred and scaled on the log scale, columns standardised, so that neither the unit of time nor that of a covariate
matters; the results are mapped back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from survival_service.distributions import Family
from survival_service.observations import FloatArray, Observations

# The expected gain of the last step, in nats: its square, more or less, is what is left after it.
_TOLERANCE = 1e-10
_ITERATION_LIMIT = 60
_HALVING_LIMIT = 40


@dataclass(frozen=True, slots=True)
class Maximum:
    """Where the search ended: the parameters (delta, gamma) on the standardised scale and the curvature there."""

    parameters: FloatArray
    log_likelihood: float
    information: FloatArray
    iteration_count: int
    converged: bool


class Likelihood:
    """The log-likelihood of rows of all four kinds of censoring, as a function of (delta, gamma) on standard scales.

    With `scale_fixed` (sigma = 1) gamma is no parameter. Raises nothing: the rows were checked by `Observations`.
    """

    def __init__(self, observations: Observations, family: Family, *, scale_fixed: bool = False) -> None:
        lower, upper = observations.lower, observations.upper
        # A row censored at 0 says nothing.
        used = np.flatnonzero((lower > 0) | np.isfinite(upper))
        lower, upper = lower[used], upper[used]
        kind = np.select([lower == upper, np.isinf(upper), lower == 0], [0, 1, 2], default=3)
        order = np.argsort(kind, kind="stable")
        self.rows = used[order]
        lower, upper, kind = lower[order], upper[order], kind[order]
        bounds = np.searchsorted(kind, [0, 1, 2, 3, 4])
        self._exact, self._right, self._left, self._interval = (slice(*bounds[k : k + 2]) for k in range(4))
        self._family = family
        self._weight = observations.weight[self.rows]

        time = np.log(np.where(kind == 2, upper, np.where(kind == 3, 1.0, lower)))
        between = self._interval
        # log1p keeps the width of an interval of one bit, which a difference of logarithms loses.
        half = 0.5 * np.log1p((upper[between] - lower[between]) / lower[between])
        time[between] = np.log(lower[between]) + half
        total = self._weight.sum()
        self.time_mean = float(self._weight @ time / total)
        spread = float(np.sqrt(self._weight @ (time - self.time_mean) ** 2 / total))
        self.time_scale = spread if spread > 1e-12 * (1.0 + abs(self.time_mean)) else 1.0
        self._time = (time - self.time_mean) / self.time_scale
        self._half = half / self.time_scale

        x = observations.covariates[self.rows]
        self.column_mean = self._weight @ x / total
        x = x - self.column_mean
        column_scale = np.sqrt(self._weight @ (x * x) / total)
        self.column_scale = np.where(column_scale > 0, column_scale, 1.0)
        self._x = np.column_stack([np.ones(time.size), x / self.column_scale])

        self._exact_weight = float(self._weight[self._exact].sum())
        # What the change from standardised log time back to time adds, whatever the parameters.
        self._constant = -float(self._weight[self._exact] @ time[self._exact])
        self._constant -= self._exact_weight * float(np.log(self.time_scale))
        self.scale_fixed = scale_fixed

    @property
    def parameter_count(self) -> int:
        """Intercept, covariates and, unless fixed, the scale."""
        return int(self._x.shape[1]) + (not self.scale_fixed)

    @property
    def observation_count(self) -> float:
        """Samples that say something: those censored at 0 do not."""
        return float(self._weight.sum())

    def start(self) -> FloatArray:
        """Parameters to start from: least squares on the middles of the rows."""
        weighted = self._weight[:, None] * self._x
        coefficients = np.linalg.lstsq(weighted.T @ self._x, weighted.T @ self._time, rcond=1e-10)[0]
        residuals = self._time - self._x @ coefficients
        spread = np.sqrt(self._weight @ residuals**2 / self._weight.sum())
        gamma = self.time_scale if self.scale_fixed else 1.0 / max(spread, 1e-3)
        return np.append(coefficients * gamma, gamma)

    def standardised(self, coefficients: FloatArray, scale: float) -> FloatArray:
        """The parameters of a model given by (beta, sigma) on the scale of the data."""
        slopes = coefficients[1:] * self.column_scale
        intercept = coefficients[0] + coefficients[1:] @ self.column_mean - self.time_mean
        return np.append(np.append(intercept, slopes) / scale, self.time_scale / scale)

    def natural(self, parameters: FloatArray) -> tuple[FloatArray, float, FloatArray]:
        """(beta, sigma) on the scale of the data, and the Jacobian of (beta, log sigma) in the parameters."""
        gamma = parameters[-1]
        sigma = self.time_scale / gamma
        size = self._x.shape[1]
        to_natural = np.zeros((size, size))
        to_natural[1:, 1:] = np.diag(1.0 / self.column_scale)
        to_natural[0] = np.append(1.0, -self.column_mean / self.column_scale)
        beta = to_natural @ (parameters[:-1] * sigma)
        jacobian = np.zeros((size + 1, size + 1))
        jacobian[:-1, :-1] = to_natural * sigma
        jacobian[:-1, -1] = -beta / gamma
        jacobian[-1, -1] = -1.0 / gamma
        beta[0] += self.time_mean
        free = self.parameter_count
        return beta, float(sigma), jacobian[:free, :free]

    def __call__(self, parameters: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """The log-likelihood of the times in their own unit, its score and its Hessian in (delta, gamma)."""
        by_eta, by_gamma, bends = self._row_terms(parameters)
        value, (bend_eta, bend_mixed, bend_gamma) = bends
        gamma, x = parameters[-1], self._x
        score = np.append(-(by_eta @ x), by_gamma.sum())
        size = x.shape[1]
        hessian = np.empty((size + 1, size + 1))
        hessian[:size, :size] = x.T @ (bend_eta[:, None] * x)
        hessian[:size, size] = hessian[size, :size] = -(bend_mixed @ x)
        hessian[size, size] = bend_gamma
        value += self._exact_weight * float(np.log(gamma)) + self._constant
        free = self.parameter_count
        return value, score[:free], hessian[:free, :free]

    def row_scores(self, parameters: FloatArray) -> FloatArray:
        """The score of each row (in the order of `rows`), weights included."""
        by_eta, by_gamma, _ = self._row_terms(parameters)
        return np.column_stack([-by_eta[:, None] * self._x, by_gamma])[:, : self.parameter_count]

    def _row_terms(
        self, parameters: FloatArray
    ) -> tuple[FloatArray, FloatArray, tuple[float, tuple[FloatArray, FloatArray, float]]]:
        gamma, y, w = parameters[-1], self._time, self._weight
        eta = self._x @ parameters[:-1]
        z = gamma * y - eta
        slope, bend, value = np.empty_like(z), np.empty_like(z), 0.0
        for rows, terms in (
            (self._exact, self._family.exact),
            (self._right, self._family.right),
            (self._left, self._family.left),
        ):
            logarithm, slope[rows], bend[rows] = terms(z[rows])
            value += float(w[rows] @ logarithm)
        between = self._interval
        h = self._half
        logarithm, slope[between], by_h, bend[between], by_mh, by_hh = self._family.interval(z[between], gamma * h)
        value += float(w[between] @ logarithm)

        by_eta, bend_eta = w * slope, w * bend
        by_gamma, bend_mixed = by_eta * y, bend_eta * y
        by_gamma[between] += w[between] * by_h * h
        by_gamma[self._exact] += w[self._exact] / gamma
        bend_gamma = float(bend_mixed @ y) - self._exact_weight / gamma**2
        bend_gamma += float(w[between] @ (2 * by_mh * y[between] * h + by_hh * h * h))
        bend_mixed[between] += w[between] * by_mh * h
        return by_eta, by_gamma, (value, (bend_eta, bend_mixed, bend_gamma))


def maximise(likelihood: Likelihood, start: FloatArray | None = None) -> Maximum:
    """Newton's method with backtracking, from `start` or, if that leads nowhere, from least squares.

    Never raises; `converged` says whether the maximum was reached.
    """
    # A trial step may leave every float behind; it is then refused for not being finite.
    with np.errstate(all="ignore"):
        if start is not None:
            warm = _climb(likelihood, start)
            if warm.converged:
                return warm
        return _climb(likelihood, likelihood.start())


def _climb(likelihood: Likelihood, parameters: FloatArray) -> Maximum:
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
        try:
            factor = cho_factor(scaled + damping * np.eye(size.size), check_finite=False)
        except LinAlgError:
            damping = max(1e-10, 10 * damping)
            continue
        step = np.asarray(cho_solve(factor, score / size, check_finite=False)) / size
        return step if np.isfinite(step).all() else None
    return None
