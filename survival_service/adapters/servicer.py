"""The calls of the survival service: reads, asks the science, answers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import grpc
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1 import survival_service_pb2_grpc as pb_grpc

from survival_service import reporting
from survival_service.adapters.attack_client import AttackClient
from survival_service.adapters.reading import Reading
from survival_service.adapters.report_store import ReportStore, new_report_id
from survival_service.adapters.submission import ReportSubmission, Submission
from survival_service.adapters.wire import report_messages, request_messages
from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL
from survival_service.planning import plan_samples
from survival_service.reports import Report, ReportOptions, ReportProgress
from survival_service.sequential import Monitor
from survival_service.stopping import decided, look_at

MOST_JOBS = 1000
"""Attack jobs in one report; each holds a stream open."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a running report is refitted, in seconds."""

    shortest: float = 1.0
    """Between the beginnings of two provisional fits."""

    share: float = 0.25
    """The most of one thread that provisional fits may take: a fit of two seconds is followed by six of rest."""

    quiet: float = 15.0
    """After this long without news the last progress is repeated, as a sign of life."""


class SurvivalServicer(pb_grpc.SurvivalServiceServicer):
    """All of the contract's `SurvivalService`. Fits run in worker threads; the event loop only reads and answers."""

    def __init__(self, client: AttackClient, store: ReportStore, pace: Pace | None = None) -> None:
        self._client = client
        self._store = store
        self._pace = pace or Pace()
        # As many as there are cores: more fits at once would only make each slower.
        self._workers = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fit")

    def close(self) -> None:
        """Forget fits that have not begun."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def CreateReport(  # noqa: N802 (the contract's name)
        self, request: pb.CreateReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.CreateReportResponse]:
        options = request_messages.report_options(request.options)
        monitor = request_messages.monitor(request, options)
        reading = Reading(self._client, request_messages.attack_job_ids(request, MOST_JOBS))
        # The generator of a call that its client cancelled is closed some time later; its reading must stop now.
        context.add_done_callback(lambda _: reading.close())  # type: ignore[arg-type]  # a protocol with a positional name
        try:
            await reading.open()
            reporting.require_clock([read.facts for read in reading.jobs], options)
            async for progress in self._follow(reading, options, monitor):
                yield pb.CreateReportResponse(progress=report_messages.progress(progress))
            looked = _looked(monitor, progress)
            report = await self._work(lambda: reporting.make_report(_facts_and_tables(reading), options, looked))
        finally:
            reading.close()
        yield pb.CreateReportResponse(report=await self._work(lambda: self._keep(report)))

    async def _follow(
        self, reading: Reading, options: ReportOptions, monitor: Monitor | None
    ) -> AsyncIterator[ReportProgress]:
        """The progress of a reading until all its jobs have ended, at a bounded rate, with the looks that fell due."""
        loop = asyncio.get_running_loop()
        progress = ReportProgress(0, 0, 0, 0, 0)
        if monitor is not None:
            progress = replace(progress, stopping=decided(monitor, *_facts_and_tables(reading)[0], options.clock))
        yield progress
        said = loop.time()
        while not reading.ended:
            began = loop.time()
            arrived = await reading.wait(self._pace.quiet)
            working = loop.time()
            recorded = await self._work(lambda batch=arrived: reading.take(batch))  # type: ignore[misc]
            # A job that ends without another outcome gets its last look all the same.
            news = recorded or (monitor is not None and reading.ended)
            if news:
                progress = await self._work(lambda last=progress: _progress(reading, options, last, monitor))  # type: ignore[misc]
            if news or loop.time() - said >= self._pace.quiet:
                yield progress
                said = loop.time()
            if recorded and not reading.ended:
                worked = loop.time() - working
                due = max(began + self._pace.shortest, working + worked / self._pace.share)
                await reading.rest(due - loop.time())

    def _keep(self, report: Report) -> pb.Report:
        now = datetime.now(UTC)
        message = report_messages.report(replace(report, report_id=new_report_id(now), create_time=now))
        try:
            self._store.put(message)
        except OSError as error:
            # Hours of attacks are in this report: it is handed out even where it cannot be kept.
            _log.error("report %s cannot be kept: %s", message.report_id, error)
            message.limitations.append(f"The survival service could not keep this report ({error}); keep this copy.")
        return message

    async def GetReport(  # noqa: N802
        self, request: pb.GetReportRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetReportResponse:
        if not request.report_id:
            raise InvalidRequest("report_id", "report_id is empty; name the report to get")
        return pb.GetReportResponse(report=await asyncio.to_thread(self._store.get, request.report_id))

    async def ListReports(  # noqa: N802
        self, request: pb.ListReportsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListReportsResponse:
        reports, token = await asyncio.to_thread(self._store.page, request.page_size, request.page_token)
        return pb.ListReportsResponse(reports=reports, next_page_token=token)

    async def FitOutcomes(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.FitOutcomesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.FitOutcomesResponse:
        submission = Submission()
        async for request in request_iterator:
            submission.add(request)
        return report_messages.fits(await self._work(submission.fit))

    async def ReportOutcomes(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ReportOutcomesRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> pb.ReportOutcomesResponse:
        submission = ReportSubmission()
        async for request in request_iterator:
            submission.add(request)
        report = await self._work(lambda: self._keep(submission.report()))
        return pb.ReportOutcomesResponse(report=report)

    async def PlanSamples(  # noqa: N802
        self, request: pb.PlanSamplesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PlanSamplesResponse:
        distribution, comparison = request_messages.planned_distribution(request), request_messages.comparison(request)
        plan = await self._work(
            lambda: plan_samples(
                distribution,
                scale=request.scale,
                failure_share=request.failure_share,
                check_count=request.check_count,
                interval_factor=request.interval_factor,
                level=request.confidence_level or DEFAULT_LEVEL,
                comparison=comparison,
            )
        )
        return report_messages.plan(plan)

    async def _work(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)


def _progress(
    reading: Reading, options: ReportOptions, last: ReportProgress, monitor: Monitor | None
) -> ReportProgress:
    jobs, looked = _facts_and_tables(reading), _looked(monitor, last)
    if looked is not None:
        looked = look_at(looked, *jobs[0], options.clock, ended=reading.ended)
    return reporting.make_progress(jobs, options, last, looked)


def _looked(monitor: Monitor | None, progress: ReportProgress) -> Monitor | None:
    """The monitor with the looks taken until this progress."""
    return monitor if monitor is None or progress.stopping is None else replace(monitor, looks=progress.stopping.looks)


def _facts_and_tables(reading: Reading) -> list[tuple[Any, Any]]:
    return [(read.facts, read.table) for read in reading.jobs]
