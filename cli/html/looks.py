"""The drawing of the looks at a job that was to stop at a precision: how the interval narrowed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cli.html.axes import Scale, log_ticks, round_ticks
from cli.html.charts import figure
from cli.html.markup import Markup, element, join
from cli.quantities import count, number, quantity_word

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Stopping

_WIDTH_OF_WIDE = 880


def looks_figure(stopping: Stopping) -> Markup:
    """The interval of every look as a factor of the last estimate, over failures, in a band as wide as wanted.

    Empty without a look that has an interval with two ends.
    """
    looks = [look for look in stopping.looks if look.estimate.lower > 0 and math.isfinite(look.estimate.upper)]
    if not looks:
        return Markup("")
    centre, wanted = looks[-1].estimate.value, stopping.interval_factor
    ends = [end / centre for look in looks for end in (look.estimate.lower, look.estimate.upper)]
    low, high = min([*ends, 1 / wanted]) / 1.1, max([*ends, wanted]) * 1.1
    last = 1.08 * looks[-1].failure_count

    def draw(width: int) -> tuple[int, Markup]:
        wide = width == _WIDTH_OF_WIDE
        height, left, right, top = 260 if wide else 230, 62 if wide else 46, width - 16, 30
        bottom = height - 46
        x, y = Scale(0, last, left, right), Scale(low, high, bottom, top, logarithmic=True)
        name = f"{quantity_word(stopping.quantity)}, as a factor of its last estimate"
        parts = [
            element("rect", x=left, y=y(wanted), width=right - left, height=y(1 / wanted) - y(wanted), class_="band"),
            element("text", name, x=left if wide else 4, y=16, class_="name"),
        ]
        for tick in log_ticks(low, high, 6):
            parts.append(element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
            parts.append(element("text", f"{tick:g}", x=left - 8, y=y(tick) + 4, class_="tick", text_anchor="end"))
        for tick in round_ticks(last, 8 if wide else 4):
            parts.append(element("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 5, class_="axis"))
            mark = element("text", f"{tick:g}", x=x(tick), y=bottom + 19, class_="tick", text_anchor="middle")
            parts.append(mark)
        parts.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
        middle = (left + right) / 2
        parts.append(element("text", "failures", x=middle, y=height - 5, class_="name", text_anchor="middle"))
        for look in looks:
            place, estimate = x(look.failure_count), look.estimate
            title = element("title", f"{count(look.failure_count)} failures: ×/÷ {number(look.interval_factor)}")
            first, second = y(estimate.lower / centre), y(estimate.upper / centre)
            parts.append(element("line", title, x1=place, x2=place, y1=first, y2=second, class_="whisker rate"))
            parts.append(element("circle", cx=place, cy=y(estimate.value / centre), r=4.5, class_="rate"))
        return height, join(parts)

    description = "; ".join(
        f"{count(look.failure_count)} failures: from {number(look.estimate.lower / centre)} to "
        f"{number(look.estimate.upper / centre)}"
        for look in looks
    )
    caption = (
        f"The interval of each look, corrected for all. The band is ×/÷ {number(wanted)} about the last estimate, "
        "as wide as was wanted."
    )
    return figure(caption, "The interval over the looks", description, draw)
