"""Addresses, errors on both sides of the wire, and a server that cannot listen."""

# ruff: noqa: N802 -- the contract names the calls.

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as attack_pb2
from afr.attack.v1 import attack_service_pb2_grpc as attack_rpc
from afr.rpc.channel import check_address, open_channel
from afr.rpc.errors import DOMAIN, ErrorInterceptor, Failure, InvalidAddress, failure_of, status_of
from afr.rpc.server import PortTaken, serve
from afr.survival.v1 import survival_service_pb2 as survival_pb2
from afr.survival.v1 import survival_service_pb2_grpc as survival_rpc


class Wrong(Exception):
    """The parent of what is wrong."""


class WrongField(Wrong):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


TABLE = {Wrong: (grpc.StatusCode.FAILED_PRECONDITION, "WRONG")}


class AttackServicer(attack_rpc.AttackServiceServicer):
    async def GetAttackJob(self, request, context):
        match request.attack_job_id:
            case "wrong":
                raise Wrong("it is wrong; make it right")
            case "field":
                raise WrongField("attack_job_id", "this field is wrong")
            case "defect":
                raise KeyError("a secret")
            case "abort":
                await context.abort(grpc.StatusCode.CANCELLED, "as the handler wanted")
        return attack_pb2.GetAttackJobResponse(attack_job=attack_pb2.AttackJob(attack_job_id="fine"))

    async def StreamOutcomes(self, request, context):
        if request.attack_job_id == "long":
            try:
                while True:
                    yield attack_pb2.StreamOutcomesResponse(resume_token="x" * 500_000)
            finally:
                abandoned.set()
        yield attack_pb2.StreamOutcomesResponse(resume_token="1")
        raise Wrong("it went wrong on the way")


abandoned = threading.Event()
"""Set once the server has noticed that the reader of its long stream is gone."""


class SurvivalServicer(survival_rpc.SurvivalServiceServicer):
    async def FitOutcomes(self, requests, context):
        async for _ in requests:
            raise Wrong("these rows are wrong")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server in a thread, with the interceptor in front."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[ErrorInterceptor(TABLE)])
        attack_rpc.add_AttackServiceServicer_to_server(AttackServicer(), server)
        survival_rpc.add_SurvivalServiceServicer_to_server(SurvivalServicer(), server)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        started.set()
        return server

    def run() -> None:
        asyncio.set_event_loop(loop)
        server = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(server.stop(0))

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    yield f"127.0.0.1:{ports[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def stub(address) -> Iterator[attack_rpc.AttackServiceStub]:
    with open_channel(address) as channel:
        yield attack_rpc.AttackServiceStub(channel)


def failure(call: Callable[[], object]) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return failure_of(caught.value)


def get(stub, job_id: str) -> Callable[[], object]:
    return lambda: stub.GetAttackJob(attack_pb2.GetAttackJobRequest(attack_job_id=job_id), timeout=60)


def test_a_domain_error_arrives_with_status_reason_and_sentence(stub) -> None:
    assert failure(get(stub, "wrong")) == Failure(
        grpc.StatusCode.FAILED_PRECONDITION, "WRONG", "it is wrong; make it right"
    )


def test_an_error_without_an_entry_takes_its_parent_s_and_names_its_field(stub) -> None:
    assert failure(get(stub, "field")) == Failure(
        grpc.StatusCode.FAILED_PRECONDITION, "WRONG", "this field is wrong", "attack_job_id"
    )


def test_a_defect_is_internal_and_keeps_its_text_to_the_log(stub, caplog) -> None:
    failed = failure(get(stub, "defect"))
    assert failed.code is grpc.StatusCode.INTERNAL
    assert "secret" not in failed.message
    assert "a secret" in caplog.text


def test_a_handler_may_abort_by_itself(stub) -> None:
    failed = failure(get(stub, "abort"))
    assert (failed.code, failed.message) == (grpc.StatusCode.CANCELLED, "as the handler wanted")


def test_a_call_that_goes_well_passes_through(stub) -> None:
    assert get(stub, "x")().attack_job.attack_job_id == "fine"


def test_a_stream_that_fails_on_the_way_keeps_what_came_before(stub) -> None:
    seen = []

    def read() -> None:
        seen.extend(iter(stub.StreamOutcomes(attack_pb2.StreamOutcomesRequest(), timeout=60)))

    failed = failure(read)
    assert (failed.reason, failed.message) == ("WRONG", "it went wrong on the way")
    assert [message.resume_token for message in seen] in ([], ["1"])


def test_a_reader_who_leaves_ends_the_stream_without_a_word(address, caplog) -> None:
    for _ in range(5):
        abandoned.clear()
        with open_channel(address) as channel:
            stub = attack_rpc.AttackServiceStub(channel)
            responses = stub.StreamOutcomes(attack_pb2.StreamOutcomesRequest(attack_job_id="long"), timeout=60)
            next(responses)
            responses.cancel()
        assert abandoned.wait(60)
    assert "Traceback" not in caplog.text


def test_a_client_stream_fails_like_any_other_call(address) -> None:
    with open_channel(address) as channel:
        stub = survival_rpc.SurvivalServiceStub(channel)
        requests = [survival_pb2.FitOutcomesRequest()]
        assert failure(lambda: stub.FitOutcomes(iter(requests), timeout=60)).message == "these rows are wrong"


def test_a_method_that_is_not_there_is_unimplemented(address) -> None:
    with open_channel(address) as channel:
        call = channel.unary_unary("/afr.attack.v1.AttackService/Nothing")
        assert failure(lambda: call(b"", timeout=60)).code is grpc.StatusCode.UNIMPLEMENTED


def test_an_error_of_a_server_that_is_not_ours_can_be_read(free_port) -> None:
    with open_channel(f"127.0.0.1:{free_port()}") as channel:
        failed = failure(get(attack_rpc.AttackServiceStub(channel), "x"))
    assert (failed.code, failed.reason, failed.field) == (grpc.StatusCode.UNAVAILABLE, "", "")


def test_an_unknown_error_has_no_status() -> None:
    assert status_of(ValueError("?"), TABLE) is None
    assert DOMAIN == "afr"


@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[::1]:50051", "name.example:443"])
def test_an_address_is_host_and_port(address) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address", ["", "localhost", ":50051", "localhost:", "localhost:0", "h:65536", "h:x", "h:-1", "http://h:1", "::1:1"]
)
def test_what_is_no_address_is_refused_with_an_example(address) -> None:
    with pytest.raises(InvalidAddress, match=r"127\.0\.0\.1:50051"):
        open_channel(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.7"])
def test_a_server_that_cannot_listen_says_where(host) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"{host}:{listener.getsockname()[1]}"
        serving = serve(lambda server: None, service_names=[], table={}, address=address, on_ready=lambda port: None)
        with pytest.raises(PortTaken, match=address):
            asyncio.run(serving)
