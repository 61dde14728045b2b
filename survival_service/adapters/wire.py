"""Protocol buffers to and from the values of the survival service; nothing behind this file knows protos.

The dataclasses of reports and fits carry the names of the contract's messages and fields, so one walk over a message's
descriptor converts them in both directions; `MESSAGES` says which belongs to which.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC
from enum import Enum
from typing import Any, TypeVar, Union, cast

import numpy as np
from afr.attack.v1 import attack_service_pb2 as attack_pb
from afr.outcome.v1 import outcome_pb2 as outcome_pb
from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf.message import Message

from survival_service.assumptions import AssumptionCheck, GroupQuantiles
from survival_service.calibration import CalibrationCurve
from survival_service.cure import CureFit
from survival_service.diagnostics import Diagnostics, DistributionDiagnostics
from survival_service.distributions import Distribution
from survival_service.effects import Effect, EffectReport
from survival_service.errors import InvalidObservations, InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL, Curve, Estimate, Histogram
from survival_service.experiments import ExperimentGroup, Experiments
from survival_service.fits import Coefficient, EffectBound, Fit
from survival_service.jobs import JobFacts
from survival_service.nesting import NestingTest
from survival_service.observations import Clock, InFlightColumns, Observations, OutcomeColumns
from survival_service.planning import DEFAULT_POWER, Comparison, ComparisonPlan, SamplePlan
from survival_service.ranking import FitConcordance
from survival_service.reports import (
    DEFAULT_DISTRIBUTIONS,
    ClockReport,
    CostSummary,
    ObservationFits,
    Report,
    ReportedJob,
    ReportOptions,
    ReportProgress,
)
from survival_service.residuals import ResidualCurve
from survival_service.sequential import Look, Monitor, Quantity, Stopping
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

_EXPERIMENT_COLUMNS = (
    "sample_count",
    "failure_count",
    "misclassified_count",
    "attack_seconds",
    "training_seconds_per_sample",
)
_MAY_BE_EMPTY = ("misclassified_count", "training_seconds_per_sample")

_TIMESTAMP = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"

Field = Any
"""A field descriptor: of pure Python's class or of the C library's, which share no base."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")
E = TypeVar("E", bound=Enum)


# --- Reports and fits, both ways


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


# --- What the attack service and other clients send


def outcome_columns(batch: outcome_pb.OutcomeBatch) -> OutcomeColumns:
    """Raises `InvalidObservations`, naming the column, for rows that are no outcomes."""
    return OutcomeColumns(
        sample_index=_integers(batch.sample_index),
        verdict=_integers(batch.verdict),
        label=_integers(batch.label),
        clean_prediction=_integers(batch.clean_prediction),
        adversarial_prediction=_integers(batch.adversarial_prediction),
        query_count_lower=_integers(batch.query_count_lower),
        query_count_upper=_integers(batch.query_count_upper),
        gradient_count_lower=_integers(batch.gradient_count_lower),
        gradient_count_upper=_integers(batch.gradient_count_upper),
        seconds_lower=_floats(batch.seconds_lower),
        seconds_upper=_floats(batch.seconds_upper),
        distance_l2=_floats(batch.distance_l2),
        distance_linf=_floats(batch.distance_linf),
        distance_l0=_integers(batch.distance_l0),
        check_count=_integers(batch.check_count),
        clean_seconds=_floats(batch.clean_seconds),
    )


def in_flight_columns(batch: outcome_pb.OutcomeBatch) -> InFlightColumns:
    """Raises `InvalidObservations`, naming the column."""
    in_flight = batch.in_flight
    return InFlightColumns(
        sample_index=_integers(in_flight.sample_index),
        check_count=_integers(in_flight.check_count),
        query_count=_integers(in_flight.query_count),
        gradient_count=_integers(in_flight.gradient_count),
        seconds=_floats(in_flight.seconds),
    )


def observations(batches: Iterable[pb.ObservationBatch]) -> Observations:
    """All batches as one. They must agree on whether they have weights and clusters, and on their covariates.

    Raises `InvalidObservations`, naming the column.
    """
    lower: list[float] = []
    upper: list[float] = []
    weight: list[float] = []
    cluster: list[str] = []
    covariates: dict[str, list[float]] = {}
    shape: tuple[bool, bool, tuple[str, ...]] | None = None
    for batch in batches:
        names = tuple(covariate.name for covariate in batch.covariates)
        _check_observation_batch(batch)
        if not batch.duration_lower:
            continue
        shape = shape or (bool(batch.weight), bool(batch.cluster), names)
        for field, first, here in zip(
            ("weight", "cluster", "covariates"), shape, (bool(batch.weight), bool(batch.cluster), names), strict=True
        ):
            if first != here:
                message = f"every batch must have the same {field} as the first, in the same order, or none"
                raise InvalidObservations(field, message)
        lower.extend(batch.duration_lower)
        upper.extend(batch.duration_upper)
        weight.extend(batch.weight)
        cluster.extend(batch.cluster)
        for covariate in batch.covariates:
            covariates.setdefault(covariate.name, []).extend(covariate.value)
    return Observations.of(lower, upper, weight or None, {**covariates} or None, cluster or None)


