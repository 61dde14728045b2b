"""`afrctl jobs`: the attack jobs of a server that stays."""

from __future__ import annotations

import contextlib
import queue
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands import StrictCommand
from cli.errors import Problem
from cli.job_ids import full_id, newest
from cli.options import attack_address
from cli.tables import table

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob

    from cli.connecting import AttackServer

_STATES = {1: "queued", 2: "running", 3: "succeeded", 4: "failed", 5: "canceled"}
_PHASES = {1: "loading", 2: "training", 3: "measuring", 4: "attacking"}


@click.group()
def jobs() -> None:
    """List, show, follow or cancel attack jobs.

    The server is the one of --attack-address, or that of `afrctl up`. A job's id may be shortened.

    \b
    Example:
      afrctl jobs list
      afrctl jobs follow 0b9f4c1e
    """


@jobs.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, metavar="COUNT", help="The most jobs to list."
)
@attack_address
def list_jobs(attack_address: str, limit: int) -> None:
    """List jobs, newest first.

    \b
    Example:
      afrctl jobs list --limit 5
    """
    with _server(attack_address) as server:
        rows = []
        for job in newest(server, limit):
            created = job.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
            rows.append(
                (job.attack_job_id, describe_state(job), job.spec.model, job.spec.attack, job.spec.dataset, created)
            )
    if rows:
        click.echo(table(("job", "state", "model", "attack", "dataset", "created (UTC)"), rows))
    else:
        click.echo("no jobs")


@jobs.command(cls=StrictCommand)
@click.argument("job_id", metavar="JOB")
@attack_address
def show(job_id: str, attack_address: str) -> None:
    """Show one job as the proto's JSON.

    \b
    Example:
      afrctl jobs show 0b9f4c1e
    """
    from afr.attack.v1.attack_service_pb2 import GetAttackJobRequest
    from google.protobuf.json_format import MessageToJson

    with _server(attack_address) as server:
        request = GetAttackJobRequest(attack_job_id=full_id(server, job_id))
        job = server.call(server.stub.GetAttackJob, request).attack_job
    click.echo(MessageToJson(job, ensure_ascii=False))


@jobs.command(cls=StrictCommand)
@click.argument("job_id", metavar="JOB")
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the outcomes there once the job has ended.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print only the result.")
@attack_address
def follow(job_id: str, csv_path: Path | None, quiet: bool, attack_address: str) -> None:
    """Follow a job until it ends. Ctrl-C stops following, not the job.

    \b
    Example:
      afrctl jobs follow 0b9f4c1e --csv outcomes.csv
    """
    from cli.following import (
        BatchArrived,
        Event,
        JobChanged,
        JobEnded,
        OutcomeFeed,
        StreamBroken,
        StreamResumed,
        arrivals,
    )
    from cli.outcomes import ReceivedOutcomes
    from cli.progress import View, choose_display

    if csv_path is not None and not csv_path.absolute().parent.is_dir():
        raise Problem(f"{csv_path.absolute().parent} is no folder; give --csv a file in one that exists")
    display, view, outcomes = choose_display(quiet=quiet), View(), ReceivedOutcomes()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    with _server(attack_address) as server:
        job_id = full_id(server, job_id)
        feed = OutcomeFeed(server, job_id, events)
        feed.start()
        try:
            for event in arrivals(events, 0.1):
                match event:
                    case JobChanged(job):
                        view.job = job
                    case BatchArrived(batch):
                        outcomes.add(batch)
                        view.seconds_per_sample = outcomes.seconds_per_sample
                    case StreamResumed(sentence):
                        display.note(sentence)
                    case StreamBroken(_, error):
                        raise error
                    case JobEnded(end):
                        break
                    case _:
                        pass
                display.update(view)
        finally:
            feed.stop()
            display.close()
    outcomes.verify(end)
    if csv_path is not None:
        try:
            outcomes.write(csv_path)
        except OSError as error:
            raise Problem(f"cannot write {csv_path} ({error.strerror or error}); give --csv another file") from error
    if end.attack_job.state == 4:
        raise Problem(f"job {job_id} failed: {end.attack_job.failure_message or 'the worker log says why'}")
    click.echo(
        f"job {job_id} {describe_state(end.attack_job)}: {end.failed_count} failed, {end.survived_count} survived, "
        f"{end.misclassified_count} misclassified before the attack"
    )


@jobs.command(cls=StrictCommand)
@click.argument("job_id", metavar="JOB")
@attack_address
def cancel(job_id: str, attack_address: str) -> None:
    """Cancel a job. The outcomes recorded so far stay, for `afrctl report`.

    \b
    Example:
      afrctl jobs cancel 0b9f4c1e
    """
    from afr.attack.v1.attack_service_pb2 import CancelAttackJobRequest

    with _server(attack_address) as server:
        job_id = full_id(server, job_id)
        job = server.call(server.stub.CancelAttackJob, CancelAttackJobRequest(attack_job_id=job_id)).attack_job
    ended = _STATES.get(job.state, "") in ("succeeded", "failed", "canceled")
    click.echo(
        f"job {job_id} {describe_state(job)}" if ended else f"job {job_id} is asked to stop; its worker ends it soon"
    )


def describe_state(job: AttackJob) -> str:
    """The state in a word or two: `attacking 62 %`, `failed`."""
    word = _STATES.get(job.state, "unknown")
    if word != "running":
        return word
    phase = _PHASES.get(job.progress.phase, "running")
    total = job.progress.total_count
    return f"{phase} {100 * job.progress.done_count // total} %" if total else phase


def _server(address: str) -> contextlib.AbstractContextManager[AttackServer]:
    from cli.connecting import attack_server
    from cli.locating import existing_attack_address

    return attack_server(existing_attack_address(address))
