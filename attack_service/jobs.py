"""Attack jobs: their specification, their state, and the ledger that a run writes to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from attack_service.outcomes import InFlight, Outcome, Tally, Verdict


class State(Enum):
    """The life cycle of an attack job. The values are those of the wire."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELED = 5

    @property
    def ended(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELED)


class Phase(Enum):
    """The part of a job's work under way. The values are those of the wire."""

    LOADING = 1
    TRAINING = 2
    EVALUATING = 3
    ATTACKING = 4


@dataclass(frozen=True, slots=True)
class AttackSpec:
    """What to attack, and how. `catalog.resolve` checks one and fills in its defaults."""

    model: str
    dataset: str
    attack: str
    attack_parameters: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    sample_count: int = 0
    epoch_count: int = 0
    seed: int = 0
    stem: str = ""
    image_size: int = 0
    norm: str = ""
    batch_size: int = 0
    defence: str = ""
    defence_parameters: Mapping[str, float] = field(default_factory=dict)
    weights: str = ""
    checkpoint: str = ""
    program: str = ""
    training_seconds: float = 0.0
    training_sample_count: int = 0
    shard_count: int = 0

    @property
    def brought(self) -> bool:
        """Whether the model is the user's own or torchvision's, not one trained here."""
        return bool(self.weights or self.checkpoint or self.program)

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal, in canonical JSON, of all that outcomes depend on: not of how samples are divided."""
        entries = asdict(self)
        del entries["shard_count"]
        return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A trained model, what it cost to make and costs to run. Accuracies are shares in [0, 1].

    `training_evaluation_count` counts forward and backward evaluations, a sample each, over all epochs. What is not
    known of a model that was trained elsewhere is 0, and `training_cost_known` tells whether its seconds are.
    `defended_accuracy` is that behind the defence, where a rejected sample is not correct; `randomized` says that the
    defence answers by chance.
    """

    weights_digest: str
    training_seconds: float
    training_sample_count: int
    epoch_count: int
    clean_accuracy: float
    test_sample_count: int
    parameter_count: int
    class_count: int
    training_device_name: str
    attack_device_name: str = ""
    from_store: bool = False
    training_cost_known: bool = True
    training_evaluation_count: int = 0
    defended_accuracy: float = 0.0
    clean_rejection_share: float = 0.0
    randomized: bool = False


