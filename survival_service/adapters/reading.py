"""Attack jobs being read together: what their streams bring, held back until someone takes it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from afr.attack.v1 import attack_service_pb2 as attack_pb

from survival_service.adapters.attack_client import AttackClient, Ended, Event, Recorded
from survival_service.adapters.wire import batch_messages, job_messages
from survival_service.errors import InvalidObservations, InvalidRequest, JobFailed, OutcomesCorrupt
from survival_service.jobs import JobFacts
from survival_service.outcome_table import OutcomeTable

_EVENTS_HELD = 256
"""Events that may wait to be taken. Beyond it reading pauses, and gRPC's flow control slows the attack service."""


@dataclass(slots=True)
class JobRead:
    """One attack job, as far as it has been taken in."""

    job: attack_pb.AttackJob
    table: OutcomeTable = field(default_factory=OutcomeTable)
    dataset_digest: str = ""
    ended: bool = False

    @property
    def facts(self) -> JobFacts:
        return job_messages.job_facts(self.job, dataset_digest=self.dataset_digest)

    def take(self, event: Event) -> None:
        """Take one event in. Raises `JobFailed` when a failed job ends, `OutcomesCorrupt` for rows that are none."""
        if isinstance(event, Recorded):
            batch = event.batch
            try:
                columns, in_flight = batch_messages.outcome_columns(batch), batch_messages.in_flight_columns(batch)
            except InvalidObservations as error:
                raise OutcomesCorrupt(
                    f"batch {batch.sequence} of attack job {self.job.attack_job_id} has rows that are no outcomes: "
                    f"{error}; run the job again"
                ) from error
            self.table.add(columns, in_flight, shard_index=batch.shard_index)
            self.dataset_digest = batch.dataset_digest
            return
        self.job = event.job
        if isinstance(event, Ended):
            self.ended = True
            self.table.end()
            self.require_not_failed()

    def require_attacked(self) -> None:
        """Raise `InvalidRequest` for a job that only trains: nothing survives where nothing attacks."""
        if self.job.spec.attack == "none":
            raise InvalidRequest(
                "attack_job_ids",
                f"job {self.job.attack_job_id} trained a model and attacked nothing, so there is nothing to report; "
                "attack the model with `afrctl evaluate`",
            )

    def require_not_failed(self) -> None:
        if self.job.state == attack_pb.AttackJob.STATE_FAILED:
            why = self.job.failure_message or "it gave no reason"
            raise JobFailed(f"attack job {self.job.attack_job_id} failed, so there is nothing to report: {why}")


class Reading:
    """Reads jobs concurrently from `open` to `close`; nothing is taken in before `take` is called.

    Reading happens on the event loop and taking in a worker thread, never two at once: between two calls of `take`
    the jobs stand still, so that fits see one state of them.
    """

    def __init__(self, client: AttackClient, attack_job_ids: Sequence[str]) -> None:
        self._client = client
        self._identifiers = attack_job_ids
        self._events: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(_EVENTS_HELD)
        self._tasks: list[asyncio.Task[None]] = []
        self._following = len(attack_job_ids)
        self._complete = asyncio.Event()
        self.jobs: list[JobRead] = []

    async def open(self) -> Self:
        """Look every job up, then start reading.

        Raises what `AttackClient.job` does, `JobFailed`, and `InvalidRequest` for a job that attacks nothing.
        """
        jobs = await asyncio.gather(*(self._client.job(identifier) for identifier in self._identifiers))
        self.jobs = [JobRead(job) for job in jobs]
        for read in self.jobs:
            read.require_attacked()
            read.require_not_failed()
        self._tasks = [asyncio.create_task(self._follow(position)) for position in range(len(self.jobs))]
        return self

    @property
    def ended(self) -> bool:
        """Whether every job has ended and was taken in."""
        return all(read.ended for read in self.jobs)

    async def wait(self, seconds: float) -> list[tuple[int, Event | Exception]]:
        """Everything that has arrived since the last call; waits up to `seconds` for the first of it."""
        try:
            arrived = [await asyncio.wait_for(self._events.get(), seconds)]
        except TimeoutError:
            return []
        while not self._events.empty():
            arrived.append(self._events.get_nowait())
        return arrived

    async def rest(self, seconds: float) -> None:
        """Let news pile up for a while; no longer than until there will be none."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._complete.wait(), max(seconds, 0.0))

    def take(self, arrived: Sequence[tuple[int, Event | Exception]]) -> bool:
        """Take in what arrived; whether there were outcomes among it. Raises what ended a job's stream."""
        recorded = False
        for position, event in arrived:
            if isinstance(event, Exception):
                raise event
            self.jobs[position].take(event)
            recorded = recorded or isinstance(event, Recorded)
        return recorded

    def close(self) -> None:
        """Stop reading. May be called more than once."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self, position: int) -> None:
        news: Event | Exception
        try:
            async for news in self._client.outcomes(self._identifiers[position]):
                await self._events.put((position, news))
        except Exception as error:
            news = error
            await self._events.put((position, news))
        self._following -= 1
        if isinstance(news, Exception) or not self._following:
            self._complete.set()
