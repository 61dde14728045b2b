"""Checks of the measurement: a model that answers by chance, has no slope or a misleading one, is named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.pgd import PGD
from attack_service.attacks.square import Square
from attack_service.clocks import DeviceClock
from attack_service.driving import drive_lockstep
from attack_service.errors import IntegrityViolated
from attack_service.handles import Handle
from attack_service.integrity import Verifier, answers_by_chance, masked_gradients, vanishing_gradients
from attack_service.jobs import MemoryLedger
from attack_service.judging import Judge
from attack_service.watching import Journal, Samples, Watch

CPU = torch.device("cpu")
ANY = Judge(math.inf, "inf")
IMAGES = torch.rand(40, 1, 2, 3, generator=torch.Generator().manual_seed(0))


class Coin(nn.Module):
    """Says 0 or 1 by chance, 1 with a given probability, whatever it is shown."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self._probability = probability
        self._generator = torch.Generator().manual_seed(1)

    def forward(self, images: Tensor) -> Tensor:
        ones = torch.rand(len(images), generator=self._generator) < self._probability
        return nn.functional.one_hot(ones.long(), 2).float() + 0 * images.sum()


def verified(model: nn.Module, labels: Tensor, width: int = 16) -> str | None:
    verifier = Verifier(Handle(model, width), ANY)
    for rows in torch.arange(len(IMAGES)).split(7):
        verifier.add(IMAGES[rows], IMAGES[rows], labels[rows])
    return verifier.finish()


def test_adversarials_that_fool_the_model_again_are_confirmed(linear_classifier) -> None:
    model = linear_classifier(torch.randn(6, generator=torch.Generator().manual_seed(2)))
    assert verified(model, 1 - model(IMAGES).argmax(dim=1)) is None


def test_every_adversarial_is_asked_about_once_in_full_passes(linear_classifier) -> None:
    model = linear_classifier(torch.ones(6))
    handle = Handle(model, 16)
    verifier = Verifier(handle, ANY)
    labels = 1 - model(IMAGES).argmax(dim=1)
    for row in range(40):
        verifier.add(IMAGES[row : row + 1], IMAGES[row : row + 1], labels[row : row + 1])
    verifier.finish()
    assert (handle.pass_count, handle.row_count) == (3, 48)


def test_one_adversarial_on_the_boundary_is_named_and_more_are_refused(linear_classifier) -> None:
    model = linear_classifier(torch.ones(6))
    labels = 1 - model(IMAGES).argmax(dim=1)
    labels[3] = 1 - labels[3]
    assert "1 of 40 adversarials" in str(verified(model, labels))
    labels[4] = 1 - labels[4]
    with pytest.raises(IntegrityViolated, match="2 of 40"):
        verified(model, labels)


def test_failures_of_a_model_that_answers_by_chance_are_not_certain() -> None:
    with pytest.raises(IntegrityViolated, match="does not answer alike"):
        verified(Coin(0.5), torch.zeros(40, dtype=torch.int64))


def test_a_model_that_answers_otherwise_the_second_time_is_named(linear_classifier) -> None:
    assert answers_by_chance(Handle(linear_classifier(torch.ones(6)), 16), IMAGES) is None
    assert "answers otherwise" in str(answers_by_chance(Handle(Coin(0.5), 16), IMAGES))


def test_a_model_without_slope_is_named(linear_classifier) -> None:
    labels = torch.ones(40, dtype=torch.int64)
    model = linear_classifier(torch.ones(6))
    assert vanishing_gradients(Handle(model, 16), IMAGES, labels) is None
    steps = nn.Sequential(Rounded(), model)
    assert "zero at 40 of 40" in str(vanishing_gradients(Handle(steps, 16), IMAGES, labels))


class Rounded(nn.Module):
    """Images in black and white: nowhere a slope."""

    def forward(self, images: Tensor) -> Tensor:
        return images.round()


class Turned(nn.Module):
    """Images as they are, but gradients that point the other way: a defence that misleads whoever follows them."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * images.detach() - images


@pytest.mark.parametrize("turned", [True, False])
def test_survivors_that_fall_without_gradients_show_that_these_mislead(linear_classifier, turned: bool) -> None:
    """Of a linear model projected descent leaves nobody standing whom anything could fool within epsilon."""
    linear = linear_classifier(torch.ones(6), bias=-3.0)
    model = nn.Sequential(Turned(), linear) if turned else linear
    labels = linear(IMAGES).argmax(dim=1)
    samples = Samples(torch.arange(40), labels, labels, torch.zeros(40), lambda indices: IMAGES[indices])
    journal = Journal(MemoryLedger(), total_count=40, recorded=(), seconds_per_query=0.0, check_maximum=10)
    watch, handle, judge = Watch(samples, journal), Handle(model, 16), Judge(0.2, "inf")
    drive_lockstep(PGD(0.2, 0.05, 10, "inf"), samples, handle, judge, watch, DeviceClock(CPU), CPU)
    survivors = samples.take(torch.tensor(watch.survivors))
    square = Square(0.2, "inf", 30, initial_share=0.3)
    flag = masked_gradients(square, survivors, handle, judge, "pgd", CPU)
    direction = (1 - 2 * labels).reshape(-1, 1, 1, 1)
    holding = linear((IMAGES + 0.2 * direction).clamp(0, 1)).argmax(dim=1) == labels
    if turned:
        assert len(survivors) == 40
        assert flag is not None
        assert "sees no gradients" in flag
    else:
        assert len(survivors) == int(holding.sum())
        assert flag is None
