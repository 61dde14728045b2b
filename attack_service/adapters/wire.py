"""Between the domain's values and the contract's messages: one converter a direction, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from afr.attack.v1 import attack_service_pb2 as attack_pb2
from afr.outcome.v1 import outcome_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from attack_service import entries
from attack_service.jobs import AttackJob, AttackSpec, ModelRecord, Phase, Progress
from attack_service.outcomes import InFlight, Outcome, Tally, Verdict

_NO_COUNT = -1
_NANOSECONDS = 1_000_000_000
# The longest duration that a protobuf Duration may hold.
_LONGEST_SECONDS = 315_576_000_000.0


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """What all samples of a batch share."""

    shard_index: int
    attempt: int
    sequence: int
    weights_digest: str
    dataset_digest: str
    spec_digest: str
    seconds_per_query: float


def spec_to_proto(spec: AttackSpec) -> attack_pb2.AttackSpec:
    return attack_pb2.AttackSpec(
        model=spec.model,
        dataset=spec.dataset,
        attack=spec.attack,
        attack_parameters=spec.attack_parameters,
        engine=spec.engine,
        sample_count=spec.sample_count,
        epoch_count=spec.epoch_count,
        seed=spec.seed,
        stem=spec.stem,
        image_size=spec.image_size,
        norm=spec.norm,
        batch_size=spec.batch_size,
        defence=spec.defence,
        defence_parameters=spec.defence_parameters,
        weights=spec.weights,
        checkpoint=spec.checkpoint,
        program=spec.program,
        training_seconds=spec.training_seconds,
        training_sample_count=spec.training_sample_count,
        shard_count=spec.shard_count,
    )


def spec_from_proto(message: attack_pb2.AttackSpec) -> AttackSpec:
    return AttackSpec(
        model=message.model,
        dataset=message.dataset,
        attack=message.attack,
        attack_parameters=dict(message.attack_parameters),
        engine=message.engine,
        sample_count=message.sample_count,
        epoch_count=message.epoch_count,
        seed=message.seed,
        stem=message.stem,
        image_size=message.image_size,
        norm=message.norm,
        batch_size=message.batch_size,
        defence=message.defence,
        defence_parameters=dict(message.defence_parameters),
        weights=message.weights,
        checkpoint=message.checkpoint,
        program=message.program,
        training_seconds=message.training_seconds,
        training_sample_count=message.training_sample_count,
        shard_count=message.shard_count,
    )


def model_record_to_proto(record: ModelRecord) -> attack_pb2.ModelRecord:
    return attack_pb2.ModelRecord(
        weights_digest=record.weights_digest,
        training_duration=_duration(record.training_seconds),
        training_sample_count=record.training_sample_count,
        epoch_count=record.epoch_count,
        clean_accuracy=record.clean_accuracy,
        test_sample_count=record.test_sample_count,
        parameter_count=record.parameter_count,
        class_count=record.class_count,
        training_device_name=record.training_device_name,
        attack_device_name=record.attack_device_name,
        from_store=record.from_store,
        training_cost_known=record.training_cost_known,
        training_evaluation_count=record.training_evaluation_count,
        defended_accuracy=record.defended_accuracy,
        clean_rejection_share=record.clean_rejection_share,
        randomized=record.randomized,
    )


def model_record_from_proto(message: attack_pb2.ModelRecord) -> ModelRecord:
    return ModelRecord(
        weights_digest=message.weights_digest,
        training_seconds=_seconds(message.training_duration),
        training_sample_count=message.training_sample_count,
        epoch_count=message.epoch_count,
        clean_accuracy=message.clean_accuracy,
        test_sample_count=message.test_sample_count,
        parameter_count=message.parameter_count,
        class_count=message.class_count,
        training_device_name=message.training_device_name,
        attack_device_name=message.attack_device_name,
        from_store=message.from_store,
        training_cost_known=message.training_cost_known,
        training_evaluation_count=message.training_evaluation_count,
        defended_accuracy=message.defended_accuracy,
        clean_rejection_share=message.clean_rejection_share,
        randomized=message.randomized,
    )


def progress_to_proto(progress: Progress) -> attack_pb2.Progress:
    remaining = progress.remaining_seconds
    return attack_pb2.Progress(
        phase=attack_pb2.Progress.Phase.ValueType(progress.phase.value),
        done_count=progress.done_count,
        total_count=progress.total_count,
        # An estimate before the first step may be infinite or no number: that is unknown, hence absent.
        remaining_duration=None if remaining is None or not 0 <= remaining < _LONGEST_SECONDS else _duration(remaining),
        epoch=progress.epoch,
        loss=progress.loss,
        accuracy=progress.accuracy,
        failed_count=progress.failed_count,
        survived_count=progress.survived_count,
        misclassified_count=progress.misclassified_count,
    )


def progress_from_proto(message: attack_pb2.Progress) -> Progress:
    return Progress(
        phase=Phase(message.phase),
        done_count=message.done_count,
        total_count=message.total_count,
        remaining_seconds=_seconds(message.remaining_duration) if message.HasField("remaining_duration") else None,
        epoch=message.epoch,
        loss=message.loss,
        accuracy=message.accuracy,
        failed_count=message.failed_count,
        survived_count=message.survived_count,
        misclassified_count=message.misclassified_count,
    )


def job_to_proto(job: AttackJob) -> attack_pb2.AttackJob:
    return attack_pb2.AttackJob(
        attack_job_id=job.attack_job_id,
        spec=spec_to_proto(job.spec),
        state=attack_pb2.AttackJob.State.ValueType(job.state.value),
        failure_message=job.failure_message,
        model_record=None if job.model_record is None else model_record_to_proto(job.model_record),
        progress=None if job.progress is None else progress_to_proto(job.progress),
        create_time=_timestamp(job.create_time),
        start_time=_timestamp(job.start_time),
        end_time=_timestamp(job.end_time),
        attempt_count=job.attempt_count,
        warnings=job.warnings,
        timing_violations=job.timing_violations,
    )


def end_to_proto(job: AttackJob, tally: Tally) -> attack_pb2.End:
    return attack_pb2.End(
        attack_job=job_to_proto(job),
        outcome_count=tally.outcome_count,
        failed_count=tally.failed_count,
        survived_count=tally.survived_count,
        misclassified_count=tally.misclassified_count,
        checksum=tally.checksum,
    )


def batch_to_proto(
    outcomes: Sequence[Outcome], in_flight: Sequence[InFlight], header: BatchHeader
) -> outcome_pb2.OutcomeBatch:
    """Columns of finished samples and of those in flight. Absent upper bounds become -1 and +infinity."""
    return outcome_pb2.OutcomeBatch(
        sample_index=[o.sample_index for o in outcomes],
        verdict=[outcome_pb2.Verdict.ValueType(o.verdict.value) for o in outcomes],
        label=[o.label for o in outcomes],
        clean_prediction=[o.clean_prediction for o in outcomes],
        adversarial_prediction=[o.adversarial_prediction for o in outcomes],
        query_count_lower=[o.query_count_lower for o in outcomes],
        query_count_upper=[_count(o.query_count_upper) for o in outcomes],
        gradient_count_lower=[o.gradient_count_lower for o in outcomes],
        gradient_count_upper=[_count(o.gradient_count_upper) for o in outcomes],
        seconds_lower=[o.seconds_lower for o in outcomes],
        seconds_upper=[math.inf if o.seconds_upper is None else o.seconds_upper for o in outcomes],
        distance_l2=[o.distance_l2 for o in outcomes],
        distance_linf=[o.distance_linf for o in outcomes],
        distance_l0=[o.distance_l0 for o in outcomes],
        check_count=[o.check_count for o in outcomes],
        clean_seconds=[o.clean_seconds for o in outcomes],
        shard_index=header.shard_index,
        attempt=header.attempt,
        sequence=header.sequence,
        weights_digest=header.weights_digest,
        dataset_digest=header.dataset_digest,
        spec_digest=header.spec_digest,
        seconds_per_query=header.seconds_per_query,
        in_flight=outcome_pb2.InFlight(
            sample_index=[s.sample_index for s in in_flight],
            check_count=[s.check_count for s in in_flight],
            query_count=[s.query_count for s in in_flight],
            gradient_count=[s.gradient_count for s in in_flight],
            seconds=[s.seconds for s in in_flight],
        ),
    )


def outcomes_from_proto(message: outcome_pb2.OutcomeBatch) -> list[Outcome]:
    """The finished samples of a batch. Raises `ValueError` if the columns have different lengths."""
    columns = zip(
        message.sample_index,
        message.verdict,
        message.label,
        message.clean_prediction,
        message.adversarial_prediction,
        message.query_count_lower,
        message.query_count_upper,
        message.gradient_count_lower,
        message.gradient_count_upper,
        message.seconds_lower,
        message.seconds_upper,
        message.distance_l2,
        message.distance_linf,
        message.distance_l0,
        message.check_count,
        message.clean_seconds,
        strict=True,
    )
    return [
        Outcome(
            sample_index=index,
            verdict=Verdict(verdict),
            label=label,
            clean_prediction=clean,
            adversarial_prediction=adversarial,
            query_count_lower=query_lower,
            query_count_upper=None if query_upper == _NO_COUNT else query_upper,
            gradient_count_lower=gradient_lower,
            gradient_count_upper=None if gradient_upper == _NO_COUNT else gradient_upper,
            seconds_lower=seconds_lower,
            seconds_upper=None if math.isinf(seconds_upper) else seconds_upper,
            distance_l2=l2,
            distance_linf=linf,
            distance_l0=l0,
            check_count=check_count,
            clean_seconds=clean_seconds,
        )
        for (
            index,
            verdict,
            label,
            clean,
            adversarial,
            query_lower,
            query_upper,
            gradient_lower,
            gradient_upper,
            seconds_lower,
            seconds_upper,
            l2,
            linf,
            l0,
            check_count,
            clean_seconds,
        ) in columns
    ]


def in_flight_from_proto(message: outcome_pb2.InFlight) -> list[InFlight]:
    """The samples in flight. Raises `ValueError` if the columns have different lengths."""
    columns = zip(
        message.sample_index,
        message.check_count,
        message.query_count,
        message.gradient_count,
        message.seconds,
        strict=True,
    )
    return [InFlight(*row) for row in columns]


def tally_rows(outcomes: Sequence[Outcome]) -> list[tuple[int, int, int, int]]:
    """What `Tally.plus` adds up."""
    return [(o.sample_index, o.verdict.value, o.query_count_lower, _count(o.query_count_upper)) for o in outcomes]


def model_to_proto(model: entries.Model) -> attack_pb2.Model:
    return attack_pb2.Model(name=model.name, description=model.description, depth=model.depth)


def attack_to_proto(attack: entries.Attack) -> attack_pb2.Attack:
    return attack_pb2.Attack(
        name=attack.name,
        description=attack.description,
        parameters=[_schema(parameter) for parameter in attack.parameters],
        norms=attack.norms,
        engines=attack.engines,
        access=attack.access,
        failure=attack.failure,
    )


def defence_to_proto(defence: entries.Defence) -> attack_pb2.Defence:
    return attack_pb2.Defence(
        name=defence.name,
        description=defence.description,
        parameters=[_schema(parameter) for parameter in defence.parameters],
    )


def dataset_to_proto(dataset: entries.Dataset) -> attack_pb2.Dataset:
    return attack_pb2.Dataset(
        name=dataset.name,
        description=dataset.description,
        class_count=dataset.class_count,
        training_sample_count=dataset.training_sample_count,
        test_sample_count=dataset.test_sample_count,
        channel_count=dataset.channel_count,
        embedded=dataset.embedded,
        default_epoch_count=dataset.default_epoch_count,
    )


def _schema(schema: entries.ParameterSchema) -> attack_pb2.ParameterSchema:
    return attack_pb2.ParameterSchema(
        name=schema.name,
        description=schema.description,
        default_value=schema.default_value,
        minimum=schema.minimum,
        minimum_exclusive=schema.minimum_exclusive,
        maximum=schema.maximum,
        integer=schema.integer,
        default_derived=schema.default_derived,
        unit=schema.unit,
        paper_values=schema.paper_values,
    )


def _count(count: int | None) -> int:
    return _NO_COUNT if count is None else count


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * _NANOSECONDS))
    return duration


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / _NANOSECONDS


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time.astimezone(UTC))
    return timestamp
