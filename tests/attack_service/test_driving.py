"""Batches stay full, nothing is computed for samples that have ended, and no sample's fate depends on the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.pgd import PGD
from attack_service.attacks.querying import Interview, QueryAttack, Question
from attack_service.driving import drive_lockstep, drive_queries
from attack_service.errors import IntegrityViolated
from attack_service.handles import Handle
from attack_service.jobs import MemoryLedger
from attack_service.judging import Judge
from attack_service.outcomes import Outcome, Verdict
from attack_service.watching import Journal, Samples, Watch

CPU = torch.device("cpu")


class Margins(nn.Module):
    """Two classes; the first value of an image is the score, and no operation mixes rows. Knows what it was asked."""

    def __init__(self, capacity: int = 10**6) -> None:
        super().__init__()
        self.capacity = capacity

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.capacity:
            raise torch.OutOfMemoryError("no memory for so many rows")
        scores = images.flatten(1)[:, 0] - 0.5
        return torch.stack([-scores, scores], dim=1)


def images_that_fail_after(steps: list[int], step_size: float) -> Tensor:
    """Images of class 1 whose margin is crossed at these steps."""
    margins = (torch.tensor(steps) - 0.5) * step_size
    return torch.stack([0.5 + margins, torch.full_like(margins, 0.5)], dim=1).reshape(-1, 1, 1, 2)


def drive(
    model: nn.Module, images: Tensor, attack: LockstepAttack, width: int, clock, ledger: MemoryLedger | None = None
) -> tuple[list[Outcome], Handle, list[int]]:
    """Outcomes, the handle, and how many samples were active in each pass."""
    n = len(images)
    labels = torch.ones(n, dtype=torch.int64)
    samples = Samples(torch.arange(n), labels, labels, torch.zeros(n), lambda indices: images[indices])
    ledger = ledger or MemoryLedger()
    journal = Journal(ledger, total_count=n, recorded=(), seconds_per_query=1.0, check_maximum=10)
    active: list[int] = []

    class Recorder(Watch):
        def record(self, checks, seconds):
            active.append(len(checks.rows))
            return super().record(checks, seconds)

    handle = Handle(model, width)
    handle.probe(images, labels)
    handle.pass_count = handle.row_count = 0
    drive_lockstep(attack, samples, handle, Judge(1.0, "inf"), Recorder(samples, journal), clock, CPU)
    journal.record(now=True)
    return sorted(ledger.outcomes, key=lambda outcome: outcome.sample_index), handle, active


def passes_needed(outcomes: list[Outcome]) -> list[int]:
    return [outcome.query_count_upper or outcome.query_count_lower for outcome in outcomes]


def test_hardly_a_row_is_evaluated_that_no_sample_needs(ticking_clock) -> None:
    """The shape of the benchmark's fixed case: 512 samples in 64 slots, 40 steps, most failing after about ten."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(512).exponential_(1 / 11.5, generator=generator).ceil().long().tolist()
    step_size = 0.01
    attack = PGD(epsilon=0.4, step_size=step_size, iteration_count=40, norm="inf")
    images = images_that_fail_after([min(step, 41) for step in drawn], step_size)
    outcomes, handle, _ = drive(Margins(), images, attack, 64, ticking_clock())
    failing = [outcome.check_count for outcome in outcomes if outcome.verdict is Verdict.FAILED]
    assert failing == [step for step in drawn if step <= 40]
    assert len(failing) / 512 >= 0.9
    assert 8 <= sum(failing) / len(failing) <= 12
    ideal = sum(passes_needed(outcomes))
    assert ideal == sum(min(step, 40) + 1 for step in drawn)
    assert handle.row_count / ideal <= 1.02


def test_a_slot_is_given_to_the_next_sample_at_once_until_nobody_waits(ticking_clock) -> None:
    steps = [1, 5, 2, 9, 3, 3, 7, 1, 4, 6, 2, 8]
    attack = PGD(epsilon=0.1, step_size=0.01, iteration_count=10, norm="inf")
    outcomes, _, active = drive(Margins(), images_that_fail_after(steps, 0.01), attack, 4, ticking_clock())
    needed = passes_needed(outcomes)
    assert needed == [step + 1 for step in steps]
    # What four slots do that always take the next sample: brute force.
    waiting, slots, expected = list(needed), [0] * 4, []
    while waiting or any(slots):
        slots = [left if left else (waiting.pop(0) if waiting else 0) for left in slots]
        expected.append(sum(left > 0 for left in slots))
        slots = [max(0, left - 1) for left in slots]
    assert active == [count for count in expected if count]
    assert sum(active) == sum(needed)


