"""The attack service with a scripted worker, and a client that reads a job to its end."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import redis
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.channel import open_channel

SAMPLE_COUNT = 60
_SCRIPT = Path(__file__).with_name("scripted_worker.py")


class Service:
    """One Redis, one server, any number of workers."""

    def __init__(self, redis_server, start_process, store: Path) -> None:
        self.redis = redis_server
        self._start = start_process
        self.store = store
        self.workers: list[Any] = []
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
        worker = self._start("python", _SCRIPT, self.redis.url, self.store, *words)
        self.workers.append(worker)
        return worker

    def create(self, seed: int = 0, sample_count: int = SAMPLE_COUNT, shard_count: int = 1) -> str:
        # A dataset that would have as many samples: nobody reads it.
        spec = pb.AttackSpec(
            model="resnet18",
            dataset="mnist",
            attack="pgd",
            sample_count=sample_count,
            seed=seed,
            shard_count=shard_count,
        )
        return str(self.stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=spec)).attack_job.attack_job_id)

    def job(self, job_id: str) -> pb.AttackJob:
        return self.stub.GetAttackJob(pb.GetAttackJobRequest(attack_job_id=job_id)).attack_job

    def stream(self, job_id: str, token: str = "") -> Iterator[pb.StreamOutcomesResponse]:
        request = pb.StreamOutcomesRequest(attack_job_id=job_id, resume_token=token)
        return self.stub.StreamOutcomes(request, timeout=300)

    def follow(self, job_id: str) -> Follower:
        return Follower(self, job_id)

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis.url)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def service(redis_server, start_process, tmp_path) -> Iterator[Service]:
    service = Service(redis_server, start_process, tmp_path / "store")
    yield service
    service.close()


def _child_of(pid: int) -> int:
    """The pool process of a worker."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Follower:
    """Reads a job's stream to its end, in the background, resuming by token whenever it breaks."""

    def __init__(self, service: Service, job_id: str) -> None:
        self._service, self._job_id = service, job_id
        self.indices: list[int] = []
        self.sequences: dict[int, list[int]] = defaultdict(list)
        self.shard_of: dict[int, int] = {}
        self.attempts: list[int] = []
        self.attempts_of: dict[int, set[int]] = defaultdict(set)
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
                        self.sequences[batch.shard_index].append(batch.sequence)
                        self.shard_of.update(dict.fromkeys(batch.sample_index, batch.shard_index))
                        self.attempts.append(batch.attempt)
                        self.attempts_of[batch.shard_index].add(batch.attempt)
                    elif message.HasField("end"):
                        self.end = message.end
                    else:
                        self.warnings.update(message.heartbeat.attack_job.warnings)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                self.breaks += 1
                time.sleep(0.1)

    def finish(self, seconds: float = 150) -> pb.End:
        self._thread.join(seconds)
        assert self.end is not None, "the stream did not end"
        return self.end

    def wait_for_outcomes(self, count: int, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while len(self.indices) < count:
            assert time.monotonic() < deadline, f"{len(self.indices)} of {count} outcomes"
            time.sleep(0.02)

    def assert_complete(self, count: int = SAMPLE_COUNT, seconds: float = 150) -> pb.End:
        """The job has succeeded, and every sample of it was seen once, without a gap."""
        end = self.finish(seconds)
        assert end.attack_job.state == pb.AttackJob.STATE_SUCCEEDED, end.attack_job.failure_message
        assert [index for index, seen in Counter(self.indices).items() if seen > 1] == []
        assert len(self.indices) == count
        for sequences in self.sequences.values():
            assert sequences == list(range(len(sequences)))
        assert end.outcome_count == count
        return end


@pytest.fixture(scope="module")
def shared_service(module_redis_url, start_module_process, tmp_path_factory) -> Iterator[Service]:
    """A service that all tests of a module share; none may kill its Redis."""
    redis_server = SimpleNamespace(url=module_redis_url)
    service = Service(redis_server, start_module_process, tmp_path_factory.mktemp("store"))
    yield service
    service.close()


@pytest.fixture(scope="session")
def child_of() -> Callable[[int], int]:
    """`child_of(pid)` is the pool process of a worker."""
    return _child_of


@pytest.fixture(scope="session")
def alive() -> Callable[[int], bool]:
    """`alive(pid)`: whether there is such a process, and it is no zombie."""
    return _alive
