"""The calls of the attack service, over a socket, on a real Redis; the tests themselves play the worker."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as pb
from afr.attack.v1 import attack_service_pb2_grpc as rpc
from afr.rpc.channel import open_channel
from afr.rpc.errors import Failure, failure_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from attack_service import catalog
from attack_service.adapters import wire
from attack_service.adapters.connecting import connect, connect_asyncio
from attack_service.adapters.job_store import JobStore
from attack_service.adapters.keys import WORKERS, worker_key
from attack_service.adapters.ledger import RedisLedger, Refusal
from attack_service.adapters.outcome_log import OutcomeLog
from attack_service.adapters.queueing import QUEUE, JobQueue, build_app
from attack_service.adapters.servicer import AttackServicer
from attack_service.jobs import ModelRecord, Phase, Preparation, Progress, State
from attack_service.outcomes import Tally

NOWHERE = "8060081a-a543-49aa-a4f0-733d7aaa9efb"
SPEC = pb.AttackSpec(model="resnet18", attack="pgd", sample_count=8)


@pytest.fixture
def worker_client(module_redis_url: str):
    with connect(module_redis_url, 2) as client:
        yield client


@pytest.fixture
def stub(module_stub) -> rpc.AttackServiceStub:
    return module_stub


def outcome_of(call, request) -> Failure | None:
    """How a call fails, None if it does not; a stream is read to its end."""
    try:
        answer = call(request, timeout=60)
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        return failure_of(error)
    return None


def failure(call, request) -> Failure:
    failed = outcome_of(call, request)
    assert failed is not None, "the call did not fail"
    return failed


def create(stub) -> str:
    return str(stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=SPEC)).attack_job.attack_job_id)


def begin(client, job_id: str) -> RedisLedger:
    ledger = RedisLedger.begin(client, job_id, attempt_limit=3)
    assert isinstance(ledger, RedisLedger)
    return ledger


def stream(stub, job_id: str, token: str = "", timeout: float = 120) -> Iterator[pb.StreamOutcomesResponse]:
    return stub.StreamOutcomes(pb.StreamOutcomesRequest(attack_job_id=job_id, resume_token=token), timeout=timeout)


def test_every_call_of_the_contract_is_implemented(stub) -> None:
    for method in pb.DESCRIPTOR.services_by_name["AttackService"].methods:
        failed = outcome_of(getattr(stub, method.name), getattr(pb, method.input_type.name)())
        assert failed is None or failed.code is grpc.StatusCode.INVALID_ARGUMENT, (method.name, failed)


def test_a_created_job_has_its_defaults_and_is_in_the_queue(stub, worker_client) -> None:
    before = worker_client.llen(QUEUE)
    response = stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=SPEC))
    job = response.attack_job
    assert wire.spec_from_proto(job.spec) == catalog.divide(catalog.resolve(wire.spec_from_proto(SPEC)), 0)
    assert job.state == pb.AttackJob.STATE_QUEUED
    assert job.HasField("create_time")
    assert worker_client.llen(QUEUE) == before + 1
    maxima = catalog.count_maxima(wire.spec_from_proto(job.spec))
    assert (response.query_count_maximum, response.gradient_count_maximum) == maxima
    assert stub.GetAttackJob(pb.GetAttackJobRequest(attack_job_id=job.attack_job_id)).attack_job == job
    assert list(job.warnings) == ["no worker is running; start one with python -m attack_service work"]


def test_validating_prices_a_job_and_queues_nothing(stub, worker_client) -> None:
    before = worker_client.dbsize(), worker_client.llen(QUEUE)
    response = stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=SPEC, validate_only=True))
    assert response.attack_job.attack_job_id == ""
    assert response.attack_job.spec.engine == "native"
    assert response.query_count_maximum == 8 * (response.gradient_count_maximum // 8 + 1)
    assert (worker_client.dbsize(), worker_client.llen(QUEUE)) == before


def test_a_job_is_divided_among_the_workers_that_live_when_it_is_created(stub, worker_client, new_request_id) -> None:
    spec = pb.AttackSpec(model="resnet18", attack="pgd", sample_count=40, batch_size=10)
    request = pb.CreateAttackJobRequest(spec=spec, request_id=new_request_id)
    for name in ("one:1", "two:2", "three:3"):
        worker_client.sadd(WORKERS, name)
        worker_client.set(worker_key(name), "{}")
    try:
        assert stub.CreateAttackJob(request).attack_job.spec.shard_count == 3
        worker_client.delete(worker_key("three:3"))
        # It stays so, though a job that is created now has fewer.
        assert stub.CreateAttackJob(request).attack_job.spec.shard_count == 3
        priced = stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=spec, validate_only=True))
        assert priced.attack_job.spec.shard_count == 2
        spec.shard_count = 5
        assert stub.CreateAttackJob(pb.CreateAttackJobRequest(spec=spec)).attack_job.spec.shard_count == 5
    finally:
        worker_client.delete(WORKERS, worker_key("one:1"), worker_key("two:2"))


def test_a_repeated_request_creates_one_job(stub, worker_client, new_request_id) -> None:
    before = worker_client.llen(QUEUE)
    request = pb.CreateAttackJobRequest(spec=SPEC, request_id=new_request_id)
    with ThreadPoolExecutor(10) as pool:
        jobs = list(pool.map(lambda _: stub.CreateAttackJob(request).attack_job, range(20)))
    assert len({job.attack_job_id for job in jobs}) == 1
    assert worker_client.llen(QUEUE) == before + 1
    request.spec.seed = 9
    assert failure(stub.CreateAttackJob, request).reason == "REQUEST_CONFLICT"


@pytest.mark.parametrize(
    ("call", "request_", "code", "reason", "field"),
    [
        ("CreateAttackJob", pb.CreateAttackJobRequest(), "INVALID_ARGUMENT", "INVALID_SPECIFICATION", "spec.model"),
        (
            "CreateAttackJob",
            pb.CreateAttackJobRequest(spec=pb.AttackSpec(model="resnet5", attack="pgd")),
            *("INVALID_ARGUMENT", "UNKNOWN_NAME", "spec.model"),
        ),
        (
            "CreateAttackJob",
            pb.CreateAttackJobRequest(spec=SPEC, request_id="seven"),
            *("INVALID_ARGUMENT", "INVALID_SPECIFICATION", "request_id"),
        ),
        (
            "CreateAttackJob",
            pb.CreateAttackJobRequest(spec=pb.AttackSpec(model="\N{SNOWMAN}" * 100_000, attack="pgd")),
            *("INVALID_ARGUMENT", "UNKNOWN_NAME", "spec.model"),
        ),
        ("GetAttackJob", pb.GetAttackJobRequest(attack_job_id="x" * 100_000), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("GetAttackJob", pb.GetAttackJobRequest(attack_job_id="x"), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("CancelAttackJob", pb.CancelAttackJobRequest(attack_job_id="x"), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("DeleteAttackJob", pb.DeleteAttackJobRequest(attack_job_id="x"), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        ("StreamOutcomes", pb.StreamOutcomesRequest(attack_job_id="x"), "NOT_FOUND", "JOB_NOT_FOUND", ""),
        (
            "StreamOutcomes",
            pb.StreamOutcomesRequest(attack_job_id=NOWHERE, resume_token="garbage"),
            *("INVALID_ARGUMENT", "INVALID_SPECIFICATION", "resume_token"),
        ),
        (
            "ListOutcomes",
            pb.ListOutcomesRequest(attack_job_id=NOWHERE, page_token="garbage"),
            *("INVALID_ARGUMENT", "INVALID_SPECIFICATION", "page_token"),
        ),
        (
            "ListAttackJobs",
            pb.ListAttackJobsRequest(page_token="garbage" * 10_000),
            *("INVALID_ARGUMENT", "INVALID_SPECIFICATION", "page_token"),
        ),
    ],
)
def test_a_mistake_has_a_status_a_reason_and_a_field(stub, call, request_, code, reason, field) -> None:
    failed = failure(getattr(stub, call), request_)
    assert (failed.code.name, failed.reason, failed.field) == (code, reason, field)
    assert failed.message


def test_no_other_key_of_a_job_passes_for_a_job(stub, worker_client, make_outcome) -> None:
    job_id = create(stub)
    ledger = begin(worker_client, job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    ledger.progress(Progress(Phase.TRAINING, 5, 10))
    keys = [key.decode() for key in worker_client.keys(f"*{job_id}:*")]
    assert len(keys) >= 4
    for key in keys:
        job_id = key.removeprefix("afr:job:")
        for call, request in (
            (stub.GetAttackJob, pb.GetAttackJobRequest(attack_job_id=job_id)),
            (stub.CancelAttackJob, pb.CancelAttackJobRequest(attack_job_id=job_id)),
            (stub.DeleteAttackJob, pb.DeleteAttackJobRequest(attack_job_id=job_id)),
            (stub.StreamOutcomes, pb.StreamOutcomesRequest(attack_job_id=job_id)),
            (stub.ListOutcomes, pb.ListOutcomesRequest(attack_job_id=job_id)),
        ):
            assert failure(call, request).reason == "JOB_NOT_FOUND", (call, job_id)


def test_the_catalogue_is_listed(stub) -> None:
    assert [model.name for model in stub.ListModels(pb.ListModelsRequest()).models] == list(catalog.MODELS)
    assert {attack.name for attack in stub.ListAttacks(pb.ListAttacksRequest()).attacks} == set(catalog.ATTACKS)
    assert {defence.name for defence in stub.ListDefences(pb.ListDefencesRequest()).defences} == set(catalog.DEFENCES)
    assert {dataset.name for dataset in stub.ListDatasets(pb.ListDatasetsRequest()).datasets} == set(catalog.DATASETS)


def test_jobs_are_listed_in_pages(stub) -> None:
    created = [create(stub) for _ in range(3)]
    first = stub.ListAttackJobs(pb.ListAttackJobsRequest(page_size=2))
    second = stub.ListAttackJobs(pb.ListAttackJobsRequest(page_size=2, page_token=first.next_page_token))
    listed = [job.attack_job_id for job in (*first.attack_jobs, *second.attack_jobs)]
    assert listed[:3] == created[::-1]
    assert len(listed) == 4


def run_to_the_end(client, job_id: str, make_outcome, make_in_flight) -> Tally:
    ledger = begin(client, job_id)
    ledger.record([], [make_in_flight(0)], 0.5)
    outcomes = [make_outcome(index) for index in range(8)]
    for outcome in outcomes[:7]:
        ledger.record([outcome], [make_in_flight(7)], 0.5)
    ledger.record(outcomes[7:], [], 0.5)
    ledger.finish(State.SUCCEEDED)
    return Tally().plus(wire.tally_rows(outcomes))


def test_a_stream_has_every_outcome_once_and_ends_with_the_checksum(
    stub, worker_client, make_outcome, make_in_flight
) -> None:
    job_id = create(stub)
    tally = run_to_the_end(worker_client, job_id, make_outcome, make_in_flight)
    messages = list(stream(stub, job_id))
    kinds = [message.WhichOneof("event") for message in messages]
    assert kinds == ["heartbeat", *["outcome_batch"] * 9, "end"]
    outcomes = [o for m in messages[1:-1] for o in wire.outcomes_from_proto(m.outcome_batch)]
    assert outcomes == [make_outcome(index) for index in range(8)]
    end = messages[-1].end
    assert end.attack_job.state == pb.AttackJob.STATE_SUCCEEDED
    assert (end.outcome_count, end.failed_count, end.checksum) == (8, 8, tally.checksum)
    assert Tally().plus(wire.tally_rows(outcomes)) == tally


def test_a_stream_goes_on_after_every_token(stub, worker_client, make_outcome, make_in_flight) -> None:
    job_id = create(stub)
    run_to_the_end(worker_client, job_id, make_outcome, make_in_flight)
    messages = list(stream(stub, job_id))
    batches = [message for message in messages if message.HasField("outcome_batch")]
    for number, message in enumerate(batches):
        rest = [m for m in stream(stub, job_id, message.resume_token) if m.HasField("outcome_batch")]
        assert rest == batches[number + 1 :]
    assert [m.WhichOneof("event") for m in stream(stub, job_id, messages[-1].resume_token)] == ["heartbeat", "end"]


def test_pages_and_streams_share_their_position(stub, worker_client, make_outcome, make_in_flight) -> None:
    job_id = create(stub)
    run_to_the_end(worker_client, job_id, make_outcome, make_in_flight)
    batches = [m for m in stream(stub, job_id) if m.HasField("outcome_batch")]
    paged, token = [], ""
    while True:
        page = stub.ListOutcomes(pb.ListOutcomesRequest(attack_job_id=job_id, page_size=4, page_token=token))
        paged += page.outcome_batches
        if not page.next_page_token:
            break
        token = page.next_page_token
        rest = [m.outcome_batch for m in stream(stub, job_id, token) if m.HasField("outcome_batch")]
        assert rest == [message.outcome_batch for message in batches[len(paged) :]]
    assert paged == [message.outcome_batch for message in batches]
    request = pb.ListOutcomesRequest(attack_job_id=job_id, page_token=batches[-2].resume_token)
    assert list(stub.ListOutcomes(request).outcome_batches) == [batches[-1].outcome_batch]


def test_a_page_of_a_running_job_can_be_continued(stub, worker_client, make_outcome) -> None:
    job_id = create(stub)
    empty = stub.ListOutcomes(pb.ListOutcomesRequest(attack_job_id=job_id))
    assert not empty.outcome_batches
    ledger = begin(worker_client, job_id)
    ledger.record([make_outcome(1)], [], 0.5)
    page = stub.ListOutcomes(pb.ListOutcomesRequest(attack_job_id=job_id, page_token=empty.next_page_token))
    assert [list(batch.sample_index) for batch in page.outcome_batches] == [[1]]
    ledger.record([make_outcome(2)], [], 0.5)
    page = stub.ListOutcomes(pb.ListOutcomesRequest(attack_job_id=job_id, page_token=page.next_page_token))
    assert [list(batch.sample_index) for batch in page.outcome_batches] == [[2]]


def test_outcomes_and_news_arrive_while_the_job_runs(stub, worker_client, make_outcome) -> None:
    job_id = create(stub)
    messages = stream(stub, job_id)
    assert next(messages).heartbeat.attack_job.state == pb.AttackJob.STATE_QUEUED
    ledger = begin(worker_client, job_id)
    # On a slow machine a heartbeat may come between.
    assert any(message.heartbeat.attack_job.state == pb.AttackJob.STATE_RUNNING for message in messages)
    ledger.progress(Progress(Phase.TRAINING, 5, 10, 2.0, 1, 0.5, 0.75))
    assert any(message.heartbeat.attack_job.progress.done_count == 5 for message in messages)
    ledger.record([make_outcome(1)], [], 0.5)
    assert any(list(message.outcome_batch.sample_index) == [1] for message in messages)
    ledger.finish(State.FAILED, "the dataset is not there; give --data-root")
    rest = list(messages)
    assert rest[-1].end.attack_job.failure_message == "the dataset is not there; give --data-root"
    assert rest[-1].end.outcome_count == 1


def test_a_job_that_changes_all_the_time_is_looked_at_a_few_times_a_second(stub, worker_client) -> None:
    """Or a stream of a job of many shards would keep the server busy with reading their state."""
    job_id = create(stub)
    ledger = begin(worker_client, job_id)
    messages = stream(stub, job_id)
    next(messages)

    def looks() -> int:
        return int(worker_client.info("commandstats")["cmdstat_zrange"]["calls"]) // 2

    before, began = looks(), time.monotonic()
    for _ in range(600):
        ledger.warn("always the same sentence")
    assert looks() - before <= (time.monotonic() - began) / 0.2 + 5 < 300
    ledger.finish(State.FAILED, "enough")
    assert list(messages)[-1].end.attack_job.failure_message == "enough"


def test_a_stream_of_a_canceled_job_ends(stub) -> None:
    job_id = create(stub)
    messages = stream(stub, job_id)
    next(messages)
    stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    assert list(messages)[-1].end.attack_job.state == pb.AttackJob.STATE_CANCELED


def test_a_lost_worker_is_seen_in_the_stream(stub, worker_client) -> None:
    job_id = create(stub)
    begin(worker_client, job_id)
    messages = stream(stub, job_id)
    assert not next(messages).heartbeat.attack_job.warnings
    worker_client.delete(f"afr:job:{job_id}:shard:0:lease")
    warnings = (list(message.heartbeat.attack_job.warnings) for message in messages)
    assert any("no worker is running" in first for first, *_ in filter(None, warnings))


def test_lost_outcomes_are_data_loss_and_trimmed_ones_out_of_range(
    stub, worker_client, make_outcome, make_in_flight
) -> None:
    job_id = create(stub)
    run_to_the_end(worker_client, job_id, make_outcome, make_in_flight)
    log = f"afr:job:{job_id}:shard:0:outcomes"
    request = pb.StreamOutcomesRequest(attack_job_id=job_id)
    worker_client.xdel(log, "4-0")
    assert failure(stub.StreamOutcomes, request).code is grpc.StatusCode.DATA_LOSS
    worker_client.xtrim(log, minid="6-0", approximate=False)
    assert failure(stub.StreamOutcomes, request).code is grpc.StatusCode.OUT_OF_RANGE


def test_a_deadline_ends_a_stream_and_frees_the_server(stub, worker_client, wait_until) -> None:
    job_id = create(stub)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(stub, job_id, timeout=0.5))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    def reading() -> bool:
        """Whether somebody waits for news; whoever reads waits again at once, so a moment without proves nothing."""
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            if any("b" in connection["flags"] for connection in worker_client.client_list()):
                return True
        return False

    cancelled = stream(stub, job_id)
    next(cancelled)
    wait_until(reading, 60)
    cancelled.cancel()
    wait_until(lambda: not reading(), 60)


@pytest.mark.parametrize("ended", [False, True])
def test_a_job_of_a_release_before_there_were_shards_is_told_and_can_be_removed(stub, worker_client, ended) -> None:
    job_id = create(stub)
    if ended:
        begin(worker_client, job_id).finish(State.FAILED, "out of memory")
    worker_client.hdel(f"afr:job:{job_id}", "shard_count", "asked")
    request = pb.StreamOutcomesRequest(attack_job_id=job_id)
    for call, asked in (
        (stub.StreamOutcomes, request),
        (stub.ListOutcomes, pb.ListOutcomesRequest(attack_job_id=job_id)),
    ):
        failed = failure(call, asked)
        assert (failed.code, failed.reason) == (grpc.StatusCode.DATA_LOSS, "OUTCOMES_LOST")
        assert "by an older release" in failed.message
    job = stub.GetAttackJob(pb.GetAttackJobRequest(attack_job_id=job_id)).attack_job
    assert any("cancel it, and run it again" in warning for warning in job.warnings) is not ended
    assert isinstance(RedisLedger.begin(worker_client, job_id, attempt_limit=3), Refusal)
    worker_client.xadd(f"afr:job:{job_id}:shard:0:outcomes", {"b": b"of another format", "s": 0})
    stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    stub.DeleteAttackJob(pb.DeleteAttackJobRequest(attack_job_id=job_id))
    assert failure(stub.StreamOutcomes, request).code is grpc.StatusCode.NOT_FOUND
    assert worker_client.keys(f"afr:job:{job_id}*") == []


def test_a_job_is_deleted_once_it_has_ended(stub) -> None:
    job_id = create(stub)
    request = pb.DeleteAttackJobRequest(attack_job_id=job_id)
    assert failure(stub.DeleteAttackJob, request).code is grpc.StatusCode.FAILED_PRECONDITION
    stub.CancelAttackJob(pb.CancelAttackJobRequest(attack_job_id=job_id))
    stub.DeleteAttackJob(request)
    assert failure(stub.DeleteAttackJob, request).code is grpc.StatusCode.NOT_FOUND


@pytest.fixture
def server(module_redis_url, start_process):
    return start_process(
        *("python", "-m", "attack_service", "serve", "--address", "127.0.0.1:0", "--redis-url", module_redis_url),
        *("--heartbeat-seconds", "0.5", "--reconcile-seconds", "0.3"),
    )


def test_a_quiet_stream_has_heartbeats(server) -> None:
    with open_channel(server.address) as channel:
        stub = rpc.AttackServiceStub(channel)
        messages = stream(stub, create(stub))
        assert [next(messages).WhichOneof("event") for _ in range(3)] == ["heartbeat"] * 3
        messages.cancel()


def test_health_and_reflection_answer(server) -> None:
    with open_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "afr.attack.v1.AttackService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert "afr.attack.v1.AttackService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_stopping_server_ends_streams_that_can_be_continued_elsewhere(
    server, module_redis_url, start_process, worker_client, make_outcome, wait_until
) -> None:
    with open_channel(server.address) as channel:
        stub = rpc.AttackServiceStub(channel)
        job_id = create(stub)
        ledger = begin(worker_client, job_id)
        ledger.record([make_outcome(1)], [], 0.5)
        seen, caught = [], []

        def follow() -> None:
            try:
                for message in stream(stub, job_id):
                    seen.append(message)  # noqa: PERF402 (another thread looks on)
            except grpc.RpcError as error:
                caught.append(failure_of(error))

        messages = stream(stub, job_id)
        token = ""
        while not token:
            message = next(messages)
            token = message.resume_token if message.HasField("outcome_batch") else ""
        follower = threading.Thread(target=follow)
        follower.start()
        # A call that comes while the server stops is not one that it had begun to answer.
        wait_until(lambda: seen)
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            list(messages)
        follower.join(60)
        assert failure_of(ended.value).reason == "SERVER_STOPPING"
        assert caught[0].code is grpc.StatusCode.UNAVAILABLE
        assert server.wait(300) == 0
    ledger.record([make_outcome(2)], [], 0.5)
    ledger.finish(State.SUCCEEDED)
    other = start_process(
        *("python", "-m", "attack_service", "serve", "--address", "127.0.0.1:0", "--redis-url", module_redis_url)
    )
    with open_channel(other.address) as channel:
        rest = list(stream(rpc.AttackServiceStub(channel), job_id, token))
    assert [list(m.outcome_batch.sample_index) for m in rest if m.HasField("outcome_batch")] == [[2]]
    assert rest[-1].end.outcome_count == 2


def test_looking_for_lost_jobs_ends_whatever_it_is_at_when_the_server_stops(module_redis_url) -> None:
    """Canceling it alone does not: the client of Redis may swallow that."""

    async def stop_after(seconds: float) -> None:
        async with connect_asyncio(module_redis_url, 6) as client:
            app = build_app(module_redis_url)
            servicer = AttackServicer(JobStore(client), OutcomeLog(client), JobQueue(app, client), 8)
            looking = asyncio.create_task(servicer.reconcile(0.0005))
            await asyncio.sleep(seconds)
            await servicer.stop()
            looking.cancel()
            ended, _ = await asyncio.wait({looking}, timeout=60)
            app.close()
            assert ended

    for step in range(30):
        asyncio.run(stop_after(step * 0.001))


def test_a_job_that_the_queue_forgot_is_queued_again(server, worker_client, wait_until) -> None:
    with open_channel(server.address) as channel:
        job_id = create(rpc.AttackServiceStub(channel))
    worker_client.delete(QUEUE)
    wait_until(lambda: any(job_id.encode() in message for message in worker_client.lrange(QUEUE, 0, -1)), 60)


def test_shards_that_nobody_queued_are_queued(server, worker_client, wait_until) -> None:
    """The worker that had prepared the job died before it could."""
    spec = pb.AttackSpec(model="resnet18", attack="pgd", sample_count=8, shard_count=3)
    with open_channel(server.address) as channel:
        request = pb.CreateAttackJobRequest(spec=spec)
        job_id = rpc.AttackServiceStub(channel).CreateAttackJob(request).attack_job.attack_job_id
    ledger = begin(worker_client, job_id)
    worker_client.delete(QUEUE)
    ledger.model_ready(Preparation(ModelRecord("weights", 1.5, 9, 1, 0.9, 9, 9, 10, "cpu"), "dataset"))

    def queued(shard_index: int) -> bool:
        name = f"{job_id}#{shard_index}".encode()
        return any(name in message for message in worker_client.lrange(QUEUE, 0, -1))

    wait_until(lambda: queued(1) and queued(2), 60)
    assert not queued(0), "a worker is at it"
