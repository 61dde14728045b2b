"""The report as a page: conclusion, key figures, drawings, tables, limits."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from string import Template
from typing import TYPE_CHECKING

from cli.covariates import POOLED, effects, effects_caption
from cli.html.charts import cost_figure, histogram_figure, rate_figure, survival_figure
from cli.html.markup import Markup, data_table, element, join, text
from cli.quantities import (
    DISTANCE,
    NOTHING,
    clock_word,
    count,
    distribution_word,
    duration,
    has_numbers,
    interval,
    on_clock,
    share_interval,
    time_word,
    value_on_clock,
    with_unit,
)
from cli.reading import (
    FIT_COLUMNS,
    GROUP_COLUMNS,
    GROUPS,
    accuracy_shares,
    behind_defence,
    best_fit,
    clock_headers,
    cost_lines,
    devices,
    fit_row,
    fits_title,
    group_row,
    headline,
    incomplete,
    job_setting,
    key_figures,
    meaning,
    shares,
    statuses,
    subject,
)
from cli.sections import sections
from cli.sections.section import Section

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport, Report

_NORMS = {
    "inf": ", the largest change of any one value",
    "2": ", Euclidean length",
    "1": ", the sum of all changes",
    "0": ", the number of values that were changed",
}


def report_page(report: Report) -> str:
    """The whole page. It loads nothing: its policy forbids it, and its styles are in it."""
    files = importlib.resources.files(__package__)
    return Template((files / "page.html").read_text(encoding="utf-8")).substitute(
        title=text(f"{headline(report)}: {subject(report)}"),
        style=(files / "style.css").read_text(encoding="utf-8"),
        header=_header(report),
        main=join(_sections(report)),
        footer=_footer(report),
    )


def _header(report: Report) -> Markup:
    settings = "; ".join(dict.fromkeys(job_setting(job) for job in report.jobs))
    return join([element("h1", _title(report)), element("p", settings, class_="setting")])


def _title(report: Report) -> str:
    return f"How long does {subject(report)} survive?" if len(report.jobs) == 1 else f"Survival over {subject(report)}"


def _sections(report: Report) -> Iterator[Markup]:
    yield _verdict(report)
    yield _tiles(report)
    yield _samples(report)
    yield _price(report)
    for clock in report.clock_reports:
        yield _clock(clock, report)
    yield from map(_section, sections(report))
    yield _key_figures(report)
    yield _costs(report)
    yield _groups(report) if report.experiment_groups else _jobs(report)
    if report.limitations:
        sentences = element("ul", *(element("li", sentence) for sentence in report.limitations), class_="plain")
        yield element("section", element("h2", "What limits these numbers"), sentences)


def _verdict(report: Report) -> Markup:
    word = headline(report)
    return element(
        "section",
        element("p", word, class_="word"),
        element("p", report.summary, class_="summary"),
        element("p", meaning(report)),
        *([element("p", element("strong", why))] if (why := incomplete(report)) else []),
        class_=f"verdict {word.replace(' ', '-')}",
        aria_label="Conclusion",
    )


def _tiles(report: Report) -> Markup:
    tiles = [("Failed, of those at risk", *_parted(share_interval(report.failure_share)))]
    if report.clock_reports:
        clock = report.clock_reports[0]
        tiles += _cost_tiles(clock) if report.experiment_groups else _time_tiles(clock)
        # A distance costs nothing, so the rate is that of the next clock.
        costed = next((one for one in report.clock_reports if one.conclusion), clock)
        value, rest = _parted(interval(costed.cost_normalized_failure_rate))
        tiles.append(
            ("Cost-normalised failure rate C", value, f"{rest} on the {clock_word(costed.clock)} clock".strip())
        )
    shown = (
        element("div", element("b", name), element("span", value), element("small", rest), class_="tile")
        for name, value, rest in tiles
    )
    return element("div", *shown, class_="tiles")


def _time_tiles(clock: ClockReport) -> list[tuple[str, str, str]]:
    """The median and the mean, but not the expected time: where a share never fails that grows with the budget."""
    what, fit = time_word(clock.clock), best_fit(clock)
    if fit is None:
        return [(f"Median {what}", NOTHING, "no fit carries a number")]
    end = with_unit(value_on_clock(fit.restriction_time, clock.clock), clock.clock)
    by = f"{distribution_word(fit.distribution)} fit"
    beyond = ", beyond what was observed" if fit.median.value > fit.restriction_time else ""
    tiles = []
    for name, estimate, why in (
        (f"Median {what}", fit.median, f"{by}{beyond}"),
        (f"Mean {what}, up to {end}", fit.restricted_mean, by),
    ):
        value, rest = _parted(on_clock(estimate, clock.clock))
        tiles.append((name, with_unit(value, clock.clock), f"{rest} {why}".strip()))
    return tiles


def _cost_tiles(clock: ClockReport) -> list[tuple[str, str, str]]:
    """Totals of experiments tell costs, and no times but by a rate that all would share."""
    value, rest = _parted(on_clock(clock.cost_per_failure, clock.clock))
    cost = duration(clock.training_cost_per_sample) if clock.training_cost_per_sample else NOTHING
    return [("A failure costs", value, rest), ("Training cost per sample", cost, "over all epochs")]


def _parted(value: str) -> tuple[str, str]:
    """An estimate's value with its unit, and its interval."""
    before, bracket, after = value.partition(" [")
    ends, _, unit = after.partition("]")
    return (f"{before}{unit}", f"[{ends}]") if bracket else (value, "")


