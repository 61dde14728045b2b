"""Training a classifier from scratch, an epoch at a time, so that it can stop and go on without a trace.

Every random choice of an epoch derives from the seed and the epoch, and the state between two epochs is the weights
and their momentum: a training that was killed goes on from its last finished epoch and ends with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attack_service.checkpoints import TrainingState
from attack_service.clocks import DeviceClock
from attack_service.datasets import Split
from attack_service.errors import TrainingDiverged

_MOMENTUM_PREFIX = "momentum."
_RECENT = 0.9  # the weight of the past in the running loss and accuracy: about the latest ten steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained: stochastic gradient descent with momentum, the learning rate up and down once.

    `shift_share` is the largest random shift of an image, as a share of its side. Change `version` with the code that
    the numbers here do not describe: stored models are looked up by all of these.
    """

    batch_size: int = 32
    largest_learning_rate: float = 0.02
    warm_up_share: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift_share: float = 0.0
    version: int = 1


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What a training step reports. `epoch` counts from 1; loss and accuracy are of the latest steps."""

    step: int
    step_count: int
    epoch: int
    loss: float
    accuracy: float
    remaining_seconds: float


def train(
    model: nn.Module,
    split: Split,
    *,
    recipe: Recipe,
    epoch_count: int,
    seed: int,
    device: torch.device,
    resumed: TrainingState | None = None,
    save: Callable[[TrainingState], None] = lambda state: None,
    report: Callable[[TrainingStep], None] = lambda step: None,
    canceled: Callable[[], bool] = lambda: False,
) -> float | None:
    """Train in place; return the synchronised device seconds of all epochs, or None if canceled.

    `resumed` is what `save`, called after every epoch but the last, was given by an earlier run; its seconds count.
    Raises `TrainingDiverged` when the loss or the weights stop being finite.
    """
    model.to(device).train()
    parameters = dict(model.named_parameters())
    momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    seconds, first_epoch = 0.0, 0
    if resumed is not None:
        seconds, first_epoch = resumed.seconds, resumed.epoch
        _restore(model, momenta, resumed.tensors)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for name, parameter in parameters.items():
        optimizer.state[parameter]["momentum_buffer"] = momenta[name]
    steps_per_epoch = len(list(_batches(torch.arange(len(split)), recipe.batch_size)))
    step_count = epoch_count * steps_per_epoch
    step = first_epoch * steps_per_epoch
    clock, begin, first_step = DeviceClock(device), time.perf_counter(), step
    loss_now, accuracy_now, weight = 0.0, 0.0, 0.0
    for epoch in range(first_epoch, epoch_count):
        generator = torch.Generator().manual_seed(_mix(seed, epoch))
        clock.restart()
        for indices in _batches(torch.randperm(len(split), generator=generator), recipe.batch_size):
            if canceled():
                return None
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step / step_count)
            images = _shifted(split.images(indices), recipe.shift_share, generator).to(device)
            labels = split.labels[indices].to(device)
            logits = model(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            loss_value = loss.item()
            if not math.isfinite(loss_value):
                raise TrainingDiverged(
                    f"the training loss became {loss_value} in epoch {epoch + 1}; "
                    "try another --seed, or another --model"
                )
            correct = float((logits.detach().argmax(dim=1) == labels).float().mean())
            loss_now = _RECENT * loss_now + (1 - _RECENT) * loss_value
            accuracy_now = _RECENT * accuracy_now + (1 - _RECENT) * correct
            weight = _RECENT * weight + (1 - _RECENT)
            pace = (time.perf_counter() - begin) / (step - first_step)
            report(
                TrainingStep(
                    step, step_count, epoch + 1, loss_now / weight, accuracy_now / weight, pace * (step_count - step)
                )
            )
        seconds += clock.lap()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
            raise TrainingDiverged(
                f"weights stopped being finite in epoch {epoch + 1}; try another --seed, or another --model"
            )
        if epoch + 1 < epoch_count:
            tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            tensors |= {_MOMENTUM_PREFIX + name: tensor.clone() for name, tensor in momenta.items()}
            save(TrainingState(epoch + 1, seconds, tensors))
    return seconds


def learning_rate(recipe: Recipe, done_share: float) -> float:
    """Half a cosine up to the largest rate, half a cosine down to almost nothing (Smith, arXiv 1708.07120)."""
    lowest, final = recipe.largest_learning_rate / 25, recipe.largest_learning_rate / 25e4
    if done_share < recipe.warm_up_share:
        begin, end, share = lowest, recipe.largest_learning_rate, done_share / recipe.warm_up_share
    else:
        begin, end = recipe.largest_learning_rate, final
        share = (done_share - recipe.warm_up_share) / (1 - recipe.warm_up_share)
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2


def _mix(seed: int, epoch: int) -> int:
    """A seed of its own for every epoch; neighbouring seeds share no epoch's choices."""
    return (seed * 1_000_003 + epoch) % 2**63


def _batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Consecutive batches; a last one of a single sample is left out, since batch norm cannot normalise it."""
    for indices in order.split(batch_size):
        if len(indices) > 1 or len(order) == 1:
            yield indices


def _shifted(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Shift every image at random by up to `share` of its side, repeating its border."""
    reach = int(share * images.shape[-1])
    if reach == 0:
        return images
    n, _, height, width = images.shape
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    return torch.stack([padded[i, :, top[i] : top[i] + height, left[i] : left[i] + width] for i in range(n)])


def _restore(model: nn.Module, momenta: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(_MOMENTUM_PREFIX)}
    model.load_state_dict(weights)
    for name, momentum in momenta.items():
        momentum.copy_(tensors[_MOMENTUM_PREFIX + name])
