"""Attack jobs in Redis: records, the index, states that change only as they may.

A job is a hash; beside it are its warnings, a stream `changes` of one entry that wakes those who wait for news, and a
few keys a shard (`keys.ShardKeys`). `scripts` has every change of a state.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
from afr.attack.v1 import attack_service_pb2 as attack_pb2

from attack_service import catalog
from attack_service.adapters import scripts, wire
from attack_service.adapters.connecting import outages_as_domain_errors
from attack_service.adapters.keys import (
    INDEX,
    NUMBER,
    OPEN,
    WORKERS,
    JobKeys,
    request_key,
    worker_key,
    worker_models_key,
)
from attack_service.adapters.model_index import merged
from attack_service.errors import InvalidSpecification, JobNotEnded, JobNotFound, RequestConflict
from attack_service.jobs import AttackJob, AttackSpec, Progress, State, merge_progress
from attack_service.outcomes import Tally

CANCELED_WITHOUT_WORKER = (
    "a worker of it was lost before it was canceled, so the samples that this worker had in flight are not among the "
    "outcomes, and those that are there lean towards quick failures"
)
"""What the reader of such a job should know."""


@dataclass(frozen=True, slots=True)
class StoredShard:
    """A shard of a job at one moment."""

    done: bool
    begun: bool
    """Whether an attempt began and has not left."""
    held: bool
    """Whether a worker has given a sign of life for it lately."""
    tally: Tally
    """Of everything in its outcome log."""

    @property
    def lost(self) -> bool:
        return self.begun and not self.held


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is in Redis at one moment."""

    job: AttackJob
    shards: tuple[StoredShard, ...]
    """At least one; none of a job that a release before there were shards has left behind."""

    @property
    def held(self) -> bool:
        """Whether a worker has given a sign of life for it lately."""
        return any(shard.held for shard in self.shards)

    @property
    def lost(self) -> bool:
        """Whether a worker that was at work on it gives none any more."""
        return any(shard.lost for shard in self.shards)

    @property
    def tally(self) -> Tally:
        """Of everything in its outcome logs."""
        return sum((shard.tally for shard in self.shards), Tally())

    @property
    def waiting_shards(self) -> list[int]:
        """The shards that wait for a worker: all that may begin, are not done, and that nobody is at work on."""
        if self.job.state.ended:
            return []
        ready = self.shards if self.job.model_record is not None else self.shards[:1]
        return [index for index, shard in enumerate(ready) if not (shard.done or shard.held)]


