"""Training resumes to the same bits, reports as it goes, and refuses to store nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from attack_service.checkpoints import TrainingState
from attack_service.datasets import Split
from attack_service.errors import TrainingDiverged
from attack_service.models import Architecture, Classifier, build
from attack_service.training import Recipe, TrainingStep, learning_rate, train

CPU = torch.device("cpu")
RECIPE = Recipe(batch_size=16, shift_share=0.1)


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(48) % 3
    pixels = 0.3 * torch.rand(48, 1, 16, 16, generator=generator)
    pixels[torch.arange(48), 0, labels * 5] += 0.6  # a bright row says the class
    return Split(pixels, labels, image_size=16)


def fresh() -> Classifier:
    torch.manual_seed(0)
    return build(Architecture("resnet18", "imagenet", 1, 3))


def test_a_training_that_was_killed_ends_with_the_same_bits_and_counts_every_epoch_once(split: Split) -> None:
    states: list[TrainingState] = []
    whole = fresh()
    seconds = train(whole, split, recipe=RECIPE, epoch_count=3, seed=4, device=CPU, save=states.append)
    assert seconds is not None
    assert [state.epoch for state in states] == [1, 2]
    assert 0 < states[0].seconds < states[1].seconds < seconds

    resumed = fresh()
    earlier = replace(states[1], seconds=1000.0)
    total = train(resumed, split, recipe=RECIPE, epoch_count=3, seed=4, device=CPU, resumed=earlier)
    assert total is not None
    assert 1000.0 < total < 1000.0 + 10 * seconds
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_another_seed_gives_another_model(split: Split) -> None:
    one, other = fresh(), fresh()
    train(one, split, recipe=RECIPE, epoch_count=1, seed=1, device=CPU)
    train(other, split, recipe=RECIPE, epoch_count=1, seed=2, device=CPU)
    assert not torch.equal(one.network.fc.weight, other.network.fc.weight)


def test_every_step_reports_its_epoch_loss_accuracy_and_time_left(split: Split) -> None:
    steps: list[TrainingStep] = []
    train(fresh(), split, recipe=RECIPE, epoch_count=4, seed=0, device=CPU, report=steps.append)
    assert [(step.step, step.epoch) for step in steps] == [(n + 1, n // 3 + 1) for n in range(12)]
    assert all(step.step_count == 12 for step in steps)
    assert steps[0].loss == pytest.approx(1.0986, abs=0.8)  # log 3: it knows nothing
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].accuracy > 0.6
    assert steps[-1].remaining_seconds == 0.0


def test_canceling_stops_before_the_next_step(split: Split) -> None:
    steps: list[TrainingStep] = []
    seconds = train(
        fresh(),
        split,
        recipe=RECIPE,
        epoch_count=2,
        seed=0,
        device=CPU,
        report=steps.append,
        canceled=lambda: len(steps) >= 2,
    )
    assert seconds is None
    assert len(steps) == 2


def test_a_diverging_training_says_so(split: Split) -> None:
    recipe = replace(RECIPE, largest_learning_rate=1e30)
    with pytest.raises(TrainingDiverged, match="try another --seed"):
        train(fresh(), split, recipe=recipe, epoch_count=3, seed=0, device=CPU)


def test_a_last_batch_of_one_is_left_out_because_batch_norm_cannot_normalise_it(split: Split) -> None:
    odd = Split(split.pixels[:17], split.labels[:17], image_size=16)
    steps: list[TrainingStep] = []
    train(fresh(), odd, recipe=RECIPE, epoch_count=1, seed=0, device=CPU, report=steps.append)
    assert len(steps) == 1


def test_the_learning_rate_rises_once_and_falls_once() -> None:
    recipe = Recipe()
    rates = [learning_rate(recipe, share / 100) for share in range(101)]
    peak = rates.index(max(rates))
    assert peak == 30
    assert rates[peak] == pytest.approx(recipe.largest_learning_rate)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[-1] < 1e-6
