"""The guards: a model that is not the recorded one, or that cannot be measured, is not attacked."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attack_service import models
from attack_service.datasets import Split
from attack_service.defences import defend
from attack_service.errors import IntegrityViolated
from attack_service.evaluating import (
    CleanEvaluation,
    barely_answering,
    barely_trained,
    evaluate,
    require_harmless_probe,
    require_plausible_accuracy,
    require_same_accuracy,
    require_same_predictions,
)

CPU = torch.device("cpu")


def evaluation(correct_count: int, n: int) -> CleanEvaluation:
    never = torch.zeros(n, dtype=torch.bool)
    return CleanEvaluation(torch.zeros(n, dtype=torch.int64), torch.ones(n), correct_count, n, never)


def test_the_rows_of_a_pass_share_its_seconds_and_every_sample_is_counted(linear_classifier, ticking_clock) -> None:
    pixels = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.3]).reshape(5, 1, 1, 1)
    split = Split(pixels, torch.tensor([1, 0, 0, 0, 0]), image_size=1)
    model = linear_classifier(torch.tensor([1.0]), bias=-0.5)
    found = evaluate(model, split, batch_size=2, device=CPU, clock=ticking_clock([2.0, 4.0, 3.0]))
    assert found.predictions.tolist() == [1, 0, 1, 0, 0]
    # The last pass has a row that fills it up.
    assert found.seconds.tolist() == [1.0, 1.0, 2.0, 2.0, 1.5]
    assert (found.correct_count, found.accuracy, found.seconds_per_query) == (4, 0.8, 1.5)


def test_a_rejected_sample_is_neither_correct_nor_misclassified(linear_classifier) -> None:
    """Two classes of logits (0, d) and a cutoff at |d| = ln 9: of six samples the two least sure ones are rejected."""
    scores = torch.tensor([3.0, -3.0, 1.0, -1.0, 3.0, 3.0])
    pixels = (scores / 10 + 0.5).reshape(6, 1, 1, 1)
    split = Split(pixels, torch.tensor([1, 1, 1, 1, 0, 1]), image_size=1)
    model = linear_classifier(torch.tensor([10.0]), bias=-5.0)
    target = defend(model, "high-confidence", {"cutoff": 0.9}, seed=0)
    found = evaluate(target, split, batch_size=4, device=CPU)
    assert found.rejected.tolist() == [False, False, True, True, False, False]
    assert found.misclassified(split.labels).tolist() == [False, True, False, False, True, False]
    assert (found.correct_count, found.accuracy, found.rejection_share) == (2, 2 / 6, 2 / 6)
    undefended = evaluate(model, split, batch_size=4, device=CPU)
    assert torch.equal(undefended.predictions, found.predictions)
    assert (undefended.correct_count, undefended.rejection_share) == (3, 0.0)
    own = evaluate(target, split, batch_size=4, device=CPU, indices=torch.tensor([2, 5]))
    assert (own.correct_count, own.accuracy, own.rejection_share) == (1, 0.5, 0.5)


def test_an_answer_that_costs_several_queries_shares_its_seconds_among_them(linear_classifier, ticking_clock) -> None:
    split = Split(torch.rand(4, 1, 1, 1), torch.zeros(4, dtype=torch.int64), image_size=1)
    target = defend(linear_classifier(torch.ones(1)), "gaussian-noise", {"deviation": 0.1, "repeats": 10.0}, seed=0)
    found = evaluate(target, split, batch_size=4, device=CPU, clock=ticking_clock([8.0]))
    assert found.seconds.tolist() == [2.0] * 4
    assert found.seconds_per_query == pytest.approx(0.2)


def test_two_evaluations_of_a_defence_that_answers_by_chance_may_differ_by_chance_alone() -> None:
    """Fisher's exact test, against its probability by enumeration: 2 P(at most k of the first n are right)."""
    n, total = 12, 10
    ways = [math.comb(n, k) * math.comb(n, total - k) for k in range(total + 1)]
    for count in range(total // 2):
        likely = 2 * sum(ways[: count + 1]) / math.comb(2 * n, total) >= 0.001
        if likely:
            require_plausible_accuracy(evaluation(count, n), evaluation(total - count, n))
            require_plausible_accuracy(evaluation(total - count, n), evaluation(count, n))
        else:
            with pytest.raises(IntegrityViolated, match="answers by chance"):
                require_plausible_accuracy(evaluation(count, n), evaluation(total - count, n))
    assert 2 * ways[0] / math.comb(2 * n, total) < 0.001 < 2 * ways[2] / math.comb(2 * n, total)
    for certain in (0, 360):
        require_plausible_accuracy(evaluation(certain, 360), evaluation(certain, 360))


def test_chance_alone_is_seldom_refused_and_a_loss_always() -> None:
    """At most one draw in a thousand may be refused; a tenth of ten thousand samples is beyond all chance."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.bernoulli(torch.full((2, 1000, 360), 0.7), generator=generator).sum(dim=2).int().tolist()
    refused = 0
    for first, second in zip(*counts, strict=True):
        try:
            require_plausible_accuracy(evaluation(first, 360), evaluation(second, 360))
        except IntegrityViolated:
            refused += 1
    assert refused <= 4
    with pytest.raises(IntegrityViolated):
        require_plausible_accuracy(evaluation(7000, 10_000), evaluation(6000, 10_000))


def test_a_defence_that_lets_hardly_anything_through_is_flagged() -> None:
    assert barely_answering(evaluation(16, 100), 10) is None
    assert "only 15 % of clean samples" in (barely_answering(evaluation(15, 100), 10) or "")


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
