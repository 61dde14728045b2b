"""The survival service's client of the attack service: follows a job's outcomes through every kind of break."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as pb_grpc
from afr.outcome.v1 import outcome_pb2 as outcome_pb
from afr.rpc.errors import Failure, failure_of

from survival_service.adapters.verifying import StreamVerifier
from survival_service.errors import (
    AttackServiceUnavailable,
    JobNotFound,
    OutcomesCorrupt,
    SurvivalServiceError,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds."""

    first_contact: float = 10.0
    """For the first answer about a job: a service that is not there should be reported soon."""

    without_message: float = 120.0
    """For a broken stream to come back, from the first break on, over all reconnections."""

    silence: float = 45.0
    """For a message on one connection: three heartbeats have been missed, so it is dead."""

    answer: float = 10.0
    """For the answer to one unary call."""

    shortest_pause: float = 0.1
    """Before the first reconnection; doubles with each that brings no message."""

    longest_pause: float = 5.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A batch of outcomes, the next of its shard and proved whole."""

    batch: outcome_pb.OutcomeBatch


@dataclass(frozen=True, slots=True)
class Alive:
    """The job as it is now."""

    job: pb.AttackJob


@dataclass(frozen=True, slots=True)
class Ended:
    """The job in its final state; every outcome was received."""

    job: pb.AttackJob


Event = Recorded | Alive | Ended


class AttackClient:
    """Reads attack jobs over a channel that the caller opened and closes."""

    def __init__(self, channel: grpc.aio.Channel, address: str, patience: Patience | None = None) -> None:
        self._stub: pb_grpc.AttackServiceAsyncStub = pb_grpc.AttackServiceStub(channel)
        self._address = address
        self._patience = patience or Patience()

    async def job(self, attack_job_id: str) -> pb.AttackJob:
        """The job as it is now. Raises `JobNotFound` or `AttackServiceUnavailable`."""
        request = pb.GetAttackJobRequest(attack_job_id=attack_job_id)
        retry = _Retry(self._patience, self._patience.first_contact)
        while True:
            try:
                response = await self._stub.GetAttackJob(request, timeout=self._patience.answer)
            except grpc.aio.AioRpcError as error:
                await retry.after(self._judge(error, attack_job_id))
            else:
                return response.attack_job

    async def outcomes(self, attack_job_id: str) -> AsyncIterator[Event]:
        """Everything recorded for a job, from its first outcome to its end, each batch exactly once.

        Waits while the job is queued or runs. A connection that breaks or falls silent is replaced, and the stream
        continues after the last message. Raises `JobNotFound`, `OutcomesCorrupt`, or, once nothing has arrived for
        longer than `Patience.without_message`, `AttackServiceUnavailable`.
        """
        verifier = StreamVerifier(attack_job_id)
        token = ""
        retry = _Retry(self._patience, self._patience.without_message)
        while True:
            request = pb.StreamOutcomesRequest(attack_job_id=attack_job_id, resume_token=token)
            call = self._stub.StreamOutcomes(request)
            retry.connecting()
            try:
                while (response := await self._next(call)) is not None:
                    event = self._verified(response, verifier)
                    retry.arrived(progress=isinstance(event, Recorded | Ended))
                    token = response.resume_token or token
                    if event is not None:
                        yield event
                    if isinstance(event, Ended):
                        return
                broken: AttackServiceUnavailable = self._unavailable("it closed the stream before the job's end")
            except TimeoutError:
                broken = self._unavailable(f"it sent nothing for {self._patience.silence:g} s")
            except grpc.aio.AioRpcError as error:
                broken = self._judge(error, attack_job_id)
            finally:
                # A reader that stops early, or is cancelled, must not leave the attack service streaming.
                call.cancel()
            _log.info("resuming the outcomes of %s: %s", attack_job_id, broken)
            await retry.after(broken)

    async def _next(
        self, call: grpc.aio.UnaryStreamCall[pb.StreamOutcomesRequest, pb.StreamOutcomesResponse]
    ) -> pb.StreamOutcomesResponse | None:
        response = await asyncio.wait_for(call.read(), self._patience.silence)
        return response if isinstance(response, pb.StreamOutcomesResponse) else None

    @staticmethod
    def _verified(response: pb.StreamOutcomesResponse, verifier: StreamVerifier) -> Event | None:
        match response.WhichOneof("event"):
            case "outcome_batch":
                verifier.batch(response.outcome_batch)
                return Recorded(response.outcome_batch)
            case "heartbeat":
                return Alive(response.heartbeat.attack_job)
            case "end":
                verifier.end(response.end)
                return Ended(response.end.attack_job)
            case _:
                return None  # an event of a newer attack service

    def _judge(self, error: grpc.aio.AioRpcError, attack_job_id: str) -> AttackServiceUnavailable:
        """Return what a broken connection should be called if it never comes back; raise what waiting cannot mend."""
        failure = failure_of(error)
        if _may_pass(failure):
            return self._unavailable(failure.message)
        raise self._final(failure, attack_job_id) from error

    def _final(self, failure: Failure, attack_job_id: str) -> SurvivalServiceError:
        match failure.code:
            case grpc.StatusCode.NOT_FOUND:
                return JobNotFound(
                    f"the attack service at {self._address} knows no attack job {attack_job_id!r}; "
                    "`afrctl jobs list` shows those it knows"
                )
            case grpc.StatusCode.OUT_OF_RANGE:
                return JobNotFound(f"the outcomes of attack job {attack_job_id} are no longer kept; run the job again")
            case grpc.StatusCode.DATA_LOSS:
                return OutcomesCorrupt(
                    f"the attack service lost outcomes of attack job {attack_job_id} ({failure.message}); "
                    "run the job again"
                )
            case _:
                return self._unavailable(f"{failure.code.name}: {failure.message}")

    def _unavailable(self, why: str) -> AttackServiceUnavailable:
        return AttackServiceUnavailable(
            f"the attack service at {self._address} cannot be reached ({why.strip() or 'no reason given'}); "
            "check that it runs and that the survival service was started with its address"
        )


def _may_pass(failure: Failure) -> bool:
    """Whether the same call may succeed later."""
    match failure.code:
        case (
            grpc.StatusCode.UNAVAILABLE
            | grpc.StatusCode.CANCELLED
            | grpc.StatusCode.DEADLINE_EXCEEDED
            | grpc.StatusCode.RESOURCE_EXHAUSTED
        ):
            return True
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:
            # What the transport makes of a reset stream; a server's own errors read differently.
            return "RST_STREAM" in failure.message or "Stream removed" in failure.message
        case _:
            return False


class _Retry:
    """Pauses that double from break to break, until patience ends."""

    def __init__(self, patience: Patience, limit: float) -> None:
        self._patience = patience
        self._limit = limit
        self._clock = asyncio.get_running_loop().time
        self._connected_at = self._clock()
        self._pause = patience.shortest_pause
        self._give_up: float | None = None

    def connecting(self) -> None:
        self._connected_at = self._clock()

    def arrived(self, *, progress: bool) -> None:
        """A message arrived; the next break is a new one.

        Heartbeats alone do not count unless the connection has lasted: a server whose store is gone greets every
        reader and hangs up at once, and would be called ten times a second for ever.
        """
        if progress or self._clock() - self._connected_at > self._patience.longest_pause:
            self._pause = self._patience.shortest_pause
            self._give_up = None

    async def after(self, broken: AttackServiceUnavailable) -> None:
        """Wait before the next try, or raise `broken` if that would be too late."""
        if self._give_up is None:
            self._give_up = self._clock() + self._limit
        # Jitter keeps a thousand readers of one restarted server from coming back in one instant.
        pause = self._pause * random.uniform(0.5, 1.0)
        if self._clock() + pause > self._give_up:
            raise broken
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, self._patience.longest_pause)
