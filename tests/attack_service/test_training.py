"""Training resumes to the same bits, reports as it goes, and refuses to store nonsense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_service.checkpoints import Standing, TrainingState
from attack_service.datasets import Split
from attack_service.errors import TrainingDiverged
from attack_service.models import Architecture, Classifier, build
from attack_service.training import Recipe, TrainingStep, learning_rate, precision_name, recipe_for, train

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
    spent = train(whole, split, recipe=RECIPE, epoch_count=3, seed=4, device=CPU, save=states.append)
    assert spent is not None
    assert [state.epoch for state in states] == [1, 2]
    assert 0 < states[0].seconds < states[1].seconds < spent.seconds
    # Three epochs of 48 samples, a forward and a backward evaluation each.
    assert (spent.epoch_count, spent.sample_count, spent.evaluation_count) == (3, 48, 288)

    resumed = fresh()
    earlier = replace(states[1], seconds=1000.0)
    total = train(resumed, split, recipe=RECIPE, epoch_count=3, seed=4, device=CPU, resumed=earlier)
    assert total is not None
    assert 1000.0 < total.seconds < 1000.0 + 10 * spent.seconds
    assert (total.epoch_count, total.evaluation_count) == (3, 288)
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
    spent = train(
        fresh(),
        split,
        recipe=RECIPE,
        epoch_count=2,
        seed=0,
        device=CPU,
        report=steps.append,
        canceled=lambda: len(steps) >= 2,
    )
    assert spent is None
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


# Patience begins half-way and is of one epoch.
IMPATIENT = replace(RECIPE, held_out_share=0.25, patience=1, warm_up_share=0.0, largest_learning_rate=1e-9)


def test_training_stops_early_on_samples_held_out_and_keeps_the_best_weights(split: Split) -> None:
    """At a learning rate of nothing no epoch after the first is better than it but for batch norm's statistics."""
    states: list[TrainingState] = []
    model = fresh()
    spent = train(model, split, recipe=IMPATIENT, epoch_count=12, seed=3, device=CPU, save=states.append)
    assert spent is not None
    assert spent.epoch_count < 12
    assert spent.sample_count == 36
    # 36 forward and backward, and the 12 held out once more, every epoch.
    assert spent.evaluation_count == spent.epoch_count * (2 * 36 + 12)
    best = states[-1].best
    assert best.better_than(Standing())
    assert spent.epoch_count - max(best.epoch, IMPATIENT.patient_from(12)) >= 1
    kept = {name: tensor for name, tensor in states[-1].tensors.items() if name.startswith("best.")}
    assert all(torch.equal(tensor, model.state_dict()[name.removeprefix("best.")]) for name, tensor in kept.items())


def test_a_killed_training_that_watches_held_out_samples_ends_with_the_same_bits(split: Split) -> None:
    recipe = replace(IMPATIENT, largest_learning_rate=0.02)
    states: list[TrainingState] = []
    whole, resumed = fresh(), fresh()
    spent = train(whole, split, recipe=recipe, epoch_count=5, seed=3, device=CPU, save=states.append)
    again = train(resumed, split, recipe=recipe, epoch_count=5, seed=3, device=CPU, resumed=states[1])
    assert spent is not None
    assert again is not None
    assert (again.epoch_count, again.evaluation_count) == (spent.epoch_count, spent.evaluation_count)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_nothing_is_held_out_of_a_training_too_short_for_patience_to_run_out() -> None:
    """The default training of digits, six epochs, uses every training sample, as does one of twice as many."""
    for epoch_count in (1, 6, 12):
        assert Recipe().patient_from(epoch_count) + Recipe().patience >= epoch_count
    assert Recipe().patient_from(20) + Recipe().patience < 20


def test_a_defence_perturbs_every_batch_and_its_evaluations_are_counted(split: Split) -> None:
    seen: list[tuple[bool, tuple[int, ...]]] = []

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        leaf = images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(leaf)[torch.arange(len(labels)), labels].sum(), leaf)
        seen.append((model.training, tuple(images.shape)))
        return images - 0.1 * gradient.sign() * torch.rand(1, generator=generator)

    plain, hardened, again = fresh(), fresh(), fresh()
    arguments = {"recipe": RECIPE, "epoch_count": 1, "seed": 4, "device": CPU}
    spent = train(plain, split, **arguments)
    dear = train(hardened, split, perturb=perturb, **arguments)
    train(again, split, perturb=perturb, **arguments)
    assert spent is not None
    assert dear is not None
    assert seen == [(False, (16, 1, 16, 16))] * 6
    assert dear.evaluation_count == 2 * spent.evaluation_count
    assert not torch.equal(plain.network.fc.weight, hardened.network.fc.weight)
    assert torch.equal(again.network.fc.weight, hardened.network.fc.weight)


def test_augmentation_shifts_with_the_border_repeated_and_mirrors_half() -> None:
    from attack_service.training import _augmented

    images = torch.zeros(64, 1, 8, 8)
    images[:, :, 3, 1] = 1.0  # a dot, away from the middle
    images[:, :, :, 0] = 0.5  # a border
    changed = _augmented(images, Recipe(shift_share=0.125, flipped=True), torch.Generator().manual_seed(0))
    assert changed.shape == images.shape
    dots = (changed == 1.0).nonzero()
    assert len(dots) == 64
    # A shift of one pixel either way, then a mirror for some.
    assert set(dots[:, 2].tolist()) == {2, 3, 4}
    assert set(dots[:, 3].tolist()) == {0, 1, 2, 5, 6, 7}
    assert 16 < int((dots[:, 3] > 4).sum()) < 48
    assert set(changed.unique().tolist()) == {0.0, 0.5, 1.0}


def test_digits_are_not_mirrored_and_photographs_are() -> None:
    assert recipe_for("digits") == recipe_for("mnist") == Recipe()
    assert recipe_for("cifar10").flipped
    assert not recipe_for("imagefolder:/somewhere").flipped


def test_only_a_gpu_trains_in_bfloat16() -> None:
    assert precision_name(CPU, Recipe()) == "float32"
    assert precision_name(torch.device("cuda"), Recipe()) == "bfloat16"
    assert precision_name(torch.device("cuda"), Recipe(bfloat16_on_gpu=False)) == "float32"
