"""Models: torchvision's ResNets for small images, and the form in which they are attacked."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@dataclass(frozen=True, slots=True)
class Architecture:
    """What determines the shape of a network. `stem` is `imagenet` (7x7, stride 2) or `cifar` (3x3, stride 1)."""

    model: str
    stem: str
    channel_count: int
    class_count: int


class Classifier(nn.Module):
    """A network that takes images in [0, 1], float32, (n, channels, height, width), and returns (n, classes) logits.

    Normalisation is its first layer, so that an attacker's budget is in units of the images. The mean and the
    standard deviation of each channel are buffers: they travel with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, channel_count: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.zeros(1, channel_count, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channel_count, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network((images - self.mean) / self.deviation))


def build(architecture: Architecture) -> Classifier:
    """A freshly initialised classifier, channels last. Draws from torch's global random generator."""
    network: Any = torchvision.models.get_model(
        architecture.model,
        weights=None,
        num_classes=architecture.class_count,
        # Residual branches start as nothing: deep networks train from the first step instead of diverging.
        zero_init_residual=True,
    )
    if architecture.stem == "cifar":
        network.conv1 = nn.Conv2d(architecture.channel_count, 64, 3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    else:
        network.conv1 = nn.Conv2d(architecture.channel_count, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    classifier = Classifier(network, architecture.channel_count)
    return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def parameter_count(model: nn.Module) -> int:
    """The number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def freeze(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a model to attack: in evaluation mode, on the device, without gradients of its weights.

    Batch norms are folded into the convolutions before them, which is the same function up to rounding and takes a
    fifth of the time off every pass; gradients of weights would be a third of an attack's time, and nobody needs them.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(frozen.modules()):
        _fold_batch_norms(module)
    return frozen.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold every batch norm among a module's children that directly follows a convolution.

    torchvision registers `conv1, bn1, conv2, bn2, …` and `downsample = Sequential(conv, bn)` in the order in which
    they are applied; any other order is left alone.
    """
    previous_name, previous = "", None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(previous, nn.Conv2d):
            setattr(module, previous_name, fuse_conv_bn_eval(previous, child).requires_grad_(False))
            setattr(module, name, nn.Identity())
        previous_name, previous = name, child
