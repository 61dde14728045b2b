"""Child processes that announce when they are ready, die with us if they should, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import Problem

# Asks the kernel for SIGKILL when the parent dies (PR_SET_PDEATHSIG), and becomes the program. It is a program and no
# `preexec_fn`: gRPC's threads do not survive a fork, and what it starts in their place complains into the child's log.
_DIE_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)  # the parent died before the request: nobody is left to be told
try:
    os.execv(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"error: cannot run {sys.argv[2]}: {error.strerror}")
"""
_ORDINARY = re.compile(r"^\d{4}-\d\d-\d\d [\d:,.]+ (DEBUG|INFO|WARNING) |^\d+:[A-Z] .* [*.-] ")
"""A line of our services' logs, or of Redis's, that tells of no death."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that leads its own process group, so that a terminal's Ctrl-C reaches us and not it."""

    name: str
    process: subprocess.Popen[bytes]
    out: Path
    """Its standard output: at most the line that says it is ready."""
    log: Path

    def dead(self) -> bool:
        """Whether it has ended. Does not reap it: until `stop`, its number cannot go to a stranger."""
        if self.process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True

    def ready(self) -> str | None:
        """What follows the word `ready` in its output, or None as long as it is not there."""
        return ready_line(self.out)

    def check(self) -> None:
        """Raise `Problem`, with the last line of its log, if it has ended."""
        if self.dead():
            subject = self.name if self.name[0].isupper() else f"the {self.name}"
            raise Problem(f"{subject} has died: {last_words(self.log)} (log: {self.log})")


def spawn(
    name: str, command: Sequence[str], *, folder: Path, environment: Mapping[str, str], outlives_us: bool = False
) -> Child:
    """Start `command` with its output in `folder`/NAME.out and its log in `folder`/NAME.log.

    Unless it `outlives_us`, Linux kills it when our main thread ends, however that happens. Call this from the
    main thread only: the kernel watches the thread that forks.
    """
    stem = name.replace(" ", "-")
    out, log = folder / f"{stem}.out", folder / f"{stem}.log"
    with out.open("wb") as output, log.open("ab") as errors:
        process = subprocess.Popen(
            list(command) if outlives_us else _dying_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            start_new_session=outlives_us,
            process_group=None if outlives_us else 0,
        )
    return Child(name, process, out, log)


def _dying_with_us(command: Sequence[str]) -> list[str]:
    """The command, killed with us where the kernel can do that."""
    if not sys.platform.startswith("linux"):
        return list(command)
    return [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *command]


def ready_line(out: Path) -> str | None:
    """What follows the word `ready` in the file, or None if no whole line says so."""
    for line in out.read_text(errors="replace").splitlines(keepends=True):
        if line.startswith("ready") and line.endswith("\n"):
            return line.removeprefix("ready").strip()
    return None


def last_words(log: Path) -> str:
    """What a process that has died said of it: the last line of its log, unless that is of its ordinary work."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    if not lines or _ORDINARY.search(lines[-1]):
        return "it left no message, as if it had been killed"
    return lines[-1].strip().removeprefix("error: ")[:500]


def stop(children: Sequence[Child], *, patience_seconds: float, impatient: Callable[[], bool]) -> None:
    """End processes and all that they have started: ask, wait, kill. Returns when none is left."""
    for child in children:
        if not child.dead():
            child.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and not impatient() and not all(child.dead() for child in children):
        time.sleep(0.02)
    for child in children:
        # The leader is not reaped yet, so that the group still is the one that we made.
        kill_group(child.process.pid)
        child.process.wait()


def kill_group(leader: int) -> None:
    """Kill every process of a group, if it has any."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # macOS says EPERM for a group whose only members are zombies.
        return
