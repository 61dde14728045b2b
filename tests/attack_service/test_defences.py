"""Defences do what they say, to every image alone, and the gradients through them are those they claim."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from attack_service.attacks.losses import doubt
from attack_service.catalog import ATTACKS, DEFENCES, count_maxima, resolve
from attack_service.defences import Target, defend, fingerprints
from attack_service.errors import InvalidSpecification
from attack_service.jobs import AttackSpec
from attack_service.known_defences import answer_price

RUNTIME = [name for name, defence in DEFENCES.items() if name != "none" and not defence.trains]


class Network(nn.Module):
    """A small smooth network whose gradient is zero nowhere; rows of a product are the same bits in every batch."""

    def __init__(self, channel_count: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.weights = torch.randn(5, channel_count * 64, generator=generator) / 8

    def forward(self, images: Tensor) -> Tensor:
        rows = [(self.weights * torch.tanh(row)).sum(dim=1) for row in images.flatten(1)]
        return torch.stack(rows) + images.flatten(1).square().mean(dim=1, keepdim=True)


class Echo(nn.Module):
    """A model whose logits are the values of its images: what comes out is what a defence has put in."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def some_images(n: int = 6, channel_count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channel_count, 8, 8, generator=torch.Generator().manual_seed(seed))


def defended(name: str, model: nn.Module | None = None, *, seed: int = 1, **parameters: float) -> Target:
    chosen = resolve(AttackSpec("resnet18", "", "pgd", defence=name, defence_parameters=parameters))
    return defend(model or Network(), name, chosen.defence_parameters, seed=seed)


def shown(name: str, images: Tensor, **parameters: float) -> Tensor:
    """What the model sees of the images behind a defence."""
    return defended(name, Echo(), **parameters)(images).reshape(images.shape)