class JobStore:
    """The server's side of the jobs. Every method may raise `StoreUnavailable`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._create = client.register_script(scripts.CREATE)
        self._cancel = client.register_script(scripts.CANCEL)
        self._delete = client.register_script(scripts.DELETE)

    async def create(self, spec: AttackSpec, request_id: str = "", *, worker_count: int = 1) -> tuple[StoredJob, bool]:
        """Record a new job of a resolved specification, QUEUED. Returns it, and whether it is new.

        If the number of shards was left open, it is chosen for `worker_count` workers (`catalog.divide`).

        With a `request_id` that was used before, returns the job that was created then. Raises `RequestConflict` if
        that job had been asked for with another specification.
        """
        job_id = str(uuid.uuid4())
        keys = JobKeys(job_id)
        divided = catalog.divide(spec, worker_count)
        fields: dict[str, Any] = {
            "spec": wire.spec_to_proto(divided).SerializeToString(deterministic=True),
            "shard_count": divided.shard_count,
            # What was asked for: the number of workers may be another when the request is repeated.
            "asked": _asked(spec),
            "state": State.QUEUED.value,
            "create_time": microseconds(now()),
            "request_id": request_id,
        }
        arguments = [part for pair in fields.items() for part in pair]
        request = [request_key(request_id)] if request_id else []
        with outages_as_domain_errors():
            known: Any = await self._create(
                keys=[keys.record, INDEX, OPEN, NUMBER, keys.changes, *request], args=[job_id, *arguments]
            )
            known_id = known.decode()
            asked: Any = await self._client.hget(JobKeys(known_id).record, "asked")
        stored = await self.get(known_id)
        # A job of an older release does not say.
        if asked is None or asked.decode() != _asked(spec):
            raise RequestConflict(
                f"request_id {request_id!r} was used for another specification (job {known_id}); use a new one"
            )
        return stored, known_id == job_id

    async def get(self, job_id: str) -> StoredJob:
        """The job as it is now. Raises `JobNotFound`."""
        (stored,) = await self._read([job_id])
        if stored is None:
            raise job_not_found(job_id)
        return stored

    async def page(self, page_size: int, page_token: str) -> tuple[list[StoredJob], str]:
        """A page of jobs, newest first, and the token of the next page; it is empty on the last."""
        highest = "+inf"
        if page_token:
            if not (page_token.isascii() and page_token.isdecimal() and len(page_token) < 16):
                raise InvalidSpecification("page_token", f"{page_token!r} is no page token of ListAttackJobs")
            highest = f"({page_token}"
        with outages_as_domain_errors():
            rows: Any = await self._client.zrange(
                INDEX, highest, "-inf", desc=True, byscore=True, offset=0, num=page_size + 1, withscores=True
            )
        page = rows[:page_size]
        jobs = await self._read([job_id.decode() for job_id, _ in page])
        token = str(int(page[-1][1])) if len(rows) > page_size else ""
        return [job for job in jobs if job is not None], token

    async def cancel(self, job_id: str) -> StoredJob:
        """Ask for the job to stop; a queued one ends at once. Raises `JobNotFound`."""
        keys = JobKeys(job_id)
        with outages_as_domain_errors():
            found = await self._cancel(
                keys=keys.whole(await self._shard_count(job_id)),
                args=[job_id, microseconds(now()), CANCELED_WITHOUT_WORKER],
            )
        if not found:
            raise job_not_found(job_id)
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        """Remove an ended job and its outcomes. Raises `JobNotFound`, `JobNotEnded`."""
        keys = JobKeys(job_id)
        with outages_as_domain_errors():
            request_id: Any = await self._client.hget(keys.record, "request_id")
            others = [keys.warnings, keys.timing_violations, keys.changes]
            # An older release had one shard, and did not say so.
            for shard in keys.shards(await self._shard_count(job_id) or 1):
                others += [shard.meta, shard.outcomes, shard.progress, shard.lease]
            if request_id:
                others.append(request_key(request_id.decode()))
            answer: Any = await self._delete(keys=[keys.record, INDEX, OPEN, *others], args=[job_id])
        if answer == b"missing":
            raise job_not_found(job_id)
        if answer == b"open":
            raise JobNotEnded(f"attack job {job_id} has not ended; cancel it before deleting it")

    async def open_jobs(self) -> list[StoredJob]:
        """The jobs that have not ended."""
        with outages_as_domain_errors():
            members: Any = await self._client.smembers(OPEN)
        jobs = await self._read(sorted(member.decode() for member in members))
        return [job for job in jobs if job is not None]

    async def live_worker_count(self) -> int:
        """The number of workers that gave a sign of life lately, busy or not."""
        with outages_as_domain_errors():
            members: Any = await self._client.smembers(WORKERS)
            if not members:
                return 0
            alive: Any = await self._client.mget([worker_key(member.decode()) for member in members])
            dead = [member for member, value in zip(members, alive, strict=True) if value is None]
            if dead:
                await self._client.srem(WORKERS, *dead)
        return len(members) - len(dead)

    async def trained_models(self) -> list[attack_pb2.TrainedModel]:
        """The models in the stores of the workers that live, newest first."""
        with outages_as_domain_errors():
            members: Any = await self._client.smembers(WORKERS)
            if not members:
                return []
            payloads: Any = await self._client.mget([worker_models_key(member.decode()) for member in members])
        return merged(payloads)

    async def _read(self, job_ids: Sequence[str]) -> list[StoredJob | None]:
        if not job_ids:
            return []
        with outages_as_domain_errors():
            async with self._client.pipeline(transaction=False) as pipe:
                for job_id in job_ids:
                    pipe.hget(JobKeys(job_id).record, "shard_count")
                shard_counts = [int(count or 0) for count in await pipe.execute()]
            # A transaction: a progress from after a state would be a job that is attacked once it has ended.
            async with self._client.pipeline(transaction=True) as pipe:
                for job_id, shard_count in zip(job_ids, shard_counts, strict=True):
                    keys = JobKeys(job_id)
                    pipe.hgetall(keys.record)
                    pipe.zrange(keys.warnings, 0, -1)
                    pipe.zrange(keys.timing_violations, 0, -1)
                    for shard in keys.shards(shard_count):
                        pipe.hgetall(shard.meta)
                        pipe.get(shard.progress)
                        pipe.exists(shard.lease)
                answers = iter(await pipe.execute())
        return [
            _stored(job_id, [next(answers) for _ in range(3 + 3 * shard_count)])
            for job_id, shard_count in zip(job_ids, shard_counts, strict=True)
        ]

    async def _shard_count(self, job_id: str) -> int:
        """0 if there is no such job."""
        count: Any = await self._client.hget(JobKeys(job_id).record, "shard_count")
        return int(count or 0)


def with_worker_warnings(stored: StoredJob, live_worker_count: int) -> AttackJob:
    """The job, with what its reader should know about the workers it waits for."""
    job = stored.job
    if job.state.ended:
        return job
    if not stored.shards:
        sentence = "it was queued by an older release, whose jobs no worker takes any more; cancel it, and run it again"
    elif live_worker_count == 0 and not stored.held:
        sentence = "no worker is running; start one with python -m attack_service work"
    elif stored.lost:
        sentence = "a worker of this job was lost; another attempt will continue what it did"
    else:
        return job
    return replace(job, warnings=(*job.warnings, sentence))


def decode_tally(meta: dict[bytes, bytes]) -> Tally:
    """The tally in the hash of a shard."""
    names = (b"failed_count", b"survived_count", b"misclassified_count", b"checksum")
    return Tally(*(int(meta.get(name, 0)) for name in names))


def job_not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no attack job {job_id!r}; afrctl jobs list shows those there are")


def now() -> datetime:
    return datetime.now(UTC)


def microseconds(time: datetime) -> int:
    """Since 1970. Whole numbers, which scripts and readers cannot round."""
    return round(time.timestamp() * 1e6)


def _time(value: bytes | None) -> datetime | None:
    return datetime.fromtimestamp(int(value) / 1e6, UTC) if value else None


def _asked(spec: AttackSpec) -> str:
    return f"{spec.digest} {spec.shard_count}"


def _stored(job_id: str, answers: Sequence[Any]) -> StoredJob | None:
    record, warnings, violations, *rest = answers
    if not record:
        return None
    metas, progresses, leases = rest[0::3], rest[1::3], rest[2::3]
    spec = wire.spec_from_proto(attack_pb2.AttackSpec.FromString(record[b"spec"]))
    shards = tuple(
        StoredShard(meta.get(b"stage") == b"done", meta.get(b"stage") == b"begun", bool(lease), decode_tally(meta))
        for meta, lease in zip(metas, leases, strict=True)
    )
    model_record = record.get(b"model_record")
    job = AttackJob(
        attack_job_id=job_id,
        spec=spec,
        state=State(int(record[b"state"])),
        create_time=_time(record[b"create_time"]) or now(),
        start_time=_time(record.get(b"start_time")),
        end_time=_time(record.get(b"end_time")),
        failure_message=record.get(b"failure_message", b"").decode(),
        model_record=None
        if model_record is None
        else wire.model_record_from_proto(attack_pb2.ModelRecord.FromString(model_record)),
        progress=merge_progress(
            [_progress(progress) for progress in progresses], [shard.tally for shard in shards], spec.sample_count
        ),
        attempt_count=int(record.get(b"attempt_count", 0)),
        warnings=tuple(warning.decode() for warning in warnings),
        timing_violations=tuple(violation.decode() for violation in violations),
    )
    return StoredJob(job, shards)


def _progress(serialised: bytes | None) -> Progress | None:
    return None if serialised is None else wire.progress_from_proto(attack_pb2.Progress.FromString(serialised))
