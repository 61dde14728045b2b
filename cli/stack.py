"""The services on this machine: started as child processes, watched, and stopped without a trace."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cli import redis_server
from cli.errors import Problem
from cli.interrupts import interrupts
from cli.processes import Child, spawn, stop

ATTACK_SERVER, WORKER, SURVIVAL_SERVER = "attack server", "worker", "survival server"

_NEEDED = {ATTACK_SERVER: ("celery", "redis"), WORKER: ("celery", "torch", "torchvision"), SURVIVAL_SERVER: ("scipy",)}
_PREFIX = f"afr-{os.getuid()}-"
_STOP_SECONDS = 3.0
_YOUNG_SECONDS = 60.0
_KEPT_SECONDS = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. An `attack_address` means that this part runs elsewhere and only the rest is started."""

    parts: tuple[str, ...] = (ATTACK_SERVER, WORKER, SURVIVAL_SERVER)
    attack_address: str = ""
    attack_port: int = 0
    survival_port: int = 0
    data_root: Path | None = None
    worker_count: int = 1
    redis_url: str = ""
    state: Path | None = None
    """Where the survival server keeps its reports; the stack's own folder without one."""
    outlives_us: bool = False


@dataclass(slots=True)
class Stack:
    """Running parts. `attack_address` and `survival_address` are empty until that part is ready."""

    folder: Path
    children: list[Child] = field(default_factory=list)
    attack_address: str = ""
    survival_address: str = ""

    def check(self) -> None:
        """Raise `Problem` if a part has died."""
        for child in self.children:
            child.check()

    def wait_for(self, name: str, *, seconds: float) -> str:
        """Wait until a part says that it is ready; return its address."""
        child = next(child for child in self.children if child.name == name)
        deadline = time.monotonic() + seconds
        while (said := child.ready()) is None:
            self.check()
            if time.monotonic() > deadline:
                raise Problem(f"the {name} is not ready after {seconds:.0f} seconds (log: {child.log})")
            interrupts.check()
            time.sleep(0.05)
        return said

    def stop(self) -> None:
        """Stop every part, Redis last, so that the others can end their work."""
        with interrupts.shielded():
            self.children.sort(key=lambda child: child.name == "Redis")
            parts = [child for child in self.children if child.name != "Redis"]
            stop(parts, patience_seconds=_STOP_SECONDS, impatient=lambda: interrupts.impatient)
            stop(self.children[len(parts) :], patience_seconds=_STOP_SECONDS, impatient=lambda: interrupts.impatient)
            self.children.clear()


def launch(
    stack: Stack, plan: Plan, *, start_seconds: float = 60.0, started: Callable[[], None] = lambda: None
) -> None:
    """Start the parts of the plan in the stack's folder and wait for the servers, not for the worker.

    The worker needs many seconds to import torch, and the queue keeps its work until then. A part that was started
    is in `stack.children` even if this raises: the caller stops the stack. `started` runs after each of them.
    """
    _check_installed(plan)
    environment = _environment(plan, stack.folder)
    if ATTACK_SERVER in plan.parts and not plan.redis_url:
        redis = redis_server.start(stack.folder, environment, outlives_us=plan.outlives_us)
        stack.children.append(redis.child)
        started()
        environment["AFR_REDIS_URL"] = redis.url

    def run(name: str, module: str, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        own = environment | variables
        stack.children.append(spawn(name, command, folder=stack.folder, environment=own, outlives_us=plan.outlives_us))
        started()

    stack.attack_address = plan.attack_address
    if ATTACK_SERVER in plan.parts:
        run(ATTACK_SERVER, "attack_service", "serve", "--address", f"127.0.0.1:{plan.attack_port}")
    if WORKER in plan.parts:
        data_root = ("--data-root", str(plan.data_root)) if plan.data_root else ()
        threads = _threads_each(plan.worker_count, environment)
        for name in worker_names(plan.worker_count):
            run(name, "attack_service", "work", *data_root, **threads)
    if ATTACK_SERVER in plan.parts:
        stack.attack_address = stack.wait_for(ATTACK_SERVER, seconds=start_seconds)
    if SURVIVAL_SERVER in plan.parts:
        state = plan.state or stack.folder / "survival"
        run(SURVIVAL_SERVER, "survival_service", "serve", "--address", f"127.0.0.1:{plan.survival_port}",
            "--attack-address", stack.attack_address, "--state", str(state))  # fmt: skip


@contextlib.contextmanager
def embedded(plan: Plan, *, announce: Callable[[str], None]) -> Iterator[Stack]:
    """A stack in a private temporary folder that ends with the block, and on Linux with this process.

    The folder goes too, unless a part has died: then its log is what is needed.
    """
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    stack = Stack(folder)
    keep = False
    with _locked(folder):
        try:
            parts = [*(("Redis",) if ATTACK_SERVER in plan.parts and not plan.redis_url else ()), *plan.parts]
            if plan.worker_count > 1:
                parts = [f"{plan.worker_count} workers" if part == WORKER else part for part in parts]
            listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
            logs = "their logs are" if len(parts) > 1 else "its log is"
            announce(f"starting {listed} on this machine; {logs} in {folder}")
            launch(stack, plan)
            yield stack
        except Problem:
            keep = any(child.dead() for child in stack.children)
            raise
        finally:
            with interrupts.shielded():
                stack.stop()
                if keep:
                    (folder / "kept").touch()
                else:
                    shutil.rmtree(folder, ignore_errors=True)


def worker_names(count: int) -> list[str]:
    """`worker`, `worker 2`, …"""
    return [WORKER, *(f"{WORKER} {number}" for number in range(2, count + 1))]


def part_of(name: str) -> str:
    """The part that a process of this name is; every worker is one."""
    return name.rstrip("0123456789 ")


def _threads_each(worker_count: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps several workers from taking one another's cores: each would compute with a thread a core."""
    if worker_count == 1 or "OMP_NUM_THREADS" in environment:
        return {}
    core_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, core_count // worker_count))}


def _environment(plan: Plan, folder: Path) -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    # OpenMP threads that spin while they wait take the cores from the processes that work.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # By this, a person or a test finds every process of a stack, whatever became of its parent.
    environment["AFRCTL_STACK"] = str(folder)
    # The stack is what the command line says; settings meant for servers started by hand stay out of it.
    for name in ("AFR_ADDRESS", "AFR_ATTACK_ADDRESS", "AFR_STATE"):
        environment.pop(name, None)
    if plan.redis_url:
        environment["AFR_REDIS_URL"] = plan.redis_url
    return environment


def can_run(part: str) -> bool:
    """Whether what this part needs is installed."""
    return not _missing(part)


def _missing(part: str) -> set[str]:
    return {module for module in _NEEDED[part] if importlib.util.find_spec(module) is None}


def _check_installed(plan: Plan) -> None:
    missing = sorted({module for part in plan.parts for module in _missing(part)})
    if missing:
        raise Problem(
            f"this installation cannot run the services itself ({', '.join(missing)} missing): "
            "install 'afr-robustness[all]', or give --attack-address and --survival-address"
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sweep() -> None:
    """Remove the folders of stacks whose afrctl was killed, and after a week those kept for their logs.

    A living one holds its folder's lock.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            age = time.time() - folder.stat().st_mtime
            if age < _YOUNG_SECONDS:
                continue  # its owner may be about to take the lock
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if age > _KEPT_SECONDS or not (folder / "kept").exists():
                shutil.rmtree(folder, ignore_errors=True)
