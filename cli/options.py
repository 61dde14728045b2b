"""Options that several commands share, and what their values may be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.errors import Misuse

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Distribution, ReportOptions

F = TypeVar("F", bound=Callable[..., Any])

ATTACK_VARIABLE, SURVIVAL_VARIABLE = "AFRCTL_ATTACK_ADDRESS", "AFRCTL_SURVIVAL_ADDRESS"
TLS_VARIABLE = "AFRCTL_TLS_CA"


def positive(value: str) -> float:
    """A finite number above zero; `8/255` is one, as perturbations are often given."""
    number = _finite(value)
    if number <= 0:
        raise click.BadParameter(f"{value} is not above 0")
    return number


def factor(value: str) -> float:
    """A finite number above 1: how far an interval reaches to either side."""
    number = _finite(value)
    if number <= 1:
        raise click.BadParameter(f"{value} is not above 1; 1.2 is an interval from 1/1.2 to 1.2 times the estimate")
    return number


def seconds(value: str) -> float:
    """A duration that a message holds: from a nanosecond on, below 32 years."""
    number = positive(value)
    if not 1e-9 <= number < 1e9:
        raise click.BadParameter(f"{value} is no duration in seconds between 1e-9 and 1e9")
    return number


def not_negative(value: str) -> float:
    """A finite number from zero on."""
    number = _finite(value)
    if number < 0:
        raise click.BadParameter(f"{value} is not at least 0")
    return number


def level(value: str) -> float:
    """A share strictly between 0 and 1."""
    number = _finite(value)
    if not 0 < number < 1:
        raise click.BadParameter(f"{value} does not lie between 0 and 1; 95 % is 0.95")
    return number


def part(value: str) -> float:
    """A share above 0, all of it at most."""
    number = _finite(value)
    if not 0 < number <= 1:
        raise click.BadParameter(f"{value} is no share above 0 and at most 1; 95 % is 0.95")
    return number


def _finite(value: str) -> float:
    # click's own ranges let NaN through.
    try:
        number = float(Fraction(value)) if "/" in value else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise click.BadParameter(f"{value!r} is no number; write it as 0.05 or as 8/255") from None
    if not math.isfinite(number):
        raise click.BadParameter(f"{value} is not a finite number")
    return number


def setting(value: str) -> tuple[str, float]:
    """A parameter and its value, `NAME=VALUE`; the server knows which there are."""
    name, separator, number = (part.strip() for part in value.partition("="))
    if not (name and separator):
        raise click.BadParameter(f"{value!r} is no NAME=VALUE, such as deviation=0.1")
    return name.replace("-", "_"), _finite(number)


def settings(option: str, given: Sequence[tuple[str, float]], **named: float | None) -> dict[str, float]:
    """Parameters by name: those given as `NAME=VALUE`, and those that have an option of their own.

    Raises `Misuse` for one that was given twice.
    """
    found = {name: float(value) for name, value in named.items() if value is not None}
    for name, value in given:
        if name in found:
            raise Misuse(f"{option} {name}: {name} is given twice; give it once")
        found[name] = value
    return found


def whole(value: str) -> int:
    """A whole number from 1 on that fits the contract's 32 bits."""
    number = _integer(value)
    if number < 1:
        raise click.BadParameter(f"{value} is not a whole number of at least 1")
    if number >= 2**32:
        raise click.BadParameter(f"{value} is too large; the largest is {2**32 - 1}")
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


def data_folder(value: str) -> Path:
    """A folder of datasets, absolute; one that does not exist yet is made by the first download."""
    folder = Path(value).expanduser().absolute()
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise click.BadParameter(f"{folder} cannot be read; give another folder")
    elif folder.exists():
        raise click.BadParameter(f"{folder} is not a folder; give one")
    elif not folder.parent.is_dir():
        raise click.BadParameter(f"neither {folder} nor the folder it would be made in exists; check the path")
    elif not os.access(folder.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"{folder} cannot be made, since {folder.parent} takes no files; give another folder")
    return folder


def workers_option(command: F) -> F:
    """`--workers`."""
    return click.option(
        "--workers", type=click.IntRange(1, 64), metavar="COUNT",
        help="How many workers to start on this machine; they share the job, and the cores.  [default: 1]",
    )(command)  # fmt: skip


