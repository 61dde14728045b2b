"""The probe of the worker's image, against a real worker and a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def probe(root: Path) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    def ask(question: str, redis_url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(root / "deploy/worker_probe.py"), question]
        environment = {**os.environ, "AFR_REDIS_URL": redis_url}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)

    return ask


def test_a_worker_is_ready_and_alive_until_it_stops_giving_its_heartbeat(
    probe: Callable[[str, str], subprocess.CompletedProcess[str]],
    redis_server: Any,
    start_process: Any,
    tmp_path: Path,
) -> None:
    url = redis_server.url
    for question in ("ready", "alive"):
        assert probe(question, url).returncode == 1
    worker = start_process(
        "python", "-m", "attack_service", "work", "--device", "cpu", "--store", tmp_path, env={"AFR_REDIS_URL": url}
    )
    for question in ("ready", "alive"):
        answer = probe(question, url)
        assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    worker.stop()
    answer = probe("alive", url)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1


def test_a_worker_is_not_ended_because_redis_is_away(
    probe: Callable[[str, str], subprocess.CompletedProcess[str]], free_port: Callable[[], int]
) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    assert probe("alive", url).returncode == 0
    answer = probe("ready", url)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1


def test_a_wrong_command_line_is_explained(probe: Callable[[str, str], subprocess.CompletedProcess[str]]) -> None:
    answer = probe("well", "redis://127.0.0.1:1/0")
    assert answer.returncode == 1
    assert answer.stderr.startswith("usage: ")
