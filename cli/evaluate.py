"""`afrctl evaluate`: train or load, attack, fit, report."""

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
from cli.errors import Interrupted, Misuse, Problem
from cli.interrupts import interrupts
from cli.model_choice import ModelChoice, model_options
from cli.options import (
    attack_address,
    clock_option,
    data_folder,
    distribution_option,
    factor,
    positive,
    report_options,
    settings,
    strength_options,
    survival_address,
    whole,
    workers_option,
)
from cli.quantities import number, quantity_word

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec
    from afr.survival.v1.survival_service_pb2 import Distribution, Precision, Report, ReportOptions, Stopping

    from cli.connecting import AttackServer
    from cli.following import Event, Feed
    from cli.locating import Services
    from cli.progress import Display

_START_SECONDS = 120.0
_SUCCEEDED, _FAILED, _CANCELED = 3, 4, 5


@click.command(cls=StrictCommand)
@model_options
@click.option(
    "--data-root",
    type=data_folder,
    metavar="DIR",
    help="Where datasets are read from and downloaded to; made if need be.",
)
@click.option(
    "--attack",
    required=True,
    metavar="NAME",
    help="The attack, for example pgd; `afrctl attacks` lists them. art:CLASS is any other evasion attack of the "
    "toolbox, for example art:SignOPTAttack.",
)
@click.option("--engine", default="", metavar="native|art", help="What runs the attack.  [default: native]")
@click.option(
    "--epsilon",
    type=positive,
    metavar="NUMBER",
    help="How far a perturbation may go, with inputs in [0, 1]: for example 0.03 or 8/255.",
)
@click.option(
    "--norm",
    type=click.Choice(["inf", "2", "1", "0"], case_sensitive=False),
    help="What measures the perturbation.  [default: the first that the attack knows]",
)
@click.option("--step-size", type=positive, metavar="NUMBER", help="How far one step goes.")
@click.option("--max-iterations", type=whole, metavar="COUNT", help="The most steps of an attack.")
@strength_options
@click.option("--samples", type=whole, metavar="COUNT", help="How many test samples to attack.")
@click.option("--shards", type=whole, metavar="COUNT",
              help="Into how many parts to divide the samples; each worker runs one at a time.  [default: as many as "
                   "workers are there, of a batch at least]")  # fmt: skip
@click.option("--until-precision", type=factor, metavar="FACTOR",
              help="Stop as soon as an interval that all looks hold together is narrower than ×/÷ FACTOR, for example "
                   "1.2, and 20 samples have failed.")  # fmt: skip
@click.option("--until-quantity", type=click.Choice(["median", "restricted-mean", "failure-share"]),
              help="What --until-precision is the precision of.  [default: median]")  # fmt: skip
