"""DeepFool against closed forms, and against the toolbox's: distances, what they cost, and who depends on whom."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack_service.attacks.deepfool import DeepFool
from attack_service.attacks.lockstep import Arrivals
from attack_service.outcomes import Verdict

DUAL_ORDER = {"2": 2.0, "inf": 1.0}
MINIMUM_STEP = 1e-4


def deepfool(**fields: object) -> DeepFool:
    usual = {"epsilon": math.inf, "norm": "2", "candidate_count": 1, "overshoot": 0.02, "iteration_count": 20}
    return DeepFool(**(usual | fields))  # type: ignore[arg-type]


class ManyClasses(nn.Module):
    """Logits that are linear in the image, and log that row of the weights."""

    def __init__(self, weights: Tensor, biases: Tensor) -> None:
        super().__init__()
        self.weights = weights
        self.biases = biases

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T + self.biases


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(["2", "inf"]), epsilon=st.floats(0.02, 0.3))
def test_on_a_linear_model_one_step_crosses_the_boundary_and_only_what_lies_within_epsilon_has_failed(
    linear_classifier, attacked, seed: int, norm: str, epsilon: float
) -> None:
    """The boundary is |f| / ||w|| away, in the dual norm; the step is that, and 1e-4, times 1 + overshoot."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(12, generator=generator)
    images = 0.4 + 0.2 * torch.rand(15, 1, 3, 4, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    scores = model(images)[:, 1]
    expected = 1.02 * (scores.abs() / torch.linalg.vector_norm(weights, ord=DUAL_ORDER[norm]) + MINIMUM_STEP)
    # Inside the box, and neither on the boundary nor at epsilon to rounding.
    clear = (expected < 0.35) & (scores.abs() > 1e-3) & ((expected - epsilon).abs() > 1e-4)
    images, expected, labels = images[clear], expected[clear], (scores[clear] > 0).long()

    outcomes = attacked(deepfool(epsilon=epsilon, norm=norm), model, images, labels, epsilon=epsilon, norm=norm)

    assert len(outcomes) == len(images)
    for outcome, distance in zip(outcomes, expected.tolist(), strict=True):
        found = outcome.distance_l2 if norm == "2" else outcome.distance_linf
        assert found == pytest.approx(distance, rel=1e-3, abs=2e-6)
        assert outcome.adversarial_prediction == 1 - outcome.label
        assert outcome.check_count == 1
        if distance < epsilon:
            assert (outcome.verdict, outcome.query_count_upper) == (Verdict.FAILED, 2)
            assert (outcome.gradient_count_lower, outcome.gradient_count_upper) == (0, 1)
        else:
            # Fooled too far away: the attack has given up there, though it had 20 steps.
            assert (outcome.verdict, outcome.query_count_lower) == (Verdict.SURVIVED, 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), candidate_count=st.integers(1, 4))
