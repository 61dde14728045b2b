"""A report as text for a terminal: the conclusion first, then what it rests on."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from cli.covariates import effects, effects_caption
from cli.quantities import NOTHING, count, has_numbers
from cli.reading import (
    FIT_COLUMNS,
    GROUP_COLUMNS,
    GROUPS,
    accuracy_shares,
    behind_defence,
    clock_headers,
    common_statuses,
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
from cli.sections.section import SectionTable
from cli.tables import table, visible_width

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

# Not rejected is no proof of robustness, so it is not green.
_COLOURS = {"broken": "red", "not rejected": "blue", "undecided": "yellow"}
_BAR_WIDTH = 40
_COLUMNS_BY_WEIGHT = ("distribution", "AIC", "median", "E[T]", "restricted mean", "weight", "scale σ", "BIC", "log L")
"""The columns of the fits in the order in which a narrow terminal gets them."""


def render(report: Report, *, colour: bool = False, width: int | None = None, full: bool = False) -> str:
    """The report as text, `width` columns wide, at most 110 on a wide terminal.

    Of each question's section it has the answer; with `full` also the tables and notes, which the page always has.
    """
    columns = width or terminal_columns()

    def styled(text: str, **style: object) -> str:
        return click.style(text, **style) if colour else text  # type: ignore[arg-type]

    def wrapped(text: str, first: str = "", rest: str = "") -> str:
        return paragraph(text, columns, first, rest)

    word = headline(report)
    blocks: list[str] = []
    title = f"{word.upper()}  {subject(report)}"
    blocks.append(
        "\n".join([
            styled(title, fg=_COLOURS[word], bold=True),
            *([wrapped(why)] if (why := incomplete(report)) else []),
            wrapped(report.summary),
            wrapped(meaning(report)),
        ])
    )  # fmt: skip

    blocks.append(_figures(report, columns))
    if full:
        blocks.append("\n".join(wrapped(f"{one.name}: {one.explanation}", "• ", "  ") for one in key_figures(report)))

    samples = accuracy_shares(report)
    marks = "".join(
        styled(mark * round(_BAR_WIDTH * amount / max(1, report.sample_count)), fg=fg)
        for (_, amount, _), mark, fg in zip(samples, "█▒░", ("red", "green", None), strict=True)
    )
    counted = ", ".join(
        f"{mark} {count(amount)} {name}" for (name, amount, _), mark in zip(samples, "█▒░", strict=True)
    )
    blocks.append(
        f"{count(report.sample_count)} samples  {marks}\n{wrapped(counted)}\n{table(('', ''), shares(report))}"
    )

    common = common_statuses(report)
    if common:
        blocks.append("\n".join([styled("no fit", bold=True), *(wrapped(sentence, "", "  ") for sentence in common)]))
    for clock in () if common else report.clock_reports:
        lines = [styled(fits_title(clock.clock), bold=True)]
        if rows := [fit_row(fit) for fit in clock.fits if has_numbers(fit)]:
            lines.append(_fits(rows, columns))
        if stretched := effects(clock):
            lines += [wrapped(f"{effects_caption(clock)}:"), table(("", ""), stretched, indent="  ")]
        lines += [wrapped(sentence, "", "  ") for sentence in statuses(clock)]
        blocks.append("\n".join(lines))

    answered = sections(report)
    for section in answered:
        lines = [styled(section.title, bold=True), wrapped(section.answer)]
        if full:
            lines += [_section_table(part, columns) for part in section.tables]
            lines += [wrapped(sentence, "• ", "  ") for sentence in section.notes]
        blocks.append("\n".join(lines))

    costs = table(("", ""), list(cost_lines(report)))
    measured = devices(report)
    blocks.append("\n".join([styled("costs", bold=True) + (f" (measured on {measured})" if measured else ""), costs]))

    settings = [
        f"{job.model}{behind_defence(job)} on {job.dataset} under {job.attack}: {job_setting(job)}; "
        f"job {job.attack_job_id}"
        for job in report.jobs
    ]
    if report.experiment_groups:
        groups = _groups([group_row(group) for group in report.experiment_groups], columns)
        blocks.append("\n".join([styled("experiments", bold=True), wrapped(f"{GROUPS}:"), groups]))
    else:
        lines = [styled("what was attacked", bold=True), *(wrapped(line, "", "  ") for line in settings)]
        blocks.append("\n".join(lines))

    if report.limitations:
        lines = [wrapped(sentence, "• ", "  ") for sentence in report.limitations]
        blocks.append("\n".join([styled("what limits these numbers", bold=True), *lines]))
    if answered and not full:
        blocks.append(wrapped("The tables and notes behind these answers are in report.html, or with --format full."))
    return "\n\n".join(blocks)


def terminal_columns() -> int:
    """How wide text is written: as the terminal, between 60 and 110 columns."""
    return min(110, max(60, shutil.get_terminal_size((110, 40)).columns))


def paragraph(text: str, columns: int, first: str = "", rest: str = "") -> str:
    """The text in lines of at most `columns`, a number together with its % or its ×."""
    # textwrap breaks at plain blanks alone.
    kept = text.replace(" %", "\u00a0%").replace("× ", "×\u00a0")
    filled = textwrap.fill(kept, columns, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)
    return filled.replace("\u00a0", " ")


def _figures(report: Report, columns: int) -> str:
    """The key figures with their clocks side by side, or one clock after the other where that is too wide."""
    figures, headers = key_figures(report), clock_headers(report)
    level = f"{100 * report.confidence_level:g} % intervals in brackets" if report.confidence_level else ""
    beside = table((level, *headers), [(figure.name, *figure.values) for figure in figures])
    if _fits_into(beside, columns):
        return beside
    clocks = [
        table(
            (header, ""),
            [
                (f"  {figure.names[i] if figure.names else figure.name}", figure.values[i])
                for figure in figures
                if figure.values[i] != NOTHING
            ],
        )
        for i, header in enumerate(headers)
    ]
    return "\n".join([level, *clocks] if level else clocks)


def _section_table(part: SectionTable, columns: int) -> str:
    """A table under its caption, or its rows one after the other where it is too wide."""
    beside = table(part.header, part.rows, right=range(1, len(part.header)), indent="  ")
    if not _fits_into(beside, columns):
        each = ((row[0], list(zip(part.header[1:], row[1:], strict=True))) for row in part.rows)
        beside = "\n".join(table((name, ""), [(f"  {head}", cell) for head, cell in cells]) for name, cells in each)
    caption = paragraph(f"{part.caption}:", columns)
    return f"{caption}\n{beside}" if part.caption else beside


def _groups(rows: Sequence[Sequence[str]], columns: int) -> str:
    """The groups one below the other, or one after the other where that is too wide."""
    beside = table(GROUP_COLUMNS, rows, right=(1, 2, 3, 7))
    if _fits_into(beside, columns):
        return beside
    cells = ((row[0], list(zip(GROUP_COLUMNS[1:], row[1:], strict=True))) for row in rows)
    return "\n".join(table((name, ""), [(f"  {column}", cell) for column, cell in figures]) for name, figures in cells)


def _fits(rows: Sequence[Sequence[str]], columns: int) -> str:
    """The fits one below the other, without the columns that are too much for the width; report.html has them all."""
    for kept in range(len(_COLUMNS_BY_WEIGHT), 1, -1):
        chosen = [i for i, name in enumerate(FIT_COLUMNS) if name in _COLUMNS_BY_WEIGHT[:kept]]
        right = [place for place, i in enumerate(chosen) if 1 <= i <= 5]
        shown = table([FIT_COLUMNS[i] for i in chosen], [[row[i] for i in chosen] for row in rows], right=right)
        if _fits_into(shown, columns):
            break
    return shown


def _fits_into(text: str, columns: int) -> bool:
    return all(visible_width(line) <= columns for line in text.splitlines())
