"""Resume tokens, and reading the outcome log from any position."""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attack_service.adapters.keys import JobKeys
from attack_service.adapters.outcome_log import Position, decode_token, encode_token, start
from attack_service.errors import InvalidSpecification, OutcomesLost, PositionExpired

JOB = "8060081a-a543-49aa-a4f0-733d7aaa9efb"
COUNTS = st.integers(0, 2**64 - 1)
START = start(1)


@given(st.lists(st.builds(Position, COUNTS, COUNTS, COUNTS), min_size=1, max_size=9).map(tuple))
def test_a_token_carries_the_position_of_every_shard(positions: tuple[Position, ...]) -> None:
    assert decode_token(JOB, encode_token(JOB, positions)) == positions


def test_no_token_is_no_position() -> None:
    assert decode_token(JOB, "") is None


@given(st.text(min_size=1, max_size=60))
def test_a_token_that_was_never_issued_is_malformed(text: str) -> None:
    with pytest.raises(InvalidSpecification, match="resume_token") as caught:
        decode_token(JOB, text)
    assert caught.value.field == "resume_token"


@given(st.data())
def test_a_token_with_one_character_changed_is_malformed(data: st.DataObject) -> None:
    token = encode_token(JOB, (Position(17, 3, 9),))
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=. "))
    changed = token[:place] + other + token[place + 1 :]
    if changed != token:
        with pytest.raises(InvalidSpecification):
            decode_token(JOB, changed)


def test_a_truncated_token_is_malformed() -> None:
    token = encode_token(JOB, (Position(17, 3, 9),))
    for length in range(1, len(token)):
        with pytest.raises(InvalidSpecification):
            decode_token(JOB, token[:length])


def test_a_token_of_another_job_is_refused_by_name() -> None:
    other = str(uuid.uuid4())
    with pytest.raises(InvalidSpecification, match=f"belongs to attack job {other}"):
        decode_token(JOB, encode_token(other, START))


def test_a_token_of_another_version_is_malformed() -> None:
    raw = base64.urlsafe_b64decode(encode_token(JOB, START) + "==").replace(b"1|", b"2|", 1)
    with pytest.raises(InvalidSpecification):
        decode_token(JOB, base64.urlsafe_b64encode(raw).decode())


@pytest.mark.parametrize(
    "position", ["", "1", "1-2", "1-2-3-4", " 1-2-3", "1_0-2-3", "01-2-3", f"{2**64}-0-0", "0-0-9e9"]
)
def test_a_token_that_only_looks_like_ours_is_malformed(position: str) -> None:
    body = f"1|{JOB}|{position}"
    raw = f"{body}|{zlib.crc32(body.encode()):08x}".encode()
    with pytest.raises(InvalidSpecification):
        decode_token(JOB, base64.urlsafe_b64encode(raw).decode().rstrip("="))


def test_the_field_in_the_error_is_the_caller_s() -> None:
    with pytest.raises(InvalidSpecification) as caught:
        decode_token(JOB, "x", "page_token")
    assert caught.value.field == "page_token"


@pytest.fixture
def job(jobs, spec, make_outcome) -> str:
    """A job with three batches of one sample."""
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)
    for sample_index in range(3):
        ledger.record([make_outcome(sample_index)], [], 0.5)
    return str(job_id)


def sequences(entries) -> list[int]:
    return [entry.positions[0].sequence - 1 for entry in entries]


def test_reading_goes_on_after_any_position(jobs, job) -> None:
    entries = jobs.call(lambda store, log: log.read(job, START))
    assert sequences(entries) == [0, 1, 2]
    for number, entry in enumerate(entries):
        jobs.call(lambda store, log, at=entry.positions: log.check(job, at))
        rest = jobs.call(lambda store, log, at=entry.positions: log.read(job, at))
        assert sequences(rest) == [0, 1, 2][number + 1 :]


@pytest.mark.parametrize(
    "position",
    [Position(2, 0, 1), Position(1, 1, 1), Position(3, 0, 2), Position(9, 0, 9), Position(3, 0, 4), Position(0, 0, 3)],
)
def test_a_position_that_was_never_there_is_not_taken(jobs, job, position) -> None:
    with pytest.raises(OutcomesLost):
        jobs.call(lambda store, log: log.check(job, (position,)))


def test_a_position_before_what_is_kept_has_expired(jobs, job, client) -> None:
    first, second, third = jobs.call(lambda store, log: log.read(job, START))
    client.xtrim(JobKeys(job).shard(0).outcomes, minid="2-0", approximate=False)
    with pytest.raises(PositionExpired, match="no longer kept"):
        jobs.call(lambda store, log: log.check(job, START))
    # What the first token continues with is all there.
    jobs.call(lambda store, log: log.check(job, first.positions))
    assert sequences(jobs.call(lambda store, log: log.read(job, first.positions))) == [1, 2]
    client.delete(JobKeys(job).shard(0).outcomes)
    for positions in (START, first.positions, second.positions):
        with pytest.raises(PositionExpired):
            jobs.call(lambda store, log, at=positions: log.check(job, at))
    jobs.call(lambda store, log: log.check(job, third.positions))


def test_a_gap_is_loss(jobs, job, client) -> None:
    client.xdel(JobKeys(job).shard(0).outcomes, "2-0")
    with pytest.raises(OutcomesLost, match="batch 1 "):
        jobs.call(lambda store, log: log.read(job, START))


def test_waiting_ends_with_an_outcome_a_change_or_the_time(jobs, spec, make_outcome) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)

    async def wait(store, log):
        change = await log.last_change(job_id)
        began = time.monotonic()
        assert await log.wait(job_id, START, change, 0.2) == ([], change)
        assert time.monotonic() - began > 0.15
        # Whatever ends it late ends it without an answer.
        waiting = asyncio.create_task(log.wait(job_id, START, change, 9))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(ledger.warn, "something happened")
        entries, latest = await waiting
        assert entries == []
        assert latest != change
        waiting = asyncio.create_task(log.wait(job_id, START, latest, 9))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(ledger.record, [make_outcome(1)], [], 0.5)
        entries, _ = await waiting
        assert sequences(entries) == [0]

    jobs.call(wait)


def test_fifty_readers_wait_at_once(jobs, spec, make_outcome) -> None:
    job_id = jobs.create(spec)
    ledger = jobs.begin(job_id)

    async def wait(store, log):
        change = await log.last_change(job_id)
        readers = [asyncio.create_task(log.wait(job_id, START, change, 9)) for _ in range(50)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(ledger.record, [make_outcome(1)], [], 0.5)
        return await asyncio.wait_for(asyncio.gather(*readers), 60)

    answers = jobs.call(wait)
    assert all(sequences(entries) == [0] for entries, _ in answers)
