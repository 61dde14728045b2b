"""The worker's side of a job in Redis: one attempt at one shard, fenced against every other.

An attempt holds a lease while its process lives. It begins only when nobody else holds one, and each begin raises the
attempt number; every write is a script that compares it, so that an attempt that was thought dead and comes back
cannot add a single outcome.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

import redis
from afr.attack.v1 import attack_service_pb2 as attack_pb2
from afr.outcome.v1 import outcome_pb2

from attack_service.adapters import scripts, wire
from attack_service.adapters.connecting import outages_as_domain_errors
from attack_service.adapters.job_store import CANCELED_WITHOUT_WORKER, decode_tally, microseconds, now
from attack_service.adapters.keys import JobKeys, ShardKeys
from attack_service.adapters.outcome_log import PAYLOAD, SEQUENCE, Position
from attack_service.adapters.owners import LEASE_SECONDS, Neighbours, owner_is_dead, owner_name
from attack_service.errors import AttemptFenced, OutcomesLost, TooManyAttempts
from attack_service.jobs import AttackJob, Preparation, Progress, State
from attack_service.outcomes import InFlight, Outcome, Tally, Verdict

_PROGRESS_SECONDS = 0.2
_SNAPSHOT_SECONDS = 0.25
_CANCEL_SECONDS = 0.1
# In samples: about a megabyte, where a client takes messages of four unless it was told otherwise.
_LARGEST_BATCH = 8192
# A crashed Redis loses at most what it had not written to disk: with `appendfsync everysec` the last two seconds.
_KEPT_SECONDS = 5.0


class WorkerStopping(BaseException):
    """The worker shuts down: the attempt stops here and the job goes back to the queue.

    Not an `Exception`, so that no handler for errors on the way takes it for one.
    """


class Refusal(Enum):
    """Why an attempt cannot begin."""

    ENDED = "it has ended, or there is no such job"
    HELD = "another process is at work on it"
    UNPREPARED = "its model is not ready; whoever prepares it queues this shard again"


@dataclass
class _Shard:
    """What the log of a shard held when the attempt began, kept up to date by its only writer."""

    position: Position = field(default_factory=Position)
    tally: Tally = field(default_factory=Tally)
    recorded: dict[int, Verdict] = field(default_factory=dict)


@dataclass(slots=True)
class _Appended:
    """An append that a crashed Redis might forget, and when it was last seen in the log."""

    sequence: int
    arguments: tuple[Any, ...]
    time: float = 0.0


class RedisLedger:
    """One attempt at one shard of a job: the `Ledger` that a run writes to. Used by one thread."""

    def __init__(
        self,
        client: redis.Redis,
        job: AttackJob,
        attempt: int,
        *,
        shard_index: int = 0,
        preparation: Preparation | None = None,
        prepared: Callable[[int], None] = lambda shard_count: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.job = job
        self.attempt = attempt
        self.shard_index = shard_index
        self._client = client
        self._prepared = prepared
        self._stopping = stopping
        self._job_keys = JobKeys(job.attack_job_id)
        self._keys: ShardKeys = self._job_keys.shard(shard_index)
        self._append = client.register_script(scripts.APPEND)
        self._set = client.register_script(scripts.SET)
        self._leave = client.register_script(scripts.LEAVE)
        self._kept: deque[_Appended] = deque()
        self._preparation = preparation
        self._spec_digest = job.spec.digest
        self._last_progress = self._last_snapshot = self._last_cancel = float("-inf")
        self._cancel = False
        self._in_flight = False
        self._neighbours = Neighbours()
        self._shard = self._read_back()

    @classmethod
    def begin(
        cls,
        client: redis.Redis,
        job_id: str,
        *,
        attempt_limit: int,
        shard_index: int = 0,
        prepared: Callable[[int], None] = lambda shard_count: None,
        stopping: Callable[[], bool] = lambda: False,
        dead_owner: str = "",
    ) -> RedisLedger | Refusal:
        """Begin an attempt at a shard, or say why not.

        Once the other shards may begin, `prepared` is called with the number of all. A job that lost `attempt_limit`
        workers in a row at one shard becomes FAILED here. A lease held by `dead_owner` is ignored.
        """
        keys = JobKeys(job_id)
        arguments: list[Any] = [
            job_id,
            microseconds(now()),
            shard_index,
            owner_name(),
            dead_owner,
            round(LEASE_SECONDS * 1000),
            attempt_limit,
            str(_too_many_attempts(attempt_limit)),
            CANCELED_WITHOUT_WORKER,
        ]
        begin = client.register_script(scripts.BEGIN)
        with outages_as_domain_errors():
            stored: Any = client.hmget(keys.record, "spec", "shard_count")
            shard_count = int(stored[1] or 0)
            if shard_index >= shard_count:
                return Refusal.ENDED
            answer: Any = begin(keys=keys.whole(shard_count), args=arguments)
            word, detail = (part.decode() for part in answer)
            if word == "held":
                if owner_is_dead(detail) and detail != dead_owner:
                    return cls.begin(
                        client,
                        job_id,
                        attempt_limit=attempt_limit,
                        shard_index=shard_index,
                        prepared=prepared,
                        stopping=stopping,
                        dead_owner=detail,
                    )
                return Refusal.HELD
            if word != "begun":
                return Refusal[word.upper()]
            preparation = _decode_preparation(client.hmget(keys.record, *_PREPARATION))
        spec = wire.spec_from_proto(attack_pb2.AttackSpec.FromString(stored[0]))
        job = AttackJob(job_id, spec, State.RUNNING, create_time=now(), attempt_count=int(detail))
        return cls(
            client,
            job,
            int(detail),
            shard_index=shard_index,
            preparation=preparation,
            prepared=prepared,
            stopping=stopping,
        )

    def recorded_verdicts(self) -> Mapping[int, Verdict]:
        return MappingProxyType(self._shard.recorded)

    def preparation(self) -> Preparation | None:
        return self._preparation

    def model_ready(self, preparation: Preparation) -> None:
        self._stop_if_asked()
        self._change(preparation=preparation)
        self._preparation = preparation
        self._prepared(self.job.spec.shard_count)

    def record(self, outcomes: Sequence[Outcome], in_flight: Sequence[InFlight], seconds_per_query: float) -> None:
        """Append a batch, or several if it is large. One without outcomes is written every quarter of a second at most.

        Raises `ValueError` for a sample that is there already, `AttemptFenced`, `OutcomesLost`, `StoreUnavailable`.
        """
        self._stop_if_asked()
        moment = time.monotonic()
        if not outcomes:
            if not in_flight and not self._in_flight:
                return
            if in_flight and moment - self._last_snapshot < _SNAPSHOT_SECONDS:
                return
        verdicts = {outcome.sample_index: outcome.verdict for outcome in outcomes}
        repeated = self._shard.recorded.keys() & verdicts
        if repeated or len(verdicts) < len(outcomes):
            raise ValueError(f"samples recorded twice: {sorted(repeated or verdicts)}")
        for start in range(0, len(outcomes) or 1, _LARGEST_BATCH):
            self._record_batch(outcomes[start : start + _LARGEST_BATCH], in_flight, seconds_per_query)
        self._last_snapshot = moment
        self._in_flight = bool(in_flight)
        self._shard.recorded.update(verdicts)

    def _record_batch(
        self, outcomes: Sequence[Outcome], in_flight: Sequence[InFlight], seconds_per_query: float
    ) -> None:
        before = self._shard.position
        tally = self._shard.tally.plus(wire.tally_rows(outcomes))
        done, sub = (before.done + len(outcomes), 0) if outcomes else (before.done, before.sub + 1)
        preparation = self._preparation
        header = wire.BatchHeader(
            self.shard_index,
            self.attempt,
            before.sequence,
            "" if preparation is None else preparation.record.weights_digest,
            "" if preparation is None else preparation.dataset_digest,
            self._spec_digest,
            seconds_per_query,
        )
        arguments = (
            before.sequence,
            f"{done}-{sub}",
            wire.batch_to_proto(outcomes, in_flight, header).SerializeToString(),
            len(outcomes),
            tally.failed_count,
            tally.survived_count,
            tally.misclassified_count,
            str(tally.checksum),
        )
        self._write(_Appended(before.sequence, arguments))
        self._shard.position = Position(done, sub, before.sequence + 1)
        self._shard.tally = tally

    def progress(self, progress: Progress) -> None:
        """Keep what the run is doing; at most five times a second, but always a phase's last step."""
        self._stop_if_asked()
        moment = time.monotonic()
        finished = progress.total_count and progress.done_count >= progress.total_count
        if moment - self._last_progress < _PROGRESS_SECONDS and not finished:
            return
        self._last_progress = moment
        self._change(progress=wire.progress_to_proto(progress).SerializeToString())

    def warn(self, sentence: str) -> None:
        self._change(warning=sentence)

    def timing_violation(self, sentence: str) -> None:
        self._change(timing_violation=sentence)

    def computes_on(self, device: str) -> None:
        with outages_as_domain_errors():
            self._neighbours.meet(self._client, device)

    def neighbour_count(self) -> int:
        return self._neighbours.most

    def cancel_requested(self) -> bool:
        self._stop_if_asked()
        moment = time.monotonic()
        if not self._cancel and moment - self._last_cancel >= _CANCEL_SECONDS:
            self._last_cancel = moment
            with outages_as_domain_errors():
                self._cancel = bool(self._client.hexists(self._job_keys.record, "cancel"))
        return self._cancel

    def finish(self, state: State, failure_message: str = "") -> None:
        """End the shard, and with its last one the job, unless that has ended already. Raises `AttemptFenced`.

        A shard that fails ends the job at once.
        """
        self._leave_as(state, failure_message)

    def release(self) -> None:
        """Give the shard back unfinished: it is queued again, and the attempt does not count as lost."""
        self._leave_as(State.QUEUED, "")

    def renew(self, client: redis.Redis) -> bool:
        """Renew the lease; False if another attempt has taken over. For another thread, with a client of its own."""
        renewed = client.register_script(scripts.RENEW)(
            keys=[self._job_keys.record, self._keys.meta, self._keys.lease],
            args=[self.attempt, owner_name(), round(LEASE_SECONDS * 1000)],
        )
        if renewed:
            self._neighbours.look_around(client)
        return bool(renewed)

    def _leave_as(self, state: State, failure_message: str) -> None:
        with outages_as_domain_errors():
            self._neighbours.part(self._client)
        # A crashed Redis may have forgotten the last batches; a job must not succeed without them.
        must_be_whole = state in (State.SUCCEEDED, State.CANCELED)
        arguments = [
            self.attempt,
            self.job.attack_job_id,
            microseconds(now()),
            self.shard_index,
            state.value,
            failure_message,
            self._shard.position.sequence if must_be_whole else "",
            int(must_be_whole and self._preparation is not None),
            CANCELED_WITHOUT_WORKER,
        ]
        keys = self._job_keys.whole(self.job.spec.shard_count)
        while (answer := self._run(self._leave, keys, arguments)) != "ok":
            if answer == "unprepared":
                self._change(preparation=self._preparation)
            else:
                self._repeat_from(int(answer))

    def _stop_if_asked(self) -> None:
        if self._stopping():
            raise WorkerStopping

    def _change(
        self,
        *,
        progress: bytes = b"",
        warning: str = "",
        timing_violation: str = "",
        preparation: Preparation | None = None,
    ) -> None:
        keys = self._job_keys
        fields = [] if preparation is None else _encode_preparation(preparation)
        self._run(
            self._set,
            [
                keys.record,
                self._keys.meta,
                keys.changes,
                self._keys.progress,
                keys.warnings,
                keys.timing_violations,
            ],
            [self.attempt, microseconds(now()), progress, warning, timing_violation, *fields],
        )

    def _write(self, append: _Appended) -> None:
        """Append, and repeat before it what a crashed Redis has forgotten."""
        self._kept.append(append)
        following = self._append_one(append)
        if following is not None:
            self._repeat_from(following)
        # Only now: an outage may have lasted longer than appends are kept. The log has taken a batch after these since
        # they were written, so it had them then, and has had the time to write them to disk.
        while self._kept and time.monotonic() - self._kept[0].time > _KEPT_SECONDS:
            self._kept.popleft()

    def _repeat_from(self, following: int) -> None:
        """Append again what the log has forgotten, from sequence number `following` on."""
        if self._preparation is not None:
            # Then that may be forgotten too, and the other shards wait for it.
            self._change(preparation=self._preparation)
        again = [kept for kept in self._kept if kept.sequence >= following]
        if not again or again[0].sequence != following:
            raise OutcomesLost(
                f"Redis has lost outcomes of attack job {self.job.attack_job_id} from batch {following} on, more than "
                "this worker can repeat; run the job again, and turn on Redis' append-only file"
            )
        for kept in again:
            if self._append_one(kept) is not None:
                raise OutcomesLost(
                    f"Redis loses outcomes of attack job {self.job.attack_job_id} while they are written"
                )

    def _append_one(self, append: _Appended) -> int | None:
        """None if the batch is in the log, else the sequence number that the log expects."""
        keys = [self._job_keys.record, self._keys.meta, self._keys.outcomes]
        answer = self._run(self._append, keys, [self.attempt, *append.arguments])
        append.time = time.monotonic()
        return None if answer == "ok" else int(answer)

    def _run(self, script: Any, keys: Sequence[str], arguments: Sequence[Any]) -> str:
        with outages_as_domain_errors():
            answer = script(keys=keys, args=arguments).decode()
        job_id = self.job.attack_job_id
        if answer == "fenced":
            raise AttemptFenced(f"attempt {self.attempt} at shard {self.shard_index} of job {job_id} was superseded")
        if answer == "ended":
            raise AttemptFenced(f"attack job {job_id} has ended without this shard")
        if answer == "gone":
            raise AttemptFenced(f"attack job {job_id} was deleted")
        return str(answer)

    def _read_back(self) -> _Shard:
        """What earlier attempts have recorded. Raises `OutcomesLost` if the log has a gap."""
        shard = _Shard()
        with outages_as_domain_errors():
            meta: Any = self._client.hgetall(self._keys.meta)
            start = "-"
            while True:
                entries: Any = self._client.xrange(self._keys.outcomes, start, count=256)
                if not entries:
                    break
                for entry_id, fields in entries:
                    sequence = int(fields[SEQUENCE])
                    if sequence != shard.position.sequence:
                        raise OutcomesLost(
                            f"batch {shard.position.sequence} of attack job {self.job.attack_job_id} is gone; "
                            "Redis has lost data, so run the job again"
                        )
                    batch = outcome_pb2.OutcomeBatch.FromString(fields[PAYLOAD])
                    shard.recorded.update(zip(batch.sample_index, map(Verdict, batch.verdict), strict=True))
                    done, sub = entry_id.decode().split("-")
                    shard.position = Position(int(done), int(sub), sequence + 1)
                start = f"({entries[-1][0].decode()}"
        shard.tally = decode_tally(meta)
        if int(meta.get(b"sequence", 0)) != shard.position.sequence:
            raise OutcomesLost(f"the outcome log of attack job {self.job.attack_job_id} does not match its length")
        self._in_flight = shard.position.sequence > 0
        return shard


# The fields of a job's record that hold its preparation.
_PREPARATION = ("model_record", "dataset_digest", "clean_predictions")


def _encode_preparation(preparation: Preparation) -> list[Any]:
    values = (
        wire.model_record_to_proto(preparation.record).SerializeToString(),
        preparation.dataset_digest,
        struct.pack(f"<{len(preparation.clean_predictions)}i", *preparation.clean_predictions),
    )
    return [part for pair in zip(_PREPARATION, values, strict=True) for part in pair]


def _decode_preparation(values: Any) -> Preparation | None:
    record, dataset_digest, clean_predictions = values
    if record is None:
        return None
    return Preparation(
        wire.model_record_from_proto(attack_pb2.ModelRecord.FromString(record)),
        dataset_digest.decode(),
        struct.unpack(f"<{len(clean_predictions) // 4}i", clean_predictions),
    )


def _too_many_attempts(limit: int) -> TooManyAttempts:
    return TooManyAttempts(
        f"{limit} workers in a row were lost while running this job, and no sample was finished; look at the workers' "
        "logs (most often it is memory: a smaller batch_size or image_size helps)"
    )
