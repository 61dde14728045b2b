"""The drawings of a report: survival curves, failures over time, rates against 1, costs. SVG, made by hand.

Each is drawn twice, wide and narrow, since a drawing that is shrunk to a phone has letters nobody can read; the style
sheet shows the one that fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cli.html.axes import Scale, log_ticks, round_ticks
from cli.html.markup import Markup, element, join
from cli.quantities import (
    DISTANCE,
    SECONDS,
    clock_word,
    distribution_word,
    has_numbers,
    interval,
    number,
    time_unit,
    value_on_clock,
)

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport, Curve, Estimate, Report

_WIDE, _NARROW = 880, 350
# How wide a letter of the words beside 1 is at most, on average.
_SIDE = 6.5


def figure(caption: Markup | str, name: str, description: str, draw: Callable[[int], tuple[int, Markup]]) -> Markup:
    """A drawing with its caption, in both widths. `draw` gets a width and returns a height and the content."""
    drawings = []
    for width, kind in ((_WIDE, "wide"), (_NARROW, "narrow")):
        height, content = draw(width)
        drawings.append(
            element(
                "svg",
                content,
                class_=kind,
                viewBox=f"0 0 {width} {height}",
                width=width,
                height=height,
                role="img",
                aria_label=f"{name}. {description}",
            )
        )
    return element("figure", *drawings, element("figcaption", caption))


def room_for(values: Iterable[str]) -> float:
    """How wide the margin is that holds these values beside a wide drawing, with the gap before them."""
    # As wide as a digit of the style sheet's bold values is on the machines that draw it widest.
    return 24 + 8.5 * max(map(len, values), default=0)


def survival_figure(clock: ClockReport) -> Markup:
    """Kaplan-Meier against the fitted curves; empty if there is no curve at all."""
    fits = [fit for fit in clock.fits if has_numbers(fit) and fit.curve.time]
    named = [
        (distribution_word(fit.distribution) + (", best by AIC" if best else ""), fit.curve)
        for fit, best in zip(fits, [len(fits) > 1, *[False] * len(fits)], strict=False)
    ]
    return _curves(clock, named, "Survival curves")


def mixture_figure(clock: ClockReport) -> Markup:
    """Kaplan-Meier against the best curve with a share that never fails, and that share; empty without such a fit."""
    fit = next((fit for fit in clock.cure_fits if fit.curve.time), None)
    if fit is None:
        return Markup("")
    named = [(f"{distribution_word(fit.distribution)} with a share that never fails", fit.curve)]
    return _curves(clock, named, "Survival with a share that never fails", floor=fit.cured_share)


def _curves(
    clock: ClockReport, named: Sequence[tuple[str, Curve]], name: str, *, floor: Estimate | None = None
) -> Markup:
    """Kaplan-Meier against fitted curves, with the `floor` that they fall to; empty if there is no curve at all."""
    observed = clock.kaplan_meier
    if not observed.time and not named:
        return Markup("")
    end, unit, size = _time_axis(clock)

    def draw(width: int) -> tuple[int, Markup]:
        height = 380 if width == _WIDE else 300
        x, y, parts = _frame(width, height, end, unit, size, "share not yet failed", percent=True)
        if floor is not None:
            top, bottom = (y(getattr(floor, side)) for side in ("upper", "lower"))
            parts.append(element("rect", x=x(0), y=top, width=x(end) - x(0), height=bottom - top, class_="floor"))
            parts.append(element("line", x1=x(0), x2=x(end), y1=y(floor.value), y2=y(floor.value), class_="curve fit1"))
        if observed.survival_lower and observed.survival_upper:
            parts.append(element("path", d=_band(observed, x, y, end), class_="band"))
        for i, (_, curve) in enumerate(named):
            line = _points(zip(curve.time, curve.survival, strict=True), x, y, end)
            parts.append(element("path", d=line, class_=f"curve fit{min(i, 4)}"))
        if observed.time:
            parts.append(element("path", d=_steps(observed, x, y, end), class_="curve observed"))
        return height, join(parts)

    items = [
        _legend(
            "observed",
            "observed (Kaplan–Meier), with its pointwise interval"
            if observed.survival_lower
            else "observed (Kaplan–Meier)",
        )
    ]
    items += [_legend(f"fit{min(i, 4)}", label) for i, (label, _) in enumerate(named)]
    if floor is not None:
        items.append(_legend("fit1", "never fail, with interval"))
    last = min((value for value in observed.survival), default=math.nan)
    description = (
        f"The observed share falls to {number(100 * last)} % at {value_on_clock(observed.time[-1], clock.clock)}."
        if observed.time
        else ""
    )
    return figure(join(items), name, description, draw)


def histogram_figure(clock: ClockReport) -> Markup:
    """Failures by when they happened, on the same time axis as the curves; empty without failures."""
    edges, counts = list(clock.histogram.edge), list(clock.histogram.failure_count)
    if not counts or not sum(counts):
        return Markup("")
    end, unit, size = _time_axis(clock)
    most = max(counts)

    def draw(width: int) -> tuple[int, Markup]:
        height = 220 if width == _WIDE else 200
        x, y, parts = _frame(width, height, end, unit, size, "failures", highest=most)
        for left, right, amount in zip(edges[:-1], edges[1:], counts, strict=True):
            if amount:
                place, breadth = x(left) + 0.75, max(1.0, x(right) - x(left) - 1.5)
                between = f"{value_on_clock(left, clock.clock)} to {value_on_clock(right, clock.clock)}"
                title = element("title", f"{amount} failures from {between}")
                tall = y(0) - y(amount)
                parts.append(element("rect", title, x=place, y=y(amount), width=breadth, height=tall, class_="bin"))
        return height, join(parts)

    fullest = counts.index(most)
    description = (
        f"{sum(counts)} failures; most, {most}, between {value_on_clock(edges[fullest], clock.clock)} and "
        f"{value_on_clock(edges[fullest + 1], clock.clock)}."
    )
    caption = (
        "Failures by the distance at which they were found."
        if clock.clock == DISTANCE
        else "Failures by when the check that found them was made."
    )
    return figure(caption, "Histogram of failures", description, draw)


def rate_figure(report: Report) -> Markup:
    """The cost-normalised failure rates with their intervals against 1, on a logarithmic axis; empty without any."""
    rows = []
    for clock in report.clock_reports:
        word = "seconds" if clock.clock == SECONDS else "queries"
        rows.append((f"{word} clock", clock.cost_normalized_failure_rate, "rate"))
        rows.append((f"{word}, with E[T]", clock.paper_rate, "other"))
        rows.append(("clean errors, seconds", clock.benign_rate, "other"))
    drawn = [row for row in rows if row[1].HasField("value") and row[1].value > 0 and math.isfinite(row[1].value)]
    if not any(kind == "rate" for _, _, kind in drawn):
        return Markup("")
    # What the conclusion rests on is drawn whole; the interval of a handful of clean errors may span decades.
    known = [1.0]
    for _, estimate, kind in drawn:
        ends = (estimate.value, estimate.lower, estimate.upper) if kind == "rate" else (estimate.value,)
        known += [value for value in ends if math.isfinite(value) and value > 0]
    low, high = min(known) / 2, max(known) * 2
    low, high = min(low, 0.4), max(high, 2.5)

    values = [(label, interval(estimate)) for label, estimate, _ in drawn]

    def draw(width: int) -> tuple[int, Markup]:
        wide = width == _WIDE
        left, right = (170, width - room_for(shown for _, shown in values)) if wide else (8, width - 14)
        top, step = 30, 40 if wide else 54
        height = top + step * len(drawn) + 44
        x = Scale(low, high, left, right, logarithmic=True)
        bottom = height - 40
        more, less = ("← a failure costs more", "a failure costs less →") if wide else ("← costs more", "costs less →")
        # Over the 1, or as near to it as both stay whole.
        between = max(8 + _SIDE * len(more), min(x(1), width - 8 - _SIDE * len(less)))
        parts = [
            element("rect", x=x(1), y=top - 8, width=right - x(1), height=bottom - top + 8, class_="broken-side"),
            element("text", more, x=between - 8, y=top - 14, class_="side", text_anchor="end"),
            element("text", less, x=between + 8, y=top - 14, class_="side"),
        ]
        for tick in log_ticks(low, high, 9 if wide else 5):
            parts.append(element("line", x1=x(tick), x2=x(tick), y1=top - 8, y2=bottom, class_="grid"))
            parts.append(element("text", _mark(tick), x=x(tick), y=bottom + 17, class_="tick", text_anchor="middle"))
        parts.append(element("line", x1=x(1), x2=x(1), y1=top - 8, y2=bottom, class_="one"))
        middle = (left + right) / 2
        axis_name = "cost-normalised failure rate C (logarithmic)"
        parts.append(element("text", axis_name, x=middle, y=height - 4, class_="name", text_anchor="middle"))
        for i, (label, estimate, kind) in enumerate(drawn):
            place = top + step * i + (step / 2 if wide else step - 16)
            if wide:
                parts.append(element("text", label, x=left - 12, y=place + 4, class_="label", text_anchor="end"))
            else:
                parts.append(element("text", label, x=left, y=place - 16, class_="label"))
            first = last = x(estimate.value)
            if estimate.HasField("lower") and estimate.HasField("upper"):
                first, last = x(max(estimate.lower, low)), x(min(estimate.upper, high))
                parts.append(element("line", x1=first, x2=last, y1=place, y2=place, class_=f"whisker {kind}"))
            parts.append(element("circle", cx=x(estimate.value), cy=place, r=6 if kind == "rate" else 4.5, class_=kind))
            shown = values[i][1]
            if wide:
                parts.append(element("text", shown, x=right + 16, y=place + 4, class_="value"))
            else:
                parts.append(element("text", shown, x=right, y=place - 16, class_="value", text_anchor="end"))
        return height, join(parts)

    description = "; ".join(f"{label}: {shown}" for label, shown in values)
    caption = (
        "C with its interval on each clock. To the right of 1, a failure costs the attacker less than one "
        "training sample cost the defender over all epochs. Hollow: C with the expected time as the cost of a failure, "
        "and C of clean errors, without an attacker; such an interval that reaches the edge goes on."
    )
    return figure(caption, "Cost-normalised failure rates", description, draw)


def cost_figure(clock: ClockReport) -> Markup:
    """What training cost a sample beside what a failure costs; empty if either is unknown."""
    per_failure = clock.cost_per_failure
    if not per_failure.HasField("value") or clock.training_cost_per_sample <= 0:
        return Markup("")
    bars = [
        ("training, per sample", clock.training_cost_per_sample, "defender", math.nan, math.nan),
        (
            "attack, per failure", per_failure.value, "attacker",
            per_failure.lower if per_failure.HasField("lower") else math.nan,
            per_failure.upper if per_failure.HasField("upper") else math.nan,
        ),
    ]  # fmt: skip
    high = max(value for bar in bars for value in (bar[1], bar[4]) if math.isfinite(value))
    unit, size = time_unit(high) if clock.clock == SECONDS else ("passes (forward and backward)", 1.0)

    def draw(width: int) -> tuple[int, Markup]:
        wide = width == _WIDE
        left, right, top = (170 if wide else 8), width - (110 if wide else 70), 12
        step = 46 if wide else 58
        height = top + step * 2 + 42
        x = Scale(0, high / size, left, right)
        bottom = top + step * 2
        parts: list[Markup] = []
        for tick in round_ticks(high / size, 6 if wide else 3):
            parts.append(element("line", x1=x(tick), x2=x(tick), y1=top, y2=bottom, class_="grid"))
            parts.append(element("text", _mark(tick), x=x(tick), y=bottom + 17, class_="tick", text_anchor="middle"))
        parts.append(element("text", unit, x=(left + right) / 2, y=height - 4, class_="name", text_anchor="middle"))
        for i, (label, value, kind, lower, upper) in enumerate(bars):
            y = top + step * i + (10 if wide else 24)
            if wide:
                parts.append(element("text", label, x=left - 12, y=y + 17, class_="label", text_anchor="end"))
            else:
                parts.append(element("text", label, x=left, y=y - 7, class_="label"))
            breadth = max(1.5, x(value / size) - left)
            parts.append(element("rect", x=left, y=y, width=breadth, height=24, rx=3, class_=kind))
            end = left + breadth
            if math.isfinite(lower) and math.isfinite(upper):
                parts.append(
                    element("line", x1=x(lower / size), x2=x(upper / size), y1=y + 12, y2=y + 12, class_="whisker cost")
                )
                end = max(end, x(upper / size))
            parts.append(element("text", number(value / size), x=end + 8, y=y + 17, class_="value"))
        parts.append(element("line", x1=left, x2=left, y1=top, y2=bottom, class_="axis"))
        return height, join(parts)

    description = (
        f"Training a sample cost {number(bars[0][1] / size)}, a failure costs {number(bars[1][1] / size)} {unit}."
    )
    caption = (
        "What the defender paid per training sample and what the attacker pays per failure, on the "
        f"{clock_word(clock.clock)} clock; the thin line is the interval."
    )
    return figure(caption, "Costs", description, draw)


def _mark(tick: float) -> str:
    """A tick's label; what rounding left behind in its last digits is not shown."""
    return f"{tick:.6g}"


