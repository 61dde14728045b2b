"""Which servers a command talks to: those it was told, those of `afrctl up`, or its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cli.errors import Misuse, Problem
from cli.stack import ATTACK_SERVER, SURVIVAL_SERVER, WORKER, Plan, Stack, can_run, embedded
from cli.standing import running_stack

_WORKER_SECONDS = 60.0
_SURVIVAL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses of servers; `stack` if they, or some of them, are our own children."""

    attack_address: str
    survival_address: str
    stack: Stack | None = None

    @property
    def own(self) -> bool:
        """Whether everything ends with this command."""
        return self.stack is not None and any(child.name == ATTACK_SERVER for child in self.stack.children)


@contextlib.contextmanager
def services(
    attack_address: str,
    survival_address: str,
    *,
    announce: Callable[[str], None],
    data_root: Path | None = None,
    workers: int | None = None,
    redis_url: str = "",
) -> Iterator[Services]:
    """The servers for an evaluation. Own ones may still be starting: see `Stack.wait_for`."""
    if survival_address and not attack_address:
        raise Misuse("--survival-address needs --attack-address: give both, or neither for a stack of your own")
    if attack_address and data_root:
        raise Misuse("--data-root has no effect with --attack-address: that server's worker has its own --data-root")
    if attack_address and workers:
        raise Misuse("--workers has no effect with --attack-address: that server has its own workers")
    if attack_address and survival_address:
        yield Services(attack_address, survival_address)
        return
    if attack_address:
        with embedded(Plan(parts=(SURVIVAL_SERVER,), attack_address=attack_address), announce=announce) as stack:
            yield Services(attack_address, "", stack)
        return
    if running := running_stack():
        if workers:
            raise Misuse(
                f"--workers has no effect on the running stack: `afrctl down`, then `afrctl up --workers {workers}`"
            )
        if data_root:
            raise Misuse(
                "--data-root has no effect on the running stack: `afrctl down`, then `afrctl up --data-root …`"
            )
        announce(f"using the stack of `afrctl up` (attack server {running.attack_address})")
        yield Services(running.attack_address, running.survival_address)
        return
    plan = Plan(data_root=data_root, worker_count=workers or 1, redis_url=redis_url)
    with embedded(plan, announce=announce) as stack:
        yield Services(stack.attack_address, "", stack)


@contextlib.contextmanager
def job_services(
    attack_address: str, *, announce: Callable[[str], None], data_root: Path | None = None, redis_url: str = ""
) -> Iterator[Services]:
    """The server, and on this machine the worker, for a job without a report. Own ones may still be starting."""
    if attack_address and data_root:
        raise Misuse("--data-root has no effect with --attack-address: that server's worker has its own --data-root")
    if attack_address:
        yield Services(attack_address, "")
    elif running := running_stack(SURVIVAL_SERVER):
        if data_root:
            raise Misuse(
                "--data-root has no effect on the running stack: `afrctl down`, then `afrctl up --data-root …`"
            )
        announce(f"using the stack of `afrctl up` (attack server {running.attack_address})")
        yield Services(running.attack_address, "")
    else:
        plan = Plan(parts=(ATTACK_SERVER, WORKER), data_root=data_root, redis_url=redis_url)
        with embedded(plan, announce=announce) as stack:
            yield Services(stack.attack_address, "", stack)


@contextlib.contextmanager
def catalogue_server(attack_address: str, *, of_stores: bool = False) -> Iterator[str]:
    """The address of an attack server that can say what it knows; one is started if there is none.

    `of_stores`: with a worker, if this installation can run one, since workers know what is in their store.
    """
    if attack_address:
        yield attack_address
    elif running := running_stack(WORKER, SURVIVAL_SERVER):
        yield running.attack_address
    else:
        parts = (ATTACK_SERVER, WORKER) if of_stores and can_run(WORKER) else (ATTACK_SERVER,)
        with embedded(Plan(parts=parts), announce=lambda line: None) as stack:
            if WORKER in parts:
                stack.wait_for(WORKER, seconds=_WORKER_SECONDS)
            yield stack.attack_address


def known_attack_address(attack_address: str) -> str:
    """The attack server that was given, or that of `afrctl up`; empty without one."""
    if attack_address:
        return attack_address
    # What a lost worker has recorded can still be read.
    running = running_stack(WORKER, SURVIVAL_SERVER)
    return running.attack_address if running else ""


def existing_attack_address(attack_address: str) -> str:
    """The attack server that was given, or that of `afrctl up`: jobs live nowhere else."""
    if address := known_attack_address(attack_address):
        return address
    raise Problem("there is no attack server: give --attack-address, or start a stack that stays with `afrctl up`")


def existing_survival_address(survival_address: str) -> str:
    """The survival server that was given, or that of `afrctl up`."""
    if survival_address:
        return survival_address
    if running := running_stack(WORKER):
        return running.survival_address
    raise Problem("there is no survival server: give --survival-address, or start a stack that stays with `afrctl up`")


@contextlib.contextmanager
def fitting_address(survival_address: str) -> Iterator[str]:
    """The address of a survival server that fits what it is sent; one is started if there is none.

    What it fits is not an attack server's, so none is needed.
    """
    if survival_address:
        yield survival_address
    elif running := running_stack(ATTACK_SERVER, WORKER, "Redis"):
        yield running.survival_address
    else:
        with embedded(Plan(parts=(SURVIVAL_SERVER,)), announce=lambda line: None) as stack:
            yield stack.wait_for(SURVIVAL_SERVER, seconds=_SURVIVAL_SECONDS)
