"""What tests of the attack service share: a small trained model in a store, and runs against it."""

from __future__ import annotations

import os

# Before torch is imported: OpenMP threads that spin while they wait make two busy cores ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attack_service import catalog, checkpoints, datasets, models
from attack_service.jobs import AttackJob, AttackSpec, MemoryLedger, State
from attack_service.outcomes import Outcome
from attack_service.running import run_attack


@dataclass
class Run:
    """A finished run: its final state, and what it wrote."""

    state: State
    ledger: MemoryLedger
    spec: AttackSpec


class LinearClassifier(nn.Module):
    """Two classes, logits (0, w·x + b): the margin of a sample is |w·x + b|, and its gradient is w everywhere."""

    def __init__(self, weights: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weights = weights
        self.bias = bias

    def forward(self, images: Tensor) -> Tensor:
        scores = images.flatten(1) @ self.weights + self.bias
        return torch.stack([torch.zeros_like(scores), scores], dim=1)


@dataclass
class TickingClock:
    """A clock whose every lap takes what a list says, and then one second; it adds up what it gave."""

    laps: list[float] = field(default_factory=list)
    total: float = 0.0

    def restart(self) -> None:
        pass

    def lap(self) -> float:
        seconds = self.laps.pop(0) if self.laps else 1.0
        self.total += seconds
        return seconds


@pytest.fixture(scope="session")
def linear_classifier() -> type[LinearClassifier]:
    return LinearClassifier


@pytest.fixture(scope="session")
def ticking_clock() -> type[TickingClock]:
    return TickingClock


@pytest.fixture(scope="session")
def run_job() -> Callable[..., Run]:
    """Run an attack on digits in a store; any field of the specification, or a ledger, can be given."""

    def run(store_root: Path, ledger: MemoryLedger | None = None, *, shard_index: int = 0, **fields: object) -> Run:
        asked = {"model": "resnet18", "dataset": "digits", "attack": "pgd"}
        small = {"epoch_count": 1, "sample_count": 40, "image_size": 16}
        spec = catalog.resolve(AttackSpec(**(asked | small | fields)))  # type: ignore[arg-type]
        job = AttackJob("job", spec, State.RUNNING, datetime.now(UTC))
        ledger = ledger or MemoryLedger()
        roots = {"store_root": store_root, "data_root": store_root / "data"}
        state = run_attack(job, ledger, **roots, device="cpu", shard_index=shard_index)
        return Run(state, ledger, spec)

    return run


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory, run_job: Callable[..., Run]) -> tuple[Path, Run]:
    """A store with a ResNet-18 trained on digits for an epoch, and the run that trained and attacked it."""
    root = tmp_path_factory.mktemp("store")
    return root, run_job(root)


@pytest.fixture(scope="session")
def trained(first_run: tuple[Path, Run]) -> tuple[nn.Module, datasets.Dataset]:
    """The trained ResNet-18, ready to be attacked, and its dataset (digits of 16 x 16 pixels)."""
    root, run = first_run
    dataset = datasets.load("digits", image_size=run.spec.image_size, data_root=root)
    classifier = models.build(models.Architecture("resnet18", "imagenet", 1, 10))
    (record,) = (root / "records").glob("*.json")
    loaded = checkpoints.Store(root).load(record.stem)
    assert loaded is not None
    classifier.load_state_dict(loaded[1])
    return models.freeze(classifier, torch.device("cpu")), dataset


@pytest.fixture(scope="session")
def fates() -> Callable[[Sequence[Outcome]], dict[int, tuple[object, ...]]]:
    """Everything about outcomes that does not depend on the hour: all but the seconds, by sample."""

    def of(outcomes: Sequence[Outcome]) -> dict[int, tuple[object, ...]]:
        return {
            outcome.sample_index: (
                outcome.verdict,
                outcome.label,
                outcome.clean_prediction,
                outcome.check_count,
                outcome.query_count_lower,
                outcome.query_count_upper,
                outcome.gradient_count_lower,
                outcome.gradient_count_upper,
            )
            for outcome in outcomes
        }

    return of


class CancelingLedger(MemoryLedger):
    """Someone asks for a stop after a number of passes through the attacked model."""

    def __init__(self, after_passes: int) -> None:
        super().__init__()
        self._asked_count = 0
        self._after_passes = after_passes

    def cancel_requested(self) -> bool:
        # Training asks before every step; the attack asks once before it begins, and then after every pass.
        if self.model_record is not None:
            self._asked_count += 1
        return self._asked_count > self._after_passes


@pytest.fixture(scope="session")
def canceling() -> type[CancelingLedger]:
    return CancelingLedger
