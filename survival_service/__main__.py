"""`python -m survival_service serve`: the survival server."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from survival_service.settings import DEFAULT_ADDRESS, DEFAULT_ATTACK_ADDRESS, InvalidSetting, Settings, default_state


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit code. A user's mistake is one line on stderr and 1."""
    flags = _parser().parse_args(arguments)
    logging.basicConfig(level=flags.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings.gather(
            os.environ, address=flags.address, attack_address=flags.attack_address, state=flags.state
        )
    except InvalidSetting as error:
        return _fail(str(error))
    # Fits are small and many: threads of a linear algebra library that wait by spinning would take the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # gRPC's core would print its own lines about a port that is taken, beside ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    # Late, so that `--help` and mistakes are answered at once.
    from survival_service.adapters.server import CannotServe, run

    try:
        asyncio.run(run(settings))
    except CannotServe as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m survival_service", description="The survival service of afr.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the survival server",
        description="Run the survival server until it is told to stop. Prints `ready HOST:PORT` once it answers.",
        epilog="example: python -m survival_service serve --address 0.0.0.0:50052 --attack-address attack:50051",
    )
    serve.add_argument(
        "--address", metavar="HOST:PORT", help=f"where to listen; port 0: any (AFR_ADDRESS, {DEFAULT_ADDRESS})"
    )
    serve.add_argument(
        "--attack-address",
        metavar="HOST:PORT",
        help=f"where the attack service is (AFR_ATTACK_ADDRESS, {DEFAULT_ATTACK_ADDRESS})",
    )
    serve.add_argument(
        "--state", metavar="DIR", help=f"where reports are kept (AFR_STATE, {default_state(os.environ)})"
    )
    serve.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="what is logged, to stderr"
    )
    return parser


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
