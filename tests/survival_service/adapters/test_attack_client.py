"""The client of the attack service against a real server that breaks in every scripted way."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as pb
from afr.rpc.channel import open_aio_channel

from survival_service.adapters.attack_client import Alive, AttackClient, Ended, Patience, Recorded
from survival_service.errors import (
    AttackServiceUnavailable,
    JobNotFound,
    OutcomesCorrupt,
    SurvivalServiceError,
)

JOB = "job-1"
SURVIVED, FAILED, MISCLASSIFIED, REJECTED = 1, 2, 3, 4
HASTE = Patience(
    first_contact=0.5, without_message=1.5, silence=0.4, answer=2.0, shortest_pause=0.01, longest_pause=0.1
)


async def read(service: Any, patience: Patience = HASTE) -> list[Any]:
    async with open_aio_channel(service.address) as channel:
        client = AttackClient(channel, service.address, patience)
        return [event async for event in client.outcomes(JOB)]


def follow(faults: Any, *scripts: Any, patience: Patience = HASTE) -> tuple[list[Any], list[str]]:
    """The events a reader sees, and the tokens with which it called."""

    async def main() -> tuple[list[Any], list[str]]:
        async with faults.server(*scripts) as service:
            return await read(service, patience), service.tokens

    return asyncio.run(main())


def indices(events: list[Any]) -> list[int]:
    return [index for event in events if isinstance(event, Recorded) for index in event.batch.sample_index]


@pytest.fixture
def batches(faults: Any) -> list[Any]:
    return [
        faults.batch(0, [(4, FAILED, 1), (0, MISCLASSIFIED, 0)], in_flight=[(1, 2), (2, 2)]),
        faults.batch(1, [(1, FAILED, 3)], in_flight=[(2, 3), (3, 1)]),
        faults.batch(2, [(2, SURVIVED, 10), (3, REJECTED, 10)]),
    ]


def test_an_unbroken_stream_is_passed_on_to_its_end(faults: Any, batches: list[Any]) -> None:
    heartbeat = pb.Heartbeat(attack_job=faults.job())
    events, tokens = follow(faults, [heartbeat, *batches, faults.end(batches)])
    assert [type(event) for event in events] == [Alive, Recorded, Recorded, Recorded, Ended]
    assert indices(events) == [4, 0, 1, 2, 3]
    assert events[-1].job.state == pb.AttackJob.STATE_SUCCEEDED
    assert tokens == [""]


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED],
    ids=lambda code: code.name,
)
def test_a_broken_stream_continues_after_its_last_token(faults: Any, batches: list[Any], code: Any) -> None:
    events, tokens = follow(
        faults, [batches[0], faults.abort(code)], [faults.abort(code)], [*batches[1:], faults.end(batches)]
    )
    assert indices(events) == [4, 0, 1, 2, 3]
    assert tokens == ["", "t1", "t1"]


def test_a_reset_stream_continues(faults: Any, batches: list[Any]) -> None:
    reset = faults.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")
    events, tokens = follow(faults, [*batches[:2], reset], [batches[2], faults.end(batches)])
    assert indices(events) == [4, 0, 1, 2, 3]
    assert tokens == ["", "t2"]


def test_a_stream_closed_without_an_end_continues(faults: Any, batches: list[Any]) -> None:
    events, tokens = follow(faults, batches[:1], batches[1:2], [batches[2], faults.end(batches)])
    assert indices(events) == [4, 0, 1, 2, 3]
    assert tokens == ["", "t1", "t2"]


def test_a_silent_stream_is_replaced(faults: Any, batches: list[Any]) -> None:
    events, tokens = follow(faults, [*batches[:2], faults.stall()], [batches[2], faults.end(batches)])
    assert indices(events) == [4, 0, 1, 2, 3]
    assert tokens == ["", "t2"]


def test_heartbeats_keep_a_quiet_stream(faults: Any, batches: list[Any]) -> None:
    """Five beats, each well within the silence that is borne, last longer than it together."""
    beats = [step for _ in range(5) for step in (faults.wait(0.15), pb.Heartbeat(attack_job=faults.job()))]
    events, tokens = follow(faults, [*beats, *batches, faults.end(batches)])
    assert indices(events) == [4, 0, 1, 2, 3]
    assert tokens == [""]


def test_a_restarted_server_is_found_again(faults: Any, batches: list[Any]) -> None:
    """The whole server goes, connections and all, and another takes its port."""

    async def main() -> list[int]:
        async with faults.server([*batches[:2], faults.stall()]) as first, open_aio_channel(first.address) as channel:
            client = AttackClient(channel, first.address, Patience(without_message=20.0, shortest_pause=0.05))
            stream = client.outcomes(JOB)
            seen = [await anext(stream), await anext(stream)]
            await first.stop()
            first.scripts = [[batches[2], faults.end(batches)]]
            await first.start()
            seen += [event async for event in stream]
            assert first.tokens == ["", "t2"]
            return indices(seen)

    assert asyncio.run(main()) == [4, 0, 1, 2, 3]


def test_a_new_attempt_continues_the_numbers_of_the_last(faults: Any) -> None:
    batches = [faults.batch(0, [(0, FAILED, 2)]), faults.batch(1, [(1, SURVIVED, 5)], attempt=2)]
    assert indices(follow(faults, [*batches, faults.end(batches)])[0]) == [0, 1]


def test_shards_are_numbered_each_for_itself(faults: Any) -> None:
    batches = [
        faults.batch(0, [(0, FAILED, 2)], shard_index=1),
        faults.batch(0, [(1, FAILED, 2)], shard_index=0),
        faults.batch(1, [(2, FAILED, 2)], shard_index=1),
    ]
    assert indices(follow(faults, [*batches, faults.end(batches)])[0]) == [0, 1, 2]


def corrupt(faults: Any, *steps: Any) -> str:
    with pytest.raises(OutcomesCorrupt) as caught:
        follow(faults, steps)
    return str(caught.value)


def test_a_gap_is_found(faults: Any, batches: list[Any]) -> None:
    assert "has a gap: batch 2 came, 1 was due" in corrupt(faults, batches[0], batches[2])


def test_a_gap_across_a_break_is_found(faults: Any, batches: list[Any]) -> None:
    with pytest.raises(OutcomesCorrupt, match="has a gap: batch 2 came, 1 was due"):
        follow(faults, [batches[0], faults.abort(grpc.StatusCode.UNAVAILABLE)], [batches[2]])


def test_a_repeated_batch_is_found(faults: Any, batches: list[Any]) -> None:
    assert "repeats batch 0" in corrupt(faults, batches[0], batches[0])


def test_a_sample_recorded_twice_is_found(faults: Any) -> None:
    twice = faults.batch(0, [(7, FAILED, 1)]), faults.batch(1, [(7, SURVIVED, 5)])
    assert "sample 7 was recorded twice" in corrupt(faults, *twice)


def test_an_attempt_that_was_given_up_is_found(faults: Any) -> None:
    zombie = faults.batch(0, [(0, FAILED, 1)], attempt=2), faults.batch(1, [(1, FAILED, 1)], attempt=1)
    assert "went back from attempt 2 to 1" in corrupt(faults, *zombie)


def test_other_weights_are_found(faults: Any) -> None:
    mixed = faults.batch(0, [(0, FAILED, 1)]), faults.batch(1, [(1, FAILED, 1)], weights_digest="other")
    assert "of different weights" in corrupt(faults, *mixed)


def test_ragged_columns_are_found(faults: Any, batches: list[Any]) -> None:
    del batches[0].seconds_upper[1]
    assert "sample_index has 2 entries, seconds_upper has 1" in corrupt(faults, batches[0])


def test_a_verdict_that_nobody_knows_is_found(faults: Any) -> None:
    assert "unknown verdict 9" in corrupt(faults, faults.batch(0, [(0, 9, 1)]))


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        ({"checksum": 1}, "checksum"),
        ({"outcome_count": 6}, "6 outcomes were recorded and 5 arrived"),
        ({"failed_count": 3}, "3 failed samples were recorded and 2 arrived"),
        ({"survived_count": 1}, "1 survived samples were recorded and 2 arrived"),
        ({"misclassified_count": 0}, "0 misclassified samples were recorded and 1 arrived"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_end_that_does_not_add_up_is_found(faults: Any, batches: list[Any], lie: dict[str, int], found: str) -> None:
    assert found in corrupt(faults, *batches, faults.end(batches, **lie))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, JobNotFound),
        (grpc.StatusCode.OUT_OF_RANGE, JobNotFound),
        (grpc.StatusCode.DATA_LOSS, OutcomesCorrupt),
        (grpc.StatusCode.INTERNAL, AttackServiceUnavailable),
        (grpc.StatusCode.UNIMPLEMENTED, AttackServiceUnavailable),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_waiting_cannot_mend_is_said_at_once(
    faults: Any, batches: list[Any], code: Any, expected: type[SurvivalServiceError]
) -> None:
    with pytest.raises(expected):
        follow(faults, [batches[0], faults.abort(code)], patience=Patience(without_message=3600.0))


def test_patience_ends(faults: Any, batches: list[Any]) -> None:
    """The scripts are over, so every further call is refused."""
    with pytest.raises(AttackServiceUnavailable, match=r"script is over.*check that it runs"):
        follow(faults, batches[:1])


def test_heartbeats_alone_do_not_renew_patience(faults: Any) -> None:
    """A server whose store is gone greets each reader and hangs up."""
    greeting = [pb.Heartbeat(attack_job=faults.job()), faults.abort(grpc.StatusCode.UNAVAILABLE, "Redis is gone")]
    with pytest.raises(AttackServiceUnavailable, match="Redis is gone"):
        follow(faults, *[greeting] * 1000)


def test_a_reader_that_stops_early_closes_its_stream(faults: Any, batches: list[Any]) -> None:
    async def main() -> None:
        async with faults.server([batches[0], faults.stall()]) as service, open_aio_channel(service.address) as channel:
            stream = AttackClient(channel, service.address).outcomes(JOB)
            await anext(stream)
            assert service.open_streams == 1
            await stream.aclose()
            for _ in range(200):
                if not service.open_streams:
                    return
                await asyncio.sleep(0.01)
            pytest.fail("the attack service still streams to a reader that has left")

    asyncio.run(main())


def get(faults: Any, attack_job_id: str, *failures: Any) -> pb.AttackJob:
    async def main() -> pb.AttackJob:
        async with faults.server() as service, open_aio_channel(service.address) as channel:
            service.get_failures = list(failures)
            return await AttackClient(channel, service.address, HASTE).job(attack_job_id)

    return asyncio.run(main())


def test_a_job_is_read_through_a_short_break(faults: Any) -> None:
    unavailable = grpc.StatusCode.UNAVAILABLE
    assert get(faults, JOB, unavailable, unavailable).spec.model == "resnet18"


def test_an_unknown_job_is_named(faults: Any) -> None:
    with pytest.raises(JobNotFound, match=r"knows no attack job 'job-9'; `afrctl jobs list`"):
        get(faults, "job-9")


def test_an_attack_service_that_is_not_there_is_said_soon() -> None:
    async def main() -> None:
        async with open_aio_channel("127.0.0.1:1") as channel:
            await AttackClient(channel, "127.0.0.1:1", HASTE).job(JOB)

    with pytest.raises(AttackServiceUnavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
        asyncio.run(main())
