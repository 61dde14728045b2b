"""Defences around a frozen model, in the form in which they are attacked.

The attacker knows the defence (Carlini et al., arXiv 1902.06705): gradients pass through it. A defence that answers by
chance is attacked in expectation, through the mean of some of its answers; one that rounds is differentiated as if it
did not. Athalye, Carlini and Wagner (arXiv 1802.00420) call the one EOT, the other BPDA with the identity, or
straight-through. What a defence draws for an image depends on its seed and the image alone, so that no row influences
another and a restarted attack sees what the first one saw. Of a defence that acts in training only (`hardening`)
nothing is left here but the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

from attack_service.attacks.randomness import mix, normal
from attack_service.known_defences import answer_price

# From this depth on a float32 in [0, 1] has no more bits to lose.
_FULL_DEPTH = 24


class Target(nn.Module):
    """What is attacked: a frozen model and the defence around it. Of itself, the model without a defence.

    `randomized` says that the defence answers by chance. `repeat_count` is how many forward evaluations of the model
    one answer costs the attacker: 1, or, of a defence that answers by chance, the number of answers that are averaged.
    `rounds` says that the least change of an image may be a step for the model.
    """

    randomized: bool = False
    rounds: bool = False
    repeat_count: int = 1

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, height, width) in [0, 1], differentiable by the images."""
        return cast(Tensor, self.model(images))

    def abstains(self, logits: Tensor) -> Tensor:
        """Whether the defence gives no answer, (n, classes) -> (n); False everywhere if it always gives one."""
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)


def defend(
    model: nn.Module, name: str, parameters: Mapping[str, float], *, seed: int, access: str = "decisions"
) -> Target:
    """The model behind the defence of this name; parameters are those that `catalog.resolve` has checked.

    `access` is what the attacker sees of the model (`known_defences.answer_price` says why that matters).
    Raises `KeyError` for a defence that the catalogue does not know.
    """
    if name in ("none", "gaussian-augmentation", "adversarial-training"):
        return Target(model)
    if name == "gaussian-noise":
        noisy = _NoisyOutput(model, parameters["deviation"], int(parameters["repeats"]), seed)
        noisy.repeat_count = answer_price(name, parameters, access)
        return noisy
    if name == "high-confidence":
        return _HighConfidence(model, parameters["cutoff"])
    transforms: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
        "feature-squeezing": lambda: _Squeezing(int(parameters["bit_depth"])),
        "jpeg": lambda: _Jpeg(int(parameters["quality"])),
        "spatial-smoothing": lambda: _Smoothing(int(parameters["window"])),
    }
    preprocessed = _Preprocessed(model, transforms[name]())
    preprocessed.rounds = name != "spatial-smoothing"
    return preprocessed


class _NoisyOutput(Target):
    """Gaussian noise on the logits, as the paper (arXiv 2401.13751) has it: the mean of some answers.

    How the noise changes with the image has no slope to follow: the gradient is that of the model.
    """

    randomized = True

    def __init__(self, model: nn.Module, deviation: float, draw_count: int, seed: int) -> None:
        super().__init__(model)
        self._deviation = deviation
        self._draw_count = draw_count
        digest = hashlib.sha256(f"gaussian-noise:{seed}".encode()).digest()
        self._base = int.from_bytes(digest[:8], "big", signed=True)

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        noise = self._noise(images.detach(), logits.shape[1])
        return logits + noise.to(logits.dtype)

    @torch.no_grad()
    def _noise(self, images: Tensor, class_count: int) -> Tensor:
        repeats = torch.arange(self._draw_count, device=images.device)
        keys = mix((fingerprints(images) + self._base)[:, None] + mix(repeats))
        draws = normal(keys.flatten(), 0, class_count).reshape(len(images), self._draw_count, class_count)
        return self._deviation * draws.mean(dim=1)


def fingerprints(images: Tensor) -> Tensor:
    """A 64-bit number of each image's own bits, (n, …) -> (n), int64: the same for the same image in any batch."""
    # Adding zero makes one zero of the two.
    bits = (images.flatten(1).float() + 0.0).contiguous().view(torch.int32).long()
    places = mix(torch.arange(bits.shape[1], device=images.device))
    return mix(mix(bits + places).sum(dim=1))


class _HighConfidence(Target):
    """Abstains where the largest softmax probability lies below the cutoff."""

    def __init__(self, model: nn.Module, cutoff: float) -> None:
        super().__init__(model)
        self._cutoff = cutoff

    def abstains(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1).amax(dim=1) < self._cutoff


class _Preprocessed(Target):
    """Changes the image before the model sees it."""

    def __init__(self, model: nn.Module, transform: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model)
        self._transform = transform

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(self._transform(images))


