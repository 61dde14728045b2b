"""Training a classifier from scratch, an epoch at a time, so that it can stop and go on without a trace.

Every random choice of an epoch derives from the seed and the epoch, and the state between two epochs is the weights,
their momentum and the best weights so far: a training that was killed goes on from its last finished epoch and ends
with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attack_service.checkpoints import Standing, TrainingState
from attack_service.clocks import DeviceClock
from attack_service.datasets import Split
from attack_service.errors import TrainingDiverged

Perturb = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""How a defence changes the images of a batch that the model is then trained on: (model, images, labels, generator).

It is given the model in evaluation mode and images in [0, 1] on the model's device, and must return such images. It may
ask for gradients of the images, draws from the generator alone, and leaves the weights as they are.
"""

_MOMENTUM_PREFIX = "momentum."
_BEST_PREFIX = "best."
_RECENT = 0.9  # the weight of the past in the running loss and accuracy: about the latest ten steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained: stochastic gradient descent with momentum, the learning rate up and down once.

    `shift_share` is the largest random shift of an image, as a share of its side, and `flipped` mirrors half of the
    images left to right. `held_out_share` of the training samples are not trained on but watched: once `patience`
    epochs in a row were no better on them than the best, training ends, and the best epoch's weights are the model.
    Patience begins when the learning rate has fallen by half, since until then a model hardly improves and would be
    stopped before it does; nothing is held out of a training too short for it to run out. `bfloat16_on_gpu` is mixed
    precision, on a GPU alone. Change `version` with the code that the numbers here do not describe: stored models are
    looked up by all of these.
    """

    batch_size: int = 32
    largest_learning_rate: float = 0.02
    warm_up_share: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift_share: float = 0.0
    flipped: bool = False
    held_out_share: float = 0.1
    patience: int = 5
    bfloat16_on_gpu: bool = True
    version: int = 2

    def patient_from(self, epoch_count: int) -> int:
        """The number of epochs after which patience begins."""
        return math.ceil(epoch_count * (1 + self.warm_up_share) / 2)


# Photographs and clothes mean the same in a mirror, digits do not; of a user's own images nobody knows.
_AUGMENTING = {
    "fashion-mnist": Recipe(shift_share=0.08, flipped=True),
    "cifar10": Recipe(shift_share=0.125, flipped=True),
    "cifar100": Recipe(shift_share=0.125, flipped=True),
    "imagefolder": Recipe(shift_share=0.08),
}


def recipe_for(dataset: str) -> Recipe:
    """The recipe for a dataset, of which nothing but the augmentation depends on it."""
    return _AUGMENTING.get(dataset.partition(":")[0], Recipe())


@dataclass(frozen=True, slots=True)
class Training:
    """What a training has spent: synchronised device seconds, epochs, distinct samples trained on.

    `evaluation_count` counts forward and backward evaluations, a sample each, of whatever asked for them: training,
    the defence that perturbs its images, and the watch on the samples held out.
    """

    seconds: float
    epoch_count: int
    sample_count: int
    evaluation_count: int


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
    perturb: Perturb | None = None,
    resumed: TrainingState | None = None,
    save: Callable[[TrainingState], None] = lambda state: None,
    report: Callable[[TrainingStep], None] = lambda step: None,
    canceled: Callable[[], bool] = lambda: False,
) -> Training | None:
    """Train in place, for `epoch_count` epochs at most; return what it cost, or None if canceled.

    `resumed` is what `save`, called after every epoch but the last, was given by an earlier run; its cost counts, and
    so does that of `perturb`. Raises `TrainingDiverged` when the loss or the weights stop being finite.
    """
    model.to(device).train()
    trained_on, held_out = _divided(len(split), recipe, epoch_count, seed)
    precision = _Precision(device, recipe)
    parameters = dict(model.named_parameters())
    momenta = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    seconds, first_epoch, spent_before = 0.0, 0, 0
    best, best_weights = Standing(), _weights(model) if len(held_out) else {}
    if resumed is not None:
        seconds, first_epoch, spent_before = resumed.seconds, resumed.epoch, resumed.evaluation_count
        best, best_weights = resumed.best, _restore(model, momenta, resumed.tensors)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    for name, parameter in parameters.items():
        optimizer.state[parameter]["momentum_buffer"] = momenta[name]
    steps_per_epoch = len(list(_batches(trained_on, recipe.batch_size)))
    step_count, patient_from = epoch_count * steps_per_epoch, recipe.patient_from(epoch_count)
    step = first_epoch * steps_per_epoch
    clock, begin, first_step = DeviceClock(device), time.perf_counter(), step
    loss_now, accuracy_now, weight = 0.0, 0.0, 0.0
    with _counting(model) as spent:
        for epoch in range(first_epoch, epoch_count):
            generator = torch.Generator().manual_seed(_mix(seed, epoch))
            clock.restart()
            order = trained_on[torch.randperm(len(trained_on), generator=generator)]
            for indices in _batches(order, recipe.batch_size):
                if canceled():
                    return None
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step / step_count)
                images = _augmented(split.images(indices), recipe, generator).to(device)
                labels = split.labels[indices].to(device)
                images = images.contiguous(memory_format=torch.channels_last)
                if perturb is not None:
                    # Its evaluations must not move the running statistics of batch norm.
                    model.eval()
                    with precision():
                        images = perturb(model, images, labels, generator).detach()
                    model.train()
                with precision():
                    logits = model(images)
                    loss = F.cross_entropy(logits, labels)
                # After the forward evaluation: the backward one takes the memory that this frees, not new pages.
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
                remaining = pace * (step_count - step)
                report(TrainingStep(step, step_count, epoch + 1, loss_now / weight, accuracy_now / weight, remaining))
            if len(held_out):
                standing = _standing(model, split, held_out, epoch + 1, recipe, precision, device)
                if standing.better_than(best):
                    best, best_weights = standing, _weights(model)
            seconds += clock.lap()
            if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
                raise TrainingDiverged(
                    f"weights stopped being finite in epoch {epoch + 1}; try another --seed, or another --model"
                )
            done = epoch + 1
            if done == epoch_count or (len(held_out) and done - max(best.epoch, patient_from) >= recipe.patience):
                break
            tensors = _weights(model)
            tensors |= {_MOMENTUM_PREFIX + name: tensor.clone() for name, tensor in momenta.items()}
            tensors |= {_BEST_PREFIX + name: tensor for name, tensor in best_weights.items()}
            save(TrainingState(done, seconds, tensors, spent_before + spent.count, best))
    if len(held_out):
        model.load_state_dict(best_weights)
    return Training(seconds, done, len(trained_on), spent_before + spent.count)


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


def _divided(sample_count: int, recipe: Recipe, epoch_count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The samples to train on and those to hold out, drawn from the seed."""
    held_out_count = int(recipe.held_out_share * sample_count)
    if held_out_count == 0 or recipe.patient_from(epoch_count) + recipe.patience >= epoch_count:
        return torch.arange(sample_count), torch.arange(0)
    order = torch.randperm(sample_count, generator=torch.Generator().manual_seed(_mix(seed, -1)))
    return order[held_out_count:].sort().values, order[:held_out_count].sort().values


