"""Hazard ratios after Cox (1972), a second opinion on the direction of what stretches or shrinks times to failure.

Cox's model leaves the distribution open where an accelerated failure model names it, so an effect that both find is not
an artefact of the distribution. A covariate that multiplies times by more than 1 has a hazard ratio below 1.

By lifelines, which is imported when asked. It knows no intervals: a failure stands at the check that found it, and
failures of one check are ties, after Efron (1977). With few checks that makes the ratios smaller in size than those of
continuous times; their direction it leaves alone.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from survival_service.covariates import independent_columns
from survival_service.estimates import DEFAULT_LEVEL, Estimate, log_interval
from survival_service.observations import Observations

# Rows that a table is written out to, since Efron's treatment of ties counts them.
_ROW_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class HazardRatio:
    """What one unit of a covariate multiplies the hazard by; `estimate` and its error are of the logarithm."""

    covariate: str
    estimate: float
    standard_error: float
    ratio: Estimate


def cox(observations: Observations, *, level: float = DEFAULT_LEVEL) -> tuple[HazardRatio, ...] | None:
    """The hazard ratios of the covariates that can be told apart, errors clustered if the observations are.

    None where there is nothing to compare: no failure, no covariate, a group without failures, weights that are not
    whole numbers, or more than 200 000 samples.
    """
    weight = np.round(observations.weight)
    kept, _ = independent_columns(observations.covariates, observations.names, observations.weight)
    whole = bool((weight == observations.weight).all()) and weight.sum() <= _ROW_LIMIT
    if not kept or not whole or not observations.failed.any():
        return None
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError

    rows = np.repeat(np.arange(weight.size), weight.astype(np.int64))
    failed = observations.failed[rows]
    columns = {f"x{k}": observations.covariates[rows, j] for k, j in enumerate(kept)}
    columns["time"] = np.where(failed, observations.upper[rows], observations.lower[rows])
    columns["failed"] = failed
    grouped = None
    if observations.cluster is not None:
        columns["cluster"] = observations.cluster[rows]
        grouped = "cluster"
    fitter = CoxPHFitter()
    try:
        # It warns of what looks like separation; what came of it is judged below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitter.fit(pd.DataFrame(columns), "time", "failed", cluster_col=grouped)
    except ConvergenceError:
        return None
    estimates, errors = fitter.params_.to_numpy(dtype=float), fitter.standard_errors_.to_numpy(dtype=float)
    spread = np.array([columns[f"x{k}"].std() for k in range(len(kept))])
    # A group without failures has its maximum at infinity, from which the search turns back somewhere.
    if not (np.isfinite(errors).all() and (errors > 0).all() and (errors * spread < 10).all()):
        return None
    return tuple(
        HazardRatio(observations.names[j], float(b), float(e), log_interval(float(b), float(e), level))
        for j, b, e in zip(kept, estimates, errors, strict=True)
    )


def contradictions(ratios: tuple[HazardRatio, ...], time_ratios: dict[str, Estimate]) -> tuple[str, ...]:
    """The covariates of which both models are sure, one that they lengthen life and the other that they shorten it."""
    found = []
    for one in ratios:
        hazard, time = one.ratio, time_ratios.get(one.covariate)
        if time is None or None in (hazard.lower, hazard.upper, time.lower, time.upper):
            continue
        if _side(hazard) * _side(time) > 0:
            found.append(one.covariate)
    return tuple(found)


def _side(ratio: Estimate) -> int:
    """1 if the interval lies above 1, -1 if below, 0 if it holds 1."""
    lower, upper = ratio.lower or 0.0, math.inf if ratio.upper is None else ratio.upper
    return (lower > 1) - (upper < 1)
