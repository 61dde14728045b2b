"""By what factor each setting of several jobs stretches the time to failure, and why: queries, or seconds a query.

On one configuration log seconds = log queries + log(seconds per query). The split is defined, not assumed: an effect
on seconds is the sum of its effect on queries, in an accelerated failure model, and its effect on the logarithm of
seconds per query, in a regression by least squares on the same covariates. Both solve estimating equations with the
same clusters, so their joint errors are those of the stacked equations (`clustering`). A model fitted to the seconds
themselves, free to disagree, stands beside it with the gap.

An effect of what is the same in all jobs on one trained model (its depth, a defence that it was trained with) is known
only as far as training again is: its clusters are the trained models, few as they are, and the images that they share.
With fewer than two models a level nothing tells the level from the one model, and the interval, clustered by image, is
that of these models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from scipy.special import stdtr

from survival_service.clustering import ClusterError, Equation, Sandwich, TwoWay, least_squares, of_fit
from survival_service.covariates import independent_columns
from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.estimates import NO_ESTIMATE, Estimate, log_interval
from survival_service.fits import INTERCEPT, Fit, Status
from survival_service.observations import FloatArray, IntArray, Observations

MODELS_PER_LEVEL = 2
# Below so many degrees of freedom an interval holds what it promises only if the models' effects are about normal
# (Tipton 2015).
FEW_DEGREES = 4.0
# Jobs that do the same have a ratio of 1 and an interval without width, up to this.
_ROUNDING = 1e-9
# With fewer images than this many a parameter there is no sandwich worth its name.
_IMAGES_PER_PARAMETER = 2
# The distributions whose likelihood is concave in all parameters; a generalised gamma's shape would have to be held.
SPLIT_DISTRIBUTIONS = (
    Distribution.WEIBULL,
    Distribution.LOG_NORMAL,
    Distribution.LOG_LOGISTIC,
    Distribution.EXPONENTIAL,
)
# A time ratio and its parts: which equations' estimates are added, and with which sign.
_QUERIES, _LATENCY, _FREE = "queries", "seconds per query", "seconds"
_SUMS: Mapping[str, Mapping[str, float]] = {
    "total": {_QUERIES: 1.0, _LATENCY: 1.0},
    "queries": {_QUERIES: 1.0},
    "seconds_per_query": {_LATENCY: 1.0},
    "free": {_FREE: 1.0},
    "gap": {_QUERIES: 1.0, _LATENCY: 1.0, _FREE: -1.0},
}


class EffectStatus(Enum):
    """How far the interval of an effect reaches. The values are those of the wire."""

    OK = 1
    TOO_FEW_MODELS = 2
    NO_INTERVAL = 3


@dataclass(frozen=True, slots=True)
class Effect:
    """What one setting does to the time to failure, as time ratios. Fields are those of the contract's `Effect`."""

    covariate: str
    contrast: str
    step: float
    status: EffectStatus
    status_message: str
    total: Estimate
    queries: Estimate
    seconds_per_query: Estimate
    free: Estimate
    gap: Estimate
    model_level: bool
    cluster_count: int
    degrees_of_freedom: float | None
    p_value: float | None = None
    adjusted_p_value: float | None = None


