"""Signals that ask the command to stop: raised once, and held back while it cleans up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from cli.errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Turns signals into `Interrupted` in the main thread, unless a `shielded` block is running."""

    def __init__(self) -> None:
        self._shields = 0
        self._deferrals = 0
        self._held: int | None = None
        self._received: int | None = None
        self.impatient = False
        """Whether a signal came while a shielded block ran: whoever cleans up should stop waiting."""

    def install(self) -> None:
        for number in SIGNALS:
            # A signal that the parent had ignored stays ignored: nohup and shells' background jobs rely on it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Hold signals back, so that a cleanup cannot be cut in two. Its end raises what was held back."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
            if self._shields == 0:
                self.impatient = False
                held, self._held = self._held, None
        if self._shields == 0 and held is not None:
            raise Interrupted(held)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Let signals wait for the next `check` of the block, so that nothing taken from a queue is lost between."""
        self._deferrals += 1
        try:
            yield
        finally:
            self._deferrals -= 1
        self.check()

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come. Loops that wait call this.

        What a handler raises in the middle of an import or of a destructor may be swallowed there.
        """
        if self._received is not None and not self._shields:
            raise Interrupted(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._shields:
            self._held, self.impatient = number, True
        else:
            self._received = number
            if not self._deferrals:
                raise Interrupted(number)


interrupts = Interrupts()
"""The signals of this process: there is one set, as there is one main thread."""