def _legend(kind: str, label: str) -> Markup:
    line = element("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve {kind}")
    key = element("svg", line, width=28, height=12, viewBox="0 0 28 12", aria_hidden="true")
    return element("span", key, " ", label, class_="key")


def _time_axis(clock: ClockReport) -> tuple[float, str, float]:
    """Where the time axis ends, its unit, and how much of the clock one unit is."""
    times = [*clock.kaplan_meier.time, *clock.histogram.edge]
    ends = [fit.restriction_time for fit in clock.fits if has_numbers(fit)]
    # A little beyond the last time, or what happened then could not be told from the frame.
    end = 1.03 * (max([time for time in (*times, *ends) if math.isfinite(time)], default=1.0) or 1.0)
    if clock.clock == DISTANCE:
        return end, "length of the change to the sample", 1.0
    if clock.clock != SECONDS:
        return end, "queries spent on the sample", 1.0
    unit, size = time_unit(end)
    return end, f"device time spent on the sample, {unit}", size


def _frame(
    width: int,
    height: int,
    end: float,
    unit: str,
    size: float,
    title: str,
    *,
    percent: bool = False,
    highest: float = 1.0,
) -> tuple[Scale, Scale, list[Markup]]:
    """Axes with grid and names: the scales of both, and the elements so far."""
    wide = width == _WIDE
    left, right, top, bottom = (62 if wide else 46), width - 16, 30, height - 46
    x, y = Scale(0, end, left, right), Scale(0, highest * (1.0 if percent else 1.06), bottom, top)
    parts = [element("text", title, x=left if wide else 4, y=16, class_="name")]
    marks = [i / 4 for i in range(5)] if percent else [tick for tick in round_ticks(highest, 4) if tick == int(tick)]
    for mark in marks:
        label = f"{100 * mark:.0f} %" if percent else _mark(mark)
        parts.append(element("line", x1=left, x2=right, y1=y(mark), y2=y(mark), class_="grid"))
        parts.append(element("text", label, x=left - 8, y=y(mark) + 4, class_="tick", text_anchor="end"))
    for tick in round_ticks(end / size, 9 if wide else 4):
        place = x(tick * size)
        parts.append(element("line", x1=place, x2=place, y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(element("text", _mark(tick), x=place, y=bottom + 19, class_="tick", text_anchor="middle"))
    parts.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(element("text", unit, x=(left + right) / 2, y=height - 5, class_="name", text_anchor="middle"))
    return x, y, parts


def _points(pairs: object, x: Scale, y: Scale, end: float) -> str:
    """A line through points up to `end`."""
    kept = [(time, value) for time, value in pairs if math.isfinite(time) and time <= end]  # type: ignore[attr-defined]
    return "M" + "L".join(f"{x(time):.1f} {y(value):.1f}" for time, value in kept) if kept else ""


def _corners(times: Sequence[float], values: Sequence[float], start: float, end: float) -> list[tuple[float, float]]:
    """The corners of a step function that starts at (0, start) and holds its last value until `end`."""
    corners, last = [(0.0, start)], start
    for time, value in zip(times, values, strict=True):
        if time > 0:
            corners.append((time, last))
        corners.append((time, value))
        last = value
    corners.append((max(end, corners[-1][0]), last))
    return corners


def _steps(curve: Curve, x: Scale, y: Scale, end: float) -> str:
    return _points(_corners(curve.time, curve.survival, 1.0, end), x, y, end)


def _band(curve: Curve, x: Scale, y: Scale, end: float) -> str:
    upper = _corners(curve.time, curve.survival_upper, 1.0, end)
    lower = _corners(curve.time, curve.survival_lower, 1.0, end)
    edge = [*upper, *reversed(lower)]
    return "M" + "L".join(f"{x(time):.1f} {y(value):.1f}" for time, value in edge) + "Z"
