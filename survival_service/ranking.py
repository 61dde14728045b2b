"""How well the fits of a clock order the times observed: three concordances of each, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, Estimate
from survival_service.fits import Fit
from survival_service.fitting import predicted_locations
from survival_service.metrics import Concordance, harrell, interval_pair, uno
from survival_service.preparing import Prepared


@dataclass(frozen=True, slots=True)
class FitConcordance:
    """What share of pairs a fit orders as they were observed. Fields are those of the contract's `FitConcordance`.

    Each is None without a pair of its kind. `restriction_time` is the time up to which Uno's looks.
    """

    distribution: Distribution
    harrell: Estimate | None
    uno: Estimate | None
    interval_pair: Estimate | None
    restriction_time: float


def fit_concordances(
    fits: Sequence[Fit], rows: Prepared, *, level: float = DEFAULT_LEVEL
) -> tuple[FitConcordance, ...]:
    """The concordances of every fit with numbers and covariates; without covariates all samples are predicted alike."""
    data, found = rows.observations, []
    for one in fits:
        if not one.has_numbers or not data.names:
            continue
        predicted = predicted_locations(one, rows)
        found.append(
            FitConcordance(
                distribution=one.distribution,
                harrell=_estimate(harrell(data, predicted), level),
                uno=_estimate(uno(data, predicted, one.restriction_time), level),
                interval_pair=_estimate(interval_pair(data, predicted), level),
                restriction_time=one.restriction_time,
            )
        )
    return tuple(found)


def _estimate(found: Concordance | None, level: float) -> Estimate | None:
    return None if found is None else found.estimate(level)