def _refuse_tls(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise Misuse(
            f"--tls-ca ({TLS_VARIABLE}) has no effect, since TLS is not available yet: leave it out, and reach the "
            "servers inside a network you trust or through a tunnel"
        )


def reserved_tls(command: F) -> F:
    """`--tls-ca`, which a later version will honour: nobody may believe that it does so now."""
    return click.option("--tls-ca", envvar=TLS_VARIABLE, hidden=True, expose_value=False, callback=_refuse_tls)(command)


def _checked_address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The address, if it is one: nothing is started for a typing error."""
    if value:
        from afr.rpc.channel import check_address
        from afr.rpc.errors import InvalidAddress

        try:
            check_address(value)
        except InvalidAddress as error:
            raise Misuse(f"{parameter.opts[0]}: {error}") from error
    return value


def attack_address(command: F) -> F:
    """`--attack-address`, and the reserved TLS option."""
    return click.option(
        "--attack-address", envvar=ATTACK_VARIABLE, metavar="HOST:PORT", default="", callback=_checked_address,
        help=f"The attack server to use.  [env: {ATTACK_VARIABLE}]",
    )(reserved_tls(command))  # fmt: skip


def survival_address(command: F) -> F:
    """`--survival-address`."""
    return click.option(
        "--survival-address", envvar=SURVIVAL_VARIABLE, metavar="HOST:PORT", default="", callback=_checked_address,
        help=f"The survival server to use.  [env: {SURVIVAL_VARIABLE}]",
    )(command)  # fmt: skip


def strength_options(command: F) -> F:
    """How strong the attack and the defence are, beyond the attack's own options."""
    return click.option(
        "--attack-parameter", type=setting, multiple=True, metavar="NAME=VALUE",
        help="A parameter of the attack that has no option here; may be given several times.",
    )(defence_options(command))  # fmt: skip


def defence_options(command: F) -> F:
    """The defence and its parameters."""
    for option in (
        click.option("--defence-parameter", type=setting, multiple=True, metavar="NAME=VALUE",
                     help="A parameter of the defence; may be given several times."),
        click.option("--defence", default="", metavar="NAME",
                     help="The defence, for example jpeg; `afrctl defences` lists them.  [default: none]"),
    ):  # fmt: skip
        command = option(command)
    return command


def report_options(command: F) -> F:
    """What a report is made with, and where it goes."""
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Print only the report."),
        click.option("--format", "output_format", type=click.Choice(["table", "full", "json"]), default="table",
                     show_default=True, help="How to print the report: for people, with all tables and notes that "
                     "report.html has, or as the proto's JSON."),
        click.option("--output", type=click.Path(path_type=Path), default=Path("afr-report"), metavar="DIR",
                     show_default=True, help="Where to write the report's files."),
        click.option("--price-usd-per-hour", type=not_negative, metavar="USD",
                     help="What an hour of the device costs, for the costs in money."),
    ):  # fmt: skip
        command = option(command)
    return command


DISTRIBUTION_NAMES = ("weibull", "log-normal", "log-logistic", "exponential", "generalized-gamma", "gamma")


def distribution_option(default: str) -> Callable[[F], F]:
    """The distributions to fit, as their numbers in the contract; none if none was named."""
    return click.option(
        "--distribution",
        "distributions",
        type=click.Choice(DISTRIBUTION_NAMES),
        multiple=True,
        callback=lambda _context, _parameter, names: tuple(map(distribution_number, dict.fromkeys(names))),
        help=f"A distribution to fit; may be given several times.  [default: {default}]",
    )


def distribution_number(name: str) -> Distribution.ValueType:
    """The number in the contract of a distribution named as in `DISTRIBUTION_NAMES`."""
    from afr.survival.v1.survival_service_pb2 import Distribution

    return Distribution.Value(f"DISTRIBUTION_{name.upper().replace('-', '_')}")


def clock_option(*clocks: str) -> Callable[[F], F]:
    """What time is counted in."""
    return click.option(
        "--clock",
        type=click.Choice(clocks),
        default="queries",
        show_default=True,
        help="What the conclusion counts time in; the report shows every clock that it has.",
    )


def make_options(clock: str, price_usd_per_hour: float | None) -> ReportOptions:
    """What a report is made with. One price stands for both sides, as on one machine."""
    from afr.survival.v1.survival_service_pb2 import Clock, ReportOptions

    return ReportOptions(
        clock=Clock.Value(f"CLOCK_{clock.upper()}"),
        defender_price_usd_per_hour=price_usd_per_hour,
        attacker_price_usd_per_hour=price_usd_per_hour,
    )
