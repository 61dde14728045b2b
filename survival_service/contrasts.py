"""What the split of effects says in words: what each ratio compares, and what follows of depth and defences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from survival_service.advice import advice_on
from survival_service.covariates import in_words
from survival_service.effects import (
    SPLIT_DISTRIBUTIONS,
    Effect,
    EffectReport,
    EffectStatus,
    Setting,
    carries_effects,
    excludes_one,
    is_defence,
    split_effects,
)
from survival_service.estimates import Estimate
from survival_service.fits import Fit, Status
from survival_service.fitting import fit, ranked
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, Observations
from survival_service.outcome_table import OutcomeTable
from survival_service.pooling import models_of_rows, pooled
from survival_service.preparing import prepared, some
from survival_service.wording import interval, number


def effect_report(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]], fits: Mapping[Clock, Sequence[Fit]], level: float
) -> EffectReport | None:
    """The effects of what differs between these jobs; None where nothing does. `fits` are those of both clocks."""
    if len(jobs) < 2:
        return None
    queries = pooled(jobs, Clock.QUERIES)
    if not queries.names or queries.cluster is None:
        return None
    seconds, models = pooled(jobs, Clock.SECONDS), models_of_rows(jobs)
    notes: tuple[str, ...] = ()
    settings = {name: setting(name, [of for of, _ in jobs]) for name in queries.names}
    chosen = next((one for one in fits[Clock.QUERIES] if carries_effects(one)), None)
    same = (one for one in fits[Clock.SECONDS] if chosen and one.distribution is chosen.distribution)
    free = next((one for one in same if carries_effects(one)), None)
    limiting = next((one for one in fits[Clock.QUERIES] if one.status is Status.GROUP_WITHOUT_FAILURE), None)
    limit = prepared(queries).limit if chosen is None and limiting is not None else None
    if limit is not None:
        # What is left is the exact limit of the fit of all; the group's own effect has a bound there, and none here.
        left = ~limit.recession.receding
        queries, seconds, models = some(queries, left), some(seconds, left), models[left]
        chosen = _fitted(queries, Clock.QUERIES, level)
        free = _fitted(seconds, Clock.SECONDS, level, chosen) if chosen is not None else None
        notes = (
            f"Nothing failed in a group that {advice_on(Clock.QUERIES).tells_apart(limit.affected)}: its samples are "
            "left out here; the fits on queries have a bound for its effect.",
        )
    split = split_effects(queries, seconds, models, level, on_queries=chosen, on_seconds=free, settings=settings)
    if not split.effects:
        return None
    return replace(split, finding=_finding(split.effects, level), notes=(*notes, *split.notes))


def _fitted(rows: Observations, clock: Clock, level: float, like: Fit | None = None) -> Fit | None:
    """The best fit of these rows that carries effects, of the distribution of `like` if that is given."""
    distributions = SPLIT_DISTRIBUTIONS if like is None else (like.distribution,)
    fits = ranked(tuple(fit(rows, one, clock=clock, level=level) for one in distributions))
    return next((one for one in fits if carries_effects(one)), None)


def setting(name: str, jobs: Sequence[JobFacts]) -> Setting:
    """What the ratio of a covariate of these jobs compares."""
    what = in_words(name)
    if " instead of " in what:
        return Setting(what)
    if name.startswith("log_"):
        return Setting(f"{what} doubled", math.log(2.0))
    if name == "model_depth":
        values = [float(job.model.removeprefix("resnet")) for job in jobs]
    elif name in ("image_size", "epoch_count"):
        values = [float(getattr(job, name)) for job in jobs]
    else:
        values = [job.attack_parameters[name] for job in jobs if name in job.attack_parameters]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high <= low:
        return Setting(f"{what} plus 1")
    if name == "model_depth":
        return Setting(f"{high:g} layers instead of {low:g}", high - low)
    return Setting(f"{what} {high:g} instead of {low:g}", high - low)


def _finding(effects: Sequence[Effect], level: float) -> str:
    """What the split says of the depth and the defences, or else of the first setting."""
    found = [_sentence(effect) for effect in effects if effect.covariate == "model_depth"]
    defences = [effect for effect in effects if is_defence(effect) and effect.adjusted_p_value is not None]
    if defences:
        found.append(_of_defences(defences, 1 - level))
    return " ".join(found or [_sentence(effects[0])])


def _sentence(effect: Effect) -> str:
    subject = f"{effect.contrast[0].upper()}{effect.contrast[1:]}"
    of_these = ", for these models" if effect.status is EffectStatus.TOO_FEW_MODELS else ""
    if effect.total.value is None:
        queries = effect.queries.value is not None
        part = effect.queries if queries else effect.seconds_per_query
        what = "queries to failure" if queries else "seconds per query"
        return f"{subject}: {what} × {_with_interval(part)}{of_these}."
    verdict = {
        (True, True): "robustness and latency are both shown to change",
        (True, False): "only robustness is shown to change",
        (False, True): "only latency is shown to change",
        (False, False): "neither robustness nor latency is shown to change",
    }[excludes_one(effect.queries), excludes_one(effect.seconds_per_query)]
    return (
        f"{subject}: seconds to failure × {_with_interval(effect.total)}, made of queries (robustness) "
        f"× {_with_interval(effect.queries)} and seconds per query (latency) "
        f"× {_with_interval(effect.seconds_per_query)}{of_these}; {verdict}."
    )


def _with_interval(ratio: Estimate) -> str:
    ends = interval(ratio)
    return f"{number(ratio.value or 0.0)} ({ends})" if ends else number(ratio.value or 0.0)


def _of_defences(defences: Sequence[Effect], alpha: float) -> str:
    def words(chosen: Sequence[Effect]) -> str:
        return ", ".join(effect.contrast.removeprefix("defence ").partition(" instead of ")[0] for effect in chosen)

    shown = [effect for effect in defences if effect.adjusted_p_value is not None and effect.adjusted_p_value < alpha]
    longer = [effect for effect in shown if effect.queries.value is not None and effect.queries.value > 1]
    shorter = [effect for effect in shown if effect not in longer]
    reference = defences[0].contrast.rpartition(" instead of ")[2]
    against = "no defence" if reference == "none" else reference
    these = any(effect.status is EffectStatus.TOO_FEW_MODELS for effect in defences)
    of_these = ", for these models" if these else ""
    tested = "the defence " if len(defences) == 1 else f"Of {len(defences)} defences, by Holm's correction: "
    parts = [
        f"{words(those)} {'needs' if len(those) == 1 else 'need'} {what} queries than {against}"
        for those, what in ((longer, "more"), (shorter, "fewer"))
        if those
    ]
    if not parts:
        told_apart = f"no difference in queries between {words(defences)} and {against} is shown"
        return _sentence_of(f"{tested if len(defences) > 1 else ''}{told_apart}{of_these}")
    return _sentence_of(f"{tested}{' and '.join(parts)}{of_these}")


def _sentence_of(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
