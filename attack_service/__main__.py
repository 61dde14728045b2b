"""`python -m attack_service serve` and `python -m attack_service work`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from attack_service import settings
from attack_service.errors import StoreUnavailable

_FAILED = 1
_MISUSED = 2
_INTERRUPTED = 130

_EXAMPLES = """examples:
  python -m attack_service serve --address 0.0.0.0:50051 --redis-url redis://redis.example:6379/0
  python -m attack_service work --redis-url redis://redis.example:6379/0 --store /var/lib/afr --device cuda

The server prints `ready HOST:PORT` once it answers, a worker `ready` once it takes jobs. Both end with SIGTERM.
"""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one process until it is told to stop. Returns the exit code."""
    flags = vars(_parser().parse_args(arguments))
    command = flags.pop("command")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        if command == "serve":
            return _serve(settings.read(settings.ServeSettings, flags, environ))
        return _work(settings.read(settings.WorkSettings, flags, environ), environ)
    except ValueError as error:
        return _complain(str(error), _MISUSED)
    except KeyboardInterrupt:
        # Before the process could handle the signal itself: it has taken nothing that it must give back.
        return _INTERRUPTED


def _serve(serve_settings: settings.ServeSettings) -> int:
    # Set before gRPC is imported: its core would report a port taken in words of its own, before our sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from attack_service.adapters.server import PortTaken, serve

    host = serve_settings.address.rpartition(":")[0]
    try:
        asyncio.run(serve(serve_settings, lambda port: print(f"ready {host}:{port}", flush=True)))
    except (StoreUnavailable, PortTaken) as error:
        return _complain(str(error), _FAILED)
    return 0


def _work(work_settings: settings.WorkSettings, environ: Mapping[str, str]) -> int:
    from attack_service.adapters.environment import prepare_environment

    prepare_environment()
    from attack_service.adapters.worker import work

    store_root = work_settings.store_root(environ)
    try:
        store_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _complain(f"cannot use the store {store_root} ({error.strerror}); give --store", _FAILED)
    try:
        work(work_settings, environ, lambda: print("ready", flush=True))
    except StoreUnavailable as error:
        return _complain(str(error), _FAILED)
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m attack_service", description=__doc__, epilog=_EXAMPLES, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="serve|work")
    serve = commands.add_parser(
        "serve", help="answer calls", description="Answer calls on a socket.", epilog=_EXAMPLES, formatter_class=raw
    )
    settings.add_options(serve, settings.ServeSettings)
    work = commands.add_parser(
        "work", help="run jobs", description="Take jobs and run them.", epilog=_EXAMPLES, formatter_class=raw
    )
    settings.add_options(work, settings.WorkSettings)
    return parser


def _complain(sentence: str, code: int) -> int:
    print("error:", " ".join(sentence.split()), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
