"""A finished report: its files, and what of it is printed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.files import replacing

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

REPORT_JSON, REPORT_HTML, OUTCOMES_CSV = "report.json", "report.html", "outcomes.csv"


def report_json(report: Report) -> str:
    """The report as the proto's canonical JSON, zero counts included."""
    from google.protobuf.json_format import MessageToJson

    return str(MessageToJson(report, always_print_fields_with_no_presence=True, ensure_ascii=False)) + "\n"


def publish(report: Report, folder: Path, *, output_format: str) -> None:
    """Write `report.json` and `report.html` into the folder and print the report."""
    from cli.html.page import report_page

    text = report_json(report)
    with replacing(folder / REPORT_JSON) as file:
        file.write(text)
    with replacing(folder / REPORT_HTML) as file:
        file.write(report_page(report))
    if output_format == "json":
        click.echo(text, nl=False)
    else:
        from cli.rendering import render

        click.echo(render(report, colour=colours_wanted()), color=colours_wanted())


def colours_wanted() -> bool:
    """Whether standard output is a terminal whose user has not asked for plain text."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
