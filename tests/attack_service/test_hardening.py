"""What training defences do to a batch: as much as they say, to as many rows as they say, by the seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attack_service import datasets
from attack_service.hardening import harden
from attack_service.training import Recipe, train

CPU = torch.device("cpu")


class LinearModel(nn.Module):
    """Two classes, logits (0, w·x), where w is -1, 1, -1, 1, …"""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weights = torch.arange(size) % 2 * 2 - 1.0

    def forward(self, images: Tensor) -> Tensor:
        scores = images.flatten(1) @ self.weights
        return torch.stack([torch.zeros_like(scores), scores], dim=1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(name: str, images: Tensor, *, seed: int = 1, draw: int = 0, **parameters: float) -> Tensor:
    hardening = harden(name, parameters, seed=seed)
    assert hardening is not None
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(
            torch.stack([torch.zeros(images[0].numel()), torch.arange(images[0].numel()) % 2 * 2 - 1.0])
        )
    return hardening(model, images, torch.ones(len(images), dtype=torch.int64), generator(draw))


def rows_changed(before: Tensor, after: Tensor) -> int:
    return int((before != after).flatten(1).any(dim=1).sum())


def test_half_of_a_batch_gets_normal_noise_of_the_asked_deviation() -> None:
    """Grey images are far enough from 0 and 1 that nothing is clipped."""
    images = torch.full((100, 1, 16, 16), 0.5)
    noisy = perturbed("gaussian-augmentation", images, deviation=0.05)
    assert rows_changed(images, noisy) == 50
    noise = (noisy - images)[(noisy != images).flatten(1).any(dim=1)]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.03)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.002)


def test_noise_is_clipped_to_the_box_of_images() -> None:
    images = torch.rand(20, 1, 8, 8, generator=generator())
    noisy = perturbed("gaussian-augmentation", images, deviation=1.0)
    assert float(noisy.min()) == 0.0
    assert float(noisy.max()) == 1.0


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gaussian-augmentation", {"deviation": 0.1}),
        ("adversarial-training", {"epsilon": 0.1, "iterations": 1.0, "share": 1.0}),
    ],
)
def test_the_same_draw_gives_the_same_bits_and_no_other_seed_or_draw_does(
    name: str, parameters: dict[str, float]
) -> None:
    """Also for seeds that differ in their high bits alone, of which a generator of torch keeps none."""
    images = torch.full((8, 1, 8, 8), 0.5)
    found = perturbed(name, images, **parameters)
    assert torch.equal(found, perturbed(name, images, **parameters))
    for seed, draw in ((2, 0), (1 + 2**32, 0), (1 + 2**63, 0), (1, 1)):
        assert not torch.equal(found, perturbed(name, images, seed=seed, draw=draw, **parameters))


def test_the_adversary_of_a_linear_model_is_the_corner_of_the_ball_that_loses_most() -> None:
    """The loss of class 1 rises along -w everywhere, so PGD ends at x - epsilon sign(w), clipped to the box."""
    images = torch.rand(10, 1, 4, 4, generator=generator())
    found = perturbed("adversarial-training", images, epsilon=0.1, iterations=5.0, share=1.0)
    weights = (torch.arange(16) % 2 * 2 - 1.0).reshape(1, 1, 4, 4)
    assert torch.allclose(found, (images - 0.1 * weights).clamp(0, 1), atol=1e-6)


def test_a_share_of_the_batch_is_attacked_and_never_beyond_epsilon() -> None:
    images = torch.rand(20, 1, 8, 8, generator=generator())
    found = perturbed("adversarial-training", images, epsilon=0.03, iterations=1.0, share=0.25)
    assert rows_changed(images, found) == 5
    assert float((found - images).abs().max()) <= 0.03 + 1e-6
    assert (
        rows_changed(
            images[:1], perturbed("adversarial-training", images[:1], epsilon=0.03, iterations=1.0, share=0.01)
        )
        == 1
    )


@pytest.mark.parametrize("name", ["none", "gaussian-noise", "high-confidence", "feature-squeezing", "jpeg"])
def test_other_defences_leave_training_alone(name: str) -> None:
    assert harden(name, {}, seed=0) is None


def test_training_against_an_adversary_makes_attacks_harder(tmp_path: Path) -> None:
    """A small network that tells threes from eights: after adversarial training fewer fall to one step of that size."""
    split = datasets.load("digits", image_size=8, data_root=tmp_path).train
    chosen = torch.isin(split.labels, torch.tensor([3, 8])).nonzero().flatten()
    subset = replace(split, pixels=split.pixels[chosen], labels=(split.labels[chosen] == 8).long())
    images, labels = subset.images(torch.arange(len(subset))), subset.labels
    recipe = Recipe(largest_learning_rate=0.2, held_out_share=0.0)
    fallen = {}
    for name in ("none", "adversarial-training"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2))
        perturb = harden(name, {"epsilon": 0.15, "iterations": 2.0, "share": 1.0}, seed=0)
        spent = train(model, subset, recipe=recipe, epoch_count=6, seed=0, device=CPU, perturb=perturb)
        assert spent is not None
        # Forward and backward, each step of the adversary as each step of training.
        assert spent.evaluation_count == 6 * len(subset) * 2 * (1 if perturb is None else 3)
        leaf = images.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(model.eval()(leaf), labels), leaf)
        moved = (images + 0.15 * gradient.sign()).clamp(0, 1)
        assert float((model(images).argmax(dim=1) == labels).float().mean()) > 0.9
        fallen[name] = float((model(moved).argmax(dim=1) != labels).float().mean())
    assert fallen["adversarial-training"] < fallen["none"] - 0.1
