"""What is known of effects that have no estimate, because nothing failed in a group."""

from __future__ import annotations

import math

from survival_service.distributions import Distribution
from survival_service.fits import EffectBound
from survival_service.likelihood import Likelihood
from survival_service.observations import Observations
from survival_service.preparing import Limit, Prepared, prepared, some
from survival_service.profiling import effect_bound
from survival_service.recession import recession


def effect_bounds(
    rows: Prepared, limit: Limit, distribution: Distribution, supremum: float, level: float
) -> tuple[EffectBound, ...]:
    """One-sided bounds by profile likelihood, each with every other such effect free to go where it goes.

    `supremum` is the log-likelihood of the limit. Rows are taken as independent.
    """
    names = rows.observations.names
    found = []
    for name in limit.affected:
        at = 1 + names.index(name)
        falls, rises = bool(limit.recession.least[at]), bool(limit.recession.greatest[at])
        end = None
        if falls != rises and not distribution.with_shape:
            end = _end(rows.observations, rows, name, 1 if rises else -1, distribution, supremum, level)
        lower, upper = (end, None) if rises else (None, end)
        sentence = _sentence(name, end, rises, distribution, level, clustered=rows.observations.cluster is not None)
        found.append(EffectBound(name, lower, upper, level, sentence))
    return tuple(found)


def _end(
    data: Observations,
    rows: Prepared,
    name: str,
    side: int,
    distribution: Distribution,
    supremum: float,
    level: float,
) -> float | None:
    """The end of the interval of one effect; with it held, other groups without failures still drop out."""
    design, names = rows.design, data.names
    if design is None:
        return None
    others = recession(design, data.lower.size, held=names.index(name))
    if others is not None:
        first = [names.index(name), *(j for j, other in enumerate(names) if other != name)]
        kept = prepared(some(data, ~others.receding).with_columns(first))
        design, names = kept.design, kept.observations.names
        if design is None or name not in names:
            return None
    likelihood = Likelihood(design, distribution.family, scale_fixed=distribution.scale_fixed)
    return effect_bound(likelihood, names.index(name), side, supremum, level)


def _sentence(
    name: str, end: float | None, rises: bool, distribution: Distribution, level: float, *, clustered: bool
) -> str:
    if end is None and distribution.with_shape:
        return f"nothing failed in a group, so {name} has no estimate; for a bound fit a Weibull distribution"
    if end is None or not math.isfinite(end):
        return f"nothing failed in a group, so {name} has no estimate, and the data do not bound its effect"
    return (
        f"nothing failed in a group, so {name} has no estimate: with {100 * level:g} % confidence it multiplies the "
        f"time to failure by at {'least' if rises else 'most'} {end:.3g}"
        f"{', rows taken as independent' if clustered else ''}"
    )
