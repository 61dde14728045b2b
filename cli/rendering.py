"""A report as text for a terminal: the conclusion first, then what it rests on."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

import click

from cli.quantities import clock_word, count, share_interval
from cli.reading import (
    FIT_COLUMNS,
    accuracy_shares,
    clock_headers,
    common_statuses,
    cost_lines,
    devices,
    fit_row,
    headline,
    job_setting,
    key_figures,
    meaning,
    statuses,
    subject,
)
from cli.tables import table

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

PARTIAL = "Partial: samples were still in flight or missing when this report was made."
_COLOURS = {"broken": "red", "not rejected": "green", "undecided": "yellow"}
_BAR_WIDTH = 40


def render(report: Report, *, colour: bool = False, width: int | None = None) -> str:
    """The report as text, `width` columns wide, at most 110 on a wide terminal."""
    columns = width or min(110, max(60, shutil.get_terminal_size((110, 40)).columns))

    def styled(text: str, **style: object) -> str:
        return click.style(text, **style) if colour else text  # type: ignore[arg-type]

    def wrapped(text: str, first: str = "", rest: str = "") -> str:
        return textwrap.fill(text, columns, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    word = headline(report)
    blocks: list[str] = []
    title = f"{word.upper()}  {subject(report)}"
    blocks.append(
        "\n".join([
            styled(title, fg=_COLOURS[word], bold=True),
            *([wrapped(PARTIAL)] if report.partial else []),
            wrapped(report.summary),
            wrapped(meaning(report)),
        ])
    )  # fmt: skip

    figures = key_figures(report)
    level = f"{100 * report.confidence_level:g} % intervals in brackets" if report.confidence_level else ""
    header = (level, *clock_headers(report))
    blocks.append(table(header, [(figure.name, *figure.values) for figure in figures]))

    samples = accuracy_shares(report)
    marks = "".join(
        styled(mark * round(_BAR_WIDTH * amount / max(1, report.sample_count)), fg=fg)
        for (_, amount, _), mark, fg in zip(samples, "█▒░", ("red", "green", None), strict=True)
    )
    counted = ", ".join(
        f"{mark} {count(amount)} {name}" for (name, amount, _), mark in zip(samples, "█▒░", strict=True)
    )
    accuracies = [
        ("accuracy before the attack", share_interval(report.clean_accuracy)),
        ("accuracy under attack", share_interval(report.adversarial_accuracy)),
        ("failed, of those at risk", share_interval(report.failure_share)),
    ]
    blocks.append(f"{count(report.sample_count)} samples  {marks}\n{counted}\n{table(('', ''), accuracies)}")

    common = common_statuses(report)
    if common:
        blocks.append("\n".join([styled("no fit", bold=True), *(wrapped(sentence, "", "  ") for sentence in common)]))
    for clock in () if common else report.clock_reports:
        lines = [styled(f"fits on the {clock_word(clock.clock)} clock", bold=True)]
        if any(fit.status == 1 for fit in clock.fits):
            rows = [fit_row(fit) for fit in clock.fits if fit.status == 1]
            lines.append(table(FIT_COLUMNS, rows, right=(1, 2, 3, 4)))
        lines += [wrapped(sentence, "", "  ") for sentence in statuses(clock)]
        blocks.append("\n".join(lines))

    costs = table(("", ""), list(cost_lines(report)))
    measured = devices(report)
    blocks.append("\n".join([styled("costs", bold=True) + (f" (measured on {measured})" if measured else ""), costs]))

    settings = [
        f"{job.model} on {job.dataset} under {job.attack}: {job_setting(job)}; job {job.attack_job_id}"
        for job in report.jobs
    ]
    blocks.append("\n".join([styled("what was attacked", bold=True), *(wrapped(line, "", "  ") for line in settings)]))

    if report.limitations:
        lines = [wrapped(sentence, "• ", "  ") for sentence in report.limitations]
        blocks.append("\n".join([styled("what limits these numbers", bold=True), *lines]))
    return "\n\n".join(blocks)
