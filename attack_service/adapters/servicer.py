"""The calls of the attack service."""

# ruff: noqa: N802 -- the contract names the calls.

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.outcome.v1 import outcome_pb2

from attack_service import catalog
from attack_service.adapters import wire
from attack_service.adapters.errors import ServerStopping
from attack_service.adapters.job_store import JobStore, StoredJob, job_not_found, with_worker_warnings
from attack_service.adapters.outcome_log import Entry, OutcomeLog, Positions, decode_token, encode_token, start
from attack_service.adapters.queueing import JobQueue
from attack_service.errors import AttackServiceError, InvalidSpecification, OutcomesLost, StoreUnavailable
from attack_service.jobs import AttackJob

# News of a job goes out at most this often, and a quiet one is looked at this often: a dead worker makes no noise.
_NEWS_SECONDS = 0.2
_LOOK_SECONDS = 1.0
_LARGEST_PAGE = 1000
# Half of what a client takes in one message by default.
_PAGE_BYTES = 2 * 1024 * 1024

_log = logging.getLogger(__name__)


class AttackServicer(rpc.AttackServiceServicer):
    """Answers every call from Redis; computes nothing itself."""

    def __init__(self, jobs: JobStore, log: OutcomeLog, queue: JobQueue, heartbeat_seconds: float) -> None:
        self._jobs = jobs
        self._log = log
        self._queue = queue
        self._heartbeat_seconds = heartbeat_seconds
        self._stopping = asyncio.Event()

    async def stop(self) -> None:
        """End the streams; their clients continue elsewhere with their last resume token."""
        self._stopping.set()

    async def CreateAttackJob(self, request: pb.CreateAttackJobRequest, context: Any) -> pb.CreateAttackJobResponse:
        spec = catalog.resolve(wire.spec_from_proto(request.spec))
        queries, gradients = catalog.count_maxima(spec)
        request_id = _request_id(request.request_id)
        workers = 0 if spec.shard_count else await self._jobs.live_worker_count()
        if request.validate_only:
            job = pb.AttackJob(spec=wire.spec_to_proto(catalog.divide(spec, workers)))
        else:
            stored, created = await self._jobs.create(spec, request_id, worker_count=workers)
            if created:
                # Whoever prepares the model queues the other shards.
                await self._publish(stored.job.attack_job_id, [0])
            job = wire.job_to_proto(await self._with_warnings(stored))
        return pb.CreateAttackJobResponse(attack_job=job, query_count_maximum=queries, gradient_count_maximum=gradients)

    async def GetAttackJob(self, request: pb.GetAttackJobRequest, context: Any) -> pb.GetAttackJobResponse:
        stored = await self._jobs.get(_job_id(request.attack_job_id))
        return pb.GetAttackJobResponse(attack_job=wire.job_to_proto(await self._with_warnings(stored)))

    async def ListAttackJobs(self, request: pb.ListAttackJobsRequest, context: Any) -> pb.ListAttackJobsResponse:
        page, token = await self._jobs.page(min(request.page_size or 50, _LARGEST_PAGE), request.page_token)
        workers = await self._jobs.live_worker_count()
        return pb.ListAttackJobsResponse(
            attack_jobs=[wire.job_to_proto(with_worker_warnings(stored, workers)) for stored in page],
            next_page_token=token,
        )

    async def CancelAttackJob(self, request: pb.CancelAttackJobRequest, context: Any) -> pb.CancelAttackJobResponse:
        stored = await self._jobs.cancel(_job_id(request.attack_job_id))
        return pb.CancelAttackJobResponse(attack_job=wire.job_to_proto(await self._with_warnings(stored)))

    async def DeleteAttackJob(self, request: pb.DeleteAttackJobRequest, context: Any) -> pb.DeleteAttackJobResponse:
        await self._jobs.delete(_job_id(request.attack_job_id))
        return pb.DeleteAttackJobResponse()

    async def StreamOutcomes(
        self, request: pb.StreamOutcomesRequest, context: Any
    ) -> AsyncIterator[pb.StreamOutcomesResponse]:
        job_id = _job_id(request.attack_job_id)
        token = decode_token(job_id, request.resume_token)
        change = await self._log.last_change(job_id)
        stored = await self._jobs.get(job_id)
        positions = _continue(stored, token, "resume_token")
        await self._log.check(job_id, positions)
        loop = asyncio.get_running_loop()
        shown: AttackJob | None = None
        changed = False
        last_message = looked = loop.time()
        while True:
            job = await self._with_warnings(stored)
            moment = loop.time()
            news = job != shown and (shown is None or moment - last_message >= _NEWS_SECONDS or job.state.ended)
            if news or moment - last_message >= self._heartbeat_seconds:
                shown, last_message = job, moment
                yield pb.StreamOutcomesResponse(
                    heartbeat=pb.Heartbeat(attack_job=wire.job_to_proto(job)),
                    resume_token=encode_token(job_id, positions),
                )
            if job.state.ended:
                # Read after the state: nothing is appended to a job that has ended.
                entries = await self._log.read(job_id, positions)
                if not entries:
                    break
            else:
                pause = _NEWS_SECONDS if changed or job != shown else _LOOK_SECONDS
                entries, latest = await self._unless_stopping(self._log.wait(job_id, positions, change, pause))
                changed, change = changed or latest != change, latest
                # Each of many shards changes the job several times a second, and all of it is read at every look.
                if loop.time() - looked >= (_NEWS_SECONDS if changed else _LOOK_SECONDS):
                    changed, looked = False, loop.time()
                    stored = await self._jobs.get(job_id)
            for entry in entries:
                if self._stopping.is_set():
                    raise _stopping()
                positions = entry.positions
                last_message = loop.time()
                yield _response(job_id, entry)
        await self._check_complete(stored, positions)
        yield pb.StreamOutcomesResponse(
            end=wire.end_to_proto(stored.job, stored.tally), resume_token=encode_token(job_id, positions)
        )

    async def ListOutcomes(self, request: pb.ListOutcomesRequest, context: Any) -> pb.ListOutcomesResponse:
        job_id = _job_id(request.attack_job_id)
        token = decode_token(job_id, request.page_token, "page_token")
        stored = await self._jobs.get(job_id)
        positions = _continue(stored, token, "page_token")
        await self._log.check(job_id, positions)
        count, size = min(request.page_size or 100, _LARGEST_PAGE), 0
        batches: list[outcome_pb2.OutcomeBatch] = []
        while entries := await self._log.read(job_id, positions):
            for entry in entries:
                if len(batches) == count or (batches and size + len(entry.payload) > _PAGE_BYTES):
                    return pb.ListOutcomesResponse(
                        outcome_batches=batches, next_page_token=encode_token(job_id, positions)
                    )
                batches.append(outcome_pb2.OutcomeBatch.FromString(entry.payload))
                size += len(entry.payload)
                positions = entry.positions
        if stored.job.state.ended:
            await self._check_complete(stored, positions)
            return pb.ListOutcomesResponse(outcome_batches=batches)
        return pb.ListOutcomesResponse(outcome_batches=batches, next_page_token=encode_token(job_id, positions))

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        models = sorted(catalog.MODELS.values(), key=lambda model: model.depth)
        return pb.ListModelsResponse(
            models=[wire.model_to_proto(model) for model in models], trained_models=await self._jobs.trained_models()
        )

    async def ListAttacks(self, request: pb.ListAttacksRequest, context: Any) -> pb.ListAttacksResponse:
        attacks = sorted(catalog.ATTACKS.values(), key=lambda attack: attack.name)
        return pb.ListAttacksResponse(attacks=[wire.attack_to_proto(attack) for attack in attacks])

    async def ListDefences(self, request: pb.ListDefencesRequest, context: Any) -> pb.ListDefencesResponse:
        defences = sorted(catalog.DEFENCES.values(), key=lambda defence: defence.name)
        return pb.ListDefencesResponse(defences=[wire.defence_to_proto(defence) for defence in defences])

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:
        datasets = sorted(catalog.DATASETS.values(), key=lambda dataset: dataset.name)
        return pb.ListDatasetsResponse(datasets=[wire.dataset_to_proto(dataset) for dataset in datasets])

    async def reconcile(self, seconds: float) -> None:
        """Queue again, until `stop` and every `seconds`, shards that wait for a worker and are not in the queue.

        A crashed Redis may have lost their task, or a process died between recording and queueing. A task on its way
        from the queue to a worker is in neither for a moment, so a shard must be missing twice.

        Canceling is not enough to end it: Redis' client may swallow that, and the next round would begin.
        """
        missing: set[tuple[str, int]] = set()
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), seconds)
                return
            try:
                missing = await self._requeue(missing)
            except AttackServiceError as error:
                _log.warning("lost jobs could not be looked for, trying again: %s", error)
            except Exception:
                _log.exception("defect in looking for lost jobs; trying again")

    async def _requeue(self, missing_before: set[tuple[str, int]]) -> set[tuple[str, int]]:
        queued = await self._queue.shards()
        waiting = {
            (stored.job.attack_job_id, shard_index)
            for stored in await self._jobs.open_jobs()
            for shard_index in stored.waiting_shards
        }
        missing = waiting - queued
        for job_id, shard_index in sorted(missing & missing_before):
            _log.warning("shard %d of job %s had no task in the queue; queued again", shard_index, job_id)
            await self._publish(job_id, [shard_index])
        return missing - missing_before

    async def _publish(self, job_id: str, shard_indices: Iterable[int]) -> None:
        """Queue shards. Those that could not be queued are missing there, and found by `reconcile`."""
        try:
            await self._queue.publish(job_id, shard_indices)
        except StoreUnavailable as error:
            _log.warning("job %s: %s", job_id, error)

    async def _check_complete(self, stored: StoredJob, positions: Positions) -> None:
        """Raise `OutcomesLost` if an ended job's outcomes end too soon, `JobNotFound` if it was deleted meanwhile."""
        job_id, recorded = stored.job.attack_job_id, stored.tally.outcome_count
        read = sum(position.done for position in positions)
        if read != recorded:
            await self._jobs.get(job_id)
            raise OutcomesLost(
                f"{recorded} outcomes of attack job {job_id} were recorded, {read} are there; "
                "Redis has lost data, so run the job again"
            )

    async def _with_warnings(self, stored: StoredJob) -> AttackJob:
        if stored.job.state.ended or (stored.held and not stored.lost):
            return stored.job
        return with_worker_warnings(stored, await self._jobs.live_worker_count())

    async def _unless_stopping(self, waiting: Any) -> Any:
        """The result of a coroutine; raises `ServerStopping` as soon as the server stops."""
        work = asyncio.ensure_future(waiting)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                raise _stopping()
            return work.result()
        finally:
            for task in (work, stop):
                task.cancel()
            await asyncio.gather(work, stop, return_exceptions=True)


