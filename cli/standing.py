"""`afrctl up`, `down`, `status`: a stack that stays when the command has ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from cli.commands import StrictCommand
from cli.errors import Problem
from cli.interrupts import interrupts
from cli.options import data_folder, positive, workers_option
from cli.processes import kill_group, last_words
from cli.state import state_folder

_STOP_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the standing stack, recognised again by when it started."""

    name: str
    pid: int
    started: str
    log: str

    def alive(self) -> bool:
        return start_mark(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class StandingStack:
    """What `afrctl up` has written down."""

    attack_address: str
    survival_address: str
    members: tuple[Member, ...]

    @property
    def dead(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.alive())

    def check(self, *spared: str) -> None:
        """Raise `Problem` if it is not whole; parts of the names `spared` may have died."""
        if not self.survival_address:
            raise Problem("`afrctl up` is still starting or was killed: wait for it, or clean up with `afrctl down`")
        from cli.stack import part_of

        for member in self.dead:
            if part_of(member.name) not in spared:
                subject = member.name if member.name[0].isupper() else f"the {member.name}"
                raise Problem(
                    f"{subject} of `afrctl up` has died: {last_words(Path(member.log))} (log: {member.log}); "
                    "restart with `afrctl down` and `afrctl up`"
                )


def running_stack(*spared: str) -> StandingStack | None:
    """The standing stack, or None without one. Raises `Problem` if it is not whole but for the parts `spared`."""
    stack = _read()
    if stack is None or len(stack.dead) == len(stack.members):
        return None
    stack.check(*spared)
    return stack


@click.command(cls=StrictCommand)
@click.option("--data-root", type=data_folder, metavar="DIR",
              help="Where datasets are read from and downloaded to; made if need be.")  # fmt: skip
@workers_option
@click.option("--attack-port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="The port of the attack server; any free one by default.")  # fmt: skip
@click.option("--survival-port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="The port of the survival server; any free one by default.")  # fmt: skip
@click.option("--redis-url", envvar="AFRCTL_REDIS_URL", default="", metavar="URL",
              help="A Redis to use instead of an own one.  [env: AFRCTL_REDIS_URL]")  # fmt: skip
@click.option("--start-seconds", type=positive, default="120", hidden=True)
def up(
    data_root: Path | None, workers: int | None, attack_port: int, survival_port: int, redis_url: str,
    start_seconds: float,
) -> None:  # fmt: skip
    """Start a stack that stays.

    Runs Redis, an attack server, a worker and a survival server on this machine until `afrctl down`. Other commands
    find it by themselves. It listens on loopback only. Its jobs live in memory; trained models and reports stay.

    \b
    Example:
      afrctl up --workers 2
      afrctl evaluate --model resnet18 --attack pgd
      afrctl down
    """
    from cli.stack import SURVIVAL_SERVER, Plan, Stack, launch, worker_names

    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    with _locked(folder):
        old = _read()
        if old is not None and len(old.dead) < len(old.members):
            old.check()
            raise Problem("a stack is running already: `afrctl status` describes it, `afrctl down` stops it")
        _clear(folder)
        stack = Stack(folder)
        plan = Plan(
            attack_port=attack_port, survival_port=survival_port, data_root=data_root, worker_count=workers or 1,
            redis_url=redis_url,
            state=state_folder(), outlives_us=True,
        )  # fmt: skip

        def record() -> None:
            members = tuple(
                Member(child.name, child.process.pid, start_mark(child.process.pid), str(child.log))
                for child in stack.children
            )
            write_record(folder, StandingStack(stack.attack_address, stack.survival_address, members))

        try:
            own = "" if redis_url else "Redis, "
            several = f"{workers} workers" if workers and workers > 1 else "worker"
            click.echo(
                f"starting {own}attack server, {several} and survival server; their logs are in {folder}", err=True
            )
            # Written down part by part: if this process is killed, `afrctl down` still knows what to stop.
            launch(stack, plan, start_seconds=start_seconds, started=record)
            stack.survival_address = stack.wait_for(SURVIVAL_SERVER, seconds=start_seconds)
            for name in worker_names(plan.worker_count):
                stack.wait_for(name, seconds=start_seconds)
            record()
        except BaseException:
            stack.stop()
            (folder / "stack.json").unlink(missing_ok=True)
            raise
    click.echo(f"attack server    {stack.attack_address}")
    click.echo(f"survival server  {stack.survival_address}")
    click.echo("`afrctl evaluate`, `jobs` and `report` use this stack until `afrctl down`")


@click.command(cls=StrictCommand)
def down() -> None:
    """Stop the stack of `afrctl up`.

    Its jobs are lost; trained models and reports stay.

    \b
    Example:
      afrctl down
    """
    folder = _folder()
    if not folder.is_dir():
        click.echo("no stack is running")
        return
    with _locked(folder), interrupts.shielded():
        stack = _read()
        if stack is None:
            click.echo("no stack is running")
            return
        alive = [member for member in stack.members if member.alive()]
        # Redis is the first member, and the last to go: the others want to end their work.
        for group in ([m for m in alive if m.name != "Redis"], [m for m in alive if m.name == "Redis"]):
            _end(group)
        _clear(folder)
    click.echo("the stack is stopped" if alive else "the stack had died; its state is removed")


@click.command(cls=StrictCommand)
def status() -> None:
    """Say whether a stack of `afrctl up` runs.

    Prints its parts and their addresses. Exits with 1 if none runs, or a part has died.

    \b
    Example:
      afrctl status
    """
    stack = _read()
    if stack is None:
        raise Problem("no stack is running; `afrctl up` starts one")
    for member in stack.members:
        address = {"attack server": stack.attack_address, "survival server": stack.survival_address}.get(
            member.name, ""
        )
        state = f"running, process {member.pid}" if member.alive() else f"dead: {last_words(Path(member.log))}"
        click.echo(f"{member.name:<16} {address:<22} {state}")
    if stack.dead:
        raise Problem("the stack is not whole; restart it with `afrctl down` and `afrctl up`")
    stack.check()


def _end(members: list[Member]) -> None:
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while any(member.alive() for member in members) and time.monotonic() < deadline and not interrupts.impatient:
        time.sleep(0.05)
    for member in members:
        # What a leader has started may outlive it; its group is empty or still its own, for a moment.
        kill_group(member.pid)


def _folder() -> Path:
    return state_folder() / "stack"


def _read() -> StandingStack | None:
    try:
        record = json.loads((_folder() / "stack.json").read_text())
        members = tuple(Member(**member) for member in record["members"])
        return StandingStack(record["attack_address"], record["survival_address"], members)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(folder: Path, stack: StandingStack) -> None:
    """Note the stack in its folder, at once or not at all."""
    partial = folder / "stack.json.partial"
    partial.write_text(json.dumps(asdict(stack), indent=2))
    partial.replace(folder / "stack.json")


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != "lock":
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Problem("another `afrctl up` or `afrctl down` is under way; wait for it") from None
        yield


def start_mark(pid: int) -> str:
    """When a process started, in a form that a later process with the same number does not have; empty if it ended."""
    try:
        # The name of the program stands in brackets and may hold anything; the 20th field after it is the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    return "alive"
