"""A running job and its report, followed in the background: streams become events in a queue."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.connecting import AttackServer, Server, SurvivalServer
from cli.errors import Problem
from cli.interrupts import interrupts

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, End
    from afr.outcome.v1.outcome_pb2 import OutcomeBatch
    from afr.survival.v1.survival_service_pb2 import CreateReportRequest, Report, ReportProgress

_PATIENCE_SECONDS = 30.0
"""How long a stream that has broken off is tried again before the command gives up."""


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A sign of life of the job."""

    job: AttackJob


@dataclass(frozen=True, slots=True)
class BatchArrived:
    """Outcomes were recorded."""

    batch: OutcomeBatch


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job has ended, and this is all of it."""

    end: End


@dataclass(frozen=True, slots=True)
class ReportProgressed:
    """The survival server has read further."""

    progress: ReportProgress


@dataclass(frozen=True, slots=True)
class ReportArrived:
    """The report."""

    report: Report


@dataclass(frozen=True, slots=True)
class StreamResumed:
    """A stream broke off and is being tried again."""

    sentence: str


@dataclass(frozen=True, slots=True)
class StreamBroken:
    """A stream cannot go on. `source` is `outcomes` or `report`."""

    source: str
    error: Exception


Event = JobChanged | BatchArrived | JobEnded | ReportProgressed | ReportArrived | StreamResumed | StreamBroken


def arrivals(events: queue.SimpleQueue[Event], silence_seconds: float) -> Iterator[Event | None]:
    """Events as they arrive, and None after each silence of so many seconds. Raises `Interrupted` then."""
    while True:
        try:
            yield events.get(timeout=silence_seconds)
        except queue.Empty:
            interrupts.check()
            yield None


class Feed:
    """A thread that reads one stream into a queue, from where it broke off if it breaks off."""

    def __init__(self, source: str, events: queue.SimpleQueue[Event], server: Server) -> None:
        self._source, self._events, self._server = source, events, server
        self._call: Any = None
        self._stopped = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"afrctl-{self._source}", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        if self._call is not None:
            self._call.cancel()

    def _run(self) -> None:
        try:
            for event in self.read():
                self._events.put(event)
        except Exception as error:
            if not self._stopped.is_set():
                self._events.put(StreamBroken(self._source, error))

    def read(self) -> Iterator[Event]:
        """The events of the whole stream, over all its calls."""
        raise NotImplementedError

    def _responses(self, open_call: Callable[[], Any]) -> Iterator[Any]:
        """The responses of one stream, opened again while the server cannot be reached."""
        import grpc

        broken_since: float | None = None
        while True:
            try:
                self._call = open_call()
                if self._stopped.is_set():
                    self._call.cancel()
                for response in self._call:
                    broken_since = None
                    yield response
                return
            except grpc.RpcError as error:
                now = time.monotonic()
                patient = broken_since is None or now - broken_since < _PATIENCE_SECONDS
                # A server that stops cancels calls that reach it on the way out.
                passing = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                if not passing or not patient or self._stopped.is_set():
                    raise self._server.problem(error) from error
                if broken_since is None:
                    broken_since = now
                    yield StreamResumed(f"the {self._server.name} cannot be reached; trying again")
                # Spread, so that many clients do not come back at the same moment.
                self._stopped.wait(0.3 + 0.7 * random.random())


class OutcomeFeed(Feed):
    """Follows `StreamOutcomes` of one job to its end; a new call continues after the last response."""

    def __init__(self, server: AttackServer, job_id: str, events: queue.SimpleQueue[Event]) -> None:
        super().__init__("outcomes", events, server)
        self._stub, self._job_id, self._token = server.stub, job_id, ""

    def read(self) -> Iterator[Event]:
        from afr.attack.v1.attack_service_pb2 import StreamOutcomesRequest

        def open_call() -> Any:
            return self._stub.StreamOutcomes(
                StreamOutcomesRequest(attack_job_id=self._job_id, resume_token=self._token)
            )

        for response in self._responses(open_call):
            if isinstance(response, StreamResumed):
                yield response
                continue
            kind = response.WhichOneof("event")
            self._token = response.resume_token or self._token
            if kind == "outcome_batch":
                yield BatchArrived(response.outcome_batch)
            elif kind == "heartbeat":
                yield JobChanged(response.heartbeat.attack_job)
            elif kind == "end":
                yield JobEnded(response.end)
                return
        raise Problem("the stream of outcomes stopped before its end; follow the job with `afrctl jobs follow`")


class ReportFeed(Feed):
    """Follows `CreateReport` to the report; a new call reads everything again."""

    def __init__(self, server: SurvivalServer, request: CreateReportRequest, events: queue.SimpleQueue[Event]) -> None:
        super().__init__("report", events, server)
        self._stub, self._request = server.stub, request

    def read(self) -> Iterator[Event]:
        for response in self._responses(lambda: self._stub.CreateReport(self._request)):
            if isinstance(response, StreamResumed):
                yield response
                continue
            kind = response.WhichOneof("event")
            if kind == "progress":
                if response.progress.HasField("stopping"):
                    # A call that goes on after this one must not spend again what its looks have spent.
                    del self._request.precision.earlier_looks[:]
                    self._request.precision.earlier_looks.extend(response.progress.stopping.looks)
                yield ReportProgressed(response.progress)
            elif kind == "report":
                yield ReportArrived(response.report)
                return
        raise Problem("the survival server ended without a report; ask again with `afrctl report JOB`")