@workers_option
@clock_option("queries", "seconds")
@distribution_option("weibull, log-normal, log-logistic")
@report_options
@survival_address
@attack_address
@click.option("--redis-url", envvar="AFRCTL_REDIS_URL", default="", hidden=True)
def evaluate(
    choice: ModelChoice, data_root: Path | None, attack: str, engine: str, epsilon: float | None, norm: str | None,
    step_size: float | None, max_iterations: int | None, attack_parameter: Sequence[tuple[str, float]], defence: str,
    defence_parameter: Sequence[tuple[str, float]], samples: int | None,
    shards: int | None, until_precision: float | None, until_quantity: str | None, workers: int | None,
    clock: str, distributions: tuple[Distribution.ValueType, ...], price_usd_per_hour: float | None, output: Path,
    output_format: str, quiet: bool,
    attack_address: str, survival_address: str, redis_url: str,
) -> None:  # fmt: skip
    """Attack a model and report how long it survives.

    Attacks it sample by sample, and says how long samples survive and what that robustness cost.

    Trains the model, or takes it from the store if it was trained before. Writes report.json, report.html and
    outcomes.csv (one row a sample) into the output folder and replaces files of these names there.

    Without addresses it uses the stack of `afrctl up`, or else starts its own on this machine and stops it at the end.

    \b
    Example:
      afrctl evaluate --model resnet50 --attack pgd
      afrctl evaluate --model resnet18 --attack pgd --epsilon 0.1 --samples 500 --price-usd-per-hour 2.5
      afrctl evaluate --model resnet50 --weights IMAGENET1K_V2 --attack pgd --dataset imagefolder:imagenet
      afrctl evaluate --model resnet18 --attack pgd --defence jpeg --defence-parameter quality=50
      afrctl evaluate --model resnet50 --attack pgd --workers 4 --shards 8
      afrctl evaluate --model resnet50 --attack pgd --samples 5000 --until-precision 1.2
      afrctl evaluate --model resnet18 --attack fgm --attack-address gpu:50051 --survival-address gpu:50052
    """
    if attack == "none":
        raise Misuse("--attack none attacks nothing, so there is nothing to report; `afrctl train` trains a model")
    # Without --norm it is the attack's first one, which the attack service knows and holds epsilon to.
    if epsilon is not None and epsilon > 1 and norm == "inf":
        levels = f"; {epsilon:g} of 255 levels is {epsilon:g}/255" if epsilon <= 255 else ""
        raise Misuse(
            f"--epsilon {epsilon:g} is above 1, but inputs lie in [0, 1]: give at most 1 with --norm inf{levels}"
        )
    if until_quantity and until_precision is None:
        raise Misuse("--until-quantity has no effect without --until-precision: leave it out, or give FACTOR too")
    from afr.attack.v1.attack_service_pb2 import AttackSpec

    named = {"epsilon": epsilon, "step_size": step_size, "max_iterations": max_iterations}
    spec = AttackSpec(
        **choice.fields(here=not attack_address),
        attack=attack,
        attack_parameters=settings("--attack-parameter", attack_parameter, **named),
        defence=defence,
        defence_parameters=settings("--defence-parameter", defence_parameter),
        engine=engine,
        sample_count=samples or 0,
        # The workers of an own stack are still starting when the server could count them.
        shard_count=shards or min(workers or 0, samples or 64),
        norm=norm or "",
    )

    from cli.files import output_folder
    from cli.locating import services
    from cli.progress import choose_display

    display = choose_display(quiet=quiet)
    try:
        with (
            output_folder(output) as folder,
            services(attack_address, survival_address, announce=display.note, data_root=data_root,
                     workers=workers, redis_url=redis_url) as located,
        ):  # fmt: skip
            evaluation = Evaluation(located, display, folder)
            options = make_options(clock, price_usd_per_hour)
            options.distributions.extend(distributions)
            precision = None if until_precision is None else _precision(until_precision, until_quantity or "median")
            report = evaluation.run(spec, options, precision)
            display.close()
            _publish(evaluation, report, folder, output_format, quiet)
            state = evaluation.final_state
    finally:
        display.close()
    if state == _CANCELED and not report.stopping.met:
        raise Problem("the job was canceled by someone else, so the report covers only the samples attacked until then")


def make_options(clock: str, price_usd_per_hour: float | None) -> ReportOptions:
    """What a report is made with. One price stands for both sides, as on one machine."""
    from afr.survival.v1.survival_service_pb2 import Clock, ReportOptions

    return ReportOptions(
        clock=Clock.Value(f"CLOCK_{clock.upper()}"),
        defender_price_usd_per_hour=price_usd_per_hour,
        attacker_price_usd_per_hour=price_usd_per_hour,
    )


def _precision(factor: float, quantity: str) -> Precision:
    from afr.survival.v1.survival_service_pb2 import Precision, Quantity

    return Precision(interval_factor=factor, quantity=Quantity.Value(f"QUANTITY_{quantity.upper().replace('-', '_')}"))


