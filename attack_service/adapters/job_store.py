"""Attack jobs in Redis: records, the index, states that change only as they may.

A job is a hash; beside it are its progress, its warnings, a stream `changes` of one entry that wakes those who wait
for news, and a few keys a shard (`ShardKeys`). Every change of a state is one script, so that a server, a worker and
another worker that comes back from the dead cannot undo one another's.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
from afr.attack.v1 import attack_service_pb2 as attack_pb2

from attack_service.adapters import wire
from attack_service.adapters.connecting import outages_as_domain_errors
from attack_service.errors import InvalidSpecification, JobNotEnded, JobNotFound, RequestConflict
from attack_service.jobs import AttackJob, AttackSpec, State
from attack_service.outcomes import Tally

INDEX = "afr:jobs"
"""Sorted set: job id by creation number."""

OPEN = "afr:jobs:open"
"""Set of the jobs that have not ended."""

WORKERS = "afr:workers"
"""Set of worker names; a worker lives while its key `afr:worker:NAME` does."""

_NUMBER = "afr:jobs:number"
# One for now; keys, scripts and tokens are written for many.
SHARD_COUNT = 1


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """The keys of one shard of a job."""

    meta: str
    """Hash: attempt, lost, sequence, last_append and the tally of what `outcomes` holds."""
    outcomes: str
    """Stream: the outcome log."""
    lease: str
    """String, with an expiry: the worker process that runs the shard now."""


@dataclass(frozen=True, slots=True)
class JobKeys:
    """The keys of one job."""

    job_id: str

    @property
    def record(self) -> str:
        return f"afr:job:{self.job_id}"

    @property
    def progress(self) -> str:
        return f"{self.record}:progress"

    @property
    def warnings(self) -> str:
        return f"{self.record}:warnings"

    @property
    def changes(self) -> str:
        return f"{self.record}:changes"

    def shard(self, shard_index: int) -> ShardKeys:
        prefix = f"{self.record}:shard:{shard_index}"
        return ShardKeys(prefix, f"{prefix}:outcomes", f"{prefix}:lease")

    @property
    def shards(self) -> list[ShardKeys]:
        return [self.shard(index) for index in range(SHARD_COUNT)]


CANCELED_WITHOUT_WORKER = (
    "its worker was lost before it was canceled, so the samples in flight are not among the outcomes, "
    "and those that are there lean towards quick failures"
)
"""What the reader of such a job should know."""

# Every script that changes a job calls this: it adds an entry to `changes`, which wakes the readers.
NOTIFY = """
local function notify(changes) redis.call('XADD', changes, 'MAXLEN', 1, '*', 'c', '1') end
"""

_CREATE = (
    NOTIFY
    + """
-- KEYS: record, index, open, number, changes, [request].  ARGV: job id, digest, then fields and values of the record.
if KEYS[6] then
  local known = redis.call('GET', KEYS[6])
  if known then return known end
  redis.call('SET', KEYS[6], ARGV[1])
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[4]), ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
notify(KEYS[5])
return ARGV[1]
"""
)

_CANCEL = (
    NOTIFY
    + """
-- KEYS: record, open, changes, warnings, then meta and lease of every shard.
-- ARGV: job id, now, QUEUED, RUNNING, CANCELED, and the warning if nobody can record the samples in flight.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 0 end
if state ~= ARGV[3] and state ~= ARGV[4] then return 1 end
local held = false
for i = 6, #KEYS, 2 do held = held or redis.call('EXISTS', KEYS[i]) == 1 end
if state == ARGV[4] and held then
  redis.call('HSET', KEYS[1], 'cancel', '1')
else
  -- Nobody is at work on it: it ends now, and whoever comes back from the dead is an attempt too old.
  for i = 5, #KEYS, 2 do redis.call('HINCRBY', KEYS[i], 'attempt', 1) end
  if state == ARGV[4] then redis.call('ZADD', KEYS[4], ARGV[2], ARGV[6]) end
  redis.call('HSET', KEYS[1], 'state', ARGV[5], 'end_time', ARGV[2])
  redis.call('SREM', KEYS[2], ARGV[1])
end
notify(KEYS[3])
return 1
"""
)

_DELETE = """
-- KEYS: record, index, open, [request], then every other key of the job.  ARGV: job id, QUEUED, RUNNING.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return 'missing' end
if state == ARGV[2] or state == ARGV[3] then return 'open' end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('SREM', KEYS[3], ARGV[1])
redis.call('DEL', KEYS[1], unpack(KEYS, 4))
return 'deleted'
"""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it is in Redis at one moment."""

    job: AttackJob
    held: bool
    """Whether a worker has given a sign of life for it lately."""
    tally: Tally
    """Of everything in its outcome log."""


