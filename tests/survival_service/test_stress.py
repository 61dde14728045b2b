"""The stress set: 500 fits of full rank with at least 10 events, against a maximiser that shares nothing with ours.

`stressed(seed)` makes them: raw covariate scales from 1e-5 to 1e4 with far-off means, shares that never fail, grids of
3 to 40 checks, heavy ties, weights from 1e-3 to 1e5, every mixture of exact, right-, left- and interval-censored rows,
units of time from 1e-12 to 1e12. Wanted: none raised, none without numbers, and none short of the best optimum by more
than 1e-6 in log-likelihood. The best optimum is the highest of SciPy's BFGS from three starts and its trust-region
method from there, on a likelihood written from the distribution functions at both ends of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_expit, log_ndtr

from survival_service.distributions import Distribution
from survival_service.fitting import Fit, Status, fit
from survival_service.observations import FloatArray, Observations

inf = math.inf
COUNT = 500
SHORT = 1e-6
LEAST_EVENTS = 10
DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL)


def epsilon(distribution: Distribution, generator: np.random.Generator, n: int) -> FloatArray:
    match distribution:
        case Distribution.LOG_NORMAL:
            return generator.normal(size=n)
        case Distribution.LOG_LOGISTIC:
            return generator.logistic(size=n)
    return np.log(generator.exponential(size=n))


def covariates(generator: np.random.Generator, n: int) -> FloatArray:
    """Up to 5 columns in units of their own: normal, two-valued, counted or lognormal; raw scales and far means."""
    p = int(generator.integers(0, 6))
    x = np.empty((n, p))
    for j in range(p):
        kind = generator.integers(4)
        if kind == 0:
            column = generator.normal(size=n) + 10.0 * generator.normal()
        elif kind == 1:
            column = (generator.random(n) < generator.uniform(0.2, 0.8)).astype(float)
        elif kind == 2:
            column = generator.integers(0, 6, size=n).astype(float)
        else:
            column = np.exp(generator.normal(size=n))
        x[:, j] = column * 10.0 ** generator.uniform(-5, 4)
    return x


def rows_of(scheme: int, time: FloatArray, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """What is known of times of order one: each in (lower, upper]. Infinite times are those that never come."""
    n = time.size
    finite = np.where(np.isfinite(time), time, 1e300)
    budget = np.quantile(finite[finite < 1e300], generator.uniform(0.6, 1.0))
    if scheme <= 1:  # a grid of checks: that of an attack with K iterations; in seconds each row has its own
        count = int(generator.integers(3, 41))
        every = budget / count * (generator.uniform(0.8, 1.25, n) if scheme == 1 else np.ones(n))
        check = np.ceil(finite / every)
        seen = check <= count
        return np.where(seen, check - 1, count) * every, np.where(seen, check * every, inf)
    if scheme == 2:  # exact or right-censored, each row at its own moment
        limit = budget * generator.uniform(0.5, 2.0, n)
        return np.minimum(finite, limit), np.where(finite <= limit, finite, inf)
    if scheme == 3:  # exact, read from a coarse clock: heavy ties
        tick = budget / generator.integers(6, 15)
        rounded = np.maximum(np.round(finite / tick), 0.5) * tick
        return np.where(finite <= budget, rounded, budget), np.where(finite <= budget, rounded, inf)
    # Exact, right, left and interval, as it happens.
    kind = generator.integers(4, size=n)
    kind[~np.isfinite(time)] = 1
    earlier, later = finite * generator.uniform(0.1, 1, n), finite * (1 + generator.exponential(size=n))
    earlier = np.where(np.isfinite(time), earlier, budget)
    lower = np.select([kind == 0, kind == 2], [finite, 0.0], earlier)
    return lower, np.select([kind == 0, kind == 1], [finite, inf], later)


def stressed(seed: int) -> tuple[Observations, Distribution]:
    """Data set `seed` and what to fit to it: full rank, at least 10 events and 3 for every parameter."""
    distribution = DISTRIBUTIONS[seed % 4]
    for attempt in range(1000):
        generator = np.random.default_rng((20240131, seed, attempt))
        n = round(math.exp(generator.uniform(math.log(30), math.log(800))))
        x = covariates(generator, n)
        k = x.shape[1] + 2
        spread = x.std(axis=0)
        truth = DISTRIBUTIONS[generator.integers(4)]
        effects = generator.normal(scale=0.5, size=x.shape[1]) / np.where(spread > 0, spread, 1.0)
        sigma = math.exp(generator.uniform(math.log(0.15), math.log(1.6)))
        time = np.exp((x - x.mean(axis=0)) @ effects + sigma * epsilon(truth, generator, n))
        if generator.random() < 0.4:
            time[generator.random(n) < generator.uniform(0.1, 0.6)] = inf
        lower, upper = rows_of(int(generator.integers(5)), time, generator)
        unit = 10.0 ** generator.uniform(-12, 12)
        weight = np.ones(n)
        weighing = generator.integers(4)
        if weighing == 1:
            weight = generator.integers(1, 50, size=n).astype(float)
        elif weighing == 2:
            weight = 10.0 ** generator.uniform(-1, 1, size=n)
        elif weighing == 3 and generator.random() < 0.5:
            weight = 10.0 ** generator.uniform(-3, 5, size=n)
        failed = np.isfinite(upper)
        standard = np.column_stack([np.ones(n), (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)])[failed]
        if failed.sum() < max(LEAST_EVENTS, 3 * k) or weight[failed].sum() < max(LEAST_EVENTS, 3 * k):
            continue
        # Full rank among the failures too, and failures at three moments at least.
        if np.linalg.svd(standard, compute_uv=False)[-1] < 0.3 or np.unique(upper[failed]).size < 3:
            continue
        names = {f"x{j}": x[:, j].tolist() for j in range(x.shape[1])}
        return Observations.of(lower * unit, upper * unit, weight, names), distribution
    raise AssertionError(f"no data set of seed {seed} is of full rank")


@dataclass
class Independent:
    """The log-likelihood and its gradient in (delta, gamma), by the distribution functions at both ends of a row."""

    data: Observations
    distribution: Distribution

    def __post_init__(self) -> None:
        lower, upper = self.data.lower, self.data.upper
        self.exact, self.left, self.right = lower == upper, lower == 0, np.isinf(upper)
        with np.errstate(divide="ignore"):
            ends = np.log(np.column_stack([lower, upper]))
        known = ends[np.isfinite(ends)]
        self.centre, self.spread = float(known.mean()), float(known.std())
        self.lower, self.upper = ((ends - self.centre) / self.spread).T
        x = self.data.covariates
        self.mean, self.scale = x.mean(axis=0), x.std(axis=0)
        self.x = np.column_stack([np.ones(lower.size), (x - self.mean) / self.scale])
        self.constant = -float(self.data.weight[self.exact] @ (np.log(self.spread) + ends[self.exact, 0]))

    def law(self, z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Log f, its derivative, log F and log S at z."""
        match self.distribution:
            case Distribution.LOG_NORMAL:
                return -0.5 * z * z - 0.5 * math.log(2 * math.pi), -z, log_ndtr(z), log_ndtr(-z)
            case Distribution.LOG_LOGISTIC:
                return log_expit(z) + log_expit(-z), -np.tanh(z / 2), log_expit(z), log_expit(-z)
        hazard = np.exp(z)
        return z - hazard, 1 - hazard, np.log(-np.expm1(-hazard)), -hazard

    def __call__(self, delta: FloatArray, gamma: float) -> tuple[float, FloatArray]:
        with np.errstate(all="ignore"):
            shift = self.x @ delta
            a, b = gamma * self.lower - shift, gamma * self.upper - shift
            a[self.left], b[self.right] = -1.0, 1.0  # not used
            f_a, slope, below_a, above_a = self.law(a)
            f_b, _, below_b, above_b = self.law(b)
            wide = np.where(
                a > 0, above_a + np.log(-np.expm1(above_b - above_a)), below_b + np.log(-np.expm1(below_a - below_b))
            )
            value = np.select([self.exact, self.right, self.left], [f_a + np.log(gamma), above_a, below_b], wide)
            # The derivative in each end, through the density there.
            by_a = np.where(self.exact, slope, np.where(self.left, 0.0, -np.exp(f_a - value)))
            by_b = np.where(self.exact | self.right, 0.0, np.exp(f_b - value))
            weight = self.data.weight
            ends = by_a * np.where(self.left, 0.0, self.lower) + by_b * np.where(self.right, 0.0, self.upper)
            by_gamma = float(weight @ ends) + float(weight[self.exact].sum()) / gamma
            gradient = np.append(-self.x.T @ (weight * (by_a + by_b)), by_gamma)
            return float(weight @ value) + self.constant, gradient

    def standardised(self, found: Fit) -> tuple[FloatArray, float]:
        beta = np.array([c.estimate for c in found.coefficients])
        mu = beta[0] + beta[1:] @ self.mean - self.centre
        return np.append(mu, beta[1:] * self.scale) / found.scale, self.spread / found.scale

    def best(self, starts: list[FloatArray]) -> float:
        """The highest optimum from these starts (delta, log gamma)."""
        fixed = self.distribution.scale_fixed
        # The value in units of its weight, which BFGS's tolerances are made for.
        total = float(self.data.weight.sum())

        def split(p: FloatArray) -> tuple[FloatArray, float]:
            return (p, self.spread) if fixed else (p[:-1], float(np.exp(np.clip(p[-1], -30, 30))))

        def loss(p: FloatArray) -> tuple[float, FloatArray]:
            delta, gamma = split(p)
            value, gradient = self(delta, gamma)
            if not (math.isfinite(value) and np.isfinite(gradient).all()):
                return 1e30, np.zeros_like(p)
            slopes = gradient[:-1] if fixed else np.append(gradient[:-1], gamma * gradient[-1])
            return -value / total, -slopes / total

        def bend(p: FloatArray) -> FloatArray:
            step = 1e-5
            columns = [(loss(p + step * e)[1] - loss(p - step * e)[1]) / (2 * step) for e in np.eye(p.size)]
            return np.asarray((np.array(columns) + np.array(columns).T) / 2)

        values = []
        for start in starts:
            rough = minimize(loss, start[:-1] if fixed else start, method="BFGS", jac=True, options={"gtol": 1e-7})
            fine = minimize(loss, rough.x, method="trust-exact", jac=True, hess=bend, options={"gtol": 1e-11})
            values += [-total * rough.fun, -total * fine.fun]
        return max(values)