class Evaluation:
    """One evaluation: creates the job, follows its outcomes and its report, shows where they stand."""

    def __init__(self, located: Services, display: Display, folder: Path) -> None:
        from cli.outcomes import ReceivedOutcomes
        from cli.progress import View

        self.outcomes = ReceivedOutcomes()
        self.final_state = 0
        self._stopping = False
        self._located, self._display, self._folder = located, display, folder
        self._view = View()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._feeds: list[Feed] = []
        self._report: Report | None = None
        self._said: set[str] = set()

    def run(self, spec: AttackSpec, options: ReportOptions, precision: Precision | None = None) -> Report:
        """Run to the report, or until the survival server has found the wanted precision.

        On an interrupt, cancels the job and keeps the outcomes that have arrived.
        """
        from cli.connecting import attack_server

        with attack_server(self._located.attack_address) as attack:
            if self._located.survival_address:
                _check_survival_server(self._located.survival_address)
            try:
                job = self._create(attack, spec)
            except Problem as problem:
                raise self._cause(problem) from problem
            try:
                with interrupts.deferred():
                    return self._follow(attack, job, options, precision)
            except Interrupted:
                self._abandon(job.attack_job_id)
                raise
            except Problem as problem:
                kept = self._keep_outcomes()
                cause = self._cause(problem)
                raise Problem(f"{cause}{f' ({kept})' if kept else ''}") from problem
            finally:
                for feed in self._feeds:
                    feed.stop()

    def _cause(self, problem: Problem) -> Problem:
        """What lies behind a problem: a part of an own stack that has died makes calls fail before it is noticed."""
        try:
            if self._located.stack is not None:
                self._located.stack.check()
        except Problem as death:
            return death
        return problem

    def _create(self, attack: AttackServer, spec: AttackSpec) -> AttackJob:
        from afr.attack.v1.attack_service_pb2 import CreateAttackJobRequest

        from cli.reading import behind_defence

        request = CreateAttackJobRequest(spec=spec, request_id=str(uuid.uuid4()))
        job: AttackJob = attack.call(attack.stub.CreateAttackJob, request).attack_job
        chosen = job.spec
        parameters = ", ".join(f"{name} {value:g}" for name, value in sorted(chosen.attack_parameters.items()))
        behind = behind_defence(chosen)
        divided = f", in {chosen.shard_count} shards" if chosen.shard_count > 1 else ""
        self._display.note(
            f"job {job.attack_job_id}: {chosen.attack} ({chosen.engine}, norm {chosen.norm}, {parameters}) against "
            f"{chosen.model}{behind} on {chosen.sample_count} samples of {chosen.dataset}{divided}"
        )
        return job

    def _follow(
        self, attack: AttackServer, job: AttackJob, options: ReportOptions, precision: Precision | None
    ) -> Report:
        from afr.survival.v1.survival_service_pb2 import CreateReportRequest

        from cli.connecting import SurvivalServer
        from cli.following import OutcomeFeed, ReportFeed

        self._view.job = job
        self._begin(OutcomeFeed(attack, job.attack_job_id, self._events))
        survival: SurvivalServer | None = None
        request = CreateReportRequest(attack_job_ids=[job.attack_job_id], options=options, precision=precision)
        stack = self._located.stack
        while self._report is None or not self.final_state:
            interrupts.check()
            if stack is not None:
                stack.check()
            if survival is None and (address := self._survival_address()):
                survival = SurvivalServer(address)
                self._begin(ReportFeed(survival, request, self._events))
            self._take_events(0.1)
            self._view.waiting_for = self._pending()
            self._display.update(self._view)
        return self._report

    def _begin(self, feed: Feed) -> None:
        self._feeds.append(feed)
        feed.start()

    def _survival_address(self) -> str:
        """The survival server's address, empty as long as an own one is still starting."""
        if self._located.survival_address or self._located.stack is None:
            return self._located.survival_address
        for child in self._located.stack.children:
            if child.name == "survival server":
                return child.ready() or ""
        return ""

    def _pending(self) -> str:
        """What of an own stack is not ready yet, in words for a person who waits."""
        from cli.stack import WORKER, part_of

        stack = self._located.stack
        workers = [child for child in stack.children if part_of(child.name) == WORKER] if stack else []
        return "the worker to start" if workers and all(child.ready() is None for child in workers) else ""

    def _take_events(self, seconds: float) -> None:
        """Take in what has arrived, waiting a moment for the first of it."""
        with contextlib.suppress(queue.Empty):
            self._take(self._events.get(timeout=seconds))
            while True:
                self._take(self._events.get_nowait())

    def _take(self, event: Event) -> None:
        from cli.following import (
            BatchArrived,
            JobChanged,
            JobEnded,
            ReportArrived,
            ReportProgressed,
            StreamBroken,
            StreamResumed,
        )

        match event:
            case JobChanged(job):
                self._show_job(job)
            case BatchArrived(batch):
                self.outcomes.add(batch)
                self._view.seconds_per_sample = self.outcomes.seconds_per_sample
            case JobEnded(end):
                self._show_job(end.attack_job)
                if end.attack_job.state == _FAILED:
                    raise Problem(end.attack_job.failure_message or "the job failed; the worker's log says why")
                self.outcomes.verify(end)
                self.final_state = end.attack_job.state
                samples = f"{end.outcome_count} sample{'' if end.outcome_count == 1 else 's'}"
                self._display.note(
                    f"attacked {samples}: {end.failed_count} failed, {end.survived_count} survived, "
                    f"{end.misclassified_count} misclassified before the attack"
                )
            case ReportProgressed(progress):
                self._view.report_progress = progress
                if progress.stopping.met and not self.final_state and not self._stopping:
                    self._stop_as_planned(progress.stopping)
            case ReportArrived(report):
                self._report = report
            case StreamResumed(sentence):
                self._display.note(sentence)
            case StreamBroken(source, error):
                if source == "report" and isinstance(error, Problem):
                    # If the job has failed, its own message says more; it is on its way.
                    self._await_end(3.0)
                raise error

    def _stop_as_planned(self, stopping: Stopping) -> None:
        """Cancel the job, since it has told what it was asked. If that fails, the next progress tries again."""
        if self._view.job is None:
            return
        self._stopping = cancel_job(self._located.attack_address, self._view.job.attack_job_id)
        found = f"the {quantity_word(stopping.quantity)} is known to ×/÷ {number(stopping.looks[-1].interval_factor)}"
        doing = "stopping the job as planned" if self._stopping else "the server did not confirm the stop of the job"
        self._display.note(f"{found}: {doing}")

    def _await_end(self, seconds: float) -> None:
        import time

        deadline = time.monotonic() + seconds
        while not self.final_state and time.monotonic() < deadline and not interrupts.impatient:
            self._take_events(0.1)

    def _show_job(self, job: AttackJob) -> None:
        from cli.reading import describe_model

        before, self._view.job = self._view.job, job
        if job.HasField("model_record") and not (before and before.HasField("model_record")):
            self._display.note(describe_model(job))
        for warning in job.warnings:
            # That there is no worker is no news while our own is starting; its death is noticed otherwise.
            if warning not in self._said and not (self._located.own and "no worker" in warning):
                self._said.add(warning)
                self._display.note(f"note: {warning}")

    def _abandon(self, job_id: str) -> None:
        """Cancel the job, wait a moment for its last outcomes, keep what has arrived."""
        with interrupts.shielded():
            self._display.note("stopping: canceling the job")
            canceled = cancel_job(self._located.attack_address, job_id)
            with contextlib.suppress(Exception):
                if canceled:
                    self._await_end(3.0)
            kept = self._keep_outcomes()
            if not self._located.own:
                more = (
                    f"; `afrctl report {job_id}` reports on the samples attacked so far" if len(self.outcomes) else ""
                )
                kept = "; ".join(
                    part
                    for part in (
                        (
                            f"job {job_id} is canceled{more}"
                            if canceled
                            else f"the server did not confirm the cancel of job {job_id}"
                        ),
                        kept,
                    )
                    if part
                )
            self._display.close()
            with contextlib.suppress(OSError):
                click.echo(f"interrupted{f': {kept}' if kept else ''}", err=True)

    def _keep_outcomes(self) -> str:
        """Write the outcomes that have arrived; say where, or nothing if there are none or they cannot be written."""
        from cli.publishing import OUTCOMES_CSV

        if not len(self.outcomes):
            return ""
        path = self._folder / OUTCOMES_CSV
        try:
            self.outcomes.write(path)
        except OSError:
            return ""
        return f"the outcomes of {len(self.outcomes)} samples are in {path}"


def _check_survival_server(address: str) -> None:
    """Raise `Problem` if the server does not answer: hours of attacking must not end without a report."""
    from afr.survival.v1.survival_service_pb2 import ListReportsRequest

    from cli.connecting import survival_server

    with survival_server(address) as survival:
        survival.call(survival.stub.ListReports, ListReportsRequest(page_size=1))


def _publish(evaluation: Evaluation, report: Report, folder: Path, output_format: str, quiet: bool) -> None:
    from cli.publishing import publish

    publish(report, folder, output_format=output_format, outcomes=evaluation.outcomes)
    if not quiet:
        click.echo(f"\nreport.html, report.json and outcomes.csv are in {folder}", err=True)
