"""The entry point of `afrctl`. Imports nothing but the standard library until Ctrl-C is taken care of."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run `afrctl` with the arguments of this process and exit with its code."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # Until the commands are imported nothing has been started that would need an orderly end.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from cli.app import run

    code = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    # Threads of gRPC may still wait for an answer that nobody wants any more.
    os._exit(code)


if __name__ == "__main__":
    main()
