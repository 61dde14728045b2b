"""Everything that can go wrong in the survival service, a sentence each.

`adapters/errors.py` maps every class here to a gRPC status; a test proves that none is missing.
Data that cannot support a number is not an error: it has a status (see `fitting.Status`).
"""

from __future__ import annotations


class SurvivalServiceError(Exception):
    """The survival service cannot do what was asked; the message says what to do instead."""


class InvalidRequest(SurvivalServiceError):
    """A field of a request has a value that cannot be used."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class InvalidObservations(InvalidRequest):
    """Rows are no observations: a bound is not a number, or lower is above upper."""


class ReportNotFound(SurvivalServiceError):
    """There is no report with this identifier."""


class JobNotFound(SurvivalServiceError):
    """The attack service knows no such job."""


class JobFailed(SurvivalServiceError):
    """An attack job failed, so there is nothing to report."""


class AttackServiceUnavailable(SurvivalServiceError):
    """The attack service cannot be reached."""


class OutcomesCorrupt(SurvivalServiceError):
    """The stream of outcomes has a gap, a duplicate, or does not add up to its checksum."""
