"""Carlini and Wagner's attack against the closed form and the toolbox's, and its searches one by one."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.carlini_wagner import CarliniWagner
from attack_service.attacks.lockstep import Arrivals
from attack_service.outcomes import Verdict

# So near that nothing is ever near enough: what is recorded is the nearest image that the attack has found.
NOTHING = 1e-6


def attack(**fields: object) -> CarliniWagner:
    usual = {"search_count": 4, "iteration_count": 40, "learning_rate": 0.01, "initial_constant": 1.0}
    return CarliniWagner(**(usual | fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def plane(linear_classifier) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model, samples inside the box, their labels, and how far each is from the boundary."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(12, generator=generator)
    images = 0.3 + 0.4 * torch.rand(40, 1, 3, 4, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    scores = model(images)[:, 1]
    distances = scores.abs() / weights.norm()
    clear = distances > 0.02
    return model, images[clear], (scores[clear] > 0).long(), distances[clear]


@pytest.mark.parametrize("initial_constant", [1e-2, 1.0, 10.0])
def test_the_nearest_image_that_is_found_lies_where_the_closed_form_says(
    plane, attacked, initial_constant: float
) -> None:
    model, images, labels, distances = plane
    attacking = attack(search_count=9, initial_constant=initial_constant)
    outcomes = attacked(attacking, model, images, labels, epsilon=NOTHING, norm="2", width=64)
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SURVIVED}
    ratios = [outcome.distance_l2 / distance for outcome, distance in zip(outcomes, distances.tolist(), strict=True)]
    assert all(outcome.adversarial_prediction == 1 - outcome.label for outcome in outcomes)
    assert min(ratios) > 1
    assert max(ratios) < 1.25
    assert statistics.median(ratios) < 1.1


def test_a_sample_fails_at_the_first_iterate_within_epsilon_and_not_at_one_further_away(plane, attacked) -> None:
    model, images, labels, distances = plane
    epsilon = float(distances.median())
    outcomes = attacked(attack(), model, images, labels, epsilon=epsilon, norm="2", width=64)
    for outcome, distance in zip(outcomes, distances.tolist(), strict=True):
        if distance > epsilon:
            assert outcome.verdict is Verdict.SURVIVED
            assert outcome.distance_l2 > epsilon
        elif 1.25 * distance < epsilon:
            assert outcome.verdict is Verdict.FAILED
            assert distance <= outcome.distance_l2 <= epsilon * (1 + 1e-4)
            assert outcome.query_count_upper == outcome.check_count + 1
            assert outcome.gradient_count_upper == outcome.check_count
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SURVIVED, Verdict.FAILED}


def test_every_evaluation_is_counted_and_all_but_the_first_are_checks(plane, attacked) -> None:
    """A learning rate so small that the objective falls all the way: no search is over before its time."""
    model, images, labels, distances = plane
    far = distances.argsort(descending=True)[:3]
    attacking = attack(search_count=3, iteration_count=7, learning_rate=1e-3)
    outcomes = attacked(attacking, model, images[far], labels[far], epsilon=NOTHING, norm="2")
    for outcome in outcomes:
        assert outcome.query_count_lower == attacking.evaluation_count == 3 * 7 + 2
        assert outcome.gradient_count_lower == outcome.check_count == 3 * 7 + 1


def test_a_search_without_progress_is_over_early(plane, attacked) -> None:
    """With hardly any weight on the misclassification the objective is least close to the start, where Adam swings."""
    model, images, labels, _ = plane
    attacking = attack(search_count=1, iteration_count=500, initial_constant=1e-3)
    outcomes = attacked(attacking, model, images[:4], labels[:4], epsilon=NOTHING, norm="2")
    assert all(outcome.query_count_lower < attacking.evaluation_count / 2 for outcome in outcomes)
    assert {outcome.adversarial_prediction == outcome.label for outcome in outcomes} == {True}


def test_the_constant_is_searched_between_those_that_fooled_the_model_and_those_that_did_not(plane) -> None:
    model, images, labels, _ = plane
    attacking = attack(search_count=7, iteration_count=15, initial_constant=0.1, learning_rate=0.1)
    state = attacking.start(Arrivals(images, labels, list(range(len(images)))))
    successes: list[set[float]] = [set() for _ in images]
    failures: list[set[float]] = [set() for _ in images]
    fooled = torch.zeros(len(images), dtype=torch.bool)
    for _ in range(attacking.evaluation_count - 2):
        leaf = state.inputs.clone().requires_grad_(True)
        logits = model(leaf)
        (gradients,) = torch.autograd.grad(attacking.objective(state, logits, slice(0, len(images))).sum(), leaf)
        before, counts = state.constants.clone(), state.search_counts.clone()
        fooled |= logits.argmax(dim=1) != labels
        state.remaining -= 1
        attacking.advance(state, logits.detach(), gradients)
        for row in (state.search_counts > counts).nonzero().flatten().tolist():
            (successes if fooled[row] else failures)[row].add(float(before[row]))
            fooled[row] = False
            lower, upper = max(failures[row], default=0.0), min(successes[row], default=float("inf"))
            expected = 10 * float(before[row]) if not successes[row] else (lower + upper) / 2
            assert float(state.constants[row]) == pytest.approx(expected, rel=1e-5)
        assert float(state.inputs.min()) >= 0
        assert float(state.inputs.max()) <= 1
    assert any(successes)
    assert any(failures)


def test_a_confident_adversarial_leads_by_the_confidence(plane, attacked) -> None:
    model, images, labels, distances = plane
    images, labels, distances = images[:10], labels[:10], distances[:10]
    near, sure = (
        attacked(attack(search_count=5, confidence=confidence), model, images, labels, epsilon=NOTHING, norm="2")
        for confidence in (0.0, 0.5)
    )
    slope = float(model.weights.norm())
    for outcome, distance in zip(sure, distances.tolist(), strict=True):
        assert outcome.distance_l2 >= (distance + 0.5 / slope) * (1 - 1e-4)
    assert all(far.distance_l2 > close.distance_l2 for far, close in zip(sure, near, strict=True))


def test_no_neighbour_changes_the_steps_of_a_sample(digits, attacked) -> None:
    model, images, labels = digits
    attacking = attack(search_count=2, iteration_count=8)
    asked = {"epsilon": 1.0, "norm": "2", "width": 8}
    together = attacked(attacking, model, images, labels, **asked)
    backwards = attacked(attacking, model, images, labels, order=range(len(images) - 1, -1, -1), **asked)
    alone = [attacked(attacking, model, images, labels, order=[row], **asked)[0] for row in (0, 4)]

    for outcome in [*backwards, *alone]:
        # Seconds are shared among whoever is there; all else is the sample's own, to the last bit.
        own = together[outcome.sample_index]
        upper = None if own.seconds_upper is None else 0.0
        left_out = {"seconds_lower": 0.0, "seconds_upper": upper}
        assert dataclasses.replace(own, **left_out) == dataclasses.replace(outcome, **left_out)


def test_a_step_has_the_same_bits_at_any_place_among_others() -> None:
    """Some functions of torch treat the end of a tensor otherwise; 27 values are no multiple of any register."""
    generator = torch.Generator().manual_seed(0)
    images, gradients = torch.rand(7, 3, 3, 3, generator=generator), torch.randn(7, 3, 3, 3, generator=generator)
    labels, logits = torch.zeros(7, dtype=torch.int64), torch.tensor([[1.0, 0.0]])
    attacking = attack(iteration_count=200)

    def points(rows: list[int]) -> Tensor:
        state = attacking.start(Arrivals(images[rows], labels[rows], rows))
        # Every sample at another step, as in slots that were refilled.
        state.iteration_counts += torch.tensor(rows)
        for _ in range(30):
            attacking.advance(state, logits.expand(len(rows), 2), gradients[rows])
        return state.points

    together = points(list(range(7)))
    for row in range(7):
        assert torch.equal(points([row])[0], together[row])


def test_distances_are_no_worse_than_the_toolboxs_at_equal_iterations(digits, attacked) -> None:
    pytest.importorskip("art")
    from art.attacks.evasion import CarliniL2Method
    from art.estimators.classification import PyTorchClassifier

    model, images, labels = digits
    images, labels = images[:7], labels[:7]
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=10, clip_values=(0.0, 1.0)
    )
    # The learning rate, too, is equal, but theirs is the first guess of a line search at every step.
    toolbox = CarliniL2Method(
        estimator, learning_rate=0.03, binary_search_steps=3, max_iter=20, initial_const=1.0, verbose=False
    )
    found = torch.from_numpy(toolbox.generate(images.numpy(), np.eye(10)[labels.numpy()]))
    with torch.no_grad():
        fooled = model(found).argmax(dim=1) != labels
    theirs = torch.where(fooled, (found - images).flatten(1).norm(dim=1), torch.inf).tolist()
    attacking = attack(search_count=3, iteration_count=20, learning_rate=0.03)
    ours = [
        float("inf") if outcome.adversarial_prediction == outcome.label else outcome.distance_l2
        for outcome in attacked(attacking, model, images, labels, epsilon=NOTHING, norm="2")
    ]
    print(f"median {statistics.median(ours):.4f}, toolbox {statistics.median(theirs):.4f}")
    assert statistics.median(ours) <= statistics.median(theirs)