@dataclass(frozen=True, slots=True)
class EffectReport:
    """The effects of all that differs between the jobs. Fields are those of the contract's `EffectReport`."""

    distribution: Distribution | None
    image_count: int
    model_count: int
    effects: tuple[Effect, ...]
    finding: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What the ratio of a covariate compares, in words, and how many of its units that is."""

    contrast: str
    step: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Clusters:
    """The errors over images, those over trained models, and how many models each level of a covariate has at least.

    That number is 0 for a covariate that differs between jobs on one model.
    """

    over_images: Sandwich | None
    over_models: TwoWay | None
    least_models: tuple[int, ...]


def split_effects(
    queries: Observations,
    seconds: Observations,
    models: IntArray,
    level: float,
    *,
    on_queries: Fit | None,
    on_seconds: Fit | None,
    settings: Mapping[str, Setting] | None = None,
) -> EffectReport:
    """Split every effect on seconds. `settings` say what each ratio compares; without, one unit of the covariate.

    The rows of both clocks are the same samples in the same order, in the same clusters; `models` (n) numbers the
    trained model of each. What rests on a fit that is None is left out. The finding is left to `contrasts`.
    """
    if queries.cluster is None:
        raise ValueError("effects need rows with clusters")
    cluster, models = (np.unique(of, return_inverse=True)[1].ravel() for of in (queries.cluster, models))
    notes: list[str] = []
    asked, charged = _spent(queries), _spent(seconds)
    known = (asked > 0) & (charged > 0)
    weight = np.where(known, queries.weight, 0.0)
    if on_queries is not None:
        names = _names(on_queries)
    else:
        kept, _ = independent_columns(queries.covariates[known], queries.names, weight[known])
        names = tuple(queries.names[j] for j in kept)
        notes.append("no fit on queries carries every effect, so only that on seconds per query is known")
    columns = queries.covariates[:, [queries.names.index(name) for name in names]]

    equations: dict[str, Equation] = {}
    if on_queries is not None:
        equations[_QUERIES] = _equation(queries, columns, names, on_queries)
    if known.any() and len(independent_columns(columns[known], names, weight[known])[0]) == len(names):
        per_query = np.log(np.where(known, charged, 1.0)) - np.log(np.where(known, asked, 1.0))
        equations[_LATENCY] = least_squares(columns, per_query, weight)
        if left_out := float(queries.weight[~known].sum()):
            notes.append(f"{left_out:g} samples without a query or a measured time are not in the seconds per query")
    else:
        notes.append("too few samples have both queries and seconds, so seconds per query carry no effects")
    if on_seconds is not None and on_queries is not None and _names(on_seconds) == names:
        equations[_FREE] = _equation(seconds, columns, names, on_seconds)
    elif on_queries is not None:
        notes.append("no fit on seconds carries these effects, so there is none to hold their sum against")

    clusters = _clusters(equations, columns, cluster, models)
    known_settings = settings or {}
    effects = tuple(
        _effect(j, name, known_settings.get(name, Setting(f"{name} plus 1")), equations, clusters, level)
        for j, name in enumerate(names if equations else ())
    )
    if apart := [effect.contrast for effect in effects if excludes_one(effect.gap)]:
        notes.append(
            f"the free fit differs from the product beyond chance ({'; '.join(apart)}): seconds per query go together "
            "with how many queries a sample takes, or one shape does not suit both clocks; quote both"
        )
    return EffectReport(
        distribution=on_queries.distribution if on_queries else None,
        image_count=int(cluster.max(initial=-1)) + 1,
        model_count=int(models.max(initial=-1)) + 1,
        effects=corrected(effects),
        finding="",
        notes=tuple(f"{note[0].upper()}{note[1:]}." for note in notes),
    )


def excludes_one(ratio: Estimate) -> bool:
    """Whether a ratio is shown to differ from 1: its interval lies on one side, by more than rounding."""
    if ratio.lower is None or ratio.upper is None:
        return False
    return ratio.lower > 1 + _ROUNDING or ratio.upper < 1 - _ROUNDING


def is_defence(effect: Effect) -> bool:
    """Whether this is the effect of a defence against the control."""
    return effect.covariate.startswith("defence=")


def corrected(effects: tuple[Effect, ...]) -> tuple[Effect, ...]:
    """The p values of the defences against the control, corrected for their number."""
    tested = [(effect.covariate, effect.p_value) for effect in effects if is_defence(effect)]
    known = [(name, p_value) for name, p_value in tested if p_value is not None]
    adjusted = dict(zip((name for name, _ in known), holm([p_value for _, p_value in known]), strict=True))
    return tuple(replace(effect, adjusted_p_value=adjusted.get(effect.covariate)) for effect in effects)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p values (Holm 1979): rejecting those below alpha errs in any of them with at most probability alpha."""
    adjusted, largest, count = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, i in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return tuple(adjusted)


def carries_effects(fit: Fit) -> bool:
    """Whether a fit has an effect for every covariate that can be told apart, and a likelihood that is concave."""
    return fit.status is Status.OK and fit.distribution in SPLIT_DISTRIBUTIONS and len(fit.coefficients) > 1


def _names(fit: Fit) -> tuple[str, ...]:
    return tuple(c.covariate for c in fit.coefficients if c.covariate != INTERCEPT)


def _spent(rows: Observations) -> FloatArray:
    """What each sample was charged: up to the check that found its failure, or to its last."""
    spent: FloatArray = np.where(rows.failed, rows.upper, rows.lower)
    return spent


