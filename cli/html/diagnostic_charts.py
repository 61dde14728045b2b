"""The drawings that show whether a model fits: each sets what was observed against what the model says, on one line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.covariates import covariate_word
from cli.html.axes import Scale, log_ticks, round_ticks
from cli.html.charts import figure
from cli.html.markup import Markup, element, join
from cli.quantities import SECONDS, clock_word, distribution_word, number, share, time_unit

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import AssumptionCheck, ClockReport

_PANEL_LIMIT = 4


@dataclass(frozen=True, slots=True)
class _Line:
    """Points of one series of a panel, in its colour; a `scatter` is not joined."""

    colour: str
    points: tuple[tuple[float, float], ...]
    scatter: bool = False


@dataclass(frozen=True, slots=True)
class _Panel:
    """A square with the line on which both axes agree or, with a `factor`, on which one is so many times the other."""

    title: str
    across: str
    up: str
    lines: tuple[_Line, ...]
    low: float = 0.0
    high: float = 1.0
    factor: float = 1.0
    logarithmic: bool = False


def fit_figure(clock: ClockReport) -> Markup:
    """Cox-Snell residuals as shares, and the calibration at the shared time, of every distribution; empty without."""
    of = clock.diagnostics
    colours = {one.distribution: f"fit{min(i, 4)}" for i, one in enumerate(of.distributions)}
    residuals = tuple(
        _Line(
            colours[one.distribution], tuple(zip(one.residual_curve.expected, one.residual_curve.observed, strict=True))
        )
        for one in of.distributions
        if one.residual_curve.expected
    )
    calibrated = tuple(
        _Line(
            colours[one.distribution],
            tuple(zip(one.calibration_curve.predicted, one.calibration_curve.observed, strict=True)),
        )
        for one in of.distributions
        if one.calibration_curve.predicted
    )
    panels = []
    if residuals:
        panels.append(_Panel("residuals of all samples", "share expected to have failed", "share that had", residuals))
    if calibrated:
        panels.append(_Panel("calibration at one time", "predicted share", "observed share", calibrated))
    if not panels:
        return Markup("")
    legend = [_key(colours[one.distribution], distribution_word(one.distribution)) for one in of.distributions]
    description = "; ".join(
        f"{distribution_word(one.distribution)}: off by at most {share(one.residual_distance)}"
        for one in of.distributions
        if one.HasField("residual_distance")
    )
    caption = join([*legend, f" On {clock_word(clock.clock)}; the thin line is where a model that fits would lie."])
    return _figure(panels, caption, f"Observed against fitted shares, {clock_word(clock.clock)}", description)


def factor_figure(clock: ClockReport, checks: Sequence[AssumptionCheck]) -> Markup:
    """Quantiles of the two groups of each treatment against each other, on logarithmic axes; empty without pairs."""
    panels = []
    for check in checks:
        pairs = [(a, b) for a, b in zip(check.quantiles.reference, check.quantiles.treated, strict=True) if a > 0 < b]
        if len(pairs) < 2:
            continue
        times = [time for pair in pairs for time in pair]
        unit, size = time_unit(max(times)) if clock.clock == SECONDS else (clock_word(clock.clock), 1.0)
        word = covariate_word(check.covariate)
        level, compared, reference = word.partition(" instead of ")
        lower, higher = (reference, level.rpartition(" ")[2]) if compared else (f"lower {word}", f"higher {word}")
        scaled = tuple((a / size, b / size) for a, b in pairs)
        logs = [math.log(b / a) for a, b in pairs]
        panels.append(
            _Panel(
                word,
                f"{lower}, {unit}",
                f"{higher}, {unit}",
                (_Line("fit0", scaled, scatter=True),),
                low=min(times) / size / 1.25,
                high=max(times) / size * 1.25,
                factor=math.exp(sum(logs) / len(logs)),
                logarithmic=True,
            )
        )
    if not panels:
        return Markup("")
    shown = panels[:_PANEL_LIMIT]
    description = "; ".join(f"{panel.title}: factor {number(panel.factor)}" for panel in shown)
    caption = (
        f"On {clock_word(clock.clock)}: each point is the time by which the same share of both groups had failed, from "
        "5 % on, the effects of other settings taken out. One factor puts all points on the line."
        + (f" {len(panels) - len(shown)} more settings are not drawn." if len(panels) > len(shown) else "")
    )
    return _figure(shown, caption, f"Quantiles of two groups, {clock_word(clock.clock)}", description)


def _figure(panels: Sequence[_Panel], caption: Markup | str, name: str, description: str) -> Markup:
    def draw(width: int) -> tuple[int, Markup]:
        # Two in a row where there is room.
        columns = 2 if width > 600 else 1
        side = width / columns
        height = min(side, 400.0)
        parts = []
        for i, panel in enumerate(panels):
            place = f"translate({side * (i % columns):.0f} {height * (i // columns):.0f})"
            parts.append(element("g", _panel(panel, side, height), transform=place))
        return math.ceil(height * math.ceil(len(panels) / columns)), join(parts)

    return figure(caption, name, description, draw)


def _panel(panel: _Panel, width: float, height: float) -> Markup:
    left, right, top, bottom = 58.0, width - 26, 44.0, height - 46
    x = Scale(panel.low, panel.high, left, right, logarithmic=panel.logarithmic)
    y = Scale(panel.low, panel.high, bottom, top, logarithmic=panel.logarithmic)
    ticks = log_ticks(panel.low, panel.high, 5) if panel.logarithmic else round_ticks(panel.high, 4)
    parts = [
        element("text", panel.title, x=left, y=14, class_="label"),
        element("text", panel.up, x=left, y=33, class_="name"),
    ]
    for tick in ticks:
        label = f"{tick:.4g}" if panel.logarithmic else f"{100 * tick:.0f} %"
        parts.append(element("line", x1=left, x2=right, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", label, x=left - 8, y=y(tick) + 4, class_="tick", text_anchor="end"))
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 5, class_="axis"))
        parts.append(element("text", label, x=x(tick), y=bottom + 19, class_="tick", text_anchor="middle"))
    parts.append(element("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(element("text", panel.across, x=(left + right) / 2, y=height - 5, class_="name", text_anchor="middle"))
    begin, end = max(panel.low, panel.low / panel.factor), min(panel.high, panel.high / panel.factor)
    parts.append(
        element("line", x1=x(begin), y1=y(begin * panel.factor), x2=x(end), y2=y(end * panel.factor), class_="one")
    )
    for line in panel.lines:
        if line.scatter:
            parts += [element("circle", cx=x(a), cy=y(b), r=3.5, class_="other") for a, b in line.points]
        else:
            parts.append(element("path", d=_path(line.points, x, y), class_=f"curve {line.colour}"))
    return join(parts)


def _path(points: Iterable[tuple[float, float]], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in points)


def _key(kind: str, label: str) -> Markup:
    line = element("line", x1=1, x2=27, y1=6, y2=6, class_=f"curve {kind}")
    key = element("svg", line, width=28, height=12, viewBox="0 0 28 12", aria_hidden="true")
    return element("span", key, " ", label, class_="key")
