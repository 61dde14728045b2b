"""Outcomes are complete or refused, and become one row a sample."""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import pytest
from afr.attack.v1.attack_service_pb2 import AttackJob, AttackSpec, End
from afr.outcome.v1.outcome_pb2 import InFlight, OutcomeBatch

from cli.errors import Problem
from cli.outcomes import COLUMNS, JOB_COLUMNS, ReceivedOutcomes


def batch(sequence: int, *samples: tuple[int, int, int, int], shard: int = 0) -> OutcomeBatch:
    """A batch of (sample_index, verdict, query_count_lower, query_count_upper)."""
    made = OutcomeBatch(sequence=sequence, shard_index=shard, in_flight=InFlight(sample_index=[90, 91]))
    for index, verdict, lower, upper in samples:
        made.sample_index.append(index)
        made.verdict.append(verdict)  # type: ignore[arg-type]
        made.query_count_lower.append(lower)
        made.query_count_upper.append(upper)
        made.gradient_count_lower.append(max(0, lower - 1))
        made.gradient_count_upper.append(upper - 1 if upper > 0 else upper)
        made.seconds_lower.append(lower / 100)
        made.seconds_upper.append(upper / 100 if upper >= 0 else math.inf)
        made.clean_seconds.append(0.001)
        for column in ("label", "clean_prediction", "adversarial_prediction", "distance_l0", "check_count"):
            getattr(made, column).append(3 if upper else 0)
        made.distance_l2.append(0.5)
        made.distance_linf.append(0.1)
    return made


def end_of(*samples: tuple[int, int, int, int]) -> End:
    digests = [hashlib.sha256(":".join(map(str, sample)).encode()).digest() for sample in samples]
    return End(
        outcome_count=len(samples),
        checksum=sum(int.from_bytes(digest[:8], "big") for digest in digests) % 2**64,
    )


FAILED, SURVIVED, MISCLASSIFIED = (5, 2, 3, 4), (2, 1, 11, -1), (9, 3, 0, 0)


def test_columns_are_those_of_the_contract_in_its_order() -> None:
    repeated = [field for field in OutcomeBatch.DESCRIPTOR.fields if field.is_repeated]
    assert tuple(field.name for field in repeated) == COLUMNS


def test_a_row_a_sample_sorted_by_sample(tmp_path: Path) -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED, SURVIVED))
    outcomes.add(batch(1, MISCLASSIFIED))
    outcomes.verify(end_of(FAILED, SURVIVED, MISCLASSIFIED))
    outcomes.write(tmp_path / "outcomes.csv")
    with (tmp_path / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample_index"] for row in rows] == ["2", "5", "9"]
    assert [row["verdict"] for row in rows] == ["survived", "failed", "misclassified"]
    assert [row["query_count_upper"] for row in rows] == ["", "4", "0"]
    assert [row["seconds_upper"] for row in rows] == ["", "0.04", "0"]


def test_every_row_says_how_far_the_job_had_come(tmp_path: Path) -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED, SURVIVED))
    outcomes.job = AttackJob(state=AttackJob.STATE_RUNNING, spec=AttackSpec(sample_count=200, shard_count=2))
    outcomes.write(tmp_path / "outcomes.csv")
    with (tmp_path / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row[name] for name in JOB_COLUMNS) for row in rows] == [("running", "200", "2")] * 2


def test_a_misclassified_sample_does_not_make_the_others_look_cheaper() -> None:
    outcomes = ReceivedOutcomes()
    assert outcomes.seconds_per_sample == 0
    outcomes.add(batch(0, SURVIVED, MISCLASSIFIED))
    assert outcomes.seconds_per_sample == pytest.approx(0.11)


def test_a_repeated_batch_changes_nothing() -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED))
    outcomes.add(batch(0, FAILED))
    assert len(outcomes) == 1


def test_shards_count_their_batches_each() -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED, shard=0))
    outcomes.add(batch(0, SURVIVED, shard=1))
    assert len(outcomes) == 2


def test_a_gap_is_refused() -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED))
    with pytest.raises(Problem, match="outcomes are missing: batch 2 of shard 0 came where 1 was due"):
        outcomes.add(batch(2, SURVIVED))


def test_a_sample_that_comes_twice_is_refused() -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED))
    with pytest.raises(Problem, match="sample 5 came twice"):
        outcomes.add(batch(1, FAILED))


@pytest.mark.parametrize("end", [end_of(FAILED, SURVIVED), end_of((5, 2, 3, 5)), End(outcome_count=1)])
def test_what_is_not_what_the_server_recorded_is_refused(end: End) -> None:
    outcomes = ReceivedOutcomes()
    outcomes.add(batch(0, FAILED))
    with pytest.raises(Problem, match="not those that the server recorded"):
        outcomes.verify(end)
    outcomes.verify(end_of(FAILED))


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text("old")
    outcomes = ReceivedOutcomes()
    monkeypatch.setattr(outcomes, "write_to", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        outcomes.write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
