"""The stack on this machine: it starts by itself, says what is wrong in one line, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import redis_server
from cli.errors import Problem
from cli.processes import Child, last_words, ready_line, spawn, stop
from cli.standing import Member, StandingStack, start_mark, write_record

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux kills children with their parent")
# Every stack imports torch, on however slow a machine.
pytestmark = pytest.mark.timeout(480)
EVALUATE = ("evaluate", "--model", "resnet18", "--attack", "pgd", "--samples", "20", "--epochs", "50")


def child_of(tmp_path: Path, program: str) -> Child:
    return spawn("test part", [sys.executable, "-c", program], folder=tmp_path, environment=dict(os.environ))


def folders(afrctl: Any) -> list[Path]:
    return list((afrctl.folder / "tmp").glob("afr-*"))


# Processes


def test_a_child_is_ready_when_it_says_so(tmp_path: Path, wait_until: Any) -> None:
    child = child_of(tmp_path, "import time; print('ready 127.0.0.1:5', flush=True); time.sleep(60)")
    wait_until(lambda: child.ready() == "127.0.0.1:5")
    assert not child.dead()
    stop([child], patience_seconds=5, impatient=lambda: False)
    assert child.dead()


def test_half_a_line_is_not_ready(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("ready 127.0.0.1:5")
    assert ready_line(out) is None
    out.write_text("warming up\nready\n")
    assert ready_line(out) == ""


def test_a_dead_child_is_told_with_its_last_words(tmp_path: Path, wait_until: Any) -> None:
    child = child_of(tmp_path, "import sys; sys.exit('first\\nerror: the port is taken; choose another')")
    wait_until(child.dead)
    with pytest.raises(
        Problem, match=r"the test part has died: the port is taken; choose another \(log: .*test-part.log\)"
    ):
        child.check()
    stop([child], patience_seconds=1, impatient=lambda: False)


def test_a_silent_death_is_told_too(tmp_path: Path) -> None:
    assert last_words(tmp_path / "missing") == "it left no message, as if it had been killed"


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-22 17:07:02,471 INFO attack_service.adapters.worker job 6de66ffd: CANCELED",
        "2026-11-22 17:07:11,358 WARNING attack_service.adapters.worker the last heartbeat will expire by itself",
        "4711:M 22 Nov 2026 17:07:02.471 * Ready to accept connections tcp",
    ],
)
def test_a_line_about_ordinary_work_is_no_last_words(tmp_path: Path, line: str) -> None:
    (tmp_path / "log").write_text(f"{line}\n")
    assert last_words(tmp_path / "log") == "it left no message, as if it had been killed"


def test_a_child_that_ignores_the_request_is_killed_with_its_own_children(tmp_path: Path, wait_until: Any) -> None:
    program = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print('ready', p.pid, flush=True); time.sleep(60)"
    )
    child = child_of(tmp_path, program)
    wait_until(lambda: child.ready() is not None)
    grandchild = int(child.ready() or 0)
    assert start_mark(grandchild)
    stop([child], patience_seconds=0.2, impatient=lambda: False)
    wait_until(lambda: not start_mark(grandchild))


def test_redis_answers_to_its_password_only(tmp_path: Path) -> None:
    server = redis_server.start(tmp_path, dict(os.environ))
    try:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"PING\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")
        password = server.url.partition("://:")[2].partition("@")[0]
        assert password not in (Path("/proc") / str(server.child.process.pid) / "cmdline").read_text()
        assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0
    finally:
        stop([server.child], patience_seconds=3, impatient=lambda: False)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d81bff71cbb150e", (7, 0)),
        ("Valkey server v=9.1.2 sha=0", (9, 1)),
        ("something else", ()),
    ],
)
def test_a_redis_on_the_path_is_taken_if_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, version: tuple[int, ...]
) -> None:
    program = tmp_path / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert (redis_server.find_binary() == str(program)) is (version >= (6, 2))


# The embedded stack


def test_a_catalogue_needs_no_server_and_leaves_none(afrctl: Any) -> None:
    ended = afrctl("models")
    assert ended.returncode == 0, ended.stderr
    assert "resnet50" in ended.stdout
    afrctl.assert_no_process()
    assert folders(afrctl) == []


def test_unknown_names_are_refused_before_anything_is_trained(afrctl: Any) -> None:
    ended = afrctl("evaluate", "--model", "resnet5", "--attack", "pgd", "--quiet")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: --model: unknown model 'resnet5'; known: resnet18, resnet34, resnet50")
    assert len(ended.stderr.splitlines()) == 1
    afrctl.assert_no_process()
    assert folders(afrctl) == []


@linux
def test_a_killed_afrctl_leaves_no_process(afrctl: Any, wait_until: Any) -> None:
    running = afrctl.start(*EVALUATE)
    wait_until(lambda: "job " in afrctl.errors, 120)
    assert len(afrctl.processes()) >= 4
    running.kill()
    running.wait()
    afrctl.assert_no_process()
    (left,) = folders(afrctl)
    # Its folder is swept by the next start, once it is old enough not to be one that is just being made.
    os.utime(left, (0, 0))
    assert afrctl("models").returncode == 0
    assert folders(afrctl) == []


@linux
@pytest.mark.parametrize("process_count", [0, 1, 3])
def test_ctrl_c_during_the_start_leaves_nothing(afrctl: Any, wait_until: Any, process_count: int) -> None:
    running = afrctl.start(*EVALUATE)
    wait_until(lambda: folders(afrctl) and len(afrctl.processes()) >= process_count)
    running.send_signal(signal.SIGINT)
    assert running.wait(90) == 130
    assert "Traceback" not in afrctl.errors
    afrctl.assert_no_process()
    assert folders(afrctl) == []


@linux
def test_ctrl_c_during_training_leaves_nothing(afrctl: Any, wait_until: Any) -> None:
    running = afrctl.start(*EVALUATE)
    wait_until(lambda: "training resnet18" in afrctl.errors, 300)
    running.send_signal(signal.SIGINT)
    assert running.wait(90) == 130
    assert afrctl.errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in afrctl.errors
    afrctl.assert_no_process()
    assert folders(afrctl) == []


@linux
@pytest.mark.parametrize(("word", "name"), [("work", "the worker"), ("redis.conf", "Redis")])
def test_a_part_that_dies_ends_the_evaluation_with_one_line(afrctl: Any, wait_until: Any, word: str, name: str) -> None:
    running = afrctl.start(*EVALUATE, "--quiet")

    def found() -> list[int]:
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if str(afrctl.folder) in _environment(process)
            and any(argument.endswith(word) for argument in _command(process))
        ]

    wait_until(lambda: found() and len(afrctl.processes()) >= 4, 120)
    # The first is the part itself; a worker's pool is started later.
    os.kill(min(found()), signal.SIGKILL)
    assert running.wait(90) == 1
    assert len(afrctl.errors.splitlines()) == 1, afrctl.errors
    assert afrctl.errors.startswith(f"error: {name} has died: ")
    afrctl.assert_no_process()
    # The log is what is needed now.
    log = Path(afrctl.errors.rpartition("(log: ")[2].strip().rstrip(")"))
    assert log.exists()


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:
        return ""


def _command(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


# The stack that stays


@linux
def test_a_standing_stack_from_up_to_down(afrctl: Any, wait_until: Any) -> None:
    """One long story, since a start takes many seconds: up, used, a part dies, all die as in a reboot, down."""
    up = afrctl("up", "--workers", "2")
    assert up.returncode == 0, up.stderr
    assert "attack server, 2 workers and survival server" in up.stderr
    status = afrctl("status")
    assert status.returncode == 0
    parts = [line.split("  ")[0] for line in status.stdout.splitlines()]
    assert parts == ["Redis", "attack server", "worker", "worker 2", "survival server"]

    again = afrctl("up")
    assert again.returncode == 1
    assert again.stderr == "error: a stack is running already: `afrctl status` describes it, `afrctl down` stops it\n"

    assert "resnet50" in afrctl("models").stdout
    assert afrctl("jobs", "list").stdout == "no jobs\n"
    missing = afrctl("jobs", "show", "nope")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (1, 1)
    refused = afrctl(*EVALUATE, "--data-root", afrctl.folder)
    assert refused.returncode == 2
    assert "--data-root has no effect on the running stack" in refused.stderr
    refused = afrctl(*EVALUATE, "--workers", "2")
    assert refused.returncode == 2
    assert "--workers has no effect on the running stack" in refused.stderr

    survival = next(line for line in status.stdout.splitlines() if line.startswith("survival server"))
    os.kill(int(survival.split()[-1]), signal.SIGKILL)
    wait_until(lambda: afrctl("status").returncode == 1)
    assert "dead: " in afrctl("status").stdout
    for command in (("report", "x"), ("up",), EVALUATE):
        ended = afrctl(*command)
        assert ended.returncode == 1
        assert ended.stderr.startswith("error: the survival server of `afrctl up` has died: it left no message")
    # The jobs are still there, and so is what was recorded of them.
    assert afrctl("jobs", "list").stdout == "no jobs\n"

    for process in Path("/proc").glob("[0-9]*"):
        # Some die of the death of another.
        with contextlib.suppress(ProcessLookupError):
            if f"AFRCTL_STACK={afrctl.folder}" in _environment(process):
                os.kill(int(process.name), signal.SIGKILL)
    afrctl.assert_no_process()
    assert "resnet50" in afrctl("models").stdout
    assert afrctl("down").stdout == "the stack had died; its state is removed\n"
    assert afrctl("status").stderr == "error: no stack is running; `afrctl up` starts one\n"


@linux
def test_down_ends_every_process(afrctl: Any, wait_until: Any) -> None:
    """A member that has died by itself leaves its children to `down` as well."""
    folder = afrctl.folder / "state" / "afr" / "stack"
    folder.mkdir(parents=True)
    program = "import subprocess, sys; subprocess.Popen(['sleep', '60']); sys.stdin.read()"
    environment = {**os.environ, "AFRCTL_STACK": str(folder)}
    child = spawn("worker", [sys.executable, "-c", program + "; import time; time.sleep(60)"], folder=folder,
                  environment=environment, outlives_us=True)  # fmt: skip
    member = Member("worker", child.process.pid, start_mark(child.process.pid), str(child.log))
    write_record(folder, StandingStack("127.0.0.1:1", "127.0.0.1:2", (member,)))
    wait_until(lambda: len(afrctl.processes()) >= 2)
    assert afrctl("down").stdout == "the stack is stopped\n"
    child.process.wait()
    afrctl.assert_no_process()


def test_a_port_that_is_taken_is_one_line(afrctl: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = afrctl("up", "--attack-port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("error: the attack server has died: cannot listen on 127.0.0.1:")
    assert "Traceback" not in ended.stderr
    afrctl.assert_no_process()
    assert afrctl("status").stderr == "error: no stack is running; `afrctl up` starts one\n"
