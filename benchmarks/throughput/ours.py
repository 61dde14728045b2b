"""Our attacks, by the path that a job takes, and what cannot be avoided: the passes through the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attack_service import catalog
from attack_service.attacking import attack
from attack_service.attacks.building import build
from attack_service.attacks.lockstep import LockstepAttack
from attack_service.clocks import DeviceClock
from attack_service.datasets import Dataset, Split
from attack_service.defences import Target
from attack_service.driving import drive_lockstep, drive_queries
from attack_service.errors import InvalidSpecification, UnknownName
from attack_service.evaluating import evaluate
from attack_service.handles import Handle
from attack_service.jobs import AttackSpec, MemoryLedger
from attack_service.judging import Judge
from attack_service.outcomes import Outcome, Verdict
from attack_service.watching import Journal, Samples, Watch
from throughput.ground import IMAGE_SIZE, SLOTS, Ground
from throughput.measuring import Findings


class Ours:
    """A job that attacks these samples; everything that a job does before its attack is done here, once."""

    def __init__(
        self,
        ground: Ground,
        images: Tensor,
        labels: Tensor,
        *,
        attack_name: str,
        parameters: Mapping[str, float],
        norm: str,
        device: torch.device,
    ) -> None:
        spec = AttackSpec("resnet18", "digits", attack_name, parameters, norm=norm, batch_size=SLOTS)
        # The digits' test split is smaller than the benchmark.
        self.spec = replace(catalog.resolve(spec), sample_count=len(images), image_size=IMAGE_SIZE)
        split = Split(images.cpu(), labels.cpu(), IMAGE_SIZE)
        self._dataset = Dataset(split, split, ground.class_count)
        self._device = device
        self._target = Target(ground.frozen)
        self.handle = Handle(self._target, SLOTS)
        self.handle.probe(images[:SLOTS], labels[:SLOTS])
        clean = evaluate(self._target, split, batch_size=SLOTS, device=device)
        assert clean is not None
        self._clean = clean
        indices = torch.arange(len(split))
        self._samples = Samples(indices, split.labels, clean.predictions, clean.seconds, split.images)

    def run(self) -> list[Outcome]:
        """Attack every sample; what a job asks besides (`job`) is no part of the attack."""
        ledger = MemoryLedger()
        journal = Journal(
            ledger,
            total_count=len(self._samples),
            recorded=(),
            seconds_per_query=0.0,
            check_maximum=catalog.count_maxima(self.spec)[0] // len(self._samples),
        )
        judge = Judge(self.spec.attack_parameters.get("epsilon", math.inf), self.spec.norm)
        watch, clock = Watch(self._samples, journal), DeviceClock(self._device)
        attacking = build(self.spec, self._dataset.class_count)
        if isinstance(attacking, LockstepAttack):
            drive_lockstep(attacking, self._samples, self.handle, judge, watch, clock, self._device)
        else:
            drive_queries(attacking, self._samples, self.handle, judge, watch, clock, self._device)
        journal.record(now=True)
        return sorted(ledger.outcomes, key=lambda outcome: outcome.sample_index)

    def job(self) -> None:
        """The whole of a job's attack: its probes of the model, its flags, and the verification of what it found."""
        split = self._dataset.test
        attack(
            self.spec,
            self._dataset,
            torch.arange(len(split)),
            self.handle,
            self._target,
            self._clean,
            MemoryLedger(),
            self._device,
        )

    def watch(self) -> Account:
        """Attack once, and account for what it came to and what it spent."""
        rows_before = self.handle.row_count
        outcomes = self.run()
        return Account(outcomes, self.handle.row_count - rows_before)

    def recording_share(self) -> float:
        """The share of the CPU seconds of an attack that went into keeping clocks and writing outcomes."""
        record, admit = Watch.record, Watch.admit
        spent = 0.0

        def timed(method: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: object) -> object:
                nonlocal spent
                begin = time.process_time()
                try:
                    return method(*arguments)
                finally:
                    spent += time.process_time() - begin

            return call

        with patch.object(Watch, "record", timed(record)), patch.object(Watch, "admit", timed(admit)):
            begin = time.process_time()
            self.run()
            total = time.process_time() - begin
        return spent / total


@dataclass(frozen=True, slots=True)
class Account:
    """The outcomes of all samples, in their order, and the rows that went through the model, filled ones included."""

    outcomes: list[Outcome]
    rows: int

    @property
    def queries(self) -> int:
        """Forward evaluations that the samples needed, the one that showed the failure included."""
        return sum(o.query_count_lower if o.query_count_upper is None else o.query_count_upper for o in self.outcomes)

    @property
    def gradients(self) -> int:
        """Backward evaluations likewise."""
        return sum(
            o.gradient_count_lower if o.gradient_count_upper is None else o.gradient_count_upper for o in self.outcomes
        )

    def findings(self, *, to_the_end: bool, epsilon: float) -> Findings:
        """What the attack came to; `to_the_end`: a survivor's nearest image is judged by `epsilon` in the 2-norm."""
        failed = torch.tensor([outcome.verdict is Verdict.FAILED for outcome in self.outcomes])
        if to_the_end:
            fooled = [o.adversarial_prediction != o.label and o.distance_l2 <= epsilon for o in self.outcomes]
            failed = failed | torch.tensor(fooled)
        checks = torch.tensor([outcome.check_count for outcome in self.outcomes])
        return Findings(
            failed=failed,
            l2=torch.tensor([outcome.distance_l2 for outcome in self.outcomes]),
            rows=self.rows,
            steps=torch.where(failed, checks, 0),
        )


def has_attack(name: str) -> bool:
    try:
        catalog.resolve(AttackSpec("resnet18", "digits", name, engine="native"))
    except (UnknownName, InvalidSpecification):
        return False
    return True


def gradient_passes(model: nn.Module, count: int) -> Callable[[Tensor, Tensor], None]:
    """`count` times over a batch: one forward and one input-gradient backward evaluation, nothing else."""

    def run(images: Tensor, labels: Tensor) -> None:
        for _ in range(count):
            leaf = images.detach().requires_grad_(True)
            torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)

    return run


def evaluations(model: nn.Module, images: Tensor, labels: Tensor, queries: int, gradients: int) -> Callable[[], None]:
    """So many forward and backward evaluations, in full passes, the last one as wide as it must be.

    Without gradients in inference mode; with them, every forward pass is differentiated as often as it takes.
    """
    repeats = -(-SLOTS // len(images))
    x, y = images.repeat(repeats, 1, 1, 1)[:SLOTS], labels.repeat(repeats)[:SLOTS]
    widths = [SLOTS] * (queries // SLOTS) + ([queries % SLOTS] if queries % SLOTS else [])

    def ask() -> None:
        with torch.inference_mode():
            for width in widths:
                model(x[:width])

    def differentiate() -> None:
        owed = 0.0
        for width in widths:
            leaf = x[:width].detach().requires_grad_(True)
            loss = F.cross_entropy(model(leaf), y[:width], reduction="sum")
            owed += gradients / queries
            for _ in range(round(owed)):
                torch.autograd.grad(loss, leaf, retain_graph=True)
            owed -= round(owed)

    return differentiate if gradients else ask
