"""`afrctl train`: train a model into the store, ahead of its attacks."""

from __future__ import annotations

import contextlib
import queue
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.canceling import cancel_job
from cli.commands import StrictCommand
from cli.errors import Interrupted, Problem
from cli.interrupts import interrupts
from cli.model_choice import ModelChoice, model_options
from cli.options import attack_address, data_folder, defence_options, settings
from cli.quantities import count, duration, share
from cli.tables import table

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec, ModelRecord

    from cli.connecting import AttackServer
    from cli.following import Event
    from cli.locating import Services
    from cli.progress import Display


@click.command(cls=StrictCommand)
@model_options
@click.option(
    "--data-root",
    type=data_folder,
    metavar="DIR",
    help="Where datasets are read from and downloaded to; made if need be.",
)
@defence_options
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print the model's record: for people, or as the proto's JSON.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print only the record.")
@attack_address
@click.option("--redis-url", envvar="AFRCTL_REDIS_URL", default="", hidden=True)
def train(
    choice: ModelChoice, data_root: Path | None, defence: str, defence_parameter: Sequence[tuple[str, float]],
    output_format: str, quiet: bool, attack_address: str, redis_url: str,
) -> None:  # fmt: skip
    """Train a model into the store, without attacking it.

    `afrctl evaluate` then takes it from there. A model that is in the store already is only measured again. With
    --weights, --checkpoint or --program nothing is trained: the model is checked and measured.

    Without an address it uses the stack of `afrctl up`, or else starts its own on this machine and stops it at the end.

    \b
    Example:
      afrctl train --model resnet50
      afrctl train --model resnet18 --dataset cifar10 --stem cifar --epochs 20 --defence adversarial-training
    """
    from afr.attack.v1.attack_service_pb2 import AttackSpec

    spec = AttackSpec(
        **choice.fields(here=not attack_address),
        attack="none",
        defence=defence,
        defence_parameters=settings("--defence-parameter", defence_parameter),
    )

    from cli.locating import job_services
    from cli.progress import choose_display

    display = choose_display(quiet=quiet)
    try:
        with job_services(attack_address, announce=display.note, data_root=data_root, redis_url=redis_url) as located:
            job = Training(located, display).run(spec)
    finally:
        display.close()
    if job.state == job.STATE_CANCELED:
        raise Problem("the job was canceled by someone else before the model was ready")
    _print(job, output_format)


class Training:
    """One training job: creates it, follows it to its end, shows where it stands."""

    def __init__(self, located: Services, display: Display) -> None:
        from cli.progress import View, Warnings

        self._located, self._display = located, display
        self._view = View()
        self._warnings = Warnings(display, own_worker=located.own)

    def run(self, spec: AttackSpec) -> AttackJob:
        """Run to the end; return the job in its final state. On an interrupt, cancels it."""
        from afr.attack.v1.attack_service_pb2 import CreateAttackJobRequest

        from cli.connecting import attack_server

        with attack_server(self._located.attack_address) as attack:
            request = CreateAttackJobRequest(spec=spec, request_id=str(uuid.uuid4()))
            job: AttackJob = attack.call(attack.stub.CreateAttackJob, request).attack_job
            self._display.note(f"job {job.attack_job_id}: {job.spec.model} for {job.spec.dataset}")
            try:
                with interrupts.deferred():
                    return self._follow(attack, job)
            except Interrupted:
                self._abandon(job.attack_job_id)
                raise

    def _follow(self, attack: AttackServer, job: AttackJob) -> AttackJob:
        from cli.following import JobChanged, JobEnded, OutcomeFeed, StreamBroken, StreamResumed

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        feed = OutcomeFeed(attack, job.attack_job_id, events)
        self._view.job = job
        feed.start()
        try:
            while True:
                interrupts.check()
                stack = self._located.stack
                if stack is not None:
                    stack.check()
                with contextlib.suppress(queue.Empty):
                    match events.get(timeout=0.1):
                        case JobChanged(changed):
                            self._show(changed)
                        case JobEnded(end):
                            self._show(end.attack_job)
                            if end.attack_job.state == end.attack_job.STATE_FAILED:
                                message = end.attack_job.failure_message
                                raise Problem(message or "the job failed; the worker's log says why")
                            return end.attack_job
                        case StreamResumed(sentence):
                            self._display.note(sentence)
                        case StreamBroken(_, error):
                            raise error
                self._display.update(self._view)
        finally:
            feed.stop()

    def _show(self, job: AttackJob) -> None:
        self._view.job = job
        self._warnings.show(job)

    def _abandon(self, job_id: str) -> None:
        with interrupts.shielded():
            self._display.note("stopping: canceling the job")
            canceled = cancel_job(self._located.attack_address, job_id)
            self._display.close()
            with contextlib.suppress(OSError):
                said = "is canceled" if canceled else "may go on: the server did not confirm its cancel"
                kept = "its finished epochs are kept, and training goes on from there"
                click.echo(f"interrupted: job {job_id} {said}; {kept}", err=True)


def _print(job: AttackJob, output_format: str) -> None:
    if output_format == "json":
        from google.protobuf.json_format import MessageToJson

        click.echo(MessageToJson(job.model_record, always_print_fields_with_no_presence=True, ensure_ascii=False))
        return
    click.echo(table(("", ""), list(_lines(job, job.model_record))))


def _lines(job: AttackJob, record: ModelRecord) -> list[tuple[str, str]]:
    """The record of a model, as pairs of name and value."""
    seconds = record.training_duration.ToTimedelta().total_seconds()
    brought = job.spec.weights or job.spec.checkpoint or job.spec.program
    if record.training_cost_known:
        epochs = f"{record.epoch_count} epoch{'' if record.epoch_count == 1 else 's'} of " if record.epoch_count else ""
        cost = f"{duration(seconds)} for {epochs}{count(record.training_sample_count)} samples"
        cost += f" on {record.training_device_name}" if record.training_device_name else ""
    else:
        cost = "not known; pass --training-seconds and --training-samples"
    origin = brought or ("the store" if record.from_store else "trained by this job")
    defended = (
        [(f"accuracy behind {job.spec.defence}", share(record.defended_accuracy))]
        if job.spec.defence not in ("", "none")
        else []
    )
    return [
        ("model", f"{job.spec.model} for {job.spec.dataset}, {job.spec.image_size} x {job.spec.image_size} pixels"),
        ("from", origin),
        ("accuracy", f"{share(record.clean_accuracy)} of {count(record.test_sample_count)} test samples"),
        *defended,
        ("training", cost),
        ("parameters", count(record.parameter_count)),
        ("digest", record.weights_digest),
    ]
