"""Everything that can go wrong in the attack service, a sentence each.

`adapters/errors.py` maps every class here to a gRPC status; a test proves that none is missing.
"""

from __future__ import annotations

from collections.abc import Iterable


class AttackServiceError(Exception):
    """The attack service cannot do what was asked; the message says what to do instead."""

    def __init__(self, message: str = "") -> None:
        # A file's name need not be text, but what goes over the wire must be.
        super().__init__(message.encode(errors="replace").decode())


class InvalidSpecification(AttackServiceError):
    """A field of a request has a value that cannot be used."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnknownName(InvalidSpecification):
    """A field names a model, dataset, attack or defence that does not exist."""

    def __init__(self, field: str, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(field, f"unknown {kind} {name!r}; known: {', '.join(known)}")
        self.name = name


class JobNotFound(AttackServiceError):
    """There is no attack job with this identifier."""


class JobNotEnded(AttackServiceError):
    """The attack job is still queued or running."""


class RequestConflict(AttackServiceError):
    """A request_id was used again for a different specification."""


class PositionExpired(AttackServiceError):
    """The outcomes at this position are no longer kept."""


class OutcomesLost(AttackServiceError):
    """Outcomes that were recorded cannot be found."""


class StoreUnavailable(AttackServiceError):
    """Redis does not answer."""


class StoreFull(AttackServiceError):
    """Redis has no memory left."""


class DatasetUnavailable(AttackServiceError):
    """The dataset's files are missing or unreadable."""


class CheckpointInvalid(AttackServiceError):
    """Stored weights do not match their digest or their model."""


class TrainingDiverged(AttackServiceError):
    """Training ended with weights or a loss that are not finite."""


class MemoryExhausted(AttackServiceError):
    """The worker's device or the worker itself has not enough memory for what was asked."""


class IntegrityViolated(AttackServiceError):
    """A guard found that the measurement would be wrong, so no number is given."""


class AttemptFenced(AttackServiceError):
    """Another attempt has taken over this shard; this one must stop."""


class TooManyAttempts(AttackServiceError):
    """Workers were lost while running this job more often than is allowed."""
