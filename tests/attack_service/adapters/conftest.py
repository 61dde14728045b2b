"""What tests of the plumbing share: outcomes, jobs in a real Redis, a running attack server."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
import redis
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.channel import open_channel

from attack_service import catalog
from attack_service.adapters import ledger
from attack_service.adapters.connecting import connect, connect_asyncio
from attack_service.adapters.job_store import JobStore
from attack_service.adapters.ledger import RedisLedger
from attack_service.adapters.outcome_log import OutcomeLog
from attack_service.jobs import AttackSpec
from attack_service.outcomes import InFlight, Outcome, Verdict


@pytest.fixture(scope="session")
def spec() -> AttackSpec:
    """A resolved specification."""
    return catalog.resolve(AttackSpec(model="resnet18", dataset="digits", attack="pgd", sample_count=8))


@pytest.fixture(scope="session")
def make_outcome() -> Callable[..., Outcome]:
    """`make_outcome(3, Verdict.SURVIVED)` is a plausible outcome of sample 3."""

    def make(sample_index: int, verdict: Verdict = Verdict.FAILED) -> Outcome:
        bounded = verdict in (Verdict.FAILED, Verdict.MISCLASSIFIED)
        lower = 0 if verdict is Verdict.MISCLASSIFIED else 3
        upper = lower + (verdict is Verdict.FAILED)
        return Outcome(
            sample_index=sample_index,
            verdict=verdict,
            label=sample_index % 10,
            clean_prediction=sample_index % 10,
            adversarial_prediction=(sample_index + 1) % 10,
            query_count_lower=lower,
            query_count_upper=upper if bounded else None,
            gradient_count_lower=lower,
            gradient_count_upper=upper if bounded else None,
            seconds_lower=lower / 64,
            seconds_upper=upper / 64 if bounded else None,
            distance_l2=0.5,
            distance_linf=0.125,
            distance_l0=17,
            check_count=lower,
            clean_seconds=0.25,
        )

    return make


@pytest.fixture(scope="session")
def make_in_flight() -> Callable[[int], InFlight]:
    return lambda sample_index: InFlight(sample_index, 2, 3, 2, 0.03125)


@pytest.fixture(autouse=True)
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody renews the leases of these tests, and a slow machine is no reason to lose one."""
    monkeypatch.setattr(ledger, "LEASE_SECONDS", 600.0)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with connect(redis_url, 2) as client:
        yield client


class Jobs:
    """Jobs in a real Redis: the server's asynchronous store and log, called from tests that are not."""

    def __init__(self, redis_url: str, client: redis.Redis) -> None:
        self._redis_url = redis_url
        self._client = client

    def call(self, function: Callable[[JobStore, OutcomeLog], Awaitable[Any]]) -> Any:
        """Await `function(store, log)` in an event loop of its own."""

        async def run() -> Any:
            async with connect_asyncio(self._redis_url, 2) as client:
                return await function(JobStore(client), OutcomeLog(client))

        return asyncio.run(run())

    def create(self, spec: AttackSpec, request_id: str = "") -> str:
        stored, _ = self.call(lambda store, log: store.create(spec, request_id))
        return str(stored.job.attack_job_id)

    def get(self, job_id: str) -> Any:
        return self.call(lambda store, log: store.get(job_id))

    def begin(self, job_id: str, **options: Any) -> Any:
        return RedisLedger.begin(self._client, job_id, **{"attempt_limit": 3, **options})


@pytest.fixture
def jobs(redis_url: str, client: redis.Redis) -> Jobs:
    return Jobs(redis_url, client)


@pytest.fixture
def make_jobs() -> Callable[[str, redis.Redis], Jobs]:
    """`make_jobs(redis_url, client)` are the jobs in another Redis."""
    return Jobs


@pytest.fixture(scope="module")
def module_stub(module_redis_url: str, start_module_process: Any) -> Iterator[rpc.AttackServiceStub]:
    """A stub of a running attack server over `module_redis_url`, without a worker."""
    server = start_module_process(
        *("python", "-m", "attack_service", "serve", "--address", "127.0.0.1:0", "--redis-url", module_redis_url)
    )
    channel: grpc.Channel = open_channel(server.address)
    with channel:
        yield rpc.AttackServiceStub(channel)


@pytest.fixture
def new_request_id() -> str:
    return str(uuid.uuid4())
