"""The attack service when processes die: real Redis, real server, real Celery workers, a scripted attack."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.channel import open_channel

from attack_service.adapters.keys import WORKERS, JobKeys
from attack_service.adapters.queueing import QUEUE, UNACKED

SAMPLE_COUNT = 60
POISON, DEFECT, USER_MISTAKE, DEAF = 1001, 1002, 1003, 1004


def test_a_killed_child_costs_no_outcome_and_repeats_none(service, wait_until, child_of) -> None:
    worker = service.start_worker()
    follower = service.follow(service.create())
    follower.wait_for_outcomes(10)
    os.kill(child_of(worker.pid), signal.SIGKILL)
    end = follower.assert_complete()
    assert end.attack_job.attempt_count == 2
    assert set(follower.attempts) == {1, 2}


def test_a_killed_worker_is_replaced_by_another(service, wait_until, child_of, alive) -> None:
    worker = service.start_worker()
    job_id = service.create()
    follower = service.follow(job_id)
    follower.wait_for_outcomes(10)
    child = child_of(worker.pid)
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not alive(child), 30, "no orphan survives its parent")
    service.start_worker()
    end = follower.assert_complete()
    assert end.attack_job.attempt_count == 2
    wait_until(lambda: service.client().hlen(UNACKED) == 0, 30, "the task is acknowledged")


def test_a_worker_that_comes_back_from_the_dead_adds_nothing(service, wait_until, child_of) -> None:
    worker = service.start_worker(visibility_seconds=2)
    job_id = service.create(sample_count=80)
    follower = service.follow(job_id)
    follower.wait_for_outcomes(10)
    stopped = [child_of(worker.pid), worker.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    # Its lease runs out, which the test need not wait for.
    service.client().delete(JobKeys(job_id).shard(0).lease)
    service.start_worker(visibility_seconds=2)
    wait_until(lambda: 2 in follower.attempts, 90, "another worker takes over")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    end = follower.assert_complete(count=80)
    assert end.attack_job.attempt_count == 2
    wait_until(lambda: "was superseded" in worker.stderr, 60)
    # The queue takes its acknowledgement for the other's, and both go on to the next job.
    service.follow(service.create(sample_count=3)).assert_complete(count=3)


def test_a_terminated_worker_puts_its_job_back(service, wait_until) -> None:
    worker = service.start_worker()
    job_id = service.create(sample_count=300)
    follower = service.follow(job_id)
    follower.wait_for_outcomes(5)
    worker.signal(signal.SIGTERM)
    assert worker.wait(300) == 0
    client = service.client()
    assert client.llen(QUEUE) == 1
    assert client.hlen(UNACKED) == 0
    assert client.smembers(WORKERS) == set()
    job = service.job(job_id)
    assert job.state == pb.AttackJob.STATE_QUEUED
    assert "no worker is running" in job.warnings[0]
    assert worker.stdout == "ready\n"
    service.stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    assert follower.finish().attack_job.state == pb.AttackJob.STATE_CANCELED


def test_a_worker_that_is_stopped_as_soon_as_it_is_ready_ends_well(service) -> None:
    workers = [service.start_worker() for _ in range(2)]
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert not any("Traceback" in worker.stderr for worker in workers)


def test_a_run_that_does_not_listen_is_stopped_by_force_and_put_back(service, wait_until) -> None:
    worker = service.start_worker(shutdown_seconds=0.5)
    job_id = service.create(seed=DEAF)
    wait_until(lambda: service.job(job_id).state == pb.AttackJob.STATE_RUNNING, 60)
    worker.signal(signal.SIGTERM)
    assert worker.wait(300) == 0
    assert service.client().llen(QUEUE) == 1


def test_a_job_longer_than_the_visibility_timeout_runs_once(service) -> None:
    service.start_worker(visibility_seconds=1.0)
    service.start_worker(visibility_seconds=1.0)
    follower = service.follow(service.create(sample_count=120))
    end = follower.assert_complete(count=120)
    assert end.attack_job.attempt_count == 1


def test_a_cancel_acts_at_once_and_keeps_the_outcomes(service, wait_until) -> None:
    service.start_worker()
    job_id = service.create(sample_count=9000)
    follower = service.follow(job_id)
    follower.wait_for_outcomes(5)
    service.stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    end = follower.finish(60)
    assert end.attack_job.state == pb.AttackJob.STATE_CANCELED
    assert 5 <= end.outcome_count == len(follower.indices) < 3000, "before every sample was attacked"


def test_a_client_that_breaks_off_again_and_again_sees_every_sample_once(service) -> None:
    service.start_worker()
    job_id = service.create()
    indices, token, ended = [], "", False
    while not ended:
        messages = service.stream(job_id, token)
        for message in messages:
            token = message.resume_token
            indices += message.outcome_batch.sample_index
            ended = message.HasField("end")
            if message.HasField("outcome_batch") and len(indices) % 3 == 0:
                break
        messages.cancel()
    assert sorted(indices) == list(range(SAMPLE_COUNT))


def test_a_redis_that_crashes_and_comes_back_costs_nothing(service, wait_until) -> None:
    service.start_worker()
    follower = service.follow(service.create(sample_count=150))
    follower.wait_for_outcomes(20)
    service.redis.kill()
    time.sleep(1)
    service.redis.start()
    follower.assert_complete(count=150)


def test_a_worker_goes_on_once_a_redis_is_back_that_stayed_away_too_long(service, wait_until) -> None:
    worker = service.start_worker(redis_patience_seconds=0.1)
    follower = service.follow(service.create(sample_count=20))
    follower.wait_for_outcomes(5)
    service.redis.kill()
    wait_until(lambda: "Redis does not answer" in worker.stderr, 60)
    time.sleep(0.5)
    service.redis.start()
    end = follower.assert_complete(count=20)
    assert end.attack_job.attempt_count == 2
    assert "Traceback" not in worker.stderr


def test_a_redis_that_stays_away_is_unavailable(service) -> None:
    server = service.start_server("--redis-patience-seconds", "0.1")
    service.redis.kill()
    with open_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        rpc.AttackServiceStub(channel).ListAttackJobs(pb.ListAttackJobsRequest(), timeout=120)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Redis does not answer" in str(caught.value.details())


def test_server_and_worker_end_without_redis(service) -> None:
    worker = service.start_worker()
    service.redis.kill()
    for process in (worker, service.server):
        process.signal(signal.SIGTERM)
    assert [process.wait(300) for process in (worker, service.server)] == [0, 0]
    assert "Traceback" not in service.server.stderr


def test_a_job_that_kills_its_workers_is_given_up_and_others_go_on(service, wait_until) -> None:
    service.start_worker(attempt_limit=2)
    poison = service.create(seed=POISON)
    healthy = service.follow(service.create(sample_count=5))
    wait_until(lambda: service.job(poison).state == pb.AttackJob.STATE_FAILED, 150)
    job = service.job(poison)
    assert job.failure_message.startswith("2 workers in a row were lost")
    assert job.attempt_count == 2
    healthy.assert_complete(count=5)


def test_a_defect_is_in_the_log_and_not_in_the_answer(service) -> None:
    worker = service.start_worker()
    end = service.follow(service.create(seed=DEFECT)).finish()
    assert end.attack_job.state == pb.AttackJob.STATE_FAILED
    assert end.attack_job.failure_message.startswith("internal error (ZeroDivisionError)")
    assert "secret" not in end.attack_job.failure_message
    assert "a defect with a secret in its text" in worker.stderr
    assert "Traceback" in worker.stderr


def test_a_mistake_of_the_user_is_the_answer(service) -> None:
    worker = service.start_worker()
    end = service.follow(service.create(seed=USER_MISTAKE)).finish()
    assert end.attack_job.failure_message == "the dataset is not there; give --data-root"
    assert "Traceback" not in worker.stderr


def test_a_job_without_a_worker_says_so_until_there_is_one(service, wait_until) -> None:
    follower = service.follow(service.create(sample_count=3))
    wait_until(lambda: any("no worker is running" in warning for warning in follower.warnings), 60)
    service.start_worker()
    end = follower.assert_complete(count=3)
    assert not end.attack_job.warnings


def test_two_workers_share_the_jobs(service) -> None:
    service.start_worker()
    service.start_worker()
    # Longer than anybody waits: neither ends before the other has begun.
    job_ids = [service.create(sample_count=9000) for _ in range(2)]
    followers = [service.follow(job_id) for job_id in job_ids]
    for follower in followers:
        follower.wait_for_outcomes(2, 90)
    for job_id in job_ids:
        service.stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    assert {follower.finish(60).attack_job.state for follower in followers} == {pb.AttackJob.STATE_CANCELED}


def test_nothing_of_a_worker_outlives_it(service, child_of, alive) -> None:
    worker = service.start_worker()
    child = child_of(worker.pid)
    worker.signal(signal.SIGTERM)
    worker.wait(300)
    assert not alive(child)
    assert subprocess.run(["pgrep", "-s", str(worker.pid)], capture_output=True).stdout == b""


@pytest.mark.timeout(480)
def test_a_real_job_survives_the_death_of_its_worker(service, start_process, tmp_path, wait_until, child_of) -> None:
    """Nothing scripted: a ResNet-18 trained for an epoch and attacked, its process killed between two samples."""
    worker = start_process(
        *("python", "-m", "attack_service", "work", "--redis-url", service.redis.url, "--store", tmp_path / "real"),
        *("--device", "cpu", "--visibility-seconds", "4"),
    )
    # Weak enough an attack for most samples to last all of its steps, in batches small enough for many rounds.
    spec = pb.AttackSpec(
        model="resnet18",
        dataset="digits",
        attack="pgd",
        attack_parameters={"epsilon": 0.02, "max_iterations": 20},
        sample_count=24,
        epoch_count=1,
        batch_size=4,
        image_size=16,
    )
    job_id = service.stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=spec)).attack_job.attack_job_id
    follower = service.follow(job_id)
    wait_until(lambda: follower.end or follower.indices, 200, "a first outcome")
    os.kill(child_of(worker.pid), signal.SIGKILL)
    end = follower.assert_complete(count=24, seconds=200)
    assert end.attack_job.attempt_count == 2
    assert not end.attack_job.model_record.from_store, "the second attempt found what the first had trained"