def shortfall(seed: int, row_log_likelihoods: Callable[..., FloatArray]) -> float:
    """How far below the best optimum the fit of data set `seed` lies. Fails if it has no numbers, or false ones."""
    data, distribution = stressed(seed)
    found = fit(data, distribution)
    assert found.coefficients, f"{seed}: {found.status.name}, {found.status_message}"
    assert not found.dropped_covariates, seed
    reference = Independent(data, distribution)
    delta, gamma = reference.standardised(found)
    own = reference(delta, gamma)[0]
    # What it says of itself, by two likelihoods that were written apart.
    beta = np.array([c.estimate for c in found.coefficients])
    again = float(data.weight @ row_log_likelihoods(data, distribution, beta, found.scale))
    assert found.log_likelihood == pytest.approx(own, rel=1e-9), seed
    assert found.log_likelihood == pytest.approx(again, rel=1e-9), seed
    generator = np.random.default_rng(seed)
    here = np.append(delta, math.log(gamma))
    plain = np.append(np.zeros(delta.size), 0.0)
    starts = [plain, here + generator.normal(scale=0.3, size=here.size), generator.normal(size=here.size)]
    return reference.best(starts) - own


def test_fits_of_the_stress_set_are_at_their_best_optimum(row_log_likelihoods: Callable[..., FloatArray]) -> None:
    """The first sixty; all 500 are slow."""
    short = {seed: shortfall(seed, row_log_likelihoods) for seed in range(60)}
    assert {seed: by for seed, by in short.items() if by > SHORT} == {}


