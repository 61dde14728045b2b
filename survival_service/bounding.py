"""What is known of effects that have no estimate, because nothing failed in a group."""

from __future__ import annotations

import math

import numpy as np

from survival_service.advice import Advice, advice_on
from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.fits import EffectBound, Fit
from survival_service.likelihood import Likelihood
from survival_service.observations import FloatArray
from survival_service.preparing import Limit, Prepared, prepared, some
from survival_service.profiling import LaidOut, effect_bound
from survival_service.recession import recession
from survival_service.shapes import Shaped, Tied


def effect_bounds(rows: Prepared, limit: Limit, found: Fit, level: float) -> tuple[EffectBound, ...]:
    """One-sided bounds by profile likelihood, each with every other such effect free to go where it goes.

    `found` is the fit of the limit. Rows are taken as independent.
    """
    names = rows.observations.names
    bounds = []
    for name in limit.affected:
        at = 1 + names.index(name)
        falls, rises = bool(limit.recession.least[at]), bool(limit.recession.greatest[at])
        end = None if falls == rises else _end(rows, name, 1 if rises else -1, found, level)
        lower, upper = (end, None) if rises else (None, end)
        clustered = rows.observations.cluster is not None
        sentence = _sentence(name, end, rises, level, advice_on(found.clock), clustered=clustered)
        bounds.append(EffectBound(name, lower, upper, level, sentence))
    return tuple(bounds)


def _end(rows: Prepared, name: str, side: int, found: Fit, level: float) -> float | None:
    """The end of the interval of one effect; with it held, other groups without failures still drop out."""
    data, design, names = rows.observations, rows.design, rows.observations.names
    if design is None:
        return None
    others = recession(design, data.lower.size, held=names.index(name))
    if others is not None:
        first = [names.index(name), *(j for j, other in enumerate(names) if other != name)]
        kept = prepared(some(data, ~others.receding).with_columns(first))
        design, names = kept.design, kept.observations.names
        if design is None or name not in names:
            return None
    likelihood, start = _likelihood(design, found)
    return effect_bound(likelihood, start, names.index(name), side, found.log_likelihood, level)


def _likelihood(design: Design, found: Fit) -> tuple[LaidOut, FloatArray]:
    """The likelihood of a distribution, its shape free too, and where to begin in it."""
    plain = Likelihood(design, found.family, scale_fixed=found.distribution.scale_fixed)
    if found.distribution is Distribution.GENERALIZED_GAMMA:
        return Shaped(design), np.append(found.shape or 0.0, plain.start())
    if found.distribution is Distribution.GAMMA:
        return Tied(design), plain.start()
    return plain, plain.start()


def _sentence(name: str, end: float | None, rises: bool, level: float, advice: Advice, *, clustered: bool) -> str:
    setting = advice.setting(name)
    if end is None or not math.isfinite(end):
        return f"nothing failed in a group, so {setting} has no estimate, and the data do not bound its effect"
    return (
        f"nothing failed in a group, so {setting} has no estimate: with {100 * level:g} % confidence it multiplies the "
        f"{advice.time_to_failure} by at {'least' if rises else 'most'} {end:.3g}"
        f"{', rows taken as independent' if clustered else ''}"
    )
