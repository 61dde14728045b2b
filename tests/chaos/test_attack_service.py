"""The attack service when processes die: real Redis, real server, real Celery workers, a scripted attack."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import redis
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.channel import open_channel

from attack_service.adapters.keys import WORKERS, JobKeys
from attack_service.adapters.queueing import QUEUE, UNACKED

SAMPLE_COUNT = 60
SCRIPT = Path(__file__).with_name("scripted_worker.py")
POISON, DEFECT, USER_MISTAKE, DEAF = 1001, 1002, 1003, 1004


class Service:
    """One Redis, one server, any number of workers."""

    def __init__(self, redis_server, start_process, store: Path) -> None:
        self.redis = redis_server
        self._start = start_process
        self._store = store
        self.server = self.start_server()
        self._channel = open_channel(self.server.address)
        self.stub = rpc.AttackServiceStub(self._channel)

    def start_server(self, *options: str):
        return self._start(
            *("python", "-m", "attack_service", "serve", "--address", "127.0.0.1:0", "--redis-url", self.redis.url),
            *("--reconcile-seconds", "0.5", *options),
        )

    def start_worker(self, **settings: float):
        options = {"visibility_seconds": 4.0, "shutdown_seconds": 2.0, **settings}
        words = [f"{name}={value}" for name, value in options.items()]
        return self._start("python", SCRIPT, self.redis.url, self._store, *words)

    def create(self, seed: int = 0, sample_count: int = SAMPLE_COUNT, shard_count: int = 1) -> str:
        spec = pb.AttackSpec(
            model="resnet18", attack="pgd", sample_count=sample_count, seed=seed, shard_count=shard_count
        )
        return str(self.stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=spec)).attack_job.attack_job_id)

    def job(self, job_id: str) -> pb.AttackJob:
        return self.stub.GetAttackJob(pb.GetAttackJobRequest(attack_job_id=job_id)).attack_job

    def stream(self, job_id: str, token: str = "") -> Iterator[pb.StreamOutcomesResponse]:
        request = pb.StreamOutcomesRequest(attack_job_id=job_id, resume_token=token)
        return self.stub.StreamOutcomes(request, timeout=300)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def service(redis_server, start_process, tmp_path) -> Iterator[Service]:
    service = Service(redis_server, start_process, tmp_path / "store")
    yield service
    service.close()


def child_of(pid: int) -> int:
    """The pool process of a worker."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Follower:
    """Reads a job's stream to its end, in the background, resuming by token whenever it breaks."""

    def __init__(self, service: Service, job_id: str) -> None:
        self._service, self._job_id = service, job_id
        self.indices: list[int] = []
        self.sequences: list[int] = []
        self.attempts: list[int] = []
        self.warnings: set[str] = set()
        self.end: pb.End | None = None
        self.breaks = 0
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        token = ""
        while self.end is None:
            try:
                for message in self._service.stream(self._job_id, token):
                    token = message.resume_token
                    batch = message.outcome_batch
                    if message.HasField("outcome_batch"):
                        self.indices += batch.sample_index
                        self.sequences.append(batch.sequence)
                        self.attempts.append(batch.attempt)
                    elif message.HasField("end"):
                        self.end = message.end
                    else:
                        self.warnings.update(message.heartbeat.attack_job.warnings)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.breaks += 1
                time.sleep(0.1)

    def finish(self, seconds: float = 60) -> pb.End:
        self._thread.join(seconds)
        assert self.end is not None, "the stream did not end"
        return self.end


def assert_complete(follower: Follower, count: int = SAMPLE_COUNT, seconds: float = 60) -> pb.End:
    """The job has succeeded, and every sample of it was seen once, without a gap."""
    end = follower.finish(seconds)
    assert end.attack_job.state == pb.AttackJob.STATE_SUCCEEDED, end.attack_job.failure_message
    assert [index for index, seen in Counter(follower.indices).items() if seen > 1] == []
    assert len(follower.indices) == count
    assert follower.sequences == list(range(len(follower.sequences)))
    assert end.outcome_count == count
    return end


def wait_for_outcomes(follower: Follower, count: int, wait_until) -> None:
    wait_until(lambda: len(follower.indices) >= count, 30, f"{count} outcomes")


