"""The survival server as a process: its flags, its ready line, its mistakes in one line, its end."""

from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from afr.rpc.channel import open_channel
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1 import survival_service_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

SERVICE = "afr.survival.v1.SurvivalService"
SERVE = ("python", "-m", "survival_service", "serve", "--address", "127.0.0.1:0")


def test_a_server_says_it_is_ready_and_is(start_process: Any, tmp_path: Path) -> None:
    server = start_process(*SERVE, "--state", tmp_path)
    assert server.stdout == f"ready {server.address}\n"
    with open_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            status = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = reflection.ServerReflectionInfo(iter([request]), timeout=60)
        assert SERVICE in {service.name for service in answer.list_services_response.service}
        reports = pb_grpc.SurvivalServiceStub(channel).ListReports(pb.ListReportsRequest(), timeout=60)
        assert reports == pb.ListReportsResponse()
        with pytest.raises(grpc.RpcError) as caught:
            pb_grpc.SurvivalServiceStub(channel).GetReport(pb.GetReportRequest(report_id="x"), timeout=60)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert "Traceback" not in server.stderr


def test_settings_come_from_the_environment_too(start_process: Any, tmp_path: Path) -> None:
    server = start_process(*SERVE[:4], env={"AFR_ADDRESS": "127.0.0.1:0", "AFR_STATE": str(tmp_path / "state")})
    assert (tmp_path / "state" / "reports").is_dir()
    server.signal(signal.SIGINT)
    assert server.wait(10) == 0


def mistake(start_process: Any, *arguments: Any) -> str:
    process = start_process(*SERVE[:4], *arguments, "--log-level", "warning", ready=None)
    assert process.wait(300) == 1
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    return str(line)


def test_a_taken_port_is_one_line(start_process: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = mistake(start_process, "--address", address, "--state", tmp_path)
    assert line == f"error: cannot listen on {address}: the port is taken or the host is not ours; choose another"


def test_a_bad_address_is_one_line(start_process: Any) -> None:
    assert "--attack-address 'nonsense' is no address" in mistake(start_process, "--attack-address", "nonsense")


def test_a_folder_that_cannot_be_used_is_one_line(start_process: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = mistake(start_process, "--address", "127.0.0.1:0", "--state", tmp_path / "file")
    assert line == f"error: reports cannot be kept in {tmp_path / 'file'}: Not a directory; choose another --state"


def test_a_wrong_flag_is_a_usage_error(start_process: Any) -> None:
    process = start_process(*SERVE[:4], "--port", "1", ready=None)
    assert process.wait(300) == 2
    assert "unrecognized arguments: --port" in process.stderr


def test_help_has_an_example_and_loads_nothing(start_process: Any) -> None:
    """Help must answer at once, so that it imports neither gRPC nor the science."""
    program = (
        "import json, sys\nfrom survival_service.__main__ import main\n"
        "try:\n    main(['serve', '--help'])\nexcept SystemExit:\n    print(json.dumps(sorted(sys.modules)))"
    )
    process = start_process(sys.executable, "-c", program, ready=None)
    assert process.wait(300) == 0
    text, modules = process.stdout.rstrip().rsplit("\n", 1)
    assert "example: python -m survival_service serve" in text
    assert not set(json.loads(modules)) & {"grpc", "numpy", "scipy", "lifelines", "pandas"}
