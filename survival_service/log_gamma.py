"""The family of the generalised gamma distribution, one member a shape Q (Prentice 1974).

With G gamma-distributed of shape k = 1/Q^2, epsilon = log(Q^2 G) / Q; T = exp(mu + sigma epsilon) is Weibull at Q = 1,
gamma at Q = sigma, and log-normal in the limit Q = 0. A negative Q mirrors epsilon. For every Q its density is
log-concave, so a fit with Q held fixed has one maximum, as those of the other families.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from scipy.special import digamma, gammainc, gammaincc, gammainccinv, gammaincinv, gammaln, hyp1f1, polygamma

from survival_service.distributions import Family, IntervalTerms, Normal, Terms
from survival_service.observations import FloatArray

# Below this the normal distribution differs from the member by less than rounding does.
SMALLEST_SHAPE = 1e-5
# A tail probability smaller than this is found from the density and a continued fraction or a series.
_FAR = 1e-250
_FRACTION_LENGTH = 200
# Half-widths times slope below which an interval's terms are its series', with an error of their fourth power.
_THIN = 1e-3


def shape_family(shape: float) -> Family:
    """The family of this shape Q; the normal one where no other could be told from it."""
    return LogGamma(shape) if abs(shape) >= SMALLEST_SHAPE else Normal()


class LogGamma(Family):
    """Log-gamma epsilon of shape Q, |Q| >= `SMALLEST_SHAPE`; for less, the normal family is the limit."""

    def __init__(self, shape: float) -> None:
        self.shape = shape
        self._q = abs(shape)
        self._k = self._q**-2
        self._sign = math.copysign(1.0, shape)
        self._log_constant = math.log(self._q) + _log_power_over_gamma(self._k)
        self.mean = self._sign * float(digamma(self._k) - math.log(self._k)) / self._q
        self.deviation = math.sqrt(float(polygamma(1, self._k))) / self._q

    def exact(self, z: FloatArray) -> Terms:
        value, slope, bend = self._density(self._sign * z)
        return value, self._sign * slope, bend

    def right(self, z: FloatArray) -> Terms:
        if self._sign > 0:
            return self._upper(z)
        value, slope, bend = self._lower(-z)
        return value, -slope, bend

    def left(self, z: FloatArray) -> Terms:
        if self._sign > 0:
            return self._lower(z)
        value, slope, bend = self._upper(-z)
        return value, -slope, bend

    def interval(self, middle: FloatArray, half: FloatArray) -> IntervalTerms:
        # A mirrored interval has its middle on the other side, and the same half.
        m = self._sign * middle
        parts = [np.empty_like(m) for _ in range(6)]
        _, slope, _ = self._density(m)
        thin = half * np.maximum(1.0, np.abs(slope)) < _THIN
        for chosen, terms in ((thin, self._thin), (~thin, self._wide)):
            if chosen.any():
                for part, term in zip(parts, terms(m[chosen], half[chosen]), strict=True):
                    part[chosen] = term
        value, by_m, by_h, by_mm, by_mh, by_hh = parts
        return value, self._sign * by_m, by_h, by_mm, self._sign * by_mh, by_hh

    def survival(self, z: FloatArray) -> FloatArray:
        u = self._gamma(self._sign * z)
        return np.asarray(gammaincc(self._k, u) if self._sign > 0 else gammainc(self._k, u))

    def quantile(self, p: float) -> float:
        inverse = gammaincinv if self._sign > 0 else gammainccinv
        return self._sign * math.log(float(inverse(self._k, p)) / self._k) / self._q

    def log_mean(self, sigma: float) -> float:
        # E[exp(sigma epsilon)] = Gamma(k + s) / (Gamma(k) k^s) with s = sigma / Q.
        s = sigma / self.shape
        if self._k + s <= 0:
            return math.inf
        if self._k > 1e6:  # both logarithms are huge and nearly equal: the first terms of the expansion in 1/k
            return s * (s - 1) / (2 * self._k) - s * (s - 1) * (2 * s - 1) / (12 * self._k**2)
        return float(gammaln(self._k + s) - gammaln(self._k)) - s * math.log(self._k)

    def log_mean_slope(self, sigma: float) -> float:
        s = sigma / self.shape
        return float(digamma(self._k + s) - math.log(self._k)) / self.shape

    def restricted_mean(self, mu: float, sigma: float, horizon: float) -> float:
        # Here alone, since it takes a third of a second to import and few reports ask for this family.
        from scipy.integrate import quad

        # The area under S; over z = (log t - mu) / sigma it is a smooth bump that ends at the horizon's z.
        end = (math.log(horizon) - mu) / sigma

        def area(z: float) -> float:
            return float(self.survival(np.array([z]))[0]) * math.exp(sigma * (z - end))

        # Below end - 40 / sigma the factor is nothing.
        begin = end - 40.0 / sigma
        middle = [z for z in (-8.0, -2.0, 0.0, 2.0, 8.0) if begin < z < end]
        edges = [begin, *middle, end]
        total = sum(quad(area, a, b, epsabs=1e-13, epsrel=1e-11, limit=200)[0] for a, b in pairwise(edges))
        return horizon * sigma * float(total)

    def _gamma(self, z: FloatArray) -> FloatArray:
        """The value of G at z > 0 shapes."""
        return np.asarray(self._k * np.exp(np.minimum(self._q * z, 700.0)))

    def _density(self, z: FloatArray) -> Terms:
        x = self._q * z
        grown = np.expm1(x)
        # x - expm1(x), by its series where it cancels.
        small = np.abs(x) < 1e-2
        c = np.where(small, x, 0.0)
        series = -c * c * (1 / 2 + c * (1 / 6 + c * (1 / 24 + c * (1 / 120 + c * (1 / 720 + c / 5040)))))
        difference = np.where(small, series, x - grown)
        return self._log_constant + self._k * difference, -grown / self._q, -(grown + 1.0)

    def _upper(self, z: FloatArray) -> Terms:
        """Log P(epsilon > z) for a positive shape."""
        density, slope, _ = self._density(z)
        u = self._gamma(z)
        below, above = gammainc(self._k, u), gammaincc(self._k, u)
        value = np.where(below < 0.5, np.log1p(-np.minimum(below, 0.5)), np.log(np.maximum(above, _FAR)))
        hazard = np.exp(density - value)
        far = above < _FAR
        if far.any():
            hazard[far] = self._q / _upper_fraction(self._k, u[far])
            value[far] = density[far] - np.log(hazard[far])
        return value, -hazard, -hazard * (slope + hazard)

    def _lower(self, z: FloatArray) -> Terms:
        """Log P(epsilon <= z) for a positive shape."""
        density, slope, _ = self._density(z)
        u = self._gamma(z)
        below, above = gammainc(self._k, u), gammaincc(self._k, u)
        value = np.where(above < 0.5, np.log1p(-np.minimum(above, 0.5)), np.log(np.maximum(below, _FAR)))
        hazard = np.exp(density - value)
        far = below < _FAR
        if far.any():
            hazard[far] = self._q * self._k / hyp1f1(1.0, self._k + 1.0, u[far])
            value[far] = density[far] - np.log(hazard[far])
        return value, hazard, hazard * (slope - hazard)

    def _thin(self, m: FloatArray, h: FloatArray) -> IntervalTerms:
        # P = 2 h f(m) (1 + h^2/6 f''/f + ...), f''/f = s^2 + s' with s the slope of log f; s'' = Q s', s''' = Q^2 s'.
        value, s, bend = self._density(m)
        curve = s * s + bend
        by_m = 2 * s * bend + self._q * bend
        by_mm = 2 * bend * bend + 2 * s * self._q * bend + self._q**2 * bend
        sixth = h * h / 6
        return (
            value + np.log(2 * h) + sixth * curve,
            s + sixth * by_m,
            1 / h + h / 3 * curve,
            bend + sixth * by_mm,
            h / 3 * by_m,
            -1 / (h * h) + curve / 3,
        )

    def _wide(self, m: FloatArray, h: FloatArray) -> IntervalTerms:
        a, b = m - h, m + h
        density_a, slope_a, _ = self._density(a)
        density_b, slope_b, _ = self._density(b)
        # The tail that is the smaller holds the precision of the difference.
        upper_a, upper_b = self._upper(a)[0], self._upper(b)[0]
        lower_a, lower_b = self._lower(a)[0], self._lower(b)[0]
        by_upper = upper_a + np.log(-np.expm1(np.minimum(upper_b - upper_a, -1e-300)))
        by_lower = lower_b + np.log(-np.expm1(np.minimum(lower_a - lower_b, -1e-300)))
        value = np.where(m > 0, by_upper, by_lower)
        at_a, at_b = np.exp(density_a - value), np.exp(density_b - value)
        by_m, by_h = at_b - at_a, at_b + at_a
        bend_a, bend_b = at_a * slope_a, np.where(at_b > 0, at_b * slope_b, 0.0)
        return (
            value,
            by_m,
            by_h,
            bend_b - bend_a - by_m * by_m,
            bend_b + bend_a - by_m * by_h,
            bend_b - bend_a - by_h * by_h,
        )


def _log_power_over_gamma(k: float) -> float:
    """k log k - k - log Gamma(k), by Stirling's series where it would cancel."""
    if k < 1e3:
        return k * math.log(k) - k - math.lgamma(k)
    return 0.5 * math.log(k / (2 * math.pi)) - 1 / (12 * k) + 1 / (360 * k**3)


def _upper_fraction(k: float, u: FloatArray) -> FloatArray:
    """Gamma(k, u) / (u^k e^-u) for u well above k: Legendre's continued fraction, from its far end."""
    tail = np.zeros_like(u)
    for n in range(_FRACTION_LENGTH, 0, -1):
        tail = n * (k - n) / (u - k + 2 * n + 1 + tail)
    return 1.0 / (u - k + 1 + tail)
