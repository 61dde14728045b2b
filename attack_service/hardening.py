"""Defences that act in training: what they do to the images of a batch before the model learns from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from attack_service.attacks.losses import doubt
from attack_service.attacks.randomness import normal, sample_keys, uniform

# (model, images in [0, 1], labels, generator of the epoch) -> images in [0, 1]
Hardening = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]

_AUGMENTED_SHARE = 0.5
# All steps together are this many times epsilon long: from any start PGD reaches any point of the ball.
_LENGTH_SHARE = 2.5


def harden(name: str, parameters: Mapping[str, float], *, seed: int) -> Hardening | None:
    """What the defence of this name does to a batch of training images; None if it does not act in training.

    Random choices are drawn from the seed and the generator: the same for the same epoch, unrelated for another seed.
    """
    if name == "gaussian-augmentation":
        return _Augmentation(parameters["deviation"], seed)
    if name == "adversarial-training":
        return _Adversary(parameters["epsilon"], int(parameters["iterations"]), parameters["share"], seed)
    return None


class _Augmentation:
    """Gaussian noise on a random half of the batch, clipped to [0, 1]."""

    def __init__(self, deviation: float, seed: int) -> None:
        self._deviation = deviation
        self._seed = seed

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        rows = _some_rows(len(images), _AUGMENTED_SHARE, generator).to(images.device)
        keys = _keys(self._seed, generator, len(rows), images.device)
        noise = normal(keys, 0, images[0].numel()).reshape(images[rows].shape)
        changed = images.clone()
        changed[rows] = (images[rows] + self._deviation * noise).clamp(0, 1)
        return changed


class _Adversary:
    """PGD in the norm inf from a random start, against the model as it stands (Madry et al., arXiv 1706.06083).

    The model is in evaluation mode: that is the function that will be attacked. In training mode batch norm would make
    the adversarial of one sample depend on the others, and its running statistics would be those of PGD's iterates.
    """

    def __init__(self, epsilon: float, iteration_count: int, share: float, seed: int) -> None:
        self._epsilon = epsilon
        self._step_size = min(epsilon, _LENGTH_SHARE * epsilon / iteration_count)
        self._iteration_count = iteration_count
        self._share = share
        self._seed = seed

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        rows = _some_rows(len(images), self._share, generator).to(images.device)
        originals, own_labels = images[rows], labels[rows]
        keys = _keys(self._seed, generator, len(rows), images.device)
        start = (2 * uniform(keys, 0, images[0].numel()) - 1).reshape(originals.shape)
        current = (originals + self._epsilon * start).clamp(0, 1)
        for _ in range(self._iteration_count):
            leaf = current.detach().requires_grad_(True)
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(doubt(model(leaf), own_labels).sum(), leaf)
            stepped = current + self._step_size * gradient.sign()
            nearest = (stepped - originals).clamp(-self._epsilon, self._epsilon)
            current = (originals + nearest).clamp(0, 1)
        changed = images.clone()
        changed[rows] = current
        return changed


def _some_rows(n: int, share: float, generator: torch.Generator) -> Tensor:
    """A random share of n rows, at least one, drawn on the CPU: the same on every device."""
    return torch.randperm(n, generator=generator)[: max(1, round(share * n))]


def _keys(seed: int, generator: torch.Generator, n: int, device: torch.device) -> Tensor:
    """Keys for n rows. Of a seed a generator keeps 32 bits only: the key keeps all of them."""
    drawn = int(torch.randint(2**62, (1,), generator=generator))
    return sample_keys(seed, range(n), f"hardening:{drawn}", device)
