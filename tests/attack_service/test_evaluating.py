"""The guards: a model that is not the recorded one, or that cannot be measured, is not attacked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack_service import models
from attack_service.datasets import Split
from attack_service.errors import IntegrityViolated
from attack_service.evaluating import (
    CleanEvaluation,
    barely_trained,
    evaluate,
    require_harmless_probe,
    require_same_accuracy,
    require_same_predictions,
)

CPU = torch.device("cpu")


def evaluation(correct_count: int, n: int) -> CleanEvaluation:
    return CleanEvaluation(torch.zeros(n, dtype=torch.int64), torch.ones(n), correct_count)


def test_a_batch_shares_its_seconds_and_every_sample_is_counted(linear_classifier, ticking_clock) -> None:
    pixels = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3]).reshape(5, 1, 1, 1)
    split = Split(pixels, torch.tensor([1, 0, 0, 0, 0]), image_size=1)
    model = linear_classifier(torch.tensor([1.0]), bias=-0.5)
    found = evaluate(model, split, batch_size=2, device=CPU, clock=ticking_clock([2.0, 4.0, 3.0]))
    assert found.predictions.tolist() == [1, 0, 1, 0, 0]
    assert found.seconds.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0]
    assert (found.correct_count, found.accuracy, found.seconds_per_query) == (4, 0.8, 1.8)


def test_an_untrained_network_is_refused(trained) -> None:
    """What the published software did: it attacked a fresh network of the same shape."""
    model, dataset = trained
    recorded = evaluate(model, dataset.test, batch_size=64, device=CPU).accuracy
    require_same_accuracy(evaluate(model, dataset.test, batch_size=17, device=CPU), recorded)
    untrained = models.freeze(models.build(models.Architecture("resnet18", "imagenet", 1, 10)), CPU)
    with pytest.raises(IntegrityViolated, match=r"but .* was recorded when it was trained"):
        require_same_accuracy(evaluate(untrained, dataset.test, batch_size=64, device=CPU), recorded)


def test_one_sample_or_one_in_two_hundred_may_differ_by_rounding() -> None:
    require_same_accuracy(evaluation(9, 10), 1.0)
    require_same_accuracy(evaluation(9_950, 10_000), 1.0)
    with pytest.raises(IntegrityViolated):
        require_same_accuracy(evaluation(8, 10), 1.0)
    with pytest.raises(IntegrityViolated):
        require_same_accuracy(evaluation(9_949, 10_000), 1.0)


def test_an_engine_must_see_the_predictions_that_the_samples_were_chosen_by() -> None:
    require_same_predictions(torch.tensor([1, 2, 3, 0]), torch.tensor([1, 2, 3, 3]))
    with pytest.raises(IntegrityViolated, match="on 2 of 4 clean samples"):
        require_same_predictions(torch.tensor([1, 2, 0, 0]), torch.tensor([1, 2, 3, 3]))


def test_a_perturbation_of_almost_nothing_fools_nobody(trained) -> None:
    model, dataset = trained
    images = dataset.test.images(torch.arange(16))
    require_harmless_probe(model, images, model(images).argmax(dim=1))


def test_a_model_that_a_perturbation_of_almost_nothing_fools_is_refused() -> None:
    class Brittle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores = (images.flatten(1).sum(dim=1) - 2.0) * -1e9
            return torch.stack([torch.full_like(scores, 0.5), scores], dim=1)

    images = torch.full((4, 1, 2, 2), 0.5)
    with pytest.raises(IntegrityViolated, match="fools the model on 4 of 4 samples"):
        require_harmless_probe(Brittle(), images, torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(("accuracy", "class_count", "flagged"), [(0.15, 10, True), (0.16, 10, False), (0.6, 2, True)])
def test_a_model_hardly_better_than_chance_is_flagged(accuracy: float, class_count: int, flagged: bool) -> None:
    sentence = barely_trained(accuracy, class_count)
    assert (sentence is not None) == flagged
    if sentence is not None:
        assert "hardly better than chance" in sentence
        assert "--epochs" in sentence