def _continue(stored: StoredJob, token: Positions | None, field: str) -> Positions:
    """Where reading goes on.

    Raises `InvalidSpecification` for a token of a job with other shards, `OutcomesLost` for a job of an older release.
    """
    if not stored.shards:
        raise OutcomesLost(
            f"attack job {stored.job.attack_job_id} was recorded by an older release, whose outcomes this one cannot "
            "read; run the job again"
        )
    positions = start(len(stored.shards)) if token is None else token
    if len(positions) != len(stored.shards):
        raise InvalidSpecification(
            field, f"{field} names {len(positions)} shards, but the job has {len(stored.shards)}; leave it empty"
        )
    return positions


def _stopping() -> ServerStopping:
    return ServerStopping("the server is stopping; continue with the last resume_token")


def _response(job_id: str, entry: Entry) -> pb.StreamOutcomesResponse:
    batch = outcome_pb2.OutcomeBatch.FromString(entry.payload)
    return pb.StreamOutcomesResponse(outcome_batch=batch, resume_token=encode_token(job_id, entry.positions))


def _job_id(text: str) -> str:
    if not text:
        raise InvalidSpecification("attack_job_id", "attack_job_id is required; afrctl jobs list shows the jobs")
    # It becomes part of Redis keys: nothing but what `JobStore.create` makes may reach them.
    if _uuid(text) != text:
        raise job_not_found(text[:80])
    return text


def _request_id(text: str) -> str:
    if text and not _uuid(text):
        raise InvalidSpecification("request_id", f"request_id {text[:80]!r} is no UUID")
    return _uuid(text)


def _uuid(text: str) -> str:
    """The canonical form of a UUID, empty if `text` is none."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return ""
