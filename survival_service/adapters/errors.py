"""The one table that turns the survival service's errors into gRPC statuses."""

from __future__ import annotations

from afr.rpc.errors import ErrorTable
from grpc import StatusCode

from survival_service import errors

TABLE: ErrorTable = {
    errors.InvalidRequest: (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    errors.InvalidObservations: (StatusCode.INVALID_ARGUMENT, "INVALID_OBSERVATIONS"),
    errors.ReportNotFound: (StatusCode.NOT_FOUND, "REPORT_NOT_FOUND"),
    errors.JobNotFound: (StatusCode.NOT_FOUND, "JOB_NOT_FOUND"),
    errors.JobFailed: (StatusCode.FAILED_PRECONDITION, "JOB_FAILED"),
    errors.AttackServiceUnavailable: (StatusCode.UNAVAILABLE, "ATTACK_SERVICE_UNAVAILABLE"),
    errors.OutcomesCorrupt: (StatusCode.DATA_LOSS, "OUTCOMES_CORRUPT"),
}
"""Domain error -> (status, stable reason). `tests/survival_service/adapters/test_errors.py` proves it complete."""
