"""A finished report: its files, and what of it is printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.errors import Problem
from cli.files import replacing

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

    from cli.outcomes import ReceivedOutcomes

REPORT_JSON, REPORT_HTML, OUTCOMES_CSV = "report.json", "report.html", "outcomes.csv"


def report_json(report: Report) -> str:
    """The report as the proto's canonical JSON, zero counts included."""
    from google.protobuf.json_format import MessageToJson

    return str(MessageToJson(report, always_print_fields_with_no_presence=True, ensure_ascii=False)) + "\n"


def publish(report: Report, folder: Path, *, output_format: str, outcomes: ReceivedOutcomes | None = None) -> None:
    """Write the report's files into the folder and print it. If one of the two fails, the other is done all the same.

    Raises `Problem` then.
    """
    unwritten = unprinted = ""
    try:
        _write(report, folder, outcomes)
    except OSError as error:
        unwritten = f"cannot write the report's files into {folder} ({error.strerror or error})"
    try:
        _print(report, output_format)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` does.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    except OSError as error:
        unprinted = f"cannot print the report ({error.strerror or error})"
    if unwritten and unprinted:
        raise Problem(f"{unwritten}, and {unprinted}; make room and run the command again")
    if unwritten:
        raise Problem(f"{unwritten}; what was printed is all there is: make room, or give another folder with --output")
    if unprinted:
        raise Problem(f"{unprinted}; it is in {folder}")


def _write(report: Report, folder: Path, outcomes: ReceivedOutcomes | None) -> None:
    from cli.html.page import report_page

    if outcomes is not None:
        outcomes.write(folder / OUTCOMES_CSV)
    with replacing(folder / REPORT_JSON) as file:
        file.write(report_json(report))
    with replacing(folder / REPORT_HTML) as file:
        file.write(report_page(report))


def _print(report: Report, output_format: str) -> None:
    if output_format == "json":
        click.echo(report_json(report), nl=False)
        return
    from cli.rendering import render

    text = render(report, colour=colours_wanted(), full=output_format == "full")
    click.echo(text, color=colours_wanted())


def colours_wanted() -> bool:
    """Whether standard output is a terminal whose user has not asked for plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
