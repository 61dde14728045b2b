"""The distributions of log T = mu + sigma * epsilon: what they give the likelihood, and their medians and means.

A row's likelihood is that of its standardised log time z = (log t - mu) / sigma. Every function of `Family` that the
likelihood uses returns the logarithm with its first and second derivatives, elementwise, and keeps its precision in
both tails and for intervals down to the last bit: no difference is formed where it would cancel.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from enum import Enum

import numpy as np
from scipy.special import (
    betainc,
    digamma,
    erfcx,
    expit,
    gammainc,
    gammaln,
    hyp1f1,
    hyp2f1,
    log_ndtr,
    logit,
    ndtr,
    ndtri,
)

from survival_service.observations import FloatArray

# log f and its first and second derivative in z.
Terms = tuple[FloatArray, FloatArray, FloatArray]
# log P and its derivatives in the middle m and the half-width h of an interval: m, h, mm, mh, hh.
IntervalTerms = tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]

_ROOT_TWO = math.sqrt(2.0)
_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)


class Distribution(Enum):
    """A distribution of times to failure that can be fitted. The values are those of the wire."""

    WEIBULL = 1
    LOG_NORMAL = 2
    LOG_LOGISTIC = 3
    EXPONENTIAL = 4
    GENERALIZED_GAMMA = 5
    GAMMA = 6

    @property
    def family(self) -> Family:
        """What its standardised log times follow.

        Raises `ValueError` for a distribution `with_shape`: its family is that of a fit, `Fit.family`.
        """
        if self.with_shape:
            raise ValueError(f"{self.name} has a family for each shape; ask a fit for that of its own")
        return _FAMILIES[self]

    @property
    def with_shape(self) -> bool:
        """Whether it has a shape Q beside its location and scale; that of the gamma distribution equals sigma."""
        return self in (Distribution.GENERALIZED_GAMMA, Distribution.GAMMA)

    @property
    def scale_fixed(self) -> bool:
        """Whether sigma is 1 by definition."""
        return self is Distribution.EXPONENTIAL


class Family(ABC):
    """A standard, log-concave distribution of epsilon, and what follows for T = exp(mu + sigma epsilon).

    `mean` and `deviation` are those of epsilon.
    """

    mean: float = 0.0
    deviation: float = 1.0

    @abstractmethod
    def exact(self, z: FloatArray) -> Terms:
        """Log density of epsilon at z."""

    @abstractmethod
    def right(self, z: FloatArray) -> Terms:
        """Log P(epsilon > z): right-censored."""

    @abstractmethod
    def left(self, z: FloatArray) -> Terms:
        """Log P(epsilon <= z): left-censored."""

    @abstractmethod
    def interval(self, middle: FloatArray, half: FloatArray) -> IntervalTerms:
        """Log P(middle - half < epsilon <= middle + half), half > 0."""

    @abstractmethod
    def survival(self, z: FloatArray) -> FloatArray:
        """P(epsilon > z)."""

    @abstractmethod
    def quantile(self, p: float) -> float:
        """The z with P(epsilon <= z) = p."""

    @abstractmethod
    def log_mean(self, sigma: float) -> float:
        """Log E[exp(sigma epsilon)]; infinite if there is no mean."""

    @abstractmethod
    def log_mean_slope(self, sigma: float) -> float:
        """Its derivative in sigma, where it is finite."""

    @abstractmethod
    def restricted_mean(self, mu: float, sigma: float, horizon: float) -> float:
        """E[min(T, horizon)], the area under the survival function up to the horizon."""


class SmallestExtremeValue(Family):
    """P(epsilon > z) = exp(-exp(z)): T is Weibull with shape 1/sigma, exponential at sigma = 1."""

    mean = -float(np.euler_gamma)
    deviation = math.pi / math.sqrt(6)

    def exact(self, z: FloatArray) -> Terms:
        hazard = np.exp(z)
        return z - hazard, 1.0 - hazard, -hazard

    def right(self, z: FloatArray) -> Terms:
        hazard = np.exp(z)
        return -hazard, -hazard, -hazard

    def left(self, z: FloatArray) -> Terms:
        hazard = np.exp(z)
        # Beyond 700 expm1 overflows and the quotient is zero to every digit.
        grown = np.expm1(np.minimum(hazard, 700.0))
        ratio = np.where(grown > 0, hazard / np.where(grown > 0, grown, 1.0), 1.0)
        ratio = np.where(hazard > 700.0, 0.0, ratio)
        # What follows by its series where 1 - exp(-hazard), and 1 - ratio - hazard, would cancel.
        tiny, small = hazard < 1e-8, hazard < 0.05
        moderate = np.where(tiny, 1.0, hazard)
        value = np.where(hazard > 1.0, np.log1p(-np.exp(-moderate)), np.log(-np.expm1(-moderate)))
        value = np.where(tiny, z - 0.5 * hazard, value)
        c = np.where(small, hazard, 0.0)
        series = -c * (1 / 2 + c * (1 / 12 - c * c * (1 / 720 - c * c / 30240)))
        bend = ratio * np.where(small, series, 1.0 - ratio - np.minimum(hazard, 700.0))
        return value, ratio, bend

    def interval(self, middle: FloatArray, half: FloatArray) -> IntervalTerms:
        # exp(-e^a) - exp(-e^b) = exp(-e^a) (1 - exp(-d)), d = e^b - e^a = e^a (e^2h - 1): nothing cancels.
        hazard = np.exp(middle - half)
        grown = np.expm1(2 * half)
        width = hazard * grown
        if half.size and half.max() > 300.0:  # then the first factor may vanish where the second is infinite
            width = np.where(half > 1.0, np.exp(middle + half) - hazard, width)
        gain = -np.expm1(-width)
        value = np.log(gain)
        # d log(1 - exp(-d)) / d log d, and once more; by its series where 1 - ratio - d would cancel.
        ratio = width * (1.0 - gain) / gain
        capped = np.minimum(width, 700.0)
        bend = ratio * (1.0 - ratio - capped)
        small = np.flatnonzero(width < 0.05)
        if small.size:
            c, few = width[small], middle[small]
            tiny = c < 1e-300  # the quotient is 1 to every digit, and its parts may have underflown
            ratio[small] = np.where(tiny, 1.0, ratio[small])
            bend[small] = -ratio[small] * c * (1 / 2 + c * (1 / 12 - c * c * (1 / 720 - c * c / 30240)))
            thin = small[tiny]
            value[thin] = few[tiny] - half[thin] + np.log(grown[thin])
        beyond = width > 700.0
        if beyond.any():
            ratio[beyond] = bend[beyond] = 0.0
        # d log d / dh = coth h, of which the derivative is -1 / sinh^2 h.
        rest = 2.0 / grown
        coth, inverse = 1.0 + rest, rest * (2.0 + rest)
        return (
            value - hazard,
            ratio - hazard,
            ratio * coth + hazard,
            bend - hazard,
            bend * coth + hazard,
            bend * coth * coth - ratio * inverse - hazard,
        )

    def survival(self, z: FloatArray) -> FloatArray:
        return np.exp(-np.exp(np.minimum(z, 700.0)))

    def quantile(self, p: float) -> float:
        return math.log(-math.log1p(-p))

    def log_mean(self, sigma: float) -> float:
        return float(gammaln(1 + sigma))

    def log_mean_slope(self, sigma: float) -> float:
        return float(digamma(1 + sigma))

    def restricted_mean(self, mu: float, sigma: float, horizon: float) -> float:
        log_u = (math.log(horizon) - mu) / sigma
        if log_u < 0:  # the incomplete gamma function would underflow for large sigma
            u = math.exp(log_u)
            return horizon * math.exp(-u) * float(hyp1f1(1.0, 1.0 + sigma, u))
        u = math.exp(min(log_u, 700.0))
        return _exp(mu + float(gammaln(1 + sigma)) + _log(float(gammainc(sigma, u))))


class Normal(Family):
    """Standard normal: T is log-normal."""

    def exact(self, z: FloatArray) -> Terms:
        return -0.5 * z * z - _LOG_ROOT_TWO_PI, -z, np.full_like(z, -1.0)

    def right(self, z: FloatArray) -> Terms:
        # phi/S by the scaled complementary error function: no quotient of underflown numbers in the upper tail.
        size = np.abs(z)
        scaled = erfcx(size / _ROOT_TWO)
        density = np.exp(-0.5 * z * z)
        tail = 0.5 * scaled * density
        upper = z > 0
        value = np.where(upper, np.log(0.5 * scaled) - 0.5 * z * z, np.log1p(-tail))
        hazard = np.where(upper, _ROOT_TWO_OVER_PI / scaled, 0.5 * _ROOT_TWO_OVER_PI * density / (1.0 - tail))
        return value, -hazard, -hazard * _hazard_excess(hazard, z)

    def left(self, z: FloatArray) -> Terms:
        value, slope, bend = self.right(-z)
        return value, -slope, bend

    def interval(self, middle: FloatArray, half: FloatArray) -> IntervalTerms:
        # By symmetry the middle can be taken as positive: then the upper tail holds both ends' precision.
        sign = np.where(middle < 0, -1.0, 1.0)
        m = np.abs(middle)
        thin = half * np.maximum(1.0, m) < 0.05
        parts = [np.empty_like(m) for _ in range(6)]
        for chosen, terms in ((thin, self._thin), (~thin, self._wide)):
            if chosen.any():
                for part, term in zip(parts, terms(m[chosen], half[chosen]), strict=True):
                    part[chosen] = term
        value, by_m, by_h, by_mm, by_mh, by_hh = parts
        return value, sign * by_m, by_h, by_mm, sign * by_mh, by_hh

    def _thin(self, m: FloatArray, h: FloatArray) -> IntervalTerms:
        # P = 2 h phi(m) (1 + h^2/6 He2(m) + h^4/120 He4(m) + h^6/5040 He6(m) + ...), Hermite polynomials He.
        s = m * m
        he1, he2, he3 = m, s - 1, m * (s - 3)
        he4, he5, he6 = (s - 6) * s + 3, m * ((s - 10) * s + 15), ((s - 15) * s + 45) * s - 15
        h2 = h * h
        a, b, c = h2 / 6, h2 * h2 / 120, h2**3 / 5040
        q = 1 + a * he2 + b * he4 + c * he6
        q_m = 2 * a * he1 + 4 * b * he3 + 6 * c * he5
        q_mm = 2 * a + 12 * b * he2 + 30 * c * he4
        q_h = (2 * a * he2 + 4 * b * he4 + 6 * c * he6) / h
        q_hh = (2 * a * he2 + 12 * b * he4 + 30 * c * he6) / h2
        q_mh = (4 * a * he1 + 16 * b * he3 + 36 * c * he5) / h
        return (
            -0.5 * s - _LOG_ROOT_TWO_PI + np.log(2 * h) + np.log(q),
            -m + q_m / q,
            1 / h + q_h / q,
            -1 + q_mm / q - (q_m / q) ** 2,
            q_mh / q - q_m * q_h / (q * q),
            -1 / h2 + q_hh / q - (q_h / q) ** 2,
        )

    def _wide(self, m: FloatArray, h: FloatArray) -> IntervalTerms:
        a, b = m - h, m + h
        log_a, log_b = self.right(a)[0], self.right(b)[0]
        value = log_a + np.log(-np.expm1(log_b - log_a))
        at_a = np.exp(-0.5 * a * a - _LOG_ROOT_TWO_PI - value)
        at_b = np.exp(-0.5 * b * b - _LOG_ROOT_TWO_PI - value)
        by_m, by_h = at_b - at_a, at_b + at_a
        bend_a, bend_b = -a * at_a, np.where(at_b > 0, -b * at_b, 0.0)
        return (
            value,
            by_m,
            by_h,
            bend_b - bend_a - by_m * by_m,
            bend_b + bend_a - by_m * by_h,
            bend_b - bend_a - by_h * by_h,
        )

    def survival(self, z: FloatArray) -> FloatArray:
        return np.asarray(ndtr(-z))

    def quantile(self, p: float) -> float:
        return float(ndtri(p))

    def log_mean(self, sigma: float) -> float:
        return 0.5 * sigma * sigma

    def log_mean_slope(self, sigma: float) -> float:
        return sigma

    def restricted_mean(self, mu: float, sigma: float, horizon: float) -> float:
        a = (math.log(horizon) - mu) / sigma
        return _exp(mu + 0.5 * sigma * sigma + float(log_ndtr(a - sigma))) + horizon * float(ndtr(-a))


class Logistic(Family):
    """Standard logistic: T is log-logistic with shape 1/sigma."""

    deviation = math.pi / math.sqrt(3)

    def exact(self, z: FloatArray) -> Terms:
        small, total, size = _logistic_parts(z)
        return -size - 2 * np.log(total), np.copysign((small - 1) / total, -z), -2 * small / (total * total)

    def right(self, z: FloatArray) -> Terms:
        small, total, _ = _logistic_parts(z)
        below = np.where(z > 0, 1.0, small) / total
        return np.minimum(-z, 0.0) - np.log1p(small), -below, -small / (total * total)

    def left(self, z: FloatArray) -> Terms:
        value, slope, bend = self.right(-z)
        return value, -slope, bend

    def interval(self, middle: FloatArray, half: FloatArray) -> IntervalTerms:
        # F(b) - F(a) = F(b) S(a) (1 - exp(-2h)), exactly.
        value_a, slope_a, bend_a = self.right(middle - half)
        value_b, slope_b, bend_b = self.left(middle + half)
        # d/dh of log(1 - exp(-2h)) and once more; sinh is capped where its inverse is zero to every digit.
        slope_h = 2 / np.expm1(np.minimum(2 * half, 700.0))
        bend_h = -1 / np.sinh(np.minimum(half, 350.0)) ** 2
        return (
            value_a + value_b + np.log(-np.expm1(-2 * half)),
            slope_a + slope_b,
            slope_b - slope_a + slope_h,
            bend_a + bend_b,
            bend_b - bend_a,
            bend_a + bend_b + bend_h,
        )

    def survival(self, z: FloatArray) -> FloatArray:
        return np.asarray(expit(-z))

    def quantile(self, p: float) -> float:
        return float(logit(p))

    def log_mean(self, sigma: float) -> float:
        return float(gammaln(1 + sigma) + gammaln(1 - sigma)) if sigma < 1 else math.inf

    def log_mean_slope(self, sigma: float) -> float:
        return float(digamma(1 + sigma) - digamma(1 - sigma))

    def restricted_mean(self, mu: float, sigma: float, horizon: float) -> float:
        log_u = (math.log(horizon) - mu) / sigma
        if sigma < 0.9:
            return _exp(mu + self.log_mean(sigma)) * float(betainc(sigma, 1 - sigma, expit(log_u)))
        return horizon * float(hyp2f1(1.0, sigma, 1.0 + sigma, -math.exp(min(log_u, 700.0))))


def _logistic_parts(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """exp(-|z|), 1 + exp(-|z|) and |z|: both tails of the logistic distribution from one exponential."""
    size = np.abs(z)
    small = np.exp(-size)
    return small, 1.0 + small, size


def _hazard_excess(hazard: FloatArray, z: FloatArray) -> FloatArray:
    """The normal hazard less z, which it approaches like 1/z: by its series where the difference would cancel."""
    far = z > 1e3
    inverse = 1.0 / np.where(far, z, 1.0)
    return np.where(far, inverse * (1.0 - 2.0 * inverse * inverse), hazard - z)


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.78 else math.inf


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


_FAMILIES: dict[Distribution, Family] = {
    Distribution.WEIBULL: SmallestExtremeValue(),
    Distribution.LOG_NORMAL: Normal(),
    Distribution.LOG_LOGISTIC: Logistic(),
    Distribution.EXPONENTIAL: SmallestExtremeValue(),
}
