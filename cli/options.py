"""Options that several commands share, and what their values may be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

ATTACK_VARIABLE, SURVIVAL_VARIABLE = "AFRCTL_ATTACK_ADDRESS", "AFRCTL_SURVIVAL_ADDRESS"


def positive(value: str) -> float:
    """A finite number above zero. click's own ranges let NaN through."""
    number = not_negative(value)
    if number == 0:
        raise click.BadParameter(f"{value} is not above 0")
    return number


def not_negative(value: str) -> float:
    """A finite number from zero on."""
    try:
        number = float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number") from None
    if not math.isfinite(number) or number < 0:
        raise click.BadParameter(f"{value} is not a finite number of at least 0")
    return number


def whole(value: str) -> int:
    """A whole number from 1 on that fits the contract's 32 bits."""
    number = _integer(value)
    if not 1 <= number < 2**32:
        raise click.BadParameter(f"{value} is not a whole number of at least 1")
    return number


def seed(value: str) -> int:
    """A whole number from 0 on that fits the contract's 64 bits."""
    number = _integer(value)
    if not 0 <= number < 2**64:
        raise click.BadParameter(f"{value} is not a whole number from 0 to 2^64 - 1")
    return number


def _integer(value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no whole number") from None


DATA_FOLDER: click.Path = click.Path(exists=True, file_okay=False, readable=True, path_type=Path, resolve_path=True)


def _refuse_tls(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.BadParameter(
            "TLS is not available yet; run afrctl on the servers' side of a trusted network, or through a tunnel",
            context,
            parameter,
        )


def attack_address(command: F) -> F:
    """`--attack-address`, and the reserved TLS option."""
    command = click.option(
        "--attack-address", envvar=ATTACK_VARIABLE, metavar="HOST:PORT", default="",
        help=f"The attack server to use.  [env: {ATTACK_VARIABLE}]",
    )(command)  # fmt: skip
    return click.option("--tls-ca", hidden=True, expose_value=False, callback=_refuse_tls)(command)


def survival_address(command: F) -> F:
    """`--survival-address`."""
    return click.option(
        "--survival-address", envvar=SURVIVAL_VARIABLE, metavar="HOST:PORT", default="",
        help=f"The survival server to use.  [env: {SURVIVAL_VARIABLE}]",
    )(command)  # fmt: skip


def report_options(command: F) -> F:
    """What a report is made with, and where it goes."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Print only the report."),
        click.option("--format", "output_format", type=click.Choice(["table", "json"]), default="table",
                     show_default=True, help="How to print the report: for people, or as the proto's JSON."),
        click.option("--output", type=click.Path(path_type=Path), default=Path("afr-report"), metavar="DIR",
                     show_default=True, help="Where to write the report's files."),
        click.option("--price-usd-per-hour", type=not_negative, metavar="USD",
                     help="What an hour of the device costs, for the costs in money."),
        click.option("--clock", type=click.Choice(["queries", "seconds"]), default="queries", show_default=True,
                     help="What the conclusion counts time in; the report shows both."),
    ):  # fmt: skip
        command = option(command)
    return command
