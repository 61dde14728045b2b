"""What each error of the attack service is on the wire."""

from __future__ import annotations

import grpc
from afr.rpc.errors import ErrorTable

from attack_service import errors


class ServerStopping(errors.AttackServiceError):
    """The server shuts down; the call can be repeated elsewhere, a stream with its last resume token."""


# Reasons are part of the contract: clients compare them, so they never change.
TABLE: ErrorTable = {
    errors.InvalidSpecification: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPECIFICATION"),
    errors.UnknownName: (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_NAME"),
    errors.JobNotFound: (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND"),
    errors.JobNotEnded: (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_ENDED"),
    errors.RequestConflict: (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_CONFLICT"),
    errors.PositionExpired: (grpc.StatusCode.OUT_OF_RANGE, "POSITION_EXPIRED"),
    errors.OutcomesLost: (grpc.StatusCode.DATA_LOSS, "OUTCOMES_LOST"),
    errors.StoreUnavailable: (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"),
    errors.StoreFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL"),
    errors.DatasetUnavailable: (grpc.StatusCode.FAILED_PRECONDITION, "DATASET_UNAVAILABLE"),
    errors.CheckpointInvalid: (grpc.StatusCode.FAILED_PRECONDITION, "CHECKPOINT_INVALID"),
    errors.TrainingDiverged: (grpc.StatusCode.FAILED_PRECONDITION, "TRAINING_DIVERGED"),
    errors.MemoryExhausted: (grpc.StatusCode.RESOURCE_EXHAUSTED, "MEMORY_EXHAUSTED"),
    errors.IntegrityViolated: (grpc.StatusCode.FAILED_PRECONDITION, "INTEGRITY_VIOLATED"),
    errors.AttemptFenced: (grpc.StatusCode.ABORTED, "ATTEMPT_FENCED"),
    errors.TooManyAttempts: (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_ATTEMPTS"),
    ServerStopping: (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING"),
}
