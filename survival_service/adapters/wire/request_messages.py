"""What a request asks for, from its messages, with the defaults of what it leaves out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf.message import Message

from survival_service.adapters.wire.report_messages import from_proto
from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL
from survival_service.observations import Clock
from survival_service.planning import DEFAULT_POWER, Comparison
from survival_service.reports import (
    DEFAULT_DISTRIBUTIONS,
    ReportOptions,
)
from survival_service.sequential import Look, Monitor, Quantity

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def report_options(options: pb.ReportOptions) -> ReportOptions:
    """Options with their defaults. Raises `InvalidRequest`, naming the field under `options`."""
    with_path = functools.partial(_under, "options")
    return with_path(
        lambda: ReportOptions(
            clock=Clock.QUERIES if not options.clock else _known(Clock, options.clock, "clock", pb.Clock.Name),
            distributions=tuple(
                dict.fromkeys(_distribution(number, "distributions") for number in options.distributions)
            )
            or DEFAULT_DISTRIBUTIONS,
            confidence_level=options.confidence_level or DEFAULT_LEVEL,
            defender_price_usd_per_hour=_present(options, "defender_price_usd_per_hour"),
            attacker_price_usd_per_hour=_present(options, "attacker_price_usd_per_hour"),
        )
    )


def planned_distribution(request: pb.PlanSamplesRequest) -> Distribution:
    """Raises `InvalidRequest`, also for a distribution with a shape, whose shape nobody knows beforehand."""
    distribution = _distribution(request.distribution, "distribution")
    if distribution.with_shape:
        known = ", ".join(_word(one) for one in Distribution if not one.with_shape)
        raise InvalidRequest("distribution", f"{_word(distribution)} cannot be planned for; name one of {known}")
    return distribution


def comparison(request: pb.PlanSamplesRequest) -> Comparison | None:
    """The two models to tell apart, with the defaults of what is left out. Raises `InvalidRequest`."""
    if not request.HasField("comparison"):
        return None
    given = request.comparison
    return Comparison(given.time_ratio, given.power or DEFAULT_POWER, given.allocation_ratio or 1.0)


def monitor(request: pb.CreateReportRequest, options: ReportOptions) -> Monitor | None:
    """What watches the running job, if the request wants that. Raises `InvalidRequest`."""
    if not request.HasField("precision"):
        return None
    given = request.precision
    if len(set(request.attack_job_ids)) > 1:
        raise InvalidRequest(
            "precision",
            f"{len(set(request.attack_job_ids))} jobs cannot be stopped at one precision, since each look is at one "
            "job; name one job, or leave precision out",
        )
    if options.clock not in (Clock.QUERIES, Clock.SECONDS):
        raise InvalidRequest("precision", "precision needs the clock of queries or of seconds")
    wanted = Quantity.MEDIAN if not given.quantity else _known(Quantity, given.quantity, "quantity", pb.Quantity.Name)
    if wanted is Quantity.RESTRICTED_MEAN and options.clock is not Clock.QUERIES:
        raise InvalidRequest(
            "precision.quantity",
            "the restricted mean needs a budget that all samples share, and in seconds each has its own; take the "
            "clock of queries, or the median",
        )
    return Monitor(
        given.interval_factor,
        wanted,
        options.confidence_level,
        tuple(from_proto(look, Look) for look in given.earlier_looks),
    )


def attack_job_ids(request: pb.CreateReportRequest, most: int) -> tuple[str, ...]:
    """The jobs of a report, each once. Raises `InvalidRequest`."""
    identifiers = tuple(dict.fromkeys(request.attack_job_ids))
    if not identifiers:
        raise InvalidRequest("attack_job_ids", "attack_job_ids is empty; name at least one attack job")
    if len(identifiers) > most:
        raise InvalidRequest("attack_job_ids", f"{len(identifiers)} attack jobs are too many; name at most {most}")
    if "" in identifiers:
        raise InvalidRequest("attack_job_ids", "an entry of attack_job_ids is empty; name the attack job")
    return identifiers


def _known(kind: type[E], number: int, field: str, name_of: Callable[[Any], str]) -> E:
    try:
        return kind(number)
    except ValueError:
        given = name_of(number) if number == 0 else str(number)
        known = ", ".join(_word(member) for member in kind)
        raise InvalidRequest(field, f"{field} {given} is not supported; known: {known}") from None


def _word(member: Enum) -> str:
    return member.name.lower().replace("_", "-")


def _distribution(number: int, field: str) -> Distribution:
    return _known(Distribution, number, field, pb.Distribution.Name)


def _present(message: Message, field: str) -> float | None:
    return getattr(message, field) if message.HasField(field) else None


def _under(path: str, make: Callable[[], T]) -> T:
    """Run `make`; a bad field it finds is below `path` in the request."""
    try:
        return make()
    except InvalidRequest as error:
        raise type(error)(f"{path}.{error.field.removeprefix(path + '.')}", str(error)) from None