@pytest.mark.slow
def test_all_fits_of_the_stress_set_are_at_their_best_optimum(row_log_likelihoods: Callable[..., FloatArray]) -> None:
    short = {seed: shortfall(seed, row_log_likelihoods) for seed in range(COUNT)}
    assert {seed: by for seed, by in short.items() if by > SHORT} == {}


@pytest.mark.slow
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: d.name.lower())
def test_a_search_that_begins_in_every_sixth_row_ends_at_the_best_optimum_of_all(distribution: Distribution) -> None:
    """A covariate of 36 000 rows repeats with period 6, so it is constant in the sample that the search begins in."""
    generator = np.random.default_rng(1)
    n = 36_000
    turn = np.arange(n) % 6
    x = np.column_stack([(turn == 1).astype(float), turn.astype(float), 1e-4 * generator.normal(size=n)])
    check = np.ceil(10 * np.exp(x @ np.array([0.5, -0.2, 3e3]) + 0.6 * epsilon(distribution, generator, n)))
    data = Observations(np.minimum(check - 1, 20), np.where(check <= 20, check, inf), np.ones(n), x, ("a", "b", "c"))
    found, reference = fit(data, distribution), Independent(data, distribution)
    delta, gamma = reference.standardised(found)
    here = np.append(delta, math.log(gamma))
    assert reference.best([np.zeros(here.size), here + 0.1]) - reference(delta, gamma)[0] < SHORT


@pytest.mark.parametrize("seed", [754, 2721, 2934, 3230])
def test_data_of_the_same_kind_without_a_maximum_get_a_status(seed: int) -> None:
    """Of the first 4 000 sets these four have none: in one level of a covariate nobody is known to have lived at all.

    Every row of that level is left-censored, so the likelihood rises for ever as its times go to zero.
    """
    data, distribution = stressed(seed)
    levels = [
        column == value for column in data.covariates.T for value in np.unique(column) if value in (0, column.max())
    ]
    assert any((data.lower[level] == 0).all() for level in levels)
    assert fit(data, distribution).status is not Status.OK
