"""One job over several workers: real Redis, real server, real Celery workers, a scripted attack."""

from __future__ import annotations

import re
import signal
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as pb

LAST_SHARD_FAILS, DIES_TRAINING = 1005, 1006


def shards_of(worker, job_id: str) -> list[int]:
    """The shards of a job that a worker says to have ended."""
    return [int(index) for index in re.findall(rf"shard (\d+) of job {job_id}: SUCCEEDED", worker.stderr)]


def trainings(service, job_id: str) -> int:
    return (service.store / f"trainings-{job_id}").read_text().count("epoch")


@pytest.fixture
def service(shared_service):
    """A service with two workers."""
    for _ in range(2 - len(living_workers(shared_service))):
        shared_service.start_worker()
    return shared_service


def living_workers(service) -> list[Any]:
    return [worker for worker in service.workers if worker.popen.poll() is None]


def test_two_workers_share_a_job_that_is_prepared_once(service, wait_until) -> None:
    workers = living_workers(service)
    job_id = service.create(sample_count=160, shard_count=4)
    follower = service.follow(job_id)
    end = follower.assert_complete(count=160)
    assert sorted(follower.indices) == list(range(160))
    assert {index: shard for index, shard in follower.shard_of.items() if shard != index % 4} == {}
    wait_until(lambda: sorted(shard for worker in workers for shard in shards_of(worker, job_id)) == [0, 1, 2, 3], 60)
    assert all(shards_of(worker, job_id) for worker in workers)
    assert trainings(service, job_id) == 1
    job = end.attack_job
    assert (job.attempt_count, job.model_record.weights_digest) == (1, "weights")
    assert (job.progress.done_count, job.progress.total_count, job.progress.failed_count) == (160, 160, 160)
    assert job.progress.remaining_duration.ToNanoseconds() == 0
    assert list(job.timing_violations) == ["2 runs shared the cpu"]


def test_a_worker_that_is_killed_leaves_its_shard_to_the_other(service, wait_until) -> None:
    workers = living_workers(service)
    # Long shards: neither is at its end when the worker is killed.
    job_id = service.create(sample_count=200, shard_count=2)
    follower = service.follow(job_id)
    wait_until(lambda: len(follower.sequences) == 2, seconds=60, message="two shards at work")
    killed = next(worker for worker in workers if f"shard 1 of job {job_id}" in worker.stderr)
    killed.signal(signal.SIGKILL)
    end = follower.assert_complete(count=200)
    assert sorted(follower.indices) == list(range(200))
    assert end.attack_job.attempt_count == 2
    assert trainings(service, job_id) == 1


def test_a_training_that_kills_its_worker_is_begun_again_by_the_first_shard_alone(service) -> None:
    job_id = service.create(seed=DIES_TRAINING, sample_count=8, shard_count=2)
    follower = service.follow(job_id)
    end = follower.assert_complete(count=8)
    assert trainings(service, job_id) == 2
    assert end.attack_job.attempt_count == 2
    assert follower.attempts_of == {0: {2}, 1: {1}}


def test_a_cancel_reaches_every_shard(service, wait_until) -> None:
    job_id = service.create(sample_count=9000, shard_count=3)
    follower = service.follow(job_id)
    wait_until(lambda: len(follower.sequences) == 2, seconds=60, message="two shards at work, the third waits")
    service.stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    end = follower.finish()
    assert end.attack_job.state == pb.AttackJob.STATE_CANCELED
    assert end.outcome_count == len(follower.indices) < 3000, "before any shard was attacked to its end"
    assert list(end.attack_job.warnings) == []
    # The workers are free again.
    service.follow(service.create(sample_count=2)).assert_complete(count=2)


def test_a_shard_that_fails_stops_the_others(service, wait_until) -> None:
    follower = service.follow(service.create(seed=LAST_SHARD_FAILS, sample_count=6000, shard_count=2))
    end = follower.finish()
    assert end.attack_job.state == pb.AttackJob.STATE_FAILED
    assert end.attack_job.failure_message == "the dataset is not there; give --data-root"
    wait_until(lambda: any("has ended without this shard" in worker.stderr for worker in service.workers), 60)
    service.follow(service.create(sample_count=2)).assert_complete(count=2)


def test_a_token_continues_every_shard_where_it_was(service) -> None:
    job_id = service.create(sample_count=30, shard_count=3)
    service.follow(job_id).assert_complete(count=30)
    whole = [message for message in service.stream(job_id) if message.HasField("outcome_batch")]
    for number, message in enumerate(whole):
        if number % 5 == 0:
            rest = [m.outcome_batch for m in service.stream(job_id, message.resume_token)]
            seen = [index for before in whole[: number + 1] for index in before.outcome_batch.sample_index]
            seen += [index for batch in rest for index in batch.sample_index]
            assert sorted(seen) == list(range(30))
    one = service.create(sample_count=3)
    service.follow(one).assert_complete(count=3)
    with pytest.raises(grpc.RpcError) as caught:
        list(service.stream(one, whole[0].resume_token))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
