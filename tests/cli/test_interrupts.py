"""A signal ends the command once, and never in the middle of what must be whole."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from cli.errors import Interrupted
from cli.interrupts import SIGNALS, Interrupts


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    made = Interrupts()
    made.install()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_raised(interrupts: Interrupts, number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted) as raised:
        send(number)
    assert raised.value.exit_code == code


def test_a_cleanup_is_not_cut_in_two(interrupts: Interrupts) -> None:
    done = []
    with pytest.raises(Interrupted):  # noqa: PT012 - the point is where it is raised
        with interrupts.shielded():
            send(signal.SIGINT)
            assert interrupts.impatient
            interrupts.check()
            done.append("whole")
        done.append("never")
    assert done == ["whole"]
    assert not interrupts.impatient


def test_a_deferred_signal_waits_for_the_next_check(interrupts: Interrupts) -> None:
    done = []
    with pytest.raises(Interrupted), interrupts.deferred():  # noqa: PT012
        send(signal.SIGINT)
        done.append("taken")
        interrupts.check()
        done.append("never")
    assert done == ["taken"]


def test_a_deferred_block_does_not_end_without_its_signal(interrupts: Interrupts) -> None:
    with pytest.raises(Interrupted), interrupts.deferred():
        send(signal.SIGINT)


def test_a_signal_that_was_swallowed_is_raised_by_the_next_check(interrupts: Interrupts) -> None:
    interrupts.check()
    with pytest.raises(Interrupted):
        send(signal.SIGTERM)
    with pytest.raises(Interrupted):
        interrupts.check()


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        Interrupts().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in others.items():
            signal.signal(number, handler)
        signal.signal(signal.SIGHUP, before)