@torch.no_grad()
def _standing(
    model: nn.Module,
    split: Split,
    held_out: Tensor,
    epoch: int,
    recipe: Recipe,
    precision: _Precision,
    device: torch.device,
) -> Standing:
    """How the model stands on the samples held out; it is left in training mode."""
    model.eval()
    correct, loss = 0, 0.0
    for indices in held_out.split(recipe.batch_size):
        labels = split.labels[indices].to(device)
        with precision():
            logits = model(split.images(indices).to(device))
        correct += int((logits.argmax(dim=1) == labels).sum())
        loss += float(F.cross_entropy(logits.float(), labels, reduction="sum"))
    model.train()
    return Standing(epoch, correct, loss / len(held_out))


class _Precision:
    """Where forward evaluations of training run: in bfloat16 as far as that is safe on a GPU, in float32 on a CPU."""

    def __init__(self, device: torch.device, recipe: Recipe) -> None:
        self._device_type = device.type
        self._mixed = precision_name(device, recipe) == "bfloat16"

    def __call__(self) -> torch.autocast:
        return torch.autocast(self._device_type, dtype=torch.bfloat16, enabled=self._mixed)


def precision_name(device: torch.device, recipe: Recipe) -> str:
    """What training computes in: `bfloat16` is torch's automatic mixed precision."""
    return "bfloat16" if device.type == "cuda" and recipe.bfloat16_on_gpu else "float32"


class _Count:
    """Forward and backward evaluations, a sample each."""

    count: int = 0


@contextmanager
def _counting(model: nn.Module) -> Iterator[_Count]:
    """Count what is asked of a model: a forward for every row it is given, a backward where gradients come back."""
    spent = _Count()

    def forward(_: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        rows = len(inputs[0])
        spent.count += rows
        if logits.requires_grad:

            def backward(_: Tensor) -> None:
                spent.count += rows

            logits.register_hook(backward)

    handle = model.register_forward_hook(forward)
    try:
        yield spent
    finally:
        handle.remove()


def _augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    images = _shifted(images, recipe.shift_share, generator)
    if recipe.flipped:
        mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(-1), images)
    return images


def _shifted(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Shift every image at random by up to `share` of its side, repeating its border."""
    reach = int(share * images.shape[-1])
    if reach == 0:
        return images
    n, channels, height, width = images.shape
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    top, left = torch.randint(0, 2 * reach + 1, (2, n), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _restore(model: nn.Module, momenta: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put a state back into the model and its momenta; return the best weights, if any were kept."""
    prefixes = (_MOMENTUM_PREFIX, _BEST_PREFIX)
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)})
    for name, momentum in momenta.items():
        momentum.copy_(tensors[_MOMENTUM_PREFIX + name])
    return {
        name.removeprefix(_BEST_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(_BEST_PREFIX)
    }