def experiments(batches: Iterable[pb.ExperimentBatch]) -> Experiments:
    """All batches as one. They must agree on their covariates.

    Raises `InvalidObservations`, naming the column.
    """
    group: list[str] = []
    columns: dict[str, list[float]] = {name: [] for name in _EXPERIMENT_COLUMNS}
    covariates: dict[str, list[float]] = {}
    names: tuple[str, ...] | None = None
    for batch in batches:
        rows, own = len(batch.sample_count), tuple(covariate.name for covariate in batch.covariates)
        names = own if names is None else names
        if own != names:
            message = "every batch must have the same covariates as the first, in the same order"
            raise InvalidObservations("covariates", message)
        _check_covariates(batch.covariates, rows)
        group.extend(batch.group or [""] * rows)
        for name, column in columns.items():
            column.extend(getattr(batch, name) or ([0.0] * rows if name in _MAY_BE_EMPTY else []))
        for covariate in batch.covariates:
            covariates.setdefault(covariate.name, []).extend(covariate.value)
    return Experiments(
        group=tuple(group),
        covariates=np.array([*covariates.values()], dtype=np.float64)
        .reshape(len(covariates), len(columns["sample_count"]))
        .T,
        names=tuple(covariates),
        **{name: _floats(column) for name, column in columns.items()},
    )


def submitted_job(job: pb.SubmittedJob, *, sample_count: int) -> JobFacts:
    """What a report needs of a job that was run elsewhere. Raises `InvalidRequest`."""
    if not job.attack_job_id:
        raise InvalidRequest("job.attack_job_id", "job.attack_job_id is empty; name the job")
    return JobFacts(
        attack_job_id=job.attack_job_id,
        model=job.model or "unnamed model",
        dataset=job.dataset or "unnamed data",
        attack=job.attack or "an unnamed attack",
        sample_count=sample_count,
        training_seconds=job.training_duration.ToNanoseconds() / 1e9,
        training_sample_count=job.training_sample_count,
        epoch_count=job.epoch_count,
    )


def job_facts(job: attack_pb.AttackJob, *, dataset_digest: str = "") -> JobFacts:
    """What a report needs of a job. The digest of the dataset comes with outcomes, not with the job."""
    spec, record = job.spec, job.model_record
    return JobFacts(
        attack_job_id=job.attack_job_id,
        model=spec.model,
        dataset=spec.dataset,
        attack=spec.attack,
        engine=spec.engine,
        norm=spec.norm,
        attack_parameters=dict(spec.attack_parameters),
        defence=spec.defence or "none",
        defence_parameters=dict(spec.defence_parameters),
        seed=spec.seed,
        sample_count=spec.sample_count,
        shard_count=max(1, spec.shard_count),
        stem=spec.stem,
        image_size=spec.image_size,
        canceled=job.state == attack_pb.AttackJob.STATE_CANCELED,
        attempt_count=job.attempt_count,
        warnings=tuple(job.warnings),
        weights_digest=record.weights_digest,
        dataset_digest=dataset_digest,
        training_seconds=record.training_duration.ToNanoseconds() / 1e9,
        training_sample_count=record.training_sample_count,
        epoch_count=record.epoch_count,
        clean_accuracy=record.clean_accuracy,
        test_sample_count=record.test_sample_count,
        class_count=record.class_count,
        parameter_count=record.parameter_count,
        training_device_name=record.training_device_name,
        attack_device_name=record.attack_device_name,
        from_store=record.from_store,
        training_evaluation_count=record.training_evaluation_count,
        defended_accuracy=record.defended_accuracy,
        clean_rejection_share=record.clean_rejection_share,
        randomized=record.randomized,
    )


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


# --- The walk's parts


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


# --- The edge's checks


def _integers(column: Iterable[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(column, dtype=np.int64)


def _floats(column: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(column, dtype=np.float64)


def _check_observation_batch(batch: pb.ObservationBatch) -> None:
    rows = len(batch.duration_lower)
    for field, length in (("duration_upper", len(batch.duration_upper)), ("weight", len(batch.weight) or rows)):
        if length != rows:
            raise InvalidObservations(field, f"{field} has {length} entries, duration_lower has {rows}")
    if len(batch.cluster) not in (0, rows):
        raise InvalidObservations("cluster", f"cluster has {len(batch.cluster)} entries, duration_lower has {rows}")
    _check_covariates(batch.covariates, rows)


def _check_covariates(covariates: Sequence[pb.Covariate], rows: int) -> None:
    names = [covariate.name for covariate in covariates]
    if "" in names or "intercept" in names or len(set(names)) < len(names):
        message = "covariates must have different names, none of them empty or 'intercept'"
        raise InvalidObservations("covariates", message)
    for covariate in covariates:
        if len(covariate.value) != rows:
            message = f"covariate {covariate.name!r} has {len(covariate.value)} values for {rows} rows"
            raise InvalidObservations("covariates", message)


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
