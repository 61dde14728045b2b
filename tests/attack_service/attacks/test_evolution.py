"""The pixel and the threshold attack beside all that brute force can try on a small image."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.pixel import Pixel
from attack_service.attacks.querying import Answer, QueryAttack
from attack_service.attacks.threshold import Threshold
from attack_service.handles import Handle
from attack_service.outcomes import Verdict

COUNT = 24


class Bent(nn.Module):
    """A fixed small network of three classes with a hidden layer, so that no corner is the best by construction."""

    def __init__(self, size: int, steepness: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first = steepness * torch.randn(size, 12, generator=generator)
        self.second = torch.randn(12, 3, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh((images.flatten(1) - 0.5) @ self.first) @ self.second


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.image_count = 0

    def forward(self, images: Tensor) -> Tensor:
        self.image_count += len(images)
        return self.model(images)


def samples(shape: tuple[int, ...], model: nn.Module) -> tuple[Tensor, Tensor]:
    levels = torch.randint(0, 256, (COUNT, *shape), generator=torch.Generator().manual_seed(7))
    images = levels.float() / 255
    return images, model(images).argmax(dim=1)


def fooled(model: nn.Module, images: Tensor, label: int) -> bool:
    return bool((model(images).argmax(dim=1) != label).any())


def test_the_pixel_attack_fails_exactly_the_samples_that_some_pixel_of_some_value_does(attacked) -> None:
    model = Bent(25, 0.3)
    images, labels = samples((1, 5, 5), model)
    places, values = torch.arange(25).repeat_interleave(256), (torch.arange(256) / 255).repeat(25)

    def brute_force(image: Tensor, label: int) -> bool:
        tried = image.expand(25 * 256, -1, -1, -1).reshape(25 * 256, 25).clone()
        tried[torch.arange(25 * 256), places] = values
        return fooled(model, tried, label)

    expected = [brute_force(image, int(label)) for image, label in zip(images, labels, strict=True)]
    assert 0 < sum(expected) < COUNT
    outcomes = attacked(Pixel(60, 60), model, images, labels, epsilon=float("inf"), norm="0")
    assert [outcome.verdict is Verdict.FAILED for outcome in outcomes] == expected
    assert all(outcome.distance_l0 <= 1 for outcome in outcomes)


def test_the_threshold_attack_fails_exactly_the_samples_that_some_change_within_the_threshold_does(attacked) -> None:
    model = Bent(4, 1.0)
    images, labels = samples((1, 2, 2), model)
    changes = torch.tensor(list(product(range(-30, 31, 5), repeat=4))) / 255

    def brute_force(image: Tensor, label: int) -> bool:
        return fooled(model, (image.flatten() + changes).clamp(0, 1), label)

    expected = [brute_force(image, int(label)) for image, label in zip(images, labels, strict=True)]
    assert 0 < sum(expected) < COUNT
    outcomes = attacked(Threshold(40, 20, threshold=30), model, images, labels, epsilon=float("inf"))
    found = [outcome.verdict is Verdict.FAILED for outcome in outcomes]
    assert found == expected
    assert all(outcome.distance_linf <= 30 / 255 + 1e-6 for outcome in outcomes)


def test_on_a_linear_model_the_threshold_attack_fails_no_sample_whose_margin_exceeds_it(
    linear_classifier, attacked
) -> None:
    weights = torch.randn(16, generator=torch.Generator().manual_seed(5))
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    images = 0.2 + 0.6 * torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    margins = model(images)[:, 1] / weights.abs().sum()
    reach = 20 / 255
    clear = (margins.abs() - reach).abs() > 2e-3
    images, margins = images[clear], margins[clear]
    outcomes = attacked(Threshold(40, 60, threshold=20), model, images, (margins > 0).long(), epsilon=float("inf"))
    assert [outcome.verdict is Verdict.FAILED for outcome in outcomes] == (margins.abs() < reach).tolist()


@pytest.mark.parametrize(
    "attack", [Threshold(8, 4, threshold=1), Pixel(8, 4, pixel_count=3)], ids=["threshold", "pixel"]
)
def test_no_question_is_asked_that_is_not_counted(attack: QueryAttack, attacked, linear_classifier) -> None:
    """Nothing fails, and a sample's 40 questions come in eights, as passes do: it sees no more than is counted."""
    model = Counting(linear_classifier(torch.ones(12), bias=50.0))
    images, labels = torch.rand(6, 3, 2, 2), torch.ones(6, dtype=torch.int64)
    outcomes = attacked(attack, model, images, labels, epsilon=float("inf"), handle=Handle(model, 8))
    assert [(outcome.verdict, outcome.query_count_lower) for outcome in outcomes] == [(Verdict.SURVIVED, 40)] * 6
    assert all(outcome.gradient_count_lower == 0 for outcome in outcomes)
    assert model.image_count == 240


@pytest.mark.parametrize("pixel_count", [1, 5, 12])
def test_a_member_changes_no_more_pixels_than_it_may_and_whole_levels_only(pixel_count: int) -> None:
    image = torch.full((3, 4, 4), 0.123)
    interview = Pixel(30, 4, seed=1, pixel_count=pixel_count).ask(image, 0, 3)
    question = next(interview)
    for _ in range(4):
        changed = question.images != image
        assert int(changed.any(dim=1).flatten(1).sum(dim=1).max()) <= pixel_count
        levels = question.images[changed] * 255
        assert float((levels - levels.round()).abs().max()) < 1e-4
        assert 0 <= float(question.images.min()) <= float(question.images.max()) <= 1
        question = interview.send(Answer(torch.rand(30, 3), None, torch.zeros(30, dtype=torch.bool).numpy()))


def test_of_two_pixels_at_one_place_the_later_one_counts() -> None:
    genes = torch.tensor([[0.1, 0.9, 1.0, 0.1, 0.9, 0.0, 0.9, 0.1, 0.6]])
    (changed,) = Pixel(4, 1, pixel_count=3).express(torch.full((1, 2, 2), 0.5), genes)
    assert torch.equal(changed, torch.tensor([[[0.5, 0.0], [0.6, 0.5]]]))