@dataclass(frozen=True, slots=True)
class Preparation:
    """What the first shard of a job finds out once, and the others are held to.

    `clean_predictions` are the classes that the model gives to the job's samples, in the order of
    `datasets.balanced_indices`.
    """

    record: ModelRecord
    dataset_digest: str
    clean_predictions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running job is doing: `done_count` of `total_count` steps or samples of its phase."""

    phase: Phase
    done_count: int = 0
    total_count: int = 0
    remaining_seconds: float | None = None
    epoch: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    failed_count: int = 0
    survived_count: int = 0
    misclassified_count: int = 0


def merge_progress(shards: Sequence[Progress | None], tallies: Sequence[Tally], sample_count: int) -> Progress | None:
    """The progress of a job from that of its shards, in their order; None where a shard has not begun.

    As soon as a shard attacks, the job does: what is done is what is recorded, of all samples, and the time that
    remains is that of the slowest shard, or what the shards at work would take for those that nobody has begun too.
    """
    begun = [shard for shard in shards if shard is not None]
    if not begun:
        return None
    latest = max(begun, key=lambda progress: progress.phase.value)
    if latest.phase is not Phase.ATTACKING:
        return latest
    whole = sum(tallies, Tally())
    count = len(shards)
    left = [len(range(i, sample_count, count)) - tally.outcome_count for i, tally in enumerate(tallies)]
    estimates = {
        i: shard.remaining_seconds
        for i, shard in enumerate(shards)
        if shard is not None and shard.phase is Phase.ATTACKING and left[i] > 0 and shard.remaining_seconds
    }
    remaining = None
    if not any(n > 0 for n in left):
        remaining = 0.0
    elif estimates:
        remaining = max(estimates.values())
        at_work = sum(left[i] for i in estimates)
        if at_work < sum(left):
            rate = sum(left[i] / seconds for i, seconds in estimates.items())
            remaining = max(remaining, sum(left) / rate)
    return Progress(
        Phase.ATTACKING,
        done_count=whole.outcome_count,
        total_count=sample_count,
        remaining_seconds=remaining,
        failed_count=whole.failed_count,
        survived_count=whole.survived_count,
        misclassified_count=whole.misclassified_count,
    )


@dataclass(frozen=True, slots=True)
class AttackJob:
    """One attack on one trained model over one set of samples."""

    attack_job_id: str
    spec: AttackSpec
    state: State
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    failure_message: str = ""
    model_record: ModelRecord | None = None
    progress: Progress | None = None
    attempt_count: int = 0
    warnings: tuple[str, ...] = ()
    timing_violations: tuple[str, ...] = ()


class Ledger(Protocol):
    """Where one attempt at one shard of a job writes what it finds, and asks what was found before.

    Every method may raise `AttemptFenced` if another attempt has taken over, and `StoreUnavailable`.
    """

    def recorded_verdicts(self) -> Mapping[int, Verdict]:
        """What is recorded already, by sample: in a new attempt, what earlier ones did; it is not attacked again."""

    def preparation(self) -> Preparation | None:
        """What an earlier attempt, or the job's first shard, has prepared; None if this attempt must prepare."""

    def model_ready(self, preparation: Preparation) -> None:
        """The model was loaded or trained and measured on clean samples: the other shards may begin.

        Called once, before `record`, by an attempt that found no preparation.
        """

    def record(self, outcomes: Sequence[Outcome], in_flight: Sequence[InFlight], seconds_per_query: float) -> None:
        """Append outcomes, in any order of samples, with every sample under attack at this moment."""

    def progress(self, progress: Progress) -> None:
        """Say what the run is doing. Cheap to call; may be thinned out."""

    def warn(self, sentence: str) -> None:
        """Flag something that a reader of the numbers should know."""

    def timing_violation(self, sentence: str) -> None:
        """Say why the seconds of this job mean nothing."""

    def computes_on(self, device: str) -> None:
        """Say on which device of this host the run computes, so that runs which share it see one another."""

    def neighbour_count(self) -> int:
        """The most other runs that were seen at once on the device of `computes_on`, since that call."""

    def cancel_requested(self) -> bool:
        """Whether someone asked for the job to stop."""


class MemoryLedger:
    """A ledger in memory, for tests, benchmarks and library use. Pass it on to a second run to resume the first.

    Every shard but the first takes the `preparation` of the first.
    """

    def __init__(self, preparation: Preparation | None = None) -> None:
        self._preparation = preparation
        self.outcomes: list[Outcome] = []
        self.in_flight: tuple[InFlight, ...] = ()
        self.seconds_per_query = 0.0
        self.model_record = preparation.record if preparation else None
        self.dataset_digest = preparation.dataset_digest if preparation else ""
        self.progress_history: list[Progress] = []
        self.warnings: list[str] = []
        self.timing_violations: list[str] = []
        self.batch_count = 0
        self._cancel_requested = False

    def recorded_verdicts(self) -> Mapping[int, Verdict]:
        return {outcome.sample_index: outcome.verdict for outcome in self.outcomes}

    def preparation(self) -> Preparation | None:
        return self._preparation

    def model_ready(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self.model_record = preparation.record
        self.dataset_digest = preparation.dataset_digest

    def record(self, outcomes: Sequence[Outcome], in_flight: Sequence[InFlight], seconds_per_query: float) -> None:
        """Append outcomes; raises `ValueError` for a sample that is there already."""
        indices = [outcome.sample_index for outcome in outcomes]
        repeated = self.recorded_verdicts().keys() & indices
        if repeated or len(set(indices)) < len(indices):
            raise ValueError(f"samples recorded twice: {sorted(repeated) or sorted(indices)}")
        self.outcomes.extend(outcomes)
        self.in_flight = tuple(in_flight)
        self.seconds_per_query = seconds_per_query
        self.batch_count += 1

    def progress(self, progress: Progress) -> None:
        self.progress_history.append(progress)

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def timing_violation(self, sentence: str) -> None:
        if sentence not in self.timing_violations:
            self.timing_violations.append(sentence)

    def computes_on(self, device: str) -> None:
        """Nobody to tell: who runs in memory knows what else runs."""

    def neighbour_count(self) -> int:
        return 0

    def cancel_requested(self) -> bool:
        return self._cancel_requested

    def request_cancel(self) -> None:
        """Ask the run that writes here to stop at its next check."""
        self._cancel_requested = True
