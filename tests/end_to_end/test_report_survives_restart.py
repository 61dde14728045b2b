"""A report goes on where it was when the attack server is killed and another takes its place."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afr.attack.v1 import attack_service_pb2 as attack_pb
from afr.attack.v1 import attack_service_pb2_grpc as attack_rpc
from afr.rpc.channel import open_channel
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1 import survival_service_pb2_grpc as rpc


def test_a_killed_attack_server_costs_a_report_nothing(
    redis_server: Any, start_process: Any, free_port: Callable[[], int], tmp_path: Path
) -> None:
    """The outcomes are in Redis and the reader keeps its token, so every sample is counted once."""
    address = f"127.0.0.1:{free_port()}"
    serve = ("python", "-m", "attack_service", "serve", "--address", address, "--redis-url", redis_server.url)
    attack = start_process(*serve)
    survival = start_process(
        *("python", "-m", "survival_service", "serve", "--address", "127.0.0.1:0"),
        *("--attack-address", address, "--state", tmp_path / "state"),
    )
    work = ("python", "-m", "attack_service", "work", "--redis-url", redis_server.url, "--store", tmp_path / "store")
    start_process(*work, seconds=120)
    spec = attack_pb.AttackSpec(
        model="resnet18",
        attack="pgd",
        attack_parameters={"epsilon": 0.05, "max_iterations": 5},
        epoch_count=1,
        sample_count=64,
        batch_size=4,
    )
    with open_channel(address) as channel:
        stub = attack_rpc.AttackServiceStub(channel)
        job = stub.CreateAttackJob(attack_pb.CreateAttackJobRequest(spec=spec), timeout=20).attack_job
    with open_channel(survival.address) as channel:
        call = rpc.SurvivalServiceStub(channel).CreateReport(
            pb.CreateReportRequest(attack_job_ids=[job.attack_job_id]), timeout=200
        )
        killed, report = False, None
        for response in call:
            if response.progress.outcome_count and not killed:
                attack.signal(signal.SIGKILL)
                attack.wait()
                start_process(*serve)
                killed = True
            report = response.report
    assert killed
    assert report is not None
    assert report.sample_count == 64
    assert not report.partial
    assert "resuming the outcomes" in survival.stderr