def _samples(report: Report) -> Markup:
    samples = accuracy_shares(report)
    parts = [
        element("i", class_=name.split()[0], style=f"width:{100 * amount / max(1, report.sample_count):.2f}%")
        for name, amount, _ in samples
    ]
    counts = [
        element("li", element("i", class_=name.split()[0]), f"{count(amount)} {name} ({part})")
        for name, amount, part in samples
    ]
    rows = [(_capitalised(name), value) for name, value in shares(report)]
    level = f"{100 * report.confidence_level:g} % interval" if report.confidence_level else "interval"
    return element(
        "section",
        element("h2", f"What happened to {count(report.sample_count)} samples"),
        element("div", *parts, class_="split", aria_hidden="true"),
        element("ul", *counts, class_="counts"),
        data_table("Shares of samples", ("", f"share, {level}"), rows),
    )


def _price(report: Report) -> Markup:
    drawings = [rate_figure(report), *[cost_figure(clock) for clock in report.clock_reports if clock.conclusion][:1]]
    if not any(drawings):
        return Markup("")
    return element("section", element("h2", "Was the robustness worth what it cost?"), *drawings)


def _clock(clock: ClockReport, report: Report) -> Markup:
    word, norm = clock_word(clock.clock), report.distance_norm
    about = {
        "queries": "A query is one forward evaluation of the model for the sample. It depends on no hardware.",
        "seconds": "Device time, synchronised; the time of a batch is shared by the samples under attack in it.",
        "distance": f"Lengths are in the norm {norm}{_NORMS.get(norm, '')}, of images with values in [0, 1].",
    }.get(word, "")
    if report.experiment_groups:
        about = "Seconds as the file has them: of each experiment the total of all its samples."
    numbers = [fit for fit in clock.fits if has_numbers(fit)]
    title = f"{_capitalised(fits_title(clock.clock))}, best AIC first"
    tables = [data_table(title, FIT_COLUMNS, map(fit_row, numbers))] if numbers else []
    stretched = effects(clock)
    reasons = statuses(clock)
    without = element("ul", *(element("li", reason) for reason in reasons), class_="plain") if reasons else Markup("")
    return element(
        "section",
        element("h2", _survival_title(clock.clock)),
        element("p", about, class_="aside"),
        survival_figure(clock),
        *([element("p", POOLED, class_="aside")] if stretched and clock.kaplan_meier.time else []),
        histogram_figure(clock),
        *tables,
        *([data_table(effects_caption(clock), ("setting", "factor"), stretched)] if stretched else []),
        without,
    )


def _survival_title(clock: int) -> str:
    if clock == DISTANCE:
        return "How far samples must be changed until the model is fooled"
    return f"How long samples survive, in {clock_word(clock)}"


def _section(section: Section) -> Markup:
    notes = element("ul", *(element("li", note) for note in section.notes), class_="plain")
    return element(
        "section",
        element("h2", _capitalised(section.title)),
        element("p", section.answer),
        *(section.drawings() if section.drawings else ()),
        *(data_table(part.caption, part.header, part.rows) for part in section.tables),
        *([notes] if section.notes else []),
    )


def _key_figures(report: Report) -> Markup:
    rows = [
        (join([_capitalised(figure.name), element("small", figure.explanation)]), *figure.values)
        for figure in key_figures(report)
    ]
    level = f"{100 * report.confidence_level:g} % intervals in brackets" if report.confidence_level else "Key figures"
    return element(
        "section",
        element("h2", "All key figures"),
        data_table(level, ("", *clock_headers(report)), rows),
    )


def _capitalised(name: str) -> str:
    return name[:1].upper() + name[1:]


def _costs(report: Report) -> Markup:
    measured = devices(report)
    caption = f"Device time, measured on {measured}" if measured else "Device time"
    rows = [(_capitalised(name), value) for name, value in cost_lines(report)]
    return element("section", element("h2", "Costs"), data_table(caption, ("", "spent"), rows))


def _jobs(report: Report) -> Markup:
    rows = [
        (
            element("code", job.attack_job_id), f"{job.model}{behind_defence(job)} on {job.dataset}",
            f"{job.attack}: {job_setting(job)}",
            element("code", job.weights_digest[:12]), count(job.failed_count), count(job.survived_count),
            count(job.misclassified_count),
        )
        for job in report.jobs
    ]  # fmt: skip
    header = ("job", "model", "attack", "weights", "failed", "survived", "misclassified")
    return element(
        "section", element("h2", "Attack jobs"), data_table("The jobs of this report", header, rows, numeric_from=4)
    )


def _groups(report: Report) -> Markup:
    rows = [group_row(group) for group in report.experiment_groups]
    return element("section", element("h2", "Experiments"), data_table(GROUPS, GROUP_COLUMNS, rows))


def _footer(report: Report) -> Markup:
    made = f"{report.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC" if report.HasField("create_time") else ""
    about = f"Report {report.report_id} made {made}." if made else f"Report {report.report_id}."
    beside = (
        "The numbers are in report.json beside this page; afrctl evaluate writes one row a sample into outcomes.csv."
    )
    return element("p", f"{about} {beside}")
