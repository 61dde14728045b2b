"""Measuring a model on clean samples, and the guards that refuse to attack a model that is not the one recorded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_service.attacks.losses import doubt
from attack_service.attacks.norms import steepest
from attack_service.clocks import Clock, DeviceClock
from attack_service.datasets import Split
from attack_service.defences import Target
from attack_service.errors import IntegrityViolated
from attack_service.handles import Handle

# Rounding (another device, folded batch norms) may move a sample that lies on the boundary between two classes:
# one sample, or one in two hundred where there are more.
_TOLERATED_SHARE = 0.005
_PROBE_EPSILON = 1e-6
_BARELY_TRAINED = 1.5
_UNLIKELY = 0.001


@dataclass(frozen=True, slots=True)
class CleanEvaluation:
    """What a target says to clean samples of a split, and the device seconds that each one's answer cost.

    All three have a place for every sample of the split; where one was not measured there is -1, no number, and no
    rejection. `predictions` are the likeliest classes, also where the defence abstains (`rejected`); correct is what is
    right and not rejected. An answer costs the attacker `repeat_count` queries.
    """

    predictions: Tensor
    seconds: Tensor
    correct_count: int
    sample_count: int
    rejected: Tensor
    repeat_count: int = 1

    @property
    def accuracy(self) -> float:
        return self.correct_count / self.sample_count

    @property
    def rejection_share(self) -> float:
        return int(self.rejected.sum()) / self.sample_count

    @property
    def seconds_per_query(self) -> float:
        return float(self.seconds.nanmean()) / self.repeat_count

    def misclassified(self, labels: Tensor) -> Tensor:
        """Which samples of the split the target answers wrongly, so that no attack is needed, (n) bool.

        A rejected sample is none of them, whatever the model makes of it: nobody was given a wrong answer yet.
        """
        return (self.predictions != labels) & ~self.rejected


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int,
    device: torch.device,
    clock: Clock | None = None,
    report: Callable[[int], None] = lambda done_count: None,
    canceled: Callable[[], bool] = lambda: False,
    indices: Tensor | None = None,
) -> CleanEvaluation | None:
    """Classify a whole split, or the samples at `indices`; None if canceled.

    A pass's seconds, those of the defence included, are shared equally among its rows; of the last batch some only fill
    it up, and what these cost is no sample's.
    """
    target = model if isinstance(model, Target) else Target(model)
    handle, clock = Handle(target, batch_size), clock or DeviceClock(device)
    predictions = torch.full((len(split),), -1)
    seconds = torch.full((len(split),), torch.nan, dtype=torch.float64)
    rejected = torch.zeros(len(split), dtype=torch.bool)
    chosen = torch.arange(len(split)) if indices is None else indices
    done_count = 0
    report(done_count)
    for batch in chosen.split(batch_size):
        if canceled():
            return None
        images = split.images(batch).to(device)
        row_count = handle.row_count
        clock.restart()
        logits = handle.evaluate(images).logits
        batch_predictions, batch_rejected = logits.argmax(dim=1), target.abstains(logits)
        seconds[batch] = clock.lap() / (handle.row_count - row_count)
        predictions[batch], rejected[batch] = batch_predictions.cpu(), batch_rejected.cpu()
        done_count += len(batch)
        report(done_count)
    correct_count = int(((predictions == split.labels) & ~rejected)[chosen].sum())
    return CleanEvaluation(predictions, seconds, correct_count, len(chosen), rejected, target.repeat_count)


def require_same_accuracy(evaluation: CleanEvaluation, recorded_accuracy: float) -> None:
    """Raise `IntegrityViolated` unless the attack's handle classifies the split as the recorded model did.

    A network attacked untrained, in training mode or with other preprocessing shows here.
    """
    n = evaluation.sample_count
    tolerated = max(1.0, _TOLERATED_SHARE * n)
    if abs(evaluation.correct_count - recorded_accuracy * n) > tolerated + 1e-6:
        raise IntegrityViolated(
            f"the model that would be attacked classifies {evaluation.accuracy:.2%} of the test split correctly, "
            f"but {recorded_accuracy:.2%} was recorded when it was trained; remove it from the store and train anew"
        )


def require_plausible_accuracy(evaluation: CleanEvaluation, repeated: CleanEvaluation) -> None:
    """Raise `IntegrityViolated` if two evaluations of a target that answers by chance differ by more than chance.

    With other draws of the defence on the same samples. Were a sample's answers right with one probability for all, the
    one count, given the sum of both, would be hypergeometric (Fisher's exact test); probabilities of their own only
    make the counts vary less. Refused is what lies outside of its central 99.9 %.
    """
    n, first, second = evaluation.sample_count, evaluation.correct_count, repeated.correct_count
    if repeated.sample_count != n:
        raise ValueError(f"{n} samples were evaluated first and {repeated.sample_count} then")
    if 2 * _tail(n, min(first, second), first + second) < _UNLIKELY:
        raise IntegrityViolated(
            f"the defence answers by chance, but chance does not make the model classify {evaluation.accuracy:.2%} of "
            f"{n} samples correctly once and {repeated.accuracy:.2%} then; report this as a defect"
        )


def _tail(n: int, count: int, total: int) -> float:
    """The probability that of `total` correct answers among 2n at most `count` are among the first n."""

    def log_choices(of: int, taken: int) -> float:
        return math.lgamma(of + 1) - math.lgamma(taken + 1) - math.lgamma(of - taken + 1)

    fewest = max(0, total - n)
    logs = [log_choices(n, k) + log_choices(n, total - k) for k in range(fewest, count + 1)]
    return math.fsum(math.exp(log - log_choices(2 * n, total)) for log in logs)


def require_same_predictions(predictions: Tensor, expected: Tensor) -> None:
    """Raise `IntegrityViolated` unless an engine's handle sees the predictions that the samples were chosen by."""
    differing = int((predictions != expected).sum())
    if differing > max(1.0, _TOLERATED_SHARE * len(expected)):
        raise IntegrityViolated(
            f"the attack's engine sees other predictions than the model makes on {differing} of {len(expected)} clean "
            "samples; attack with the engine native, and report this as a defect"
        )


def require_prepared_predictions(predictions: Tensor, expected: Tensor) -> None:
    """Raise `IntegrityViolated` unless a shard's clean samples get the classes that they got from the first shard."""
    differing = int((predictions != expected).sum())
    if differing > max(1.0, _TOLERATED_SHARE * len(expected)):
        raise IntegrityViolated(
            f"the model on this worker classifies {differing} of {len(expected)} clean samples otherwise than the "
            "worker that prepared the job; give all workers the same --store, --data-root and version of torch"
        )


def require_harmless_probe(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise `IntegrityViolated` if a step of almost nothing fools the model: the attack would not start at the sample.

    `images` are classified correctly. A sample on the very boundary may cross: one in ten is tolerated.
    """
    leaf = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(doubt(model(leaf), labels).sum(), leaf)
    with torch.no_grad():
        fooled = model(images + _PROBE_EPSILON * steepest(gradient, "inf")).argmax(dim=1) != labels
    if int(fooled.sum()) > 0.1 * len(labels):
        raise IntegrityViolated(
            f"a perturbation of {_PROBE_EPSILON:g} fools the model on {int(fooled.sum())} of {len(labels)} samples: it "
            "does not see the images that it was measured on; report this as a defect"
        )


def barely_trained(accuracy: float, class_count: int) -> str | None:
    """A sentence if a model is hardly better than chance."""
    chance = 1 / class_count
    if accuracy > _BARELY_TRAINED * chance:
        return None
    return (
        f"the model classifies {100 * accuracy:.3g} % of clean samples correctly, hardly better than "
        f"chance ({100 * chance:.3g} %): "
        "its failure times say nothing about robustness; train it for longer with --epochs"
    )


def barely_answering(evaluation: CleanEvaluation, class_count: int) -> str | None:
    """A sentence if hardly anything is right behind a defence, rejected samples included."""
    if evaluation.accuracy > _BARELY_TRAINED / class_count:
        return None
    return (
        f"behind the defence only {100 * evaluation.accuracy:.3g} % of clean samples are answered correctly "
        f"({100 * evaluation.rejection_share:.3g} % are rejected): failure times of the others say little; "
        "weaken it with --defence-parameter"
    )
