"""Robustness or latency: every effect on seconds, split into queries and seconds per query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.quantities import NOTHING, count, distribution_word, interval, number
from cli.sections.section import Section, SectionTable

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Effect, EffectReport, Report

    from cli.html.markup import Markup

_CONDITIONAL = 2  # STATUS_TOO_FEW_MODELS
_DEFINITION = (
    "An effect on seconds is defined as the product of its effect on queries, by an accelerated failure model, and on "
    "seconds per query, by least squares on their logarithms. A sample's seconds per query are what it was charged "
    "over what it asked. The free fit is of the seconds themselves; the gap is the product over it. Clusters are what "
    "an interval counts as independent: images, or trained models."
)
_QUOTE = (
    "Quote the seconds of this table for an effect on seconds: the free fit lets seconds differ by more than queries "
    "and speed, and a time ratio elsewhere is of the distribution that fits the seconds best, so both can differ."
)


def effects(report: Report) -> Section | None:
    """The split of the effects of what differs between the jobs; None where nothing does."""
    if not report.HasField("effect_report"):
        return None
    of = report.effect_report
    level = f", {100 * report.confidence_level:g} % intervals in brackets" if report.confidence_level else ""
    fitted = f", {distribution_word(of.distribution)} fits" if of.distribution else ""
    split = SectionTable(
        f"Factors by which a setting multiplies the time to failure{fitted}{level}",
        ("setting", "seconds", "queries", "seconds per query", "free fit", "gap", "clusters"),
        tuple(_row(effect) for effect in of.effects),
    )
    return Section(
        title="robustness or latency",
        answer=of.finding,
        tables=(split, *_defences(of)),
        notes=(*_statuses(of.effects), _DEFINITION, *of.notes, _QUOTE),
        drawings=lambda: _drawings(of.effects),
    )


def _row(effect: Effect) -> tuple[str, ...]:
    ratios = (effect.total, effect.queries, effect.seconds_per_query, effect.free, effect.gap)
    unit = "model" if effect.model_level and effect.status != _CONDITIONAL else "image"
    clusters = f"{count(effect.cluster_count)} {unit}{'' if effect.cluster_count == 1 else 's'}"
    return (effect.contrast, *(interval(ratio) for ratio in ratios), clusters if effect.cluster_count else NOTHING)


def _defences(of: EffectReport) -> tuple[SectionTable, ...]:
    """The defences against the control, with p values corrected for their number."""
    tested = [effect for effect in of.effects if effect.HasField("adjusted_p_value")]
    if not tested:
        return ()
    rows = tuple(
        (effect.contrast, interval(effect.queries), _p(effect.p_value), _p(effect.adjusted_p_value))
        for effect in tested
    )
    header = ("defence", "queries", "p", "p by Holm")
    return (SectionTable("Defences against the control, in queries; intervals are not corrected", header, rows),)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value, 2)


def _statuses(shown: Sequence[Effect]) -> tuple[str, ...]:
    """What limits single intervals, each reason once, with the settings that it holds for."""
    reasons: dict[str, list[str]] = {}
    for effect in shown:
        if effect.status_message:
            reasons.setdefault(effect.status_message, []).append(effect.contrast)
    return tuple(f"{'; '.join(names)}: {reason}." for reason, names in reasons.items())


def _drawings(shown: Sequence[Effect]) -> tuple[Markup, ...]:
    from cli.html.forest import forest_figure

    return (forest_figure(shown),)
