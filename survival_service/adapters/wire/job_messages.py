"""Attack jobs, of the attack service and of other origin, from their messages."""

from __future__ import annotations

from afr.attack.v1 import attack_service_pb2 as attack_pb
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.errors import InvalidRequest
from survival_service.jobs import JobFacts


def submitted_job(job: pb.SubmittedJob, *, sample_count: int) -> JobFacts:
    """What a report needs of a job of which `sample_count` outcomes were sent. Raises `InvalidRequest`."""
    if not job.attack_job_id:
        raise InvalidRequest("job.attack_job_id", "job.attack_job_id is empty; name the job")
    return JobFacts(
        attack_job_id=job.attack_job_id,
        model=job.model or "unnamed model",
        dataset=job.dataset or "unnamed data",
        attack=job.attack or "an unnamed attack",
        sample_count=max(job.sample_count, sample_count),
        shard_count=max(1, job.shard_count),
        canceled=job.canceled,
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
