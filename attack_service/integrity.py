"""Does the measurement measure what it says? Checks of a job's attack that cost little and are charged to no sample."""

from __future__ import annotations

import torch
from torch import Tensor

from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.losses import doubt
from attack_service.clocks import DeviceClock
from attack_service.driving import drive_lockstep
from attack_service.errors import IntegrityViolated
from attack_service.handles import Handle
from attack_service.jobs import MemoryLedger
from attack_service.judging import Judge
from attack_service.outcomes import Verdict
from attack_service.watching import Journal, Samples, Watch

# Rounding may decide for a sample that lies on the boundary to seven digits: one, or one in two hundred.
_TOLERATED_SHARE = 0.005
_WITHOUT_SLOPE_SHARE = 0.1


class Verifier:
    """Asks the model about every adversarial once more, in forward passes of their own, and judges the answer."""

    def __init__(self, handle: Handle, judge: Judge) -> None:
        self._handle = handle
        self._judge = judge
        self._waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._waiting_count = 0
        self._count = 0
        self._unconfirmed_count = 0

    def add(self, inputs: Tensor, originals: Tensor, labels: Tensor) -> None:
        """Adversarials (n, channels, height, width), the clean images they are of, their true classes (n)."""
        self._waiting.append((inputs, originals, labels))
        self._waiting_count += len(labels)
        if self._waiting_count >= self._handle.width:
            self._verify()

    def finish(self) -> str | None:
        """A sentence if some adversarials are none, None if all are.

        Raises `IntegrityViolated` if there are more of them than rounding explains.
        """
        if self._waiting:
            self._verify()
        if not self._unconfirmed_count:
            return None
        sentence = (
            f"the model, asked again, is not fooled by {self._unconfirmed_count} of {self._count} adversarials that "
            "the attack found"
        )
        if self._unconfirmed_count > max(1.0, _TOLERATED_SHARE * self._count):
            raise IntegrityViolated(f"{sentence}: it does not answer alike to the same image, so no failure is certain")
        return f"{sentence}: they lie on the boundary, where rounding decides"

    def _verify(self) -> None:
        inputs, originals, labels = (torch.cat(column) for column in zip(*self._waiting, strict=True))
        logits = self._handle.evaluate(inputs).logits
        fooled = self._judge.judge(inputs, originals, labels, logits).fooled
        self._count += len(labels)
        self._unconfirmed_count += int((~fooled).sum())
        self._waiting, self._waiting_count = [], 0


def vanishing_gradients(handle: Handle, images: Tensor, labels: Tensor) -> str | None:
    """A sentence if an attack that follows the gradient has none to follow from many of these images."""
    gradients = handle.evaluate(images, lambda logits, rows: doubt(logits, labels[rows])).gradients
    assert gradients is not None
    count = int((gradients.flatten(1).abs().amax(dim=1) == 0).sum())
    if count <= _WITHOUT_SLOPE_SHARE * len(images):
        return None
    return (
        f"the gradient is zero at {count} of {len(images)} samples: an attack that follows it stands still there, and "
        "survival says nothing about robustness; attack with square or hopskipjump, which need no gradient"
    )


def answers_by_chance(handle: Handle, images: Tensor) -> str | None:
    """A sentence if the model answers otherwise when the same images are asked about again."""
    first, second = (handle.evaluate(images).logits for _ in range(2))
    if torch.equal(first, second):
        return None
    return (
        "the model answers otherwise when the same images are asked about again, though its defence is none that "
        "answers by chance: an attack that averages its answers may find more failures"
    )


def masked_gradients(
    black_box: LockstepAttack, samples: Samples, handle: Handle, judge: Judge, attack_name: str, device: torch.device
) -> str | None:
    """A sentence if an attack that sees no gradients fools samples that survived one that sees them.

    That is how a defence shows that hides its gradients instead of being robust (Athalye et al., arXiv 1802.00420), or
    an attack that gives up too early.
    """
    if not len(samples):
        return None
    ledger = MemoryLedger()
    journal = Journal(ledger, total_count=len(samples), recorded=(), seconds_per_query=0.0, check_maximum=1)
    drive_lockstep(black_box, samples, handle, judge, Watch(samples, journal), DeviceClock(device), device)
    journal.record(now=True)
    count = sum(outcome.verdict is Verdict.FAILED for outcome in ledger.outcomes)
    if not count:
        return None
    return (
        f"square, which sees no gradients, fooled {count} of {len(samples)} samples that survived {attack_name}, "
        f"within {black_box.evaluation_count} queries: the gradients mislead the attack, or it gives up too early; "
        "attack with square as well, and believe the one that finds more failures"
    )
