"""The drawing of effects as time ratios: a mark with its interval a part, on one logarithmic axis around 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.html.axes import Scale, log_ticks
from cli.html.charts import figure, room_for
from cli.html.markup import Markup, element, join
from cli.quantities import interval

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Effect, Estimate

_WIDE = 880
_PARTS = (
    ("seconds", "total", "rate"),
    ("queries", "queries", "other"),
    ("seconds per query", "seconds_per_query", "other"),
    ("seconds, free fit", "free", "other"),
)
_CAPTION = (
    "By what factor each setting multiplies the time to failure, with its interval: filled the seconds, hollow the "
    "queries (robustness) and the seconds per query (latency) whose product they are, and a fit of the seconds alone. "
    "At 1 a setting changes nothing; the axis is logarithmic."
)


def forest_figure(effects: Sequence[Effect]) -> Markup:
    """The effects one below the other, each with its parts; empty if none has a number."""
    rows: list[tuple[str, Estimate | None, str]] = []
    for effect in effects:
        parts = [(label, getattr(effect, name), kind) for label, name, kind in _PARTS]
        drawn = [(label, ratio, kind) for label, ratio, kind in parts if _drawable(ratio)]
        if drawn:
            rows += [(effect.contrast, None, ""), *drawn]
    ends = [1.0]
    for _, ratio, _ in rows:
        ends += [end for end in (() if ratio is None else (ratio.value, ratio.lower, ratio.upper)) if _finite(end)]
    if len(ends) == 1:
        return Markup("")
    low, high = min(min(ends) / 1.1, 0.8), max(max(ends) * 1.1, 1.25)

    def draw(width: int) -> tuple[int, Markup]:
        wide = width == _WIDE
        left, right = (190, width - room_for(interval(one) for _, one, _ in rows if one)) if wide else (8, width - 14)
        top, step = 12, 27 if wide else 40
        height = top + step * len(rows) + 44
        x, bottom = Scale(low, high, left, right, logarithmic=True), height - 40
        parts: list[Markup] = []
        for tick in log_ticks(low, high, 9 if wide else 5):
            parts.append(element("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
            parts.append(element("text", f"{tick:.6g}", x=x(tick), y=bottom + 17, class_="tick", text_anchor="middle"))
        parts.append(element("line", x1=x(1), x2=x(1), y1=top, y2=bottom, class_="one"))
        name = "factor on the time to failure (logarithmic)"
        parts.append(element("text", name, x=(left + right) / 2, y=height - 4, class_="name", text_anchor="middle"))
        for i, (label, ratio, kind) in enumerate(rows):
            place = top + step * i + (step / 2 if wide else step - 12)
            if ratio is None:
                parts.append(element("text", label, x=8, y=place + 5, class_="value"))
                continue
            if wide:
                parts.append(element("text", label, x=left - 12, y=place + 4, class_="label", text_anchor="end"))
                parts.append(element("text", interval(ratio), x=right + 16, y=place + 4, class_="value"))
            else:
                parts.append(element("text", label, x=left, y=place - 12, class_="label"))
                parts.append(element("text", interval(ratio), x=right, y=place - 12, class_="value", text_anchor="end"))
            if ratio.HasField("lower") and ratio.HasField("upper"):
                first, last = x(max(ratio.lower, low)), x(min(ratio.upper, high))
                parts.append(element("line", x1=first, x2=last, y1=place, y2=place, class_=f"whisker {kind}"))
            radius = 6 if kind == "rate" else 4.5
            parts.append(element("circle", cx=x(ratio.value), cy=place, r=radius, class_=kind))
        return height, join(parts)

    description = "; ".join(
        f"{effect.contrast}: seconds {interval(effect.total)}, queries {interval(effect.queries)}, seconds per query "
        f"{interval(effect.seconds_per_query)}"
        for effect in effects
    )
    return figure(_CAPTION, "Effects on the time to failure", description, draw)


def _finite(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _drawable(ratio: Estimate) -> bool:
    return ratio.HasField("value") and _finite(ratio.value)