class _StraightThrough(torch.autograd.Function):
    """A transform that has no useful gradient, with that of the identity."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        return change(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def _straight_through(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    changed: Tensor = _StraightThrough.apply(images, change)  # type: ignore[no-untyped-call]
    return changed


class _Squeezing:
    """Rounds every value to one of 2^depth levels (Xu, Evans and Qi, arXiv 1704.01155); straight-through gradients."""

    def __init__(self, bit_depth: int) -> None:
        self._bit_depth = bit_depth

    def __call__(self, images: Tensor) -> Tensor:
        return images if self._bit_depth >= _FULL_DEPTH else _straight_through(images, self._round)

    def _round(self, images: Tensor) -> Tensor:
        largest = 2**self._bit_depth - 1
        return images.mul(largest).round().div(largest)


class _Jpeg:
    """Compresses and decompresses (Dziugaite, Ghahramani and Roy, arXiv 1608.00853); straight-through gradients.

    The codec is libjpeg on the CPU on every device: others round otherwise. Images of one channel are compressed as
    grey ones, of three as colours (with half the resolution of the colour differences, libjpeg's default), of another
    number channel by channel.
    """

    def __init__(self, quality: int) -> None:
        self._quality = quality

    def __call__(self, images: Tensor) -> Tensor:
        return _straight_through(images, self._compress)

    def _compress(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            return torch.cat([self._compress(channel) for channel in images.split(1, dim=1)], dim=1)
        mode = ImageReadMode.GRAY if images.shape[1] == 1 else ImageReadMode.RGB
        levels = (images * 255).round().clamp(0, 255).to("cpu", torch.uint8)
        pictures = [decode_jpeg(encode_jpeg(picture.contiguous(), self._quality), mode) for picture in levels]
        return (torch.stack(pictures).to(images) / 255).to(images.dtype)


class _Smoothing:
    """The median of a square window around every value (Xu, Evans and Qi, arXiv 1704.01155), borders mirrored.

    Its gradient is its own: it goes to the value that is the median, the first in the window of equal ones.
    """

    def __init__(self, window: int) -> None:
        self._window = window

    def __call__(self, images: Tensor) -> Tensor:
        reach = self._window // 2
        mirrored = _mirrored(_mirrored(images, reach, 2), reach, 3)
        medians: Tensor = _Median.apply(mirrored, self._window)  # type: ignore[no-untyped-call]
        return medians


class _Median(torch.autograd.Function):
    """The median of every window of an image. Torch's own is slow, and on CUDA chooses among equal values by chance."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, window: int) -> Tensor:
        planes = _shifted(images, window)
        median = _middle(planes)
        place = torch.zeros_like(median, dtype=torch.uint8)
        for number in range(len(planes) - 1, -1, -1):
            place = torch.where(planes[number] == median, number, place)
        ctx.window, ctx.shape = window, images.shape
        ctx.save_for_backward(place)
        return median

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        found = gradient.new_zeros(ctx.shape)
        for number, plane in enumerate(_shifted(found, ctx.window)):
            plane += gradient * (place == number)
        return found, None


def _shifted(images: Tensor, window: int) -> list[Tensor]:
    """Views of an image, one for each place in a window: together they are the windows around its inner values."""
    height, width = images.shape[2] - window + 1, images.shape[3] - window + 1
    return [images[:, :, y : y + height, x : x + width] for y in range(window) for x in range(window)]


def _middle(planes: list[Tensor]) -> Tensor:
    """The median of an odd number of tensors, 9 or more, value by value.

    Among half of them and two more, the median is neither the least nor the greatest: both go, and the next one comes.
    """
    half = len(planes) // 2 + 2
    candidates, waiting = planes[:half], planes[half:]
    while len(candidates) > 1:
        for i in range(1, len(candidates)):
            first, other = candidates[0], candidates[i]
            candidates[0], candidates[i] = torch.minimum(first, other), torch.maximum(first, other)
        for i in range(1, len(candidates) - 1):
            last, other = candidates[-1], candidates[i]
            candidates[-1], candidates[i] = torch.maximum(last, other), torch.minimum(last, other)
        candidates = candidates[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return candidates[0]


def _mirrored(images: Tensor, reach: int, side: int) -> Tensor:
    """Images longer by `reach` at both ends of a side. Torch's own padding sums its gradients in any order on CUDA."""
    length = images.shape[side]
    before, after = images.narrow(side, 1, reach), images.narrow(side, length - reach - 1, reach)
    return torch.cat([before.flip(side), images, after.flip(side)], dim=side)
