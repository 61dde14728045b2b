"""Measuring a model on clean samples, and the guards that refuse to attack a model that is not the one recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attack_service.attacks.losses import doubt
from attack_service.attacks.norms import steepest
from attack_service.clocks import Clock, DeviceClock
from attack_service.datasets import Split
from attack_service.errors import IntegrityViolated

# Rounding (another device, folded batch norms) may move a sample that lies on the boundary between two classes:
# one sample, or one in two hundred where there are more.
_TOLERATED_SHARE = 0.005
_PROBE_EPSILON = 1e-6
_BARELY_TRAINED = 1.5


@dataclass(frozen=True, slots=True)
class CleanEvaluation:
    """What the model says to clean samples of a split, and the device seconds that each one's answer cost.

    Both have a place for every sample of the split; where a sample was not measured there is -1 and no number.
    """

    predictions: Tensor
    seconds: Tensor
    correct_count: int
    sample_count: int

    @property
    def accuracy(self) -> float:
        return self.correct_count / self.sample_count

    @property
    def seconds_per_query(self) -> float:
        return float(self.seconds.nanmean())


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

    A batch's seconds are shared equally among its samples.
    """
    clock = clock or DeviceClock(device)
    predictions = torch.full((len(split),), -1)
    seconds = torch.full((len(split),), torch.nan, dtype=torch.float64)
    chosen = torch.arange(len(split)) if indices is None else indices
    done_count = 0
    report(done_count)
    for batch in chosen.split(batch_size):
        if canceled():
            return None
        images = split.images(batch).to(device)
        clock.restart()
        batch_predictions = model(images).argmax(dim=1)
        seconds[batch] = clock.lap() / len(batch)
        predictions[batch] = batch_predictions.cpu()
        done_count += len(batch)
        report(done_count)
    correct_count = int((predictions[chosen] == split.labels[chosen]).sum())
    return CleanEvaluation(predictions, seconds, correct_count, len(chosen))


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
            f"the model on this worker classifies {differing} of {len(expected)} clean samples otherwise than the worker "
            "that prepared the job; give all workers the same --store and --data-root, and the same version of torch"
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
        f"the model classifies {accuracy:.1%} of clean samples correctly, hardly better than chance ({chance:.1%}): "
        "its failure times say nothing about robustness; train it for longer with --epochs"
    )