def gradient(target: nn.Module, images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(doubt(target(leaf), torch.zeros(len(leaf), dtype=torch.int64)).sum(), leaf)
    return found


@pytest.mark.parametrize("name", RUNTIME)
def test_no_row_influences_another_and_another_run_gives_the_same_bits(name: str) -> None:
    images = some_images()
    together = defended(name)(images)
    order = torch.tensor([4, 1, 3])
    assert torch.equal(defended(name)(images[order].clone(memory_format=torch.channels_last)), together[order])
    assert torch.equal(defended(name)(images[2:3]), together[2:3])
    with torch.inference_mode():
        assert torch.equal(defended(name)(images), together)
    assert torch.equal(gradient(defended(name), images)[order], gradient(defended(name), images[order]))


@pytest.mark.parametrize("name", ["none", "gaussian-augmentation", "adversarial-training", "high-confidence"])
def test_without_a_defence_that_changes_answers_the_logits_are_those_of_the_model(name: str) -> None:
    target = defended(name)
    assert torch.equal(target(some_images()), Network()(some_images()))
    assert (target.randomized, target.repeat_count) == (False, 1)


def test_only_a_confident_answer_is_given() -> None:
    """Two classes, logits (0, d): the larger probability is 1 / (1 + e^-|d|), so 0.9 is reached at |d| = ln 9."""
    logits = torch.tensor([[0.0, math.log(9) - 0.01], [0.0, math.log(9) + 0.01], [0.0, -3.0], [0.0, 0.0]])
    assert defended("high-confidence", cutoff=0.9).abstains(logits).tolist() == [True, False, False, True]
    assert not defended("none").abstains(logits).any()
    assert not defended("jpeg").abstains(logits).any()


# Gaussian noise on the output.


def test_the_noise_is_normal_and_its_deviation_falls_with_the_root_of_the_repeats() -> None:
    """4000 images x 5 classes: the standard error of a standard deviation is 1 / sqrt(2 n) = 0.5 %, of a mean 0.7 %."""
    images = torch.rand(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5, bias=False)).requires_grad_(False)
    for repeats in (1, 16):
        target = defended("gaussian-noise", model, deviation=0.5, repeats=repeats)
        noise = (target(images) - model(images)).double() * math.sqrt(repeats) / 0.5
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.03)
        assert float(noise.std()) == pytest.approx(1.0, rel=0.025)
        assert float((noise.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.015)
        # Neither classes nor images share their noise.
        assert float(torch.corrcoef(noise.T).triu(1).abs().max()) < 0.08
        assert abs(float((noise[1:, 0] * noise[:-1, 0]).mean())) < 0.08


def test_another_seed_and_the_least_change_of_the_image_draw_other_noise() -> None:
    images = some_images()
    drawn = defended("gaussian-noise", seed=1)(images) - Network()(images)
    other = defended("gaussian-noise", seed=2**63 + 1)(images) - Network()(images)
    assert (drawn - other).abs().min() > 1e-6
    changed = images.clone()
    changed[:, 0, 0, 0] = torch.nextafter(images[:, 0, 0, 0], torch.ones(()))
    moved = defended("gaussian-noise", seed=1)(changed) - Network()(changed)
    assert (drawn - moved).abs().min() > 1e-6


def test_the_gradient_of_noisy_answers_is_that_of_the_mean_answer() -> None:
    images = some_images()
    leaf = images.clone().requires_grad_(True)
    weights = torch.arange(5.0)
    (noisy,) = torch.autograd.grad((defended("gaussian-noise")(leaf) * weights).sum(), leaf)
    (plain,) = torch.autograd.grad((Network()(leaf) * weights).sum(), leaf)
    assert torch.equal(noisy, plain)


def test_an_averaged_answer_costs_its_repeats_unless_the_attacker_has_the_weights() -> None:
    parameters = {"deviation": 0.1, "repeats": 7.0}
    for access, price in (("decisions", 7), ("logits", 7), ("gradients", 1)):
        target = defend(Network(), "gaussian-noise", parameters, seed=0, access=access)
        assert (target.repeat_count, target.randomized) == (price, True)
        assert answer_price("gaussian-noise", parameters, access) == price
        # The answer is the same, whatever it costs.
        assert torch.equal(
            target(some_images()), defend(Network(), "gaussian-noise", parameters, seed=0)(some_images())
        )
    assert answer_price("jpeg", {"quality": 75}, "decisions") == 1


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_most_that_an_attack_may_spend_has_the_price_of_an_answer(attack: str) -> None:
    plain, noisy = (
        count_maxima(resolve(AttackSpec("resnet18", "", attack, defence=name, defence_parameters=parameters)))
        for name, parameters in (("none", {}), ("gaussian-noise", {"repeats": 7.0}))
    )
    price = 1 if ATTACKS[attack].access == "gradients" else 7
    assert noisy == (price * plain[0], plain[1])


def test_fingerprints_tell_images_apart_by_any_bit_and_by_place() -> None:
    images = some_images(2)
    swapped = images.flip(-1)
    zeros = torch.zeros(2, 3, 8, 8)
    zeros[1] = -0.0
    marks = fingerprints(torch.cat([images, swapped, zeros]))
    assert len(set(marks.tolist())) == 5
    assert marks[4] == marks[5]
    single = torch.zeros(192, 3, 8, 8)
    single.view(192, 192).fill_diagonal_(1.0)
    assert len(set(fingerprints(single).tolist())) == 192


# Feature squeezing.


def test_squeezing_leaves_two_to_the_depth_levels_and_moves_a_value_by_half_a_level_at_most() -> None:
    images = some_images(64)
    for depth in (1, 2, 4, 8):
        squeezed = shown("feature-squeezing", images, bit_depth=depth)
        levels = torch.linspace(0, 1, 2**depth)
        assert torch.allclose(squeezed.unique(), levels, atol=1e-7)
        assert (squeezed - images).abs().max() <= 0.5 / (2**depth - 1) + 1e-7
        assert torch.equal(shown("feature-squeezing", squeezed, bit_depth=depth), squeezed)


def test_squeezing_to_eight_bits_leaves_images_of_eight_bits_and_to_full_depth_all_as_they_are() -> None:
    eight = torch.arange(192).reshape(1, 3, 8, 8) / 255
    assert torch.allclose(shown("feature-squeezing", eight, bit_depth=8), eight, atol=1e-7)
    for depth in (24, 32, 64):
        assert torch.equal(shown("feature-squeezing", some_images(), bit_depth=depth), some_images())


# JPEG.


@pytest.mark.parametrize(("channel_count", "mode"), [(1, "L"), (3, "RGB")])
def test_jpeg_is_what_another_codec_makes_of_the_image(channel_count: int, mode: str) -> None:
    images = some_images(4, channel_count)
    found = shown("jpeg", images, quality=60)
    for image, own in zip(images, found, strict=True):
        levels = (image * 255).round().byte().permute(1, 2, 0).squeeze(-1).numpy()
        file = io.BytesIO()
        Image.fromarray(levels).save(file, "JPEG", quality=60)
        with Image.open(file) as picture:
            assert picture.mode == mode
            expected = np.asarray(picture).reshape(8, 8, channel_count).transpose(2, 0, 1) / 255
        assert np.abs(own.numpy() - expected).max() <= 2 / 255 + 1e-6


def test_jpeg_loses_less_at_a_higher_quality_and_nearly_nothing_of_a_plain_image() -> None:
    images = some_images(8)
    losses = [float((shown("jpeg", images, quality=q) - images).abs().mean()) for q in (5, 50, 95)]
    assert losses[0] > losses[1] > losses[2] > 0
    plain = torch.full((2, 3, 8, 8), 128 / 255)
    assert torch.allclose(shown("jpeg", plain, quality=75), plain, atol=1.5 / 255)


def test_jpeg_takes_any_number_of_channels() -> None:
    images = some_images(2, 4)
    found = shown("jpeg", images, quality=90)
    assert torch.equal(found[:, 2:3], shown("jpeg", images[:, 2:3], quality=90))


# Straight-through gradients.


@pytest.mark.parametrize(("name", "parameters"), [("feature-squeezing", {"bit_depth": 3}), ("jpeg", {"quality": 30})])
def test_a_rounding_defence_has_the_gradient_of_the_model_at_the_changed_image(
    name: str, parameters: dict[str, float]
) -> None:
    """Straight-through: as if the change were the identity, but at the point where the model really is."""
    images = some_images()
    changed = shown(name, images, **parameters)
    assert not torch.equal(changed, images)
    assert torch.equal(gradient(defended(name, **parameters), images), gradient(Network(), changed))
    # Its true gradient would be zero nearly everywhere, and an attack would stand still.
    assert gradient(defended(name, **parameters), images).abs().min() > 0


# Spatial smoothing.


@pytest.mark.parametrize("window", [3, 5, 9])
def test_smoothing_is_the_median_of_the_window_by_brute_force(window: int) -> None:
    images = some_images(2)
    reach = window // 2
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    expected = np.empty(images.shape, dtype=np.float32)
    for row, column in np.ndindex(8, 8):
        expected[..., row, column] = np.median(padded[:, :, row : row + window, column : column + window], axis=(2, 3))
    assert np.array_equal(shown("spatial-smoothing", images, window=window).numpy(), expected)


def test_smoothing_has_its_true_gradient() -> None:
    """All values differ, so the median is differentiable: a small step moves the logits as the gradient says."""
    images = some_images(3).double()
    target = defended("spatial-smoothing")
    step = 1e-7 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    labels = torch.zeros(3, dtype=torch.int64)
    moved = doubt(target(images + step), labels) - doubt(target(images), labels)
    along = (gradient(target, images) * step).flatten(1).sum(dim=1)
    assert torch.allclose(moved, along, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("images", [some_images(3), torch.full((2, 1, 8, 8), 0.5)])
def test_every_smoothed_value_comes_from_one_value_of_its_window(images: Tensor) -> None:
    """Also where all are equal: then from the first of the window, so that the gradient moves up and to the left."""
    leaf = images.clone().requires_grad_(True)
    (shares,) = torch.autograd.grad(defended("spatial-smoothing", Echo())(leaf).sum(), leaf)
    assert float(shares.sum()) == images.numel()
    assert torch.equal(shares, shares.round())
    if len(images.unique()) == 1:
        # Mirrored windows of the first row and column begin at the second.
        assert shares[0, 0, 7].tolist() == [0.0] * 8
        assert shares[0, 0, 0].sum() == 8


# The catalogue.


@pytest.mark.parametrize(
    ("name", "parameters", "field", "message"),
    [
        ("jpeg", {"quality": 0}, "quality", "at least 1 and at most 100"),
        ("jpeg", {"quality": 50.5}, "quality", "whole number"),
        ("jpeg", {"deviation": 0.1}, "deviation", "known: quality"),
        ("spatial-smoothing", {"window": 4}, "window", "it must be odd"),
        ("feature-squeezing", {"bit_depth": 65}, "bit_depth", "at most 64"),
        ("high-confidence", {"cutoff": 1.0}, "cutoff", "at most 0.999999"),
        ("gaussian-noise", {"deviation": 0.0}, "deviation", "greater than 0"),
        ("gaussian-noise", {"repeats": 0}, "repeats", "at least 1"),
        ("gaussian-augmentation", {"deviation": math.nan}, "deviation", "greater than 0"),
        ("adversarial-training", {"share": 0.0}, "share", "greater than 0"),
        ("adversarial-training", {"epsilon": 8.0}, "epsilon", "at most 1"),
    ],
)
def test_a_defence_that_cannot_be_is_refused(name: str, parameters: dict[str, float], field: str, message: str) -> None:
    with pytest.raises(InvalidSpecification, match=message) as caught:
        defended(name, **parameters)
    assert caught.value.field == f"spec.defence_parameters.{field}"


def test_defaults_and_the_values_of_the_paper_can_be_used() -> None:
    for name, defence in DEFENCES.items():
        defended(name)
        for schema in defence.parameters:
            for value in schema.paper_values:
                defended(name, **{schema.name: value})


def test_the_page_of_the_defences_has_every_parameter_its_unit_and_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "defences.md").read_text()
    for name, defence in DEFENCES.items():
        _, heading, section = page.partition(f"\n## {name}\n")
        assert heading or name == "none"
        rows = {row.split("`")[1]: row for row in section.partition("\n## ")[0].splitlines() if row.startswith("| `")}
        assert list(rows) == [schema.name for schema in defence.parameters]
        for schema in defence.parameters:
            assert f"| {schema.unit} |" in rows[schema.name]
            assert f"| {schema.default_value:.3g} |" in rows[schema.name]
            assert ", ".join(f"{value:g}" for value in schema.paper_values) in rows[schema.name]
