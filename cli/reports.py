"""`afrctl report`: one report over one or several jobs that have run, or over a file of outcomes."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.commands import StrictCommand
from cli.errors import Misuse, Problem
from cli.file_reports import FileOptions, file_options, report_on_file
from cli.options import (
    attack_address,
    clock_option,
    distribution_option,
    level,
    make_options,
    report_options,
    survival_address,
)

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Distribution, Report, ReportOptions


@click.command(cls=StrictCommand)
@click.argument("job_ids", metavar="[JOB...]", nargs=-1)
@distribution_option("weibull, log-normal, log-logistic")
@click.option("--confidence-level", type=level, metavar="SHARE", help="The level of the intervals.  [default: 0.95]")
@file_options
@clock_option("queries", "seconds", "distance")
@report_options
@survival_address
@attack_address
def report(
    job_ids: tuple[str, ...], outcomes: Path | None, distributions: tuple[Distribution.ValueType, ...],
    confidence_level: float | None, clock: str, price_usd_per_hour: float | None, output: Path, output_format: str,
    quiet: bool, survival_address: str,
    attack_address: str, **of_file: Any,
) -> None:  # fmt: skip
    """Report on one or more jobs together, or on a file of outcomes.

    Jobs that still run are waited for. Writes report.json and report.html into the output folder. The survival server
    reads the outcomes from its own attack server; --attack-address only serves to complete shortened ids of jobs.

    Distance is the length of the change that fooled the model. It is a clock for deepfool and cw, and for several jobs
    that differ in epsilon alone; the report then shows it beside the others, and --clock distance puts it first.

    --outcomes takes a .csv or .parquet file instead of jobs: an outcomes.csv that `afrctl evaluate` wrote, or rows of
    which each is the totals of one experiment, with the columns sample_count, attack_seconds, failure_count (or
    accuracy and adversarial_accuracy) and, where known, misclassified_count, training_seconds_per_sample and group.
    A survival server is started if there is none.

    \b
    Example:
      afrctl report 0b9f4c1e
      afrctl report 0b9f4c1e 77d2a90c --clock seconds --distribution weibull --output both
      afrctl report --outcomes afr-report/outcomes.csv --training-seconds 89 --training-samples 1437 --output again
      afrctl report --outcomes published.csv --column sample_count=n --column group=attack --covariate depth
    """
    from cli.files import output_folder
    from cli.publishing import publish

    said = FileOptions(**of_file)
    if (outcomes is None) == (not job_ids):
        both = "JOB and --outcomes cannot go together" if job_ids else "there is nothing to report on"
        raise Misuse(f"{both}: name a JOB or more, or give --outcomes FILE")
    if outcomes is None and said.given:
        raise Misuse(f"{said.given[0]} has no effect on jobs, only on a file: leave it out, or give --outcomes FILE")
    options = make_options(clock, price_usd_per_hour)
    options.distributions.extend(distributions)
    if confidence_level is not None:
        options.confidence_level = confidence_level
    with output_folder(output) as folder:
        if outcomes is None:
            finished = _report_on_jobs(job_ids, options, survival_address, attack_address, quiet=quiet)
        else:
            finished = report_on_file(outcomes, said, options, survival_address)
        publish(finished, folder, output_format=output_format)
    if not quiet:
        click.echo(f"\nreport.html and report.json are in {folder}", err=True)


def _report_on_jobs(
    job_ids: Sequence[str], options: ReportOptions, survival_address: str, attack_address: str, *, quiet: bool
) -> Report:
    """The report on jobs, followed until they have ended."""
    from afr.survival.v1.survival_service_pb2 import CreateReportRequest

    from cli.connecting import survival_server
    from cli.following import (
        Event,
        ReportArrived,
        ReportFeed,
        ReportProgressed,
        StreamBroken,
        StreamResumed,
        arrivals,
    )
    from cli.locating import existing_survival_address
    from cli.progress import choose_display, provisional

    display = choose_display(quiet=quiet)
    with survival_server(existing_survival_address(survival_address)) as server:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        jobs = _full_ids(job_ids, attack_address)
        feed = ReportFeed(server, CreateReportRequest(attack_job_ids=jobs, options=options), events)
        feed.start()
        said = ""
        try:
            for event in arrivals(events, 0.2):
                match event:
                    case None:
                        continue
                    case ReportProgressed(progress):
                        if (now := provisional(progress)) and now != said:
                            display.note(now)
                            said = now
                    case StreamResumed(sentence):
                        display.note(sentence)
                    case StreamBroken(_, error):
                        raise error
                    case ReportArrived(finished):
                        return finished
                    case _:
                        raise Problem("the survival server sent something else than a report")
        finally:
            feed.stop()
    raise Problem("the survival server ended without a report; ask again with `afrctl report JOB`")


def _full_ids(job_ids: Sequence[str], attack_address: str) -> list[str]:
    """The ids with shortened ones completed, if an attack server is known that can tell."""
    from cli.connecting import attack_server
    from cli.job_ids import full_id, is_short
    from cli.locating import known_attack_address

    address = known_attack_address(attack_address)
    if not address or not any(map(is_short, job_ids)):
        return list(job_ids)
    with attack_server(address) as server:
        return [full_id(server, job_id) for job_id in job_ids]
