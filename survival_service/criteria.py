"""Fits held against one another: ranked, weighed by Akaike's criterion, and averaged with those weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

from survival_service.estimates import Estimate, log_interval
from survival_service.fits import Fit


class Criteria(TypedDict):
    """The criteria of a fit, under the names of its fields."""

    aic: float
    aicc: float | None
    bic: float
    bic_events: float


def criteria(log_likelihood: float, parameter_count: int, observation_count: float, failure_count: float) -> Criteria:
    """AIC (Akaike 1974), AICc (Hurvich and Tsai 1989), BIC by samples (Schwarz 1978) and by failures.

    By failures because a censored sample tells little: Volinsky and Raftery (2000).
    """
    k, n = parameter_count, observation_count
    aic = 2 * k - 2 * log_likelihood
    return {
        "aic": aic,
        "aicc": aic + 2 * k * (k + 1) / (n - k - 1) if n - k - 1 > 0 else None,
        "bic": k * math.log(n) - 2 * log_likelihood,
        "bic_events": k * math.log(failure_count) - 2 * log_likelihood,
    }


def ranked(fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """The fits with numbers, best AIC first and with their Akaike weights, then those without.

    They must be of the same observations: only then have their criteria a difference that means something.
    """
    with_numbers = [one for one in fits if one.has_numbers]
    best = min((one.aic for one in with_numbers), default=0.0)
    total = sum(math.exp(-0.5 * (one.aic - best)) for one in with_numbers)
    weighed = [replace(one, akaike_weight=math.exp(-0.5 * (one.aic - best)) / total) for one in with_numbers]
    return (*sorted(weighed, key=lambda one: one.aic), *(one for one in fits if not one.has_numbers))


def averaged(fits: Sequence[Fit], quantity: str, level: float) -> Estimate | None:
    """A quantity of ranked fits, averaged on the log scale with their Akaike weights; None with fewer than two fits.

    The standard error is the unconditional one, sum w sqrt(var + (x - mean)^2), which contains how the fits differ
    (Buckland, Burnham and Augustin 1997, equation 9). None too if some fit has no finite value with an error, since an
    average over the others would be of another set of distributions.
    """
    with_numbers = [one for one in fits if one.akaike_weight is not None]
    parts: list[tuple[float, float, float]] = []
    for one in with_numbers:
        estimate: Estimate = getattr(one, quantity)
        if not estimate.value or not math.isfinite(estimate.value) or estimate.log_standard_error is None:
            return None
        parts.append((one.akaike_weight or 0.0, math.log(estimate.value), estimate.log_standard_error))
    if len(parts) < 2:
        return None
    mean = sum(weight * value for weight, value, _ in parts)
    error = sum(weight * math.hypot(own, value - mean) for weight, value, own in parts)
    return log_interval(mean, error, level, degrees_of_freedom=with_numbers[0].degrees_of_freedom)