@pytest.mark.parametrize("width", [1, 3, 10, 64])
def test_the_seconds_of_all_samples_add_up_to_the_measured_ones(ticking_clock, width: int) -> None:
    clock = ticking_clock([0.5, 3.0, 0.25, 7.0])
    attack = PGD(epsilon=0.1, step_size=0.02, iteration_count=5, norm="inf")
    images = images_that_fail_after([1, 2, 3, 9, 5, 9, 1, 1, 4, 3], 0.02)
    outcomes, _, _ = drive(Margins(), images, attack, width, clock)
    spent = [outcome.seconds_upper or outcome.seconds_lower for outcome in outcomes]
    assert sum(spent) == pytest.approx(clock.total)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.FAILED, Verdict.SURVIVED}


def test_out_of_memory_the_attack_goes_on_in_narrower_passes_to_the_same_verdicts(ticking_clock, fates) -> None:
    steps = [1, 5, 2, 9, 3, 3, 7, 12, 4, 6, 2, 8] * 3
    attack = PGD(epsilon=0.1, step_size=0.01, iteration_count=10, norm="inf")
    images = images_that_fail_after(steps, 0.01)
    roomy, _, _ = drive(Margins(), images, attack, 32, ticking_clock())
    tight, handle, _ = drive(Margins(capacity=9), images, attack, 32, ticking_clock())
    assert handle.width == 8
    assert fates(tight) == fates(roomy)


def test_logits_that_are_not_numbers_are_no_failure(ticking_clock) -> None:
    class Broken(Margins):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * torch.where(images.flatten(1)[:, :1] < 0.55, torch.nan, 1.0)

    ledger = MemoryLedger()
    attack = PGD(epsilon=0.1, step_size=0.02, iteration_count=10, norm="inf")
    with pytest.raises(IntegrityViolated, match="not a number"):
        drive(Broken(), images_that_fail_after([4, 5], 0.02), attack, 2, ticking_clock(), ledger)
    assert ledger.outcomes == []


def test_canceling_keeps_every_sample_that_was_checked_as_a_survivor(ticking_clock) -> None:
    class Canceling(MemoryLedger):
        asked_count = 0

        def cancel_requested(self) -> bool:
            self.asked_count += 1
            return self.asked_count > 3

    ledger = Canceling()
    attack = PGD(epsilon=0.1, step_size=0.01, iteration_count=10, norm="inf")
    outcomes, _, active = drive(
        Margins(), images_that_fail_after([1, 9, 9, 9, 9, 9], 0.01), attack, 2, ticking_clock(), ledger
    )
    assert active == [2, 2, 2, 2]
    # The first failed in the second pass; the third took its slot and has had one check since.
    assert [(outcome.sample_index, outcome.verdict, outcome.check_count) for outcome in outcomes] == [
        (0, Verdict.FAILED, 1),
        (1, Verdict.SURVIVED, 3),
        (2, Verdict.SURVIVED, 1),
    ]


def test_canceling_loses_no_failure_though_others_were_never_asked(ticking_clock) -> None:
    """Questions of another kind wait for another pass; the job is canceled before that."""

    class Asking(QueryAttack):
        def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
            fooling = torch.zeros_like(image)[None]
            if sample_index:
                yield Question(fooling, lambda logits: logits[:, 0], 1)
            else:
                yield Question(fooling)

    class Canceling(MemoryLedger):
        def cancel_requested(self) -> bool:
            return True

    ledger, images, labels = Canceling(), torch.ones(2, 1, 1, 2), torch.ones(2, dtype=torch.int64)
    samples = Samples(torch.arange(2), labels, labels, torch.zeros(2), lambda indices: images[indices])
    journal = Journal(ledger, total_count=2, recorded=(), seconds_per_query=1.0, check_maximum=1)
    drive_queries(
        Asking(), samples, Handle(Margins(), 4), Judge(1.0, "inf"), Watch(samples, journal), ticking_clock(), CPU
    )
    journal.record(now=True)
    assert [(outcome.sample_index, outcome.verdict) for outcome in ledger.outcomes] == [(0, Verdict.FAILED)]
