"""A job in shards finds what it finds whole, prepares once, and never attacks another model or other samples."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attack_service import catalog
from attack_service.datasets import balanced_indices, shard_positions
from attack_service.devices import disturbance
from attack_service.errors import CheckpointInvalid, DatasetUnavailable, IntegrityViolated, InvalidSpecification
from attack_service.evaluating import evaluate
from attack_service.jobs import AttackSpec, MemoryLedger, Phase, Preparation, Progress, State, merge_progress
from attack_service.outcomes import Tally

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(torch.tensor)
TALLIES = st.builds(Tally, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**64 - 1))
CPU = torch.device("cpu")


@given(LABELS, st.integers(1, 12))
def test_every_sample_is_in_one_shard_and_every_shard_is_balanced(labels: torch.Tensor, shard_count: int) -> None:
    shards = [shard_positions(labels, index, shard_count) for index in range(shard_count)]
    assert sorted(torch.cat(shards).tolist()) == list(range(len(labels)))
    for index, shard in enumerate(shards):
        assert len(shard) == len(range(index, len(labels), shard_count))
        assert shard.tolist() == sorted(shard.tolist())
    for label in labels.unique():
        counts = [int((labels[shard] == label).sum()) for shard in shards]
        assert max(counts) - min(counts) <= 1


def test_as_many_shards_as_classes_have_every_class_each() -> None:
    """Ten shards of samples that come class by class: every tenth sample would be of one class."""
    labels = torch.arange(10).repeat(10)
    indices = balanced_indices(labels, 100)
    for shard_index in range(10):
        own = labels[indices][shard_positions(labels[indices], shard_index, 10)]
        assert sorted(own.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("sample_count", "batch_size", "worker_count", "shard_count"),
    [(200, 64, 0, 1), (200, 64, 1, 1), (200, 64, 2, 2), (200, 64, 8, 3), (10, 64, 8, 1), (360, 1, 1000, 256)],
)
def test_a_job_left_open_has_a_shard_a_worker_of_a_batch_at_least(
    sample_count: int, batch_size: int, worker_count: int, shard_count: int
) -> None:
    spec = catalog.resolve(AttackSpec("resnet18", "digits", "pgd", sample_count=sample_count, batch_size=batch_size))
    divided = catalog.divide(spec, worker_count)
    assert divided.shard_count == shard_count
    assert catalog.divide(divided, 1) == divided
    assert divided.digest == spec.digest


@pytest.mark.parametrize(("sample_count", "shard_count", "most"), [(5, 6, 5), (300, 257, 256)])
def test_more_shards_than_there_can_be_are_refused(sample_count: int, shard_count: int, most: int) -> None:
    with pytest.raises(InvalidSpecification, match=f"into 1 to {most} shards") as caught:
        catalog.resolve(AttackSpec("resnet18", "digits", "pgd", sample_count=sample_count, shard_count=shard_count))
    assert caught.value.field == "spec.shard_count"


def attacking(remaining_seconds: float | None) -> Progress:
    return Progress(Phase.ATTACKING, 1, 2, remaining_seconds)


def test_a_job_has_no_progress_before_a_shard_has_and_then_that_of_the_furthest() -> None:
    training = Progress(Phase.TRAINING, 3, 9, 2.0, 1, 0.5, 0.5)
    assert merge_progress([None, None], [Tally()] * 2, 8) is None
    assert merge_progress([training, None], [Tally()] * 2, 8) == training
    merged = merge_progress([attacking(None), Progress(Phase.LOADING)], [Tally(1), Tally()], 8)
    assert merged == Progress(Phase.ATTACKING, 1, 8, None, failed_count=1)


def test_the_time_that_remains_is_that_of_the_slowest_shard() -> None:
    tallies = [Tally(2), Tally(3)]
    assert merge_progress([attacking(5.0), attacking(3.0)], tallies, 8).remaining_seconds == 5
    assert merge_progress([attacking(5.0), attacking(0.0)], [Tally(2), Tally(4)], 8).remaining_seconds == 5
    assert merge_progress([attacking(None), attacking(0.0)], [Tally(4), Tally(4)], 8).remaining_seconds == 0


def test_shards_that_nobody_has_begun_are_waited_for_too() -> None:
    """Shards of 10 samples: two at work do 5 samples in 5 s each, 2 samples a second; 10 + 10 are left."""
    tallies = [Tally(5), Tally(5), Tally()]
    assert merge_progress([attacking(5.0), attacking(5.0), None], tallies, 30).remaining_seconds == 10


@given(st.lists(TALLIES, min_size=1, max_size=5))
def test_what_is_done_of_a_job_is_what_its_shards_have_recorded(tallies: list[Tally]) -> None:
    merged = merge_progress([attacking(1.0)] * len(tallies), tallies, 500)
    assert merged.done_count == sum(tally.outcome_count for tally in tallies)
    counts = (merged.failed_count, merged.survived_count, merged.misclassified_count)
    assert sum(counts) == merged.done_count
    assert sum(tallies, Tally()).checksum == sum(tally.checksum for tally in tallies) % 2**64


def run_shards(run_job, root: Path, shard_count: int, **fields: object):
    """Run a job in shards, one after the other. Returns the runs."""
    first = run_job(root, shard_count=shard_count, shard_index=0, **fields)
    preparation = first.ledger.preparation()
    return [first] + [
        run_job(root, MemoryLedger(preparation), shard_count=shard_count, shard_index=index, **fields)
        for index in range(1, shard_count)
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attack_parameters": {"random_start": 1.0}},
        {"defence": "gaussian-noise", "defence_parameters": {"deviation": 0.3}},
    ],
    ids=["pgd", "pgd from a random start", "a defence that draws"],
)
def test_a_job_in_shards_finds_what_it_finds_whole(first_run, run_job, fates, fields: dict[str, object]) -> None:
    root, _ = first_run
    whole = run_job(root, **fields)
    runs = run_shards(run_job, root, 3, **fields)
    assert [run.state for run in runs] == [State.SUCCEEDED] * 3
    outcomes = [outcome for run in runs for outcome in run.ledger.outcomes]
    assert [len(run.ledger.outcomes) for run in runs] == [14, 13, 13]
    assert fates(outcomes) == fates(whole.ledger.outcomes)
    for run in runs:
        labels = Counter(outcome.label for outcome in run.ledger.outcomes)
        assert max(labels.values()) - min(labels.get(label, 0) for label in range(10)) <= 1
        assert run.ledger.seconds_per_query > 0
        assert all(outcome.clean_seconds > 0 for outcome in run.ledger.outcomes)
        assert not any(progress.phase is Phase.TRAINING for progress in run.ledger.progress_history)
        assert run.ledger.progress_history[-1].done_count == len(run.ledger.outcomes)
    # Only the first measures the whole split.
    measured = [max(p.total_count for p in run.ledger.progress_history if p.phase is Phase.EVALUATING) for run in runs]
    assert measured == [360, 13, 13]


def test_a_job_of_shards_trains_once(tmp_path: Path, run_job) -> None:
    runs = run_shards(run_job, tmp_path, 2, sample_count=4)
    trained = [any(p.phase is Phase.TRAINING for p in run.ledger.progress_history) for run in runs]
    assert trained == [True, False]
    assert len(list((tmp_path / "models").iterdir())) == 1
    assert [run.ledger.model_record for run in runs] == [runs[0].ledger.model_record] * 2


def test_a_worker_with_another_store_names_it_and_trains_nothing(tmp_path: Path, first_run, run_job) -> None:
    _, first = first_run
    ledger = MemoryLedger(first.ledger.preparation())
    with pytest.raises(CheckpointInvalid, match=f"the store {tmp_path} .* give every worker the same --store"):
        run_job(tmp_path, ledger, shard_count=2, shard_index=1)
    assert not any(progress.phase is Phase.TRAINING for progress in ledger.progress_history)
    assert not (tmp_path / "models").exists()


def test_damaged_weights_of_a_prepared_job_are_not_trained_anew(tmp_path: Path, first_run, run_job) -> None:
    root, first = first_run
    shutil.copytree(root, tmp_path / "store")
    (weights,) = (tmp_path / "store" / "models").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    ledger = MemoryLedger(first.ledger.preparation())
    with pytest.raises(CheckpointInvalid, match="is damaged"):
        run_job(tmp_path / "store", ledger, shard_count=2, shard_index=1)
    assert ledger.warnings == []


def test_a_worker_with_other_images_is_refused(first_run, run_job) -> None:
    root, first = first_run
    preparation = first.ledger.preparation()
    other = Preparation(preparation.record, "0" * 64, preparation.clean_predictions)
    with pytest.raises(DatasetUnavailable, match="give every worker the same --data-root"):
        run_job(root, MemoryLedger(other), shard_count=2, shard_index=1)


def test_a_model_that_answers_otherwise_than_it_did_is_not_attacked(first_run, run_job) -> None:
    root, first = first_run
    preparation = first.ledger.preparation()
    shifted = tuple((prediction + 1) % 10 for prediction in preparation.clean_predictions)
    other = Preparation(preparation.record, preparation.dataset_digest, shifted)
    ledger = MemoryLedger(other)
    with pytest.raises(IntegrityViolated, match="20 of 20 clean samples otherwise"):
        run_job(root, ledger, shard_count=2, shard_index=1)
    assert ledger.outcomes == []


def test_measuring_a_part_of_a_split_says_the_same_of_it_and_nothing_of_the_rest(trained) -> None:
    model, dataset = trained
    whole = evaluate(model, dataset.test, batch_size=90, device=CPU)
    part = torch.tensor([7, 3, 200])
    measured = evaluate(model, dataset.test, batch_size=2, device=CPU, indices=part)
    assert measured.predictions[part].tolist() == whole.predictions[part].tolist()
    assert int((measured.predictions == -1).sum()) == len(dataset.test) - 3
    assert measured.sample_count == 3
    assert measured.correct_count == int((whole.predictions[part] == dataset.test.labels[part]).sum())
    assert measured.seconds_per_query == pytest.approx(float(measured.seconds[part].mean()))


def test_runs_that_have_a_core_for_every_thread_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(4)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert disturbance(CPU, 0) is None
    assert disturbance(CPU, 1) is None
    assert disturbance(CPU, 2).startswith("3 runs with 6 threads shared 4 cores")


class CrowdedLedger(MemoryLedger):
    """Another run computes on the same device."""

    def neighbour_count(self) -> int:
        return 1000


def test_a_run_that_shared_its_device_says_that_its_seconds_mean_nothing(first_run, run_job) -> None:
    root, _ = first_run
    ledger = CrowdedLedger()
    run_job(root, ledger, sample_count=2)
    (violation,) = ledger.timing_violations
    assert violation.startswith("1001 runs with")
