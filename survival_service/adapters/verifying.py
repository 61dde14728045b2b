"""Proof that a job's outcomes arrived whole: columns, sequence numbers, attempts, digests, counts, checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from afr.attack.v1 import attack_service_pb2 as attack_pb
from afr.outcome.v1 import outcome_pb2 as outcome_pb

from survival_service.errors import OutcomesCorrupt

COLUMNS = (
    "sample_index",
    "verdict",
    "label",
    "clean_prediction",
    "adversarial_prediction",
    "query_count_lower",
    "query_count_upper",
    "gradient_count_lower",
    "gradient_count_upper",
    "seconds_lower",
    "seconds_upper",
    "distance_l2",
    "distance_linf",
    "distance_l0",
    "check_count",
    "clean_seconds",
)
"""The packed columns of an `OutcomeBatch`, one entry a sample."""

IN_FLIGHT_COLUMNS = ("sample_index", "check_count", "query_count", "gradient_count", "seconds")
"""The packed columns of an `InFlight`, one entry a sample."""


def ragged_columns(message: outcome_pb.OutcomeBatch | outcome_pb.InFlight, columns: Iterable[str]) -> str:
    """Say which columns of `message` differ in length from its `sample_index`; empty if none does."""
    wanted = len(message.sample_index)
    wrong = [f"{name} has {len(getattr(message, name))}" for name in columns if len(getattr(message, name)) != wanted]
    return f"sample_index has {wanted} entries, {', '.join(wrong)}" if wrong else ""


@dataclass(slots=True)
class _Shard:
    """What the next batch of one shard must continue."""

    next_sequence: int = 0
    attempt: int = 1


@dataclass(slots=True)
class StreamVerifier:
    """Follows the outcomes of one job from the first to the `End`, over any number of resumed streams.

    Every method raises `OutcomesCorrupt` at the first message that does not continue what came before.
    """

    attack_job_id: str
    failed_count: int = 0
    survived_count: int = 0
    misclassified_count: int = 0
    checksum: int = 0
    _shards: dict[int, _Shard] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)
    _digests: tuple[str, str, str] | None = None

    @property
    def outcome_count(self) -> int:
        return self.failed_count + self.survived_count + self.misclassified_count

    def batch(self, batch: outcome_pb.OutcomeBatch) -> None:
        """Take the next batch into account."""
        ragged = ragged_columns(batch, COLUMNS) or ragged_columns(batch.in_flight, IN_FLIGHT_COLUMNS)
        if ragged:
            raise self._corrupt(f"a batch has columns of different lengths: {ragged}")
        self._continue_shard(batch)
        self._keep_digests(batch)
        self._count(batch)

    def end(self, end: attack_pb.End) -> None:
        """Compare what was received with what the attack service says it recorded."""
        pairs = {
            "outcomes": (self.outcome_count, end.outcome_count),
            "failed samples": (self.failed_count, end.failed_count),
            "survived samples": (self.survived_count, end.survived_count),
            "misclassified samples": (self.misclassified_count, end.misclassified_count),
        }
        for what, (received, recorded) in pairs.items():
            if received != recorded:
                raise self._corrupt(f"{recorded} {what} were recorded and {received} arrived")
        if self.checksum != end.checksum:
            raise self._corrupt(
                f"the checksum of what arrived is {self.checksum:x}, of what was recorded {end.checksum:x}"
            )

    def _continue_shard(self, batch: outcome_pb.OutcomeBatch) -> None:
        shard = self._shards.setdefault(batch.shard_index, _Shard())
        where = f"shard {batch.shard_index}"
        if batch.sequence > shard.next_sequence:
            raise self._corrupt(f"{where} has a gap: batch {batch.sequence} came, {shard.next_sequence} was due")
        if batch.sequence < shard.next_sequence:
            raise self._corrupt(f"{where} repeats batch {batch.sequence}; {shard.next_sequence} was due")
        if batch.attempt < shard.attempt:
            # A worker that was given up for lost went on writing after its successor had begun.
            raise self._corrupt(f"{where} went back from attempt {shard.attempt} to {batch.attempt}")
        shard.next_sequence += 1
        shard.attempt = batch.attempt

    def _keep_digests(self, batch: outcome_pb.OutcomeBatch) -> None:
        digests = (batch.weights_digest, batch.dataset_digest, batch.spec_digest)
        if self._digests is None:
            self._digests = digests
        if digests != self._digests:
            raise self._corrupt("its batches are of different weights, datasets or specifications")

    def _count(self, batch: outcome_pb.OutcomeBatch) -> None:
        rows = zip(batch.sample_index, batch.verdict, batch.query_count_lower, batch.query_count_upper, strict=True)
        for row in rows:
            index, verdict = row[0], row[1]
            if index in self._seen:
                raise self._corrupt(f"sample {index} was recorded twice")
            self._seen.add(index)
            if verdict == outcome_pb.VERDICT_FAILED:
                self.failed_count += 1
            elif verdict in (outcome_pb.VERDICT_SURVIVED, outcome_pb.VERDICT_REJECTED):
                self.survived_count += 1
            elif verdict == outcome_pb.VERDICT_MISCLASSIFIED:
                self.misclassified_count += 1
            else:
                raise self._corrupt(f"sample {index} has the unknown verdict {verdict}")
            digest = hashlib.sha256(b"%d:%d:%d:%d" % row).digest()
            self.checksum = (self.checksum + int.from_bytes(digest[:8], "big")) % 2**64

    def _corrupt(self, what: str) -> OutcomesCorrupt:
        return OutcomesCorrupt(
            f"the outcomes of attack job {self.attack_job_id} cannot be trusted: {what}; run the job again"
        )
