"""Reports, fits and plans to and from their messages.

The dataclasses carry the names of the contract's messages and fields, so one walk over a message's descriptor converts
them in both directions; `MESSAGES` says which belongs to which.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC
from enum import Enum
from typing import Any, TypeVar, Union, cast

from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf.message import Message

from survival_service.assumptions import AssumptionCheck, GroupQuantiles
from survival_service.calibration import CalibrationCurve
from survival_service.cure import CureFit
from survival_service.diagnostics import Diagnostics, DistributionDiagnostics
from survival_service.effects import Effect, EffectReport
from survival_service.estimates import Curve, Estimate, Histogram
from survival_service.experiments import ExperimentGroup
from survival_service.fits import Coefficient, EffectBound, Fit
from survival_service.nesting import NestingTest
from survival_service.planning import ComparisonPlan, SamplePlan
from survival_service.ranking import FitConcordance
from survival_service.reports import (
    ClockReport,
    CostSummary,
    ObservationFits,
    Report,
    ReportedJob,
    ReportProgress,
)
from survival_service.residuals import ResidualCurve
from survival_service.sequential import Look, Stopping
from survival_service.validation import CrossValidation, ValidationResult

MESSAGES: Mapping[type[Any], type[Message]] = {
    Estimate: pb.Estimate,
    Fit: pb.Fit,
    Coefficient: pb.Coefficient,
    EffectBound: pb.EffectBound,
    Effect: pb.Effect,
    EffectReport: pb.EffectReport,
    CureFit: pb.CureFit,
    FitConcordance: pb.FitConcordance,
    Diagnostics: pb.Diagnostics,
    DistributionDiagnostics: pb.DistributionDiagnostics,
    CalibrationCurve: pb.CalibrationCurve,
    ResidualCurve: pb.ResidualCurve,
    NestingTest: pb.NestingTest,
    AssumptionCheck: pb.AssumptionCheck,
    GroupQuantiles: pb.GroupQuantiles,
    CrossValidation: pb.CrossValidation,
    ValidationResult: pb.ValidationResult,
    Curve: pb.Curve,
    Histogram: pb.Histogram,
    ClockReport: pb.ClockReport,
    Report: pb.Report,
    ReportedJob: pb.ReportedJob,
    CostSummary: pb.CostSummary,
    ExperimentGroup: pb.ExperimentGroup,
    ReportProgress: pb.ReportProgress,
    ObservationFits: pb.FitOutcomesResponse,
    SamplePlan: pb.PlanSamplesResponse,
    ComparisonPlan: pb.ComparisonPlan,
    Look: pb.Look,
    Stopping: pb.Stopping,
}


_TIMESTAMP = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"

Field = Any
"""A field descriptor: of pure Python's class or of the C library's, which share no base."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def to_proto(value: object, message: type[M]) -> M:
    """`value`, a dataclass of `MESSAGES`, as its message. None becomes an absent field.

    Raises `ArithmeticError` for a NaN: a number that is none must not leave the service.
    """
    result = message()
    for descriptor in message.DESCRIPTOR.fields:
        content = getattr(value, attribute_of(descriptor))
        if content is None:
            continue
        target = getattr(result, descriptor.name)
        if _is_map(descriptor):
            target.update({key: _number(item, descriptor) for key, item in content.items()})
        elif descriptor.is_repeated and descriptor.message_type:
            target.extend(to_proto(item, MESSAGES[type(item)]) for item in content)
        elif descriptor.is_repeated:
            target.extend(_number(item, descriptor) for item in content)
        elif _type_name(descriptor) == _TIMESTAMP:
            target.FromDatetime(content)
        elif _type_name(descriptor) == _DURATION:
            target.FromNanoseconds(round(_number(content, descriptor) * 1e9))
        elif descriptor.message_type:
            target.CopyFrom(to_proto(content, MESSAGES[type(content)]))
        else:
            setattr(result, descriptor.name, _number(content, descriptor))
    return result


def from_proto(message: Message, kind: type[T]) -> T:
    """The inverse of `to_proto`. What a message has no field for takes its default."""
    hints = _hints(cast(Any, kind))
    values: dict[str, Any] = {}
    for descriptor in message.DESCRIPTOR.fields:
        name = attribute_of(descriptor)
        content = getattr(message, descriptor.name)
        inner = _inner_type(hints[name])
        if _is_map(descriptor):
            values[name] = dict(content)
        elif descriptor.is_repeated:
            values[name] = tuple(_value_of(item, inner) for item in content)
        elif descriptor.has_presence and not message.HasField(descriptor.name):
            if _may_be_none(hints[name]):
                values[name] = None
        elif _type_name(descriptor) == _TIMESTAMP:
            values[name] = content.ToDatetime(tzinfo=UTC)
        elif _type_name(descriptor) == _DURATION:
            values[name] = content.ToNanoseconds() / 1e9
        elif descriptor.enum_type and content == 0 and _may_be_none(hints[name]):
            values[name] = None
        else:
            values[name] = _value_of(content, inner)
    return kind(**values)


def attribute_of(descriptor: Field) -> str:
    """The attribute that holds a field: its name, and `x_seconds` for the duration `x_duration`."""
    if _type_name(descriptor) == _DURATION:
        return f"{descriptor.name.removesuffix('_duration')}_seconds"
    return str(descriptor.name)


def report(value: Report) -> pb.Report:
    return to_proto(value, pb.Report)


def progress(value: ReportProgress) -> pb.ReportProgress:
    return to_proto(value, pb.ReportProgress)


def fits(value: ObservationFits) -> pb.FitOutcomesResponse:
    return to_proto(value, pb.FitOutcomesResponse)


def plan(value: SamplePlan) -> pb.PlanSamplesResponse:
    return to_proto(value, pb.PlanSamplesResponse)


def _type_name(descriptor: Field) -> str:
    return str(descriptor.message_type.full_name) if descriptor.message_type else ""


def _is_map(descriptor: Field) -> bool:
    return bool(descriptor.message_type and descriptor.message_type.GetOptions().map_entry)


def _number(content: Any, descriptor: Field) -> Any:
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, float) and math.isnan(content):
        raise ArithmeticError(f"{descriptor.full_name} is not a number")
    return content


def _value_of(content: Any, kind: Any) -> Any:
    if isinstance(content, Message):
        return from_proto(content, kind)
    return kind(content) if isinstance(kind, type) and issubclass(kind, Enum) else content


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _may_be_none(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType) and type(None) in typing.get_args(hint)


def _inner_type(hint: Any) -> Any:
    """X of `X`, `X | None` and `tuple[X, ...]`."""
    if _may_be_none(hint) or typing.get_origin(hint) is tuple:
        return next(argument for argument in typing.get_args(hint) if argument not in (type(None), Ellipsis))
    return hint
