"""A Node client that has only the protos, against real servers: it follows a job and has its outcomes fitted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from afr.attack.v1 import attack_service_pb2, attack_service_pb2_grpc
from afr.rpc.channel import open_channel

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "node"


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its dependencies, outside the repository, with the protos where it expects them."""
    if not (shutil.which("node") and shutil.which("npm")):
        reason = "node and npm are needed for the Node client; install Node 18 or newer"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "protos", folder / "protos", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    client = folder / "examples" / "node"
    shutil.copytree(EXAMPLE, client, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=client,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return client


@dataclass(frozen=True)
class Stack:
    attack_address: str
    survival_address: str
    attack_job_id: str


@pytest.fixture(scope="module")
def stack(
    module_redis_url: str, start_module_process: Any, tmp_path_factory: pytest.TempPathFactory, node_client: Path
) -> Stack:
    """The servers and a worker, and a job that has just been queued: the client follows it from the first moment."""
    folder = tmp_path_factory.mktemp("stack")
    anywhere, redis = ("--address", "127.0.0.1:0"), ("--redis-url", module_redis_url)
    attack = start_module_process("python", "-m", "attack_service", "serve", *anywhere, *redis)
    survival = start_module_process(
        *("python", "-m", "survival_service", "serve", *anywhere),
        *("--attack-address", attack.address, "--state", folder / "state"),
    )
    start_module_process("python", "-m", "attack_service", "work", *redis, "--store", folder / "store", seconds=120)
    spec = attack_service_pb2.AttackSpec(
        model="resnet18",
        attack="pgd",
        attack_parameters={"epsilon": 0.05, "max_iterations": 5},
        epoch_count=1,
        sample_count=40,
    )
    with open_channel(attack.address) as channel:
        stub = attack_service_pb2_grpc.AttackServiceStub(channel)
        job = stub.CreateAttackJob(attack_service_pb2.CreateAttackJobRequest(spec=spec), timeout=20).attack_job
    return Stack(attack.address, survival.address, job.attack_job_id)


@pytest.fixture
def follow(node_client: Path, stack: Stack) -> Callable[[str], subprocess.CompletedProcess[str]]:
    def run(attack_job_id: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["node", "follow.mjs", stack.attack_address, stack.survival_address, attack_job_id],
            cwd=node_client,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_node_client_follows_a_job_and_has_its_outcomes_fitted(
    stack: Stack, follow: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    done = follow(stack.attack_job_id)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    with open_channel(stack.attack_address) as channel:
        stub = attack_service_pb2_grpc.AttackServiceStub(channel)
        request = attack_service_pb2.GetAttackJobRequest(attack_job_id=stack.attack_job_id)
        progress = stub.GetAttackJob(request, timeout=20).attack_job.progress
    verdicts = seen["verdicts"]
    assert sum(verdicts.values()) == 40
    assert verdicts.get("VERDICT_FAILED", 0) == progress.failed_count
    assert verdicts.get("VERDICT_MISCLASSIFIED", 0) == progress.misclassified_count
    assert int(seen["failure_count"]) == progress.failed_count
    assert int(seen["observation_count"]) == 40 - progress.misclassified_count
    assert {fit["distribution"] for fit in seen["fits"]} == {
        "DISTRIBUTION_WEIBULL",
        "DISTRIBUTION_LOG_NORMAL",
        "DISTRIBUTION_LOG_LOGISTIC",
    }


def test_a_mistake_is_one_line(follow: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    done = follow("no-such-job")
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no attack job 'no-such-job'")
    assert len(done.stderr.splitlines()) == 1


def test_the_lock_names_no_registry() -> None:
    """Every machine installs from the registry that it is set up with; the digests say that it is the same."""
    lock = json.loads((EXAMPLE / "package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("resolved" not in package and package["integrity"] for package in packages)
