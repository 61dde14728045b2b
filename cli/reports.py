"""`afrctl report`: one report over one or several jobs that have run."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from pathlib import Path

import click

from cli.commands import StrictCommand
from cli.errors import Problem
from cli.options import attack_address, level, report_options, survival_address

DISTRIBUTION_NAMES = ("weibull", "log-normal", "log-logistic", "exponential")


@click.command(cls=StrictCommand)
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option(
    "--distribution",
    "distributions",
    type=click.Choice(DISTRIBUTION_NAMES),
    multiple=True,
    help="A distribution to fit; may be given several times.  [default: weibull, log-normal, log-logistic]",
)
@click.option("--confidence-level", type=level, metavar="SHARE", help="The level of the intervals.  [default: 0.95]")
@report_options
@survival_address
@attack_address
def report(
    job_ids: tuple[str, ...], distributions: tuple[str, ...], confidence_level: float | None, clock: str,
    price_usd_per_hour: float | None, output: Path, output_format: str, quiet: bool, survival_address: str,
    attack_address: str,
) -> None:  # fmt: skip
    """Report on one or more jobs together.

    Jobs that still run are waited for. Writes report.json and report.html into the output folder. The survival server
    reads the outcomes from its own attack server; --attack-address only serves to complete shortened ids of jobs.

    \b
    Example:
      afrctl report 0b9f4c1e
      afrctl report 0b9f4c1e 77d2a90c --clock seconds --distribution weibull --output both
    """
    from afr.survival.v1.survival_service_pb2 import CreateReportRequest, Distribution

    from cli.connecting import survival_server
    from cli.evaluate import make_options
    from cli.files import output_folder
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
    from cli.publishing import publish

    options = make_options(clock, price_usd_per_hour)
    options.distributions.extend(
        Distribution.Value(f"DISTRIBUTION_{name.upper().replace('-', '_')}") for name in dict.fromkeys(distributions)
    )
    if confidence_level is not None:
        options.confidence_level = confidence_level
    display = choose_display(quiet=quiet)
    with output_folder(output) as folder, survival_server(existing_survival_address(survival_address)) as server:
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
                        break
                    case _:
                        raise Problem("the survival server sent something else than a report")
        finally:
            feed.stop()
        publish(finished, folder, output_format=output_format)
    if not quiet:
        click.echo(f"\nreport.html and report.json are in {folder}", err=True)


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