def _equation(rows: Observations, columns: FloatArray, names: tuple[str, ...], fit: Fit) -> Equation:
    design = Design.of(replace(rows, covariates=columns, names=names, configuration=None))
    coefficients = np.array([c.estimate for c in fit.coefficients])
    return of_fit(design, fit.distribution, coefficients, fit.scale, rows.lower.size)


def _clusters(equations: Mapping[str, Equation], columns: FloatArray, cluster: IntArray, models: IntArray) -> _Clusters:
    least_models = []
    for column in columns.T:
        pairs = np.unique(np.column_stack([column, models]), axis=0)
        of_model = len(pairs) == len(np.unique(models))
        least_models.append(int(np.unique(pairs[:, 0], return_counts=True)[1].min()) if of_model else 0)
    needed = _IMAGES_PER_PARAMETER * max((e.scores.shape[1] for e in equations.values()), default=0) + 1
    enough_images = bool(equations) and int(cluster.max(initial=-1)) + 1 >= needed
    enough_models = bool(equations) and max(least_models, default=0) >= MODELS_PER_LEVEL
    return _Clusters(
        over_images=Sandwich(equations, cluster) if enough_images else None,
        over_models=TwoWay(equations, models, cluster) if enough_models else None,
        least_models=tuple(least_models),
    )


def _errors(
    j: int, signs: Mapping[str, float], clusters: _Clusters
) -> tuple[Sandwich | TwoWay | None, EffectStatus, str]:
    """The errors of effect j, and how far they reach; `signs` are those of its main ratio."""
    status, message = EffectStatus.OK, ""
    if clusters.least_models[j]:
        over_models = clusters.over_models if clusters.least_models[j] >= MODELS_PER_LEVEL else None
        degrees = over_models.error(j, signs).degrees if over_models else 0.0
        if over_models is not None and degrees >= 1:
            if degrees < FEW_DEGREES:
                message = (
                    f"the interval has {degrees:.1f} degrees of freedom, and holds what it promises only if what "
                    "training again changes is about normal; train more seeds a level"
                )
            return over_models, status, message
        status, message = (
            EffectStatus.TOO_FEW_MODELS,
            "too few trained models: the interval is that of these models attacked on other samples, not that of the "
            f"setting; train at least {MODELS_PER_LEVEL} seeds a level, better 5",
        )
    if clusters.over_images is None and status is EffectStatus.OK:
        status, message = EffectStatus.NO_INTERVAL, "too few images for an interval; attack more samples"
    return clusters.over_images, status, message


def _effect(
    j: int, name: str, setting: Setting, equations: Mapping[str, Equation], clusters: _Clusters, level: float
) -> Effect:
    sums = {part: signs for part, signs in _SUMS.items() if signs.keys() <= equations.keys()}
    main = next(iter(sums.values()))
    errors, status, message = _errors(j, main, clusters)
    ratios: dict[str, Estimate] = {}
    for part, signs in sums.items():
        value = setting.step * float(sum(sign * equations[of].estimates[j] for of, sign in signs.items()))
        if errors is None:
            ratios[part] = Estimate(value=log_interval(value, 0.0, level).value)
        else:
            error = errors.error(j, signs)
            ratios[part] = log_interval(
                value, setting.step * error.standard, level, degrees_of_freedom=max(1.0, error.degrees)
            )
    p_value = None
    if errors is not None and _QUERIES in equations:
        p_value = _p_value(float(equations[_QUERIES].estimates[j]), errors.error(j, _SUMS["queries"]))
    return Effect(
        covariate=name,
        contrast=setting.contrast,
        step=setting.step,
        status=status,
        status_message=message,
        model_level=clusters.least_models[j] > 0,
        cluster_count=errors.cluster_count if errors is not None else 0,
        degrees_of_freedom=errors.error(j, main).degrees if errors is not None else None,
        p_value=p_value,
        total=ratios.get("total", NO_ESTIMATE),
        queries=ratios.get("queries", NO_ESTIMATE),
        seconds_per_query=ratios.get("seconds_per_query", NO_ESTIMATE),
        free=ratios.get("free", NO_ESTIMATE),
        gap=ratios.get("gap", NO_ESTIMATE),
    )


def _p_value(value: float, error: ClusterError) -> float:
    """Two-sided, of no effect. Jobs that do the same differ by rounding, which their error is as small as."""
    if abs(value) <= _ROUNDING:
        return 1.0
    if error.standard == 0:
        return 0.0
    return float(2 * stdtr(max(1.0, error.degrees), -abs(value) / error.standard))