def test_the_nearest_boundary_of_the_likeliest_classes_is_crossed(attacked, seed: int, candidate_count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    model = ManyClasses(torch.randn(5, 12, generator=generator), torch.zeros(5))
    images = 0.3 + 0.4 * torch.rand(10, 1, 3, 4, generator=generator)
    logits = model(images)
    labels = logits.argmax(dim=1)
    expected = []
    for sample, label in enumerate(labels.tolist()):
        others = sorted((j for j in range(5) if j != label), key=lambda j: -float(logits[sample, j]))
        distances = [
            float((logits[sample, label] - logits[sample, j]) / (model.weights[label] - model.weights[j]).norm())
            for j in others[:candidate_count]
        ]
        expected.append(min(distances) + MINIMUM_STEP)

    outcomes = attacked(
        deepfool(candidate_count=candidate_count, overshoot=0.0), model, images, labels, epsilon=math.inf, norm="2"
    )

    for outcome, distance in zip(outcomes, expected, strict=True):
        if outcome.check_count == 1:  # not clipped, and no class in between that is no candidate
            assert outcome.distance_l2 <= distance * (1 + 1e-4)
            assert outcome.gradient_count_upper == candidate_count
        if distance < 0.25:
            assert outcome.check_count == 1
            assert outcome.distance_l2 == pytest.approx(distance, rel=1e-3)


def test_no_neighbour_changes_the_steps_of_a_sample(digits, attacked) -> None:
    model, images, labels = digits
    attack = deepfool(candidate_count=5)
    together = attacked(attack, model, images, labels, epsilon=math.inf, norm="2", width=8)
    backwards = range(len(images) - 1, -1, -1)
    other_order = attacked(attack, model, images, labels, epsilon=math.inf, norm="2", width=8, order=backwards)
    alone = [
        attacked(attack, model, images, labels, epsilon=math.inf, norm="2", width=8, order=[row])[0]
        for row in range(0, len(images), 3)
    ]
    assert len({outcome.check_count for outcome in together}) > 1
    for outcome in [*other_order, *alone]:
        # Seconds are shared among whoever is there; all else is the sample's own.
        own = together[outcome.sample_index]
        assert outcome.distance_l2 == pytest.approx(own.distance_l2, rel=1e-6)
        left_out = {"seconds_lower": 0.0, "seconds_upper": 0.0, "distance_l2": 0.0}
        assert dataclasses.replace(own, **left_out) == dataclasses.replace(outcome, **left_out)


def test_the_median_distance_is_that_of_the_toolbox_one_sample_at_a_time(digits, attacked) -> None:
    """The toolbox couples the samples of a batch, so it is given one at a time; with all ten classes, as it is here."""
    pytest.importorskip("art")
    from art.attacks.evasion import DeepFool as ToolboxDeepFool
    from art.estimators.classification import PyTorchClassifier

    model, images, labels = digits
    images, labels = images[:15], labels[:15]
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=10, clip_values=(0.0, 1.0)
    )
    theirs = []
    toolbox = ToolboxDeepFool(estimator, max_iter=50, epsilon=0.02, nb_grads=10, batch_size=1, verbose=False)
    for row in range(len(images)):
        adversarial = toolbox.generate(images[row : row + 1].numpy(), np.eye(10)[labels[row : row + 1].numpy()])
        theirs.append(float((torch.from_numpy(adversarial) - images[row]).norm()))
    for candidate_count in (9, 5):
        attack = deepfool(candidate_count=candidate_count, iteration_count=50)
        ours = [o.distance_l2 for o in attacked(attack, model, images, labels, epsilon=math.inf, norm="2")]
        print(f"{candidate_count} candidates: {statistics.median(ours):.4f}, toolbox {statistics.median(theirs):.4f}")
        assert statistics.median(ours) <= 1.01 * statistics.median(theirs)


@pytest.mark.parametrize("norm", ["2", "inf"])
def test_a_model_that_is_surer_of_itself_is_not_further_from_its_boundary(
    linear_classifier, attacked, norm: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(12, generator=generator)
    images = 0.4 + 0.2 * torch.rand(10, 1, 3, 4, generator=generator)
    found = []
    for scale in (1e-12, 1.0, 1e15):
        model = linear_classifier(scale * weights, bias=-0.5 * scale * float(weights.sum()))
        labels = (model(images)[:, 1] > 0).long()
        outcomes = attacked(deepfool(norm=norm), model, images, labels, epsilon=math.inf, norm=norm)
        assert {outcome.verdict for outcome in outcomes} == {Verdict.FAILED}
        found.append([outcome.distance_l2 for outcome in outcomes])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[2] == pytest.approx(found[1], rel=1e-3)


def test_without_any_slope_there_is_no_step_and_the_sample_survives(linear_classifier, attacked) -> None:
    model = linear_classifier(torch.zeros(4), bias=1.0)
    (outcome,) = attacked(
        deepfool(iteration_count=3), model, torch.full((1, 1, 2, 2), 0.5), torch.tensor([1]), epsilon=1.0, norm="2"
    )
    assert (outcome.verdict, outcome.distance_l2) == (Verdict.SURVIVED, 0.0)
    assert (outcome.query_count_lower, outcome.gradient_count_lower, outcome.check_count) == (4, 3, 3)


def test_it_goes_on_where_a_defence_abstains_within_epsilon(linear_classifier) -> None:
    """A fooled image within epsilon that has not ended its sample was rejected: the next step goes further."""
    model = linear_classifier(torch.tensor([1.0, 0.0]), bias=-0.5)
    attack = deepfool(epsilon=0.2)
    images = torch.tensor([[0.6, 0.5], [0.9, 0.5]]).reshape(2, 1, 1, 2)  # 0.1 and 0.4 from the boundary
    state = attack.start(Arrivals(images, torch.tensor([1, 1]), [0, 1]))
    distances = []
    for _ in range(2):
        leaf = state.inputs.clone().requires_grad_(True)
        logits = model(leaf)
        (gradients,) = torch.autograd.grad(attack.objective(state, logits, slice(0, 2)).sum(), leaf)
        assert not attack.finished(state, logits.detach())[0]
        state.remaining -= 1
        attack.advance(state, logits.detach(), gradients.unsqueeze(1))
        distances.append((state.inputs - images).flatten(1).norm(dim=1))
    logits = model(state.inputs)
    assert bool((logits.argmax(dim=1) == 0).all())
    assert bool((distances[1] > distances[0]).all())
    assert attack.finished(state, logits).tolist() == [False, True]
