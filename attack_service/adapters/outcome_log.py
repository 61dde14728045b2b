"""The outcome log: a Redis Stream a shard, read by many from any position, never trimmed while its job lives.

An entry's id is `samples finished - sub counter`, so it says how far the shard is, and Redis itself refuses to write
it twice. Each entry carries a serialised `OutcomeBatch`, and its sequence number once more, so that a reader sees a
gap without decoding anything.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from attack_service.adapters.connecting import outages_as_domain_errors
from attack_service.adapters.keys import JobKeys
from attack_service.errors import InvalidSpecification, OutcomesLost, PositionExpired

PAYLOAD, SEQUENCE = b"b", b"s"
"""The fields of an entry: a serialised OutcomeBatch, its sequence number."""

_TOKEN_VERSION = "1"
# Redis' identifiers, and our sequence numbers, have 64 bits.
_NUMBER_LIMIT = 2**64
# Entries taken from Redis at once, over all shards: enough to fill a connection, few enough to stay within a few
# megabytes.
_READ_COUNT = 64


@dataclass(frozen=True, slots=True)
class Position:
    """After which entry of a shard reading goes on: its id, and the sequence number of the next one."""

    done: int = 0
    sub: int = 0
    sequence: int = 0

    @property
    def entry_id(self) -> str:
        return f"{self.done}-{self.sub}"


Positions = tuple[Position, ...]
"""One position a shard. Its text is the resume token."""


def start(shard_count: int) -> Positions:
    """Before the first entry of every shard."""
    return (Position(),) * shard_count


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch as it is stored, and the positions after it."""

    payload: bytes
    positions: Positions


def encode_token(job_id: str, positions: Positions) -> str:
    """The resume token that continues a job's stream after `positions`."""
    body = "|".join([_TOKEN_VERSION, job_id, *(f"{p.done}-{p.sub}-{p.sequence}" for p in positions)])
    raw = f"{body}|{zlib.crc32(body.encode()):08x}".encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_token(job_id: str, token: str, field: str = "resume_token") -> Positions | None:
    """The positions in a token; None if it is empty.

    Raises `InvalidSpecification` for what this service cannot have issued for this job: never is a stream replayed
    from the start because its token was mangled.
    """
    if not token:
        return None
    malformed = InvalidSpecification(
        field, f"{field} {token[:80]!r} is malformed; pass back what a response of this job carried, or leave it empty"
    )
    try:
        raw = base64.b64decode(token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        _, token_job_id, *texts, _ = raw.decode("ascii").split("|")
        positions = tuple(Position(*(int(number) for number in text.split("-"))) for text in texts)
    except (ValueError, TypeError):
        raise malformed from None
    # A token has one spelling, which proves its version and its checksum as well.
    if encode_token(token_job_id, positions) != token or not positions:
        raise malformed
    if any(max(position.done, position.sub, position.sequence) >= _NUMBER_LIMIT for position in positions):
        raise malformed
    if token_job_id != job_id:
        raise InvalidSpecification(field, f"{field} belongs to attack job {token_job_id}, not to {job_id}")
    return positions


class OutcomeLog:
    """Reads outcome logs. Every method may raise `StoreUnavailable`."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client

    async def check(self, job_id: str, positions: Positions) -> None:
        """Raise `PositionExpired` or `OutcomesLost` if reading cannot go on after `positions` without a gap."""
        for index, position in enumerate(positions):
            shard = JobKeys(job_id).shard(index)
            with outages_as_domain_errors():
                async with self._client.pipeline(transaction=True) as pipe:
                    pipe.hget(shard.meta, "sequence")
                    pipe.xrange(shard.outcomes, count=1)
                    pipe.xrange(shard.outcomes, position.entry_id, position.entry_id)
                    recorded, oldest, before = await pipe.execute()
            following = int(recorded or 0)
            first = int(oldest[0][1][SEQUENCE]) if oldest else following
            if position.sequence < first:
                raise _expired(job_id)
            if position.sequence > following:
                raise _lost(job_id, index, position.sequence - 1)
            # What came right before the oldest entry may be gone: nothing after it is missing.
            if position.sequence > first and not (before and int(before[0][1][SEQUENCE]) + 1 == position.sequence):
                raise _lost(job_id, index, position.sequence - 1)

    async def read(self, job_id: str, positions: Positions) -> list[Entry]:
        """The next entries after `positions`, at once; none if there is nothing new. Raises `OutcomesLost`."""
        entries, _ = await self._read(job_id, positions, None, 0)
        return entries

    async def wait(self, job_id: str, positions: Positions, change: bytes, seconds: float) -> tuple[list[Entry], bytes]:
        """Like `read`, but waits up to `seconds` for an entry or for the job to change.

        `change` is what the last call returned, `b"0"` at first. Raises `OutcomesLost`.
        """
        return await self._read(job_id, positions, change, seconds)

    async def last_change(self, job_id: str) -> bytes:
        """Where `wait` shall wait for changes that come after this call."""
        with outages_as_domain_errors():
            last: Any = await self._client.xrevrange(JobKeys(job_id).changes, count=1)
        return last[0][0] if last else b"0"

    async def _read(
        self, job_id: str, positions: Positions, change: bytes | None, seconds: float
    ) -> tuple[list[Entry], bytes]:
        keys = JobKeys(job_id)
        shards = keys.shards(len(positions))
        streams: dict[Any, Any] = {
            shard.outcomes: position.entry_id for shard, position in zip(shards, positions, strict=True)
        }
        block = None
        if change is not None:
            streams[keys.changes] = change
            block = max(1, round(seconds * 1000))
        with outages_as_domain_errors():
            count = max(1, _READ_COUNT // len(shards))
            answer: Any = await self._client.xread(streams, count=count, block=block)
        found = _by_stream(answer)
        change = found[keys.changes][-1][0] if found.get(keys.changes) else change or b"0"
        entries: list[Entry] = []
        current = list(positions)
        for index, shard in enumerate(shards):
            for entry_id, fields in found.get(shard.outcomes, ()):
                sequence = int(fields[SEQUENCE])
                if sequence != current[index].sequence:
                    raise _lost(job_id, index, current[index].sequence)
                done, sub = entry_id.decode().split("-")
                current[index] = Position(int(done), int(sub), sequence + 1)
                entries.append(Entry(fields[PAYLOAD], tuple(current)))
        return entries, change


def _by_stream(answer: Any) -> dict[str, Sequence[tuple[bytes, dict[bytes, bytes]]]]:
    """XREAD's answer by stream; its shape depends on the protocol version."""
    if not answer:
        return {}
    pairs = answer.items() if isinstance(answer, dict) else answer
    streams: dict[str, Sequence[tuple[bytes, dict[bytes, bytes]]]] = {}
    for name, entries in pairs:
        # In version 3 of the protocol the entries of a stream come in one more list.
        nested = entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (list, tuple))
        streams[name.decode()] = entries[0] if nested else entries
    return streams


def _expired(job_id: str) -> PositionExpired:
    return PositionExpired(
        f"the outcomes of attack job {job_id} at this position are no longer kept; start again without a token"
    )


def _lost(job_id: str, shard_index: int, sequence: int) -> OutcomesLost:
    return OutcomesLost(
        f"batch {sequence} of shard {shard_index} of attack job {job_id} was recorded and is gone; "
        "Redis has lost data, so run the job again"
    )
