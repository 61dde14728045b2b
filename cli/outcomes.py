"""The outcomes of a job as they arrive: checked against gaps and the checksum, written as a CSV file."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cli.errors import Problem
from cli.files import replacing

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob, End
    from afr.outcome.v1.outcome_pb2 import OutcomeBatch

COLUMNS = (
    "sample_index", "verdict", "label", "clean_prediction", "adversarial_prediction", "query_count_lower",
    "query_count_upper", "gradient_count_lower", "gradient_count_upper", "seconds_lower", "seconds_upper",
    "distance_l2", "distance_linf", "distance_l0", "check_count", "clean_seconds",
)  # fmt: skip
"""The columns of `outcomes.csv`: those of `OutcomeBatch`, in its order. An upper bound that does not exist, that of a
sample that did not fail, is empty; a verdict is its name in lower case."""

JOB_COLUMNS = ("job_state", "job_sample_count", "job_shard_count")
"""The last columns, the same in every row: how far the job had come, and how many samples in how many parts it was to
attack. Where it did not succeed, samples without a failure are those of an attack that was cut off."""

VERDICTS = {1: "survived", 2: "failed", 3: "misclassified", 4: "rejected"}
"""Verdicts by their number in the contract."""


class ReceivedOutcomes:
    """What a stream has delivered so far. Rows are kept by shard and sample; a repeated delivery changes nothing."""

    def __init__(self) -> None:
        self.job: AttackJob | None = None
        self._rows: dict[tuple[int, int], tuple[object, ...]] = {}
        self._next_sequence: dict[int, int] = {}
        self._checksum = 0
        self._charged_seconds = 0.0
        self._attacked_count = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def seconds_per_sample(self) -> float:
        """Mean device seconds of the samples that were attacked; 0 before the first."""
        return self._charged_seconds / max(1, self._attacked_count)

    def add(self, batch: OutcomeBatch) -> None:
        """Take in a batch. Raises `Problem` if one before it is missing."""
        expected = self._next_sequence.get(batch.shard_index, 0)
        if batch.sequence > expected:
            raise Problem(
                f"outcomes are missing: batch {batch.sequence} of shard {batch.shard_index} came where {expected} was "
                "due; run the attack again"
            )
        if batch.sequence < expected:
            return
        self._next_sequence[batch.shard_index] = batch.sequence + 1
        for row in zip(*(getattr(batch, column) for column in COLUMNS), strict=True):
            key = (batch.shard_index, row[0])
            if key in self._rows:
                raise Problem(f"sample {row[0]} came twice; report this as a defect of the attack server")
            named = dict(zip(COLUMNS, row, strict=True))
            text = f"{row[0]}:{row[1]}:{named['query_count_lower']}:{named['query_count_upper']}"
            self._checksum += int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            upper = named["seconds_upper"]
            self._charged_seconds += upper if math.isfinite(upper) else named["seconds_lower"]
            self._attacked_count += named["check_count"] > 0
            self._rows[key] = row

    def verify(self, end: End) -> None:
        """Raise `Problem` unless everything that the server has recorded has arrived."""
        self.job = end.attack_job
        if len(self._rows) != end.outcome_count or self._checksum % 2**64 != end.checksum:
            raise Problem(
                f"the outcomes received ({len(self._rows)}) are not those that the server recorded "
                f"({end.outcome_count}); run the attack again"
            )

    def write(self, path: Path) -> None:
        """Write the rows as CSV, by sample, in place of the file at `path`."""
        with replacing(path) as file:
            self.write_to(file)

    def write_to(self, file: IO[str]) -> None:
        """Write the rows as CSV, by sample."""
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS + JOB_COLUMNS)
        of_job = _job_cells(self.job)
        for key in sorted(self._rows):
            writer.writerow(_cells(self._rows[key]) + of_job)


def _job_cells(job: AttackJob | None) -> list[object]:
    from afr.attack.v1.attack_service_pb2 import AttackJob

    if job is None:
        return [""] * len(JOB_COLUMNS)
    state = AttackJob.State.Name(job.state).removeprefix("STATE_").lower()
    return [state, job.spec.sample_count, job.spec.shard_count]


def _cells(row: Iterable[object]) -> list[object]:
    cells: list[object] = []
    for column, value in zip(COLUMNS, row, strict=True):
        if column == "verdict":
            cells.append(VERDICTS.get(int(str(value)), value))
        elif column.endswith("_upper") and (value == -1 or value == math.inf):
            cells.append("")
        elif isinstance(value, float):
            cells.append(f"{value:.9g}")
        else:
            cells.append(value)
    return cells
