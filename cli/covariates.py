"""What differs between jobs, in words, and by what factor it multiplies the time to failure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from cli.quantities import effect_bound, interval, time_word
from cli.reading import best_fit

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport

POOLED = "Observed is what befell all jobs together; the fitted curves are those of their average setting."

_TREATMENT = re.compile(r"(\w+)=(.+) \(against (.+)\)")
_DEFENCE_STRENGTH = re.compile(r"(.+) \(0 is (.+), 1 is (.+)\)")
_WORDS = {"epoch_count": "training epochs"}
_LOGARITHM = "log_"


def covariate_word(name: str) -> str:
    """What a covariate compares or measures: `attack=fgm (against pgd)` is `attack fgm instead of pgd`.

    A name that a fit gave a covariate when the level that it was against had left names the level that it is against
    now. The survival service says the same of its own covariates in its sentences.
    """
    name, _, others = name.partition(", against ")
    if treatment := _TREATMENT.fullmatch(name):
        what, level, reference = treatment.groups()
        gone = _TREATMENT.fullmatch(others)
        return f"{what} {level} instead of {gone[2] if gone and gone[1] == what else reference}"
    if strength := _DEFENCE_STRENGTH.fullmatch(name):
        what, least, greatest = strength.groups()
        return f"{what.replace('_', ' ')} {greatest} instead of {least}"
    return _WORDS.get(name, name.removeprefix(_LOGARITHM).replace("_", " "))


def contrast(name: str) -> tuple[str, float]:
    """What the factor of a covariate is shown for, and how many of its units that is.

    One unit of a logarithm is a factor of e, which nobody has a feeling for; a doubling is shown instead.
    """
    word = covariate_word(name)
    if " instead of " in word:
        return word, 1.0
    return (f"{word} doubled", math.log(2)) if name.startswith(_LOGARITHM) else (f"{word} plus 1", 1.0)


def effects(clock: ClockReport) -> list[tuple[str, str]]:
    """By what factor each setting of several jobs stretches the time to failure, by the best fit; empty for one job."""
    from afr.survival.v1.survival_service_pb2 import EffectBound, Estimate

    fit = best_fit(clock)
    if fit is None:
        return []
    rows = []
    for coefficient in fit.coefficients:
        if coefficient.covariate == "intercept":
            continue
        word, step = contrast(coefficient.covariate)
        ratio = Estimate()
        for end in ("value", "lower", "upper"):
            if coefficient.time_ratio.HasField(end):
                setattr(ratio, end, getattr(coefficient.time_ratio, end) ** step)
        rows.append((word, f"× {interval(ratio)}"))
    for bound in fit.effect_bounds:
        word, step = contrast(bound.covariate)
        known = EffectBound()
        if bound.HasField("lower"):
            known.lower = bound.lower**step
        if bound.HasField("upper"):
            known.upper = bound.upper**step
        rows.append((word, f"× {effect_bound(known)}"))
    return rows


def effects_caption(clock: ClockReport) -> str:
    return f"Factors by which a setting multiplies the {time_word(clock.clock)}, by the best fit"