class JobStore:
    """The server's side of the jobs. Every method may raise `StoreUnavailable`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._create = client.register_script(_CREATE)
        self._cancel = client.register_script(_CANCEL)
        self._delete = client.register_script(_DELETE)

    async def create(self, spec: AttackSpec, request_id: str = "") -> tuple[StoredJob, bool]:
        """Record a new job of a resolved specification, QUEUED. Returns it, and whether it is new.

        With a `request_id` that was used before, returns the job that was created then. Raises `RequestConflict` if
        that job had another specification.
        """
        job_id = str(uuid.uuid4())
        keys = JobKeys(job_id)
        fields: dict[str, Any] = {
            "spec": wire.spec_to_proto(spec).SerializeToString(deterministic=True),
            "state": State.QUEUED.value,
            "create_time": microseconds(now()),
            "request_id": request_id,
        }
        arguments = [part for pair in fields.items() for part in pair]
        request = [_request_key(request_id)] if request_id else []
        with outages_as_domain_errors():
            known: Any = await self._create(
                keys=[keys.record, INDEX, OPEN, _NUMBER, keys.changes, *request], args=[job_id, *arguments]
            )
        known_id = known.decode()
        stored = await self.get(known_id)
        if stored.job.spec.digest != spec.digest:
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
        shards = [key for shard in keys.shards for key in (shard.meta, shard.lease)]
        with outages_as_domain_errors():
            found = await self._cancel(
                keys=[keys.record, OPEN, keys.changes, keys.warnings, *shards],
                args=[
                    job_id,
                    microseconds(now()),
                    State.QUEUED.value,
                    State.RUNNING.value,
                    State.CANCELED.value,
                    CANCELED_WITHOUT_WORKER,
                ],
            )
        if not found:
            raise job_not_found(job_id)
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        """Remove an ended job and its outcomes. Raises `JobNotFound`, `JobNotEnded`."""
        keys = JobKeys(job_id)
        with outages_as_domain_errors():
            request_id: Any = await self._client.hget(keys.record, "request_id")
            others = [keys.progress, keys.warnings, keys.changes]
            others += [key for shard in keys.shards for key in (shard.meta, shard.outcomes, shard.lease)]
            if request_id:
                others.append(_request_key(request_id.decode()))
            answer: Any = await self._delete(
                keys=[keys.record, INDEX, OPEN, *others], args=[job_id, State.QUEUED.value, State.RUNNING.value]
            )
        if answer == b"missing":
            raise job_not_found(job_id)
        if answer == b"open":
            raise JobNotEnded(f"attack job {job_id} has not ended; cancel it before deleting it")

    async def open_job_ids(self) -> list[str]:
        """The jobs that have not ended."""
        with outages_as_domain_errors():
            members: Any = await self._client.smembers(OPEN)
        return sorted(member.decode() for member in members)

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

    async def _read(self, job_ids: Sequence[str]) -> list[StoredJob | None]:
        if not job_ids:
            return []
        with outages_as_domain_errors():
            # A transaction: a progress from after a state would be a job that is attacked once it has ended.
            async with self._client.pipeline(transaction=True) as pipe:
                for job_id in job_ids:
                    keys = JobKeys(job_id)
                    pipe.hgetall(keys.record)
                    pipe.get(keys.progress)
                    pipe.zrange(keys.warnings, 0, -1)
                    for shard in keys.shards:
                        pipe.hgetall(shard.meta)
                        pipe.exists(shard.lease)
                answers: list[Any] = await pipe.execute()
        width = 3 + 2 * SHARD_COUNT
        return [_stored(job_id, answers[i * width : (i + 1) * width]) for i, job_id in enumerate(job_ids)]


def with_worker_warnings(stored: StoredJob, live_worker_count: int) -> AttackJob:
    """The job, with what its reader should know about the workers it waits for."""
    job = stored.job
    if job.state.ended or stored.held:
        return job
    if live_worker_count == 0:
        sentence = "no worker is running; start one with python -m attack_service work"
    elif job.state is State.RUNNING:
        sentence = "the worker of this job was lost; another attempt will continue it"
    else:
        return job
    return replace(job, warnings=(*job.warnings, sentence))


def decode_tally(meta: dict[bytes, bytes]) -> Tally:
    """The tally in the hash of a shard."""
    names = (b"failed_count", b"survived_count", b"misclassified_count", b"checksum")
    return Tally(*(int(meta.get(name, 0)) for name in names))


def worker_key(name: str) -> str:
    return f"afr:worker:{name}"


def job_not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no attack job {job_id!r}; afrctl jobs list shows those there are")


def now() -> datetime:
    return datetime.now(UTC)


def microseconds(time: datetime) -> int:
    """Since 1970. Whole numbers, which scripts and readers cannot round."""
    return round(time.timestamp() * 1e6)


def _time(value: bytes | None) -> datetime | None:
    return datetime.fromtimestamp(int(value) / 1e6, UTC) if value else None


def _request_key(request_id: str) -> str:
    return f"afr:request:{request_id}"


def _stored(job_id: str, answers: Sequence[Any]) -> StoredJob | None:
    record, progress, warnings, *shards = answers
    if not record:
        return None
    metas, leases = shards[0::2], shards[1::2]
    tallies = [decode_tally(meta) for meta in metas]
    model_record = record.get(b"model_record")
    job = AttackJob(
        attack_job_id=job_id,
        spec=wire.spec_from_proto(attack_pb2.AttackSpec.FromString(record[b"spec"])),
        state=State(int(record[b"state"])),
        create_time=_time(record[b"create_time"]) or now(),
        start_time=_time(record.get(b"start_time")),
        end_time=_time(record.get(b"end_time")),
        failure_message=record.get(b"failure_message", b"").decode(),
        model_record=None
        if model_record is None
        else wire.model_record_from_proto(attack_pb2.ModelRecord.FromString(model_record)),
        progress=None if progress is None else wire.progress_from_proto(attack_pb2.Progress.FromString(progress)),
        attempt_count=int(record.get(b"attempt_count", 0)),
        warnings=tuple(warning.decode() for warning in warnings),
    )
    return StoredJob(
        job,
        held=any(leases),
        tally=Tally(
            sum(tally.failed_count for tally in tallies),
            sum(tally.survived_count for tally in tallies),
            sum(tally.misclassified_count for tally in tallies),
            sum(tally.checksum for tally in tallies) % 2**64,
        ),
    )
