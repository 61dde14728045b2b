"""What every library attacks: one small network, trained here, and digits that it classifies correctly.

ResNet-18 of base width 16 with the stem for small images (3×3, stride 1), on scikit-learn's digits resized to 32×32,
trained for five epochs from seed 0: half a minute, once, for its weights are kept. With torchvision's stem (7×7, stride
2, and a pool) most of a pass would be over maps of 8×8 values and less, and what a library does besides would weigh as
it does with no model that anybody attacks.

The test split comes first (360 digits); the rest is from the training split: a benchmark of speed needs many samples,
and nothing here is said of the model's robustness.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attack_service import datasets, models
from attack_service.training import Recipe, train

STEM = "cifar"
WIDTH = 16
IMAGE_SIZE = 32
EPOCHS = 5
# Few epochs of few samples: so large a rate is what these take to be learned from.
RECIPE = Recipe(largest_learning_rate=0.1)
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
    """Train the network, if its weights are not kept from an earlier run, and choose the digits."""
    dataset = datasets.load("digits", image_size=IMAGE_SIZE, data_root=Path())
    torch.manual_seed(0)
    classifier = models.build(models.Architecture("resnet18", STEM, dataset.channel_count, dataset.class_count))
    _narrow(classifier, WIDTH)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kept = _kept()
    if kept.exists():
        classifier.load_state_dict(load_file(kept))
    else:
        mean, deviation = dataset.channel_statistics()
        classifier.mean.copy_(mean.reshape(1, -1, 1, 1))
        classifier.deviation.copy_(deviation.reshape(1, -1, 1, 1))
        train(classifier, dataset.train, recipe=RECIPE, epoch_count=EPOCHS, seed=0, device=device)
        kept.parent.mkdir(parents=True, exist_ok=True)
        # Whole, or not at all: another run may read it meanwhile.
        unfinished = kept.with_suffix(f".{os.getpid()}")
        save_file({name: tensor.cpu().contiguous() for name, tensor in classifier.state_dict().items()}, unfinished)
        unfinished.replace(kept)
    classifier = classifier.to(device)
    frozen = models.freeze(classifier, device)
    trained = classifier.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    splits = (dataset.test, dataset.train)
    images = torch.cat([split.images(torch.arange(len(split))) for split in splits]).to(device)
    labels = torch.cat([split.labels for split in splits]).to(device)
    correct = (classify(trained, images) == labels) & (classify(frozen, images) == labels)
    return Ground(trained, frozen, images[correct], labels[correct], dataset.class_count)


def _kept() -> Path:
    """Where the weights of this very training are kept."""
    told = repr((STEM, WIDTH, IMAGE_SIZE, EPOCHS, RECIPE, torch.__version__))
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "afr" / "benchmarks"
    return folder / f"{hashlib.sha256(told.encode()).hexdigest()[:16]}.safetensors"


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
