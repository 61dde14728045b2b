"""Running an attack on samples in memory, through the loops that jobs use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from attack_service import datasets
from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.querying import QueryAttack
from attack_service.driving import drive_lockstep, drive_queries
from attack_service.handles import Handle
from attack_service.jobs import MemoryLedger
from attack_service.judging import Judge
from attack_service.outcomes import Outcome
from attack_service.watching import Journal, Samples, Watch

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A small convolutional network trained on digits of 12 x 12, frozen, and forty that it classifies correctly."""
    dataset = datasets.load("digits", image_size=12, data_root=Path())
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 9, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    everything = dataset.train.images(torch.arange(len(dataset.train)))
    for batch in torch.randint(len(dataset.train), (200, 64)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(everything[batch]), dataset.train.labels[batch]).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    images, labels = dataset.test.images(torch.arange(80)), dataset.test.labels[:80]
    correct = model(images).argmax(dim=1) == labels
    return model, images[correct][:40], labels[correct][:40]


@pytest.fixture(scope="session")
def attacked(ticking_clock) -> Callable[..., list[Outcome]]:
    """The outcomes of an attack on samples that are all classified correctly, by sample index.

    `order` are the rows to attack, in that order; a sample's index is its row. Every pass takes a second.
    """

    def attacked(
        attack: LockstepAttack | QueryAttack,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        *,
        epsilon: float,
        norm: str = "inf",
        width: int = 16,
        order: Sequence[int] | None = None,
        handle: Handle | None = None,
    ) -> list[Outcome]:
        rows = torch.tensor(list(range(len(images)) if order is None else order))
        samples = Samples(rows, labels[rows], labels[rows], torch.zeros(len(rows)), lambda indices: images[indices])
        ledger = MemoryLedger()
        journal = Journal(ledger, total_count=len(rows), recorded=(), seconds_per_query=1.0, check_maximum=10)
        watch = Watch(samples, journal)
        if handle is None:
            handle = Handle(model, width)
            handle.probe(images, labels)
        drive = drive_lockstep if isinstance(attack, LockstepAttack) else drive_queries
        drive(attack, samples, handle, Judge(epsilon, norm), watch, ticking_clock(), CPU)  # type: ignore[arg-type]
        journal.record(now=True)
        return sorted(ledger.outcomes, key=lambda outcome: outcome.sample_index)

    return attacked
