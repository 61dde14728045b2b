"""What every library attacks: one small network, trained here, and digits that it classifies correctly.

ResNet-18 of base width 16 with torchvision's stem, on scikit-learn's digits resized to 32×32, trained for six epochs
from seed 0. The test split comes first (360 digits); the rest is from the training split: a benchmark of speed needs
many samples, and nothing here is said of the model's robustness.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attack_service import datasets, models
from attack_service.training import Recipe, train

WIDTH = 16
IMAGE_SIZE = 32
EPOCHS = 6
SLOTS = 64


@dataclass(frozen=True, slots=True)
class Ground:
    """`trained` is the model as it was trained, in evaluation mode and in torch's default memory format, as a
    checkpoint is loaded; `frozen` is the same as our attacks see it.

    `images` (n, 1, 32, 32) in [0, 1] and `labels` (n) are all the digits that both classify correctly.
    """

    trained: nn.Module
    frozen: nn.Module
    images: Tensor
    labels: Tensor
    class_count: int


def prepare(device: torch.device) -> Ground:
    """Train the network (seconds) and choose the digits."""
    dataset = datasets.load("digits", image_size=IMAGE_SIZE, data_root=Path())
    torch.manual_seed(0)
    classifier = models.build(models.Architecture("resnet18", "imagenet", dataset.channel_count, dataset.class_count))
    _narrow(classifier, WIDTH)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, deviation = dataset.channel_statistics()
    classifier.mean.copy_(mean.reshape(1, -1, 1, 1))
    classifier.deviation.copy_(deviation.reshape(1, -1, 1, 1))
    train(classifier, dataset.train, recipe=Recipe(), epoch_count=EPOCHS, seed=0, device=device)
    frozen = models.freeze(classifier, device)
    trained = classifier.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    splits = (dataset.test, dataset.train)
    images = torch.cat([split.images(torch.arange(len(split))) for split in splits]).to(device)
    labels = torch.cat([split.labels for split in splits]).to(device)
    correct = (classify(trained, images) == labels) & (classify(frozen, images) == labels)
    return Ground(trained, frozen, images[correct], labels[correct], dataset.class_count)


@torch.no_grad()
def answers(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (n, classes)."""
    return torch.cat([model(batch) for batch in images.split(SLOTS)])


def classify(model: nn.Module, images: Tensor) -> Tensor:
    return answers(model, images).argmax(dim=1)


def _narrow(module: nn.Module, width: int) -> None:
    """Replace a ResNet's layers by those of another base width, initialised as torchvision does."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Conv2d):
            input_count = child.in_channels if child.in_channels < 64 else child.in_channels * width // 64
            shape = (child.kernel_size, child.stride, child.padding)
            narrow = nn.Conv2d(input_count, child.out_channels * width // 64, *shape, bias=False)
            nn.init.kaiming_normal_(narrow.weight, mode="fan_out", nonlinearity="relu")
            setattr(module, name, narrow)
        elif isinstance(child, nn.BatchNorm2d):
            norm = nn.BatchNorm2d(child.num_features * width // 64)
            nn.init.constant_(norm.weight, float(child.weight.detach()[0]))
            setattr(module, name, norm)
        elif isinstance(child, nn.Linear):
            setattr(module, name, nn.Linear(child.in_features * width // 64, child.out_features))
        else:
            _narrow(child, width)
