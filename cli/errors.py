"""What can end a command: a problem in one sentence, a misuse, an interrupt."""

from __future__ import annotations

import signal


class Problem(Exception):
    """The command cannot do what was asked; the message is one sentence that says what to do next."""

    exit_code = 1


class Misuse(Problem):
    """The command line itself cannot be used."""

    exit_code = 2


class Interrupted(BaseException):
    """Someone asked the command to stop: Ctrl-C, a termination, a closed terminal.

    Not a `KeyboardInterrupt`, which click would turn into an `Abort` that no longer knows its signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number