def test_a_killed_child_costs_no_outcome_and_repeats_none(service, wait_until) -> None:
    worker = service.start_worker()
    follower = Follower(service, service.create())
    wait_for_outcomes(follower, 10, wait_until)
    began = time.monotonic()
    os.kill(child_of(worker.pid), signal.SIGKILL)
    end = assert_complete(follower)
    assert end.attack_job.attempt_count == 2
    assert set(follower.attempts) == {1, 2}
    assert time.monotonic() - began < 30


def test_a_killed_worker_is_replaced_by_another(service, wait_until) -> None:
    worker = service.start_worker()
    job_id = service.create()
    follower = Follower(service, job_id)
    wait_for_outcomes(follower, 10, wait_until)
    child = child_of(worker.pid)
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not alive(child), 5, "no orphan survives its parent")
    service.start_worker()
    end = assert_complete(follower)
    assert end.attack_job.attempt_count == 2
    wait_until(lambda: service.client().hlen(UNACKED) == 0, 5, "the task is acknowledged")


def test_a_worker_that_comes_back_from_the_dead_adds_nothing(service, wait_until) -> None:
    worker = service.start_worker(visibility_seconds=2)
    job_id = service.create(sample_count=80)
    follower = Follower(service, job_id)
    wait_for_outcomes(follower, 10, wait_until)
    stopped = [child_of(worker.pid), worker.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    # Its lease runs out, which the test need not wait for.
    service.client().delete(JobKeys(job_id).shard(0).lease)
    service.start_worker(visibility_seconds=2)
    wait_until(lambda: 2 in follower.attempts, 30, "another worker takes over")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    end = assert_complete(follower, count=80)
    assert end.attack_job.attempt_count == 2
    wait_until(lambda: "was superseded" in worker.stderr, 10)
    # The queue takes its acknowledgement for the other's, and both go on to the next job.
    assert_complete(Follower(service, service.create(sample_count=3)), count=3)


def test_a_terminated_worker_puts_its_job_back_within_seconds(service, wait_until) -> None:
    worker = service.start_worker()
    job_id = service.create(sample_count=300)
    follower = Follower(service, job_id)
    wait_for_outcomes(follower, 5, wait_until)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert time.monotonic() - began < 15
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
    assert [worker.wait(30) for worker in workers] == [0, 0]
    assert not any("Traceback" in worker.stderr for worker in workers)


def test_a_run_that_does_not_listen_is_stopped_by_force_and_put_back(service, wait_until) -> None:
    worker = service.start_worker(shutdown_seconds=0.5)
    job_id = service.create(seed=DEAF)
    wait_until(lambda: service.job(job_id).state == pb.AttackJob.STATE_RUNNING)
    worker.signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert service.client().llen(QUEUE) == 1


def test_a_job_longer_than_the_visibility_timeout_runs_once(service) -> None:
    service.start_worker(visibility_seconds=1.0)
    service.start_worker(visibility_seconds=1.0)
    follower = Follower(service, service.create(sample_count=120))
    end = assert_complete(follower, count=120)
    assert end.attack_job.attempt_count == 1


def test_a_cancel_acts_at_once_and_keeps_the_outcomes(service, wait_until) -> None:
    service.start_worker()
    job_id = service.create(sample_count=300)
    follower = Follower(service, job_id)
    wait_for_outcomes(follower, 5, wait_until)
    began = time.monotonic()
    service.stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    end = follower.finish(10)
    assert time.monotonic() - began < 6, "not before every sample was attacked"
    assert end.attack_job.state == pb.AttackJob.STATE_CANCELED
    assert end.outcome_count == len(follower.indices) >= 5


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
    follower = Follower(service, service.create(sample_count=150))
    wait_for_outcomes(follower, 20, wait_until)
    service.redis.kill()
    time.sleep(1)
    service.redis.start()
    assert_complete(follower, count=150)


def test_a_worker_goes_on_once_a_redis_is_back_that_stayed_away_too_long(service, wait_until) -> None:
    worker = service.start_worker(redis_patience_seconds=0.1)
    follower = Follower(service, service.create(sample_count=20))
    wait_for_outcomes(follower, 5, wait_until)
    service.redis.kill()
    wait_until(lambda: "Redis does not answer" in worker.stderr)
    time.sleep(0.5)
    service.redis.start()
    end = assert_complete(follower, count=20)
    assert end.attack_job.attempt_count == 2
    assert "Traceback" not in worker.stderr


def test_a_redis_that_stays_away_is_unavailable(service) -> None:
    server = service.start_server("--redis-patience-seconds", "0.1")
    service.redis.kill()
    began = time.monotonic()
    with open_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        rpc.AttackServiceStub(channel).ListAttackJobs(pb.ListAttackJobsRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Redis does not answer" in str(caught.value.details())
    assert time.monotonic() - began < 20


def test_server_and_worker_end_without_redis(service) -> None:
    worker = service.start_worker()
    service.redis.kill()
    began = time.monotonic()
    for process in (worker, service.server):
        process.signal(signal.SIGTERM)
    assert [process.wait(30) for process in (worker, service.server)] == [0, 0]
    assert time.monotonic() - began < 20
    assert "Traceback" not in service.server.stderr


def test_a_job_that_kills_its_workers_is_given_up_and_others_go_on(service, wait_until) -> None:
    service.start_worker(attempt_limit=2)
    poison = service.create(seed=POISON)
    healthy = Follower(service, service.create(sample_count=5))
    wait_until(lambda: service.job(poison).state == pb.AttackJob.STATE_FAILED, 60)
    job = service.job(poison)
    assert job.failure_message.startswith("2 workers in a row were lost")
    assert job.attempt_count == 2
    assert_complete(healthy, count=5)


def test_a_defect_is_in_the_log_and_not_in_the_answer(service) -> None:
    worker = service.start_worker()
    end = Follower(service, service.create(seed=DEFECT)).finish()
    assert end.attack_job.state == pb.AttackJob.STATE_FAILED
    assert end.attack_job.failure_message.startswith("internal error (ZeroDivisionError)")
    assert "secret" not in end.attack_job.failure_message
    assert "a defect with a secret in its text" in worker.stderr
    assert "Traceback" in worker.stderr


def test_a_mistake_of_the_user_is_the_answer(service) -> None:
    worker = service.start_worker()
    end = Follower(service, service.create(seed=USER_MISTAKE)).finish()
    assert end.attack_job.failure_message == "the dataset is not there; give --data-root"
    assert "Traceback" not in worker.stderr


def test_a_job_without_a_worker_says_so_until_there_is_one(service, wait_until) -> None:
    follower = Follower(service, service.create(sample_count=3))
    wait_until(lambda: any("no worker is running" in warning for warning in follower.warnings))
    service.start_worker()
    end = assert_complete(follower, count=3)
    assert not end.attack_job.warnings


def test_two_workers_share_the_jobs(service) -> None:
    service.start_worker()
    service.start_worker()
    followers = [Follower(service, service.create(sample_count=40)) for _ in range(2)]
    ends = [assert_complete(follower, count=40) for follower in followers]
    first, second = sorted(end.attack_job.start_time.ToNanoseconds() for end in ends)
    earliest_end = min(end.attack_job.end_time.ToNanoseconds() for end in ends)
    assert second < earliest_end, "one waited for the other"
    assert first < second


def test_nothing_of_a_worker_outlives_it(service) -> None:
    worker = service.start_worker()
    child = child_of(worker.pid)
    worker.signal(signal.SIGTERM)
    worker.wait(30)
    assert not alive(child)
    assert subprocess.run(["pgrep", "-s", str(worker.pid)], capture_output=True).stdout == b""


@pytest.mark.timeout(480)
def test_a_real_job_survives_the_death_of_its_worker(service, start_process, tmp_path, wait_until) -> None:
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
    follower = Follower(service, job_id)
    wait_until(lambda: follower.end or follower.indices, 200, "a first outcome")
    os.kill(child_of(worker.pid), signal.SIGKILL)
    end = assert_complete(follower, count=24, seconds=200)
    assert end.attack_job.attempt_count == 2
    assert not end.attack_job.model_record.from_store, "the second attempt found what the first had trained"
