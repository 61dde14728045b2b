"""One evaluation as it runs: the job, its outcomes as they come, its report, and what is kept if it ends early."""

from __future__ import annotations

import contextlib
import queue
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.canceling import cancel_job
from cli.errors import Interrupted, Problem
from cli.interrupts import interrupts
from cli.quantities import number, quantity_word

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec
    from afr.survival.v1.survival_service_pb2 import Precision, Report, ReportOptions, Stopping

    from cli.connecting import AttackServer
    from cli.following import Event, Feed
    from cli.locating import Services
    from cli.progress import Display


class Evaluation:
    """One evaluation: creates the job, follows its outcomes and its report, shows where they stand."""

    def __init__(self, located: Services, display: Display, folder: Path) -> None:
        from cli.outcomes import ReceivedOutcomes
        from cli.progress import View, Warnings

        self.outcomes = ReceivedOutcomes()
        self.final_state = 0
        self._stopping = False
        self._located, self._display, self._folder = located, display, folder
        self._view = View()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._feeds: list[Feed] = []
        self._report: Report | None = None
        self._warnings = Warnings(display, own_worker=located.own)

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

        self._view.job = self.outcomes.job = job
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
                if end.attack_job.state == end.attack_job.STATE_FAILED:
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

        before, self._view.job, self.outcomes.job = self._view.job, job, job
        if job.HasField("model_record") and not (before and before.HasField("model_record")):
            self._display.note(describe_model(job))
        self._warnings.show(job)

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
        count = len(self.outcomes)
        # A server that goes on can report on the job itself, and knows what training cost.
        more = f"; `afrctl report --outcomes {path}` reports on them" if self._located.own else ""
        return f"the outcomes of {count} sample{'' if count == 1 else 's'} are in {path}{more}"


def _check_survival_server(address: str) -> None:
    """Raise `Problem` if the server does not answer: hours of attacking must not end without a report."""
    from afr.survival.v1.survival_service_pb2 import ListReportsRequest

    from cli.connecting import survival_server

    with survival_server(address) as survival:
        survival.call(survival.stub.ListReports, ListReportsRequest(page_size=1))
