"""The networks have the asked first and last layers, and freezing one changes nothing but its speed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attack_service.models import Architecture, build, freeze, parameter_count

CPU = torch.device("cpu")


@pytest.mark.parametrize("channel_count", [1, 3])
@pytest.mark.parametrize(("stem", "kernel", "stride"), [("imagenet", (7, 7), (2, 2)), ("cifar", (3, 3), (1, 1))])
def test_the_first_and_last_layers_follow_the_architecture(
    channel_count: int, stem: str, kernel: tuple[int, int], stride: tuple[int, int]
) -> None:
    model = build(Architecture("resnet18", stem, channel_count, 7))
    convolution = model.network.conv1
    assert (convolution.in_channels, convolution.kernel_size, convolution.stride) == (channel_count, kernel, stride)
    assert model.eval()(torch.rand(2, channel_count, 32, 32)).shape == (2, 7)
    assert isinstance(model.network.maxpool, nn.MaxPool2d) == (stem == "imagenet")


def test_a_resnet50_for_one_channel_and_ten_classes_has_its_known_size() -> None:
    """torchvision documents 25 557 032 for three channels and a thousand classes; the first layer loses
    2 x 64 x 49 weights, the last one 990 x 2049."""
    model = build(Architecture("resnet50", "imagenet", 1, 10))
    assert parameter_count(model) == 25_557_032 - 2 * 64 * 49 - 990 * 2049


def test_normalisation_is_the_first_layer_and_travels_with_the_weights() -> None:
    model = build(Architecture("resnet18", "imagenet", 1, 10)).eval()
    images = torch.rand(2, 1, 32, 32)
    plain = model(images)
    model.mean.fill_(0.25)
    model.deviation.fill_(2.0)
    assert torch.allclose(model(images * 2 + 0.25), plain, atol=1e-5)
    assert {"mean", "deviation"} <= set(model.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_frozen_model_is_the_same_function_without_batch_norms_or_gradients(name: str) -> None:
    torch.manual_seed(0)
    model = build(Architecture(name, "imagenet", 1, 10)).train()
    images = torch.rand(16, 1, 32, 32)
    with torch.no_grad():
        # Batch norms as training leaves them: no branch is nothing, no mean zero.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
        model(images)
        frozen = freeze(model, CPU)
        expected = model.eval()(images)
        assert torch.allclose(frozen(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not frozen.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize(
    ("stem", "channel_count", "image_size"), [("imagenet", 3, 224), ("imagenet", 1, 33), ("cifar", 4, 32)]
)
def test_every_depth_takes_any_channels_and_size_with_either_stem(
    depth: int, stem: str, channel_count: int, image_size: int
) -> None:
    """On the device that computes shapes and nothing else."""
    with torch.device("meta"):
        model = build(Architecture(f"resnet{depth}", stem, channel_count, 5)).eval()
        assert model(torch.rand(2, channel_count, image_size, image_size)).shape == (2, 5)
    # A weighted layer is a convolution or the last, linear one; those of the shortcuts do not count.
    layers = [name for name, one in model.named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert sum("downsample" not in name for name in layers) == depth
