"""The probe of the servers' images, against a real health service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        servicer = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        servicer.set("well", SERVING)
        servicer.set("draining", NOT_SERVING)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(0).wait()


@pytest.fixture
def probe(root: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "deploy/server_probe.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return ask


@pytest.mark.parametrize("arguments", [[], ["well"]])
def test_a_serving_server_passes(
    probe: Callable[..., subprocess.CompletedProcess[str]], address: str, arguments: list[str]
) -> None:
    answer = probe(address, *arguments)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


@pytest.mark.parametrize(("service", "reason"), [("draining", "NOT_SERVING"), ("unheard-of", "NOT_FOUND")])
def test_another_state_fails_with_one_line(
    probe: Callable[..., subprocess.CompletedProcess[str]], address: str, service: str, reason: str
) -> None:
    answer = probe(address, service)
    assert answer.returncode == 1
    assert reason in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_nobody_listening_fails_with_one_line(
    probe: Callable[..., subprocess.CompletedProcess[str]], free_port: Callable[[], int]
) -> None:
    answer = probe(f"127.0.0.1:{free_port()}")
    assert answer.returncode == 1
    assert "UNAVAILABLE" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_wrong_command_line_is_explained(probe: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    answer = probe()
    assert answer.returncode == 1
    assert answer.stderr.startswith("usage: ")
