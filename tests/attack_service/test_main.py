"""`python -m attack_service`: what a user sees who gets it wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "attack_service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})


def assert_one_line(ended: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = ended.stderr.splitlines()
    assert ended.returncode == code, ended.stderr
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert ended.stdout == ""
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("command", ["serve", "work"])
def test_help_has_every_setting_its_variable_and_an_example(command) -> None:
    ended = run(command, "--help")
    assert ended.returncode == 0
    assert "AFR_REDIS_URL" in ended.stdout
    assert "examples:" in ended.stdout


@pytest.mark.parametrize("command", ["serve", "work"])
def test_no_redis_is_one_line(command, free_port, tmp_path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    ended = run(command, "--redis-url", url, AFR_STORE=str(tmp_path), AFR_ADDRESS="127.0.0.1:0")
    assert_one_line(ended, 1, f"no Redis server at {url}", "--redis-url")


def test_a_port_taken_is_one_line(redis_url) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert_one_line(run("serve", "--address", address, "--redis-url", redis_url), 1, address, "taken")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", ":50051", "127.0.0.1:99999", "127.0.0.1:port"])
def test_an_address_that_is_none_is_one_line(address, redis_url) -> None:
    assert_one_line(run("serve", "--address", address, "--redis-url", redis_url), 2, repr(address), "HOST:PORT")


def test_a_variable_that_is_no_number_is_one_line() -> None:
    assert_one_line(run("work", AFR_ATTEMPT_LIMIT="many"), 2, "AFR_ATTEMPT_LIMIT", "'many'")


def test_a_store_that_cannot_be_is_one_line(tmp_path, redis_url) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ended = run("work", "--redis-url", redis_url, "--store", str(file / "store"))
    assert_one_line(ended, 1, str(file), "--store")


def test_the_server_loads_no_torch() -> None:
    program = (
        "import sys, attack_service.adapters.server, attack_service.adapters.worker; "
        "print([name for name in ('torch', 'torchvision', 'art', 'sklearn', 'numpy') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
