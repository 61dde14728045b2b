"""Projected gradient descent against an answer in closed form, and what the attacks that are cases of it share."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack_service.attacks.lockstep import Arrivals
from attack_service.attacks.norms import lengths
from attack_service.attacks.pgd import PGD, bim, fgm
from attack_service.outcomes import Verdict

EPSILON, STEP, STEP_COUNT = 0.2, 0.03, 12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([1, 2, 7, 64]))
def test_a_linear_model_fails_at_exactly_the_check_that_its_margin_says(
    linear_classifier, attacked, seed: int, width: int
) -> None:
    """Every step moves the score by step · ‖w‖₁ towards the boundary, so a sample whose margin |f|/‖w‖₁ is below
    epsilon fails at check ceil(margin / step), and the others hold; slots change nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, generator=generator).sign() * (0.5 + torch.rand(6, generator=generator))
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    # Inside the box by more than epsilon: nothing is clipped.
    images = 0.25 + 0.5 * torch.rand(40, 1, 2, 3, generator=generator)
    scores = model(images)[:, 1]
    margins = scores.abs() / weights.abs().sum()
    clear = ((margins / STEP - (margins / STEP).round()).abs() > 1e-3) & ((margins - EPSILON).abs() > 1e-3)
    images, margins, labels = images[clear], margins[clear], (scores[clear] > 0).long()

    attack = PGD(epsilon=EPSILON, step_size=STEP, iteration_count=STEP_COUNT, norm="inf")
    outcomes = attacked(attack, model, images, labels, epsilon=EPSILON, width=width)

    assert len(outcomes) == len(images)
    for outcome, margin in zip(outcomes, margins.tolist(), strict=True):
        if margin > EPSILON:
            assert outcome.verdict is Verdict.SURVIVED
            assert (outcome.query_count_lower, outcome.query_count_upper) == (STEP_COUNT + 1, None)
            assert (outcome.gradient_count_lower, outcome.gradient_count_upper) == (STEP_COUNT, None)
            assert outcome.check_count == STEP_COUNT
            assert outcome.distance_linf == pytest.approx(EPSILON, abs=1e-5)
        else:
            check = math.ceil(margin / STEP)
            assert outcome.verdict is Verdict.FAILED
            assert outcome.check_count == check
            assert (outcome.query_count_lower, outcome.query_count_upper) == (check if check > 1 else 0, check + 1)
            assert (outcome.gradient_count_lower, outcome.gradient_count_upper) == (check - 1, check)
            assert outcome.distance_linf == pytest.approx(min(check * STEP, EPSILON), abs=1e-5)
            assert outcome.adversarial_prediction == 1 - outcome.label
            assert outcome.distance_l0 == 6


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(["inf", "2", "1"]), scale=st.sampled_from([30.0, 1e4, 1e7]))
def test_a_model_that_is_surer_of_itself_is_not_harder_to_fool(
    linear_classifier, attacked, seed: int, norm: str, scale: float
) -> None:
    """Logits times a number decide the same, so the same samples fail at the same checks. The cross-entropy's gradient
    would be zero in float32 from a margin of 17 on, and every sample would survive."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, generator=generator)
    images = torch.rand(20, 1, 2, 3, generator=generator)
    attack = PGD(epsilon=0.4, step_size=0.1, iteration_count=5, norm=norm)

    def checks(scale: float) -> list[tuple[Verdict, int]]:
        model = linear_classifier(scale * weights, bias=-0.5 * scale * float(weights.sum()))
        outcomes = attacked(attack, model, images, (model(images)[:, 1] > 0).long(), epsilon=0.4, norm=norm)
        return [(outcome.verdict, outcome.check_count) for outcome in outcomes]

    assert checks(scale) == checks(1.0)


def test_fgm_is_one_check_after_one_step_of_length_epsilon(linear_classifier, attacked) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0]), bias=0.5)
    images = torch.tensor([[0.5, 0.4], [0.5, 0.1]]).reshape(2, 1, 1, 2)  # scores .2 and .8, margins .067 and .267
    labels = torch.tensor([1, 1])
    failed, survived = attacked(fgm(epsilon=0.1, norm="inf"), model, images, labels, epsilon=0.1)
    assert (failed.verdict, failed.query_count_lower, failed.query_count_upper) == (Verdict.FAILED, 0, 2)
    assert (survived.verdict, survived.query_count_lower, survived.gradient_count_lower) == (Verdict.SURVIVED, 2, 1)
    assert (failed.check_count, survived.check_count) == (1, 1)


def test_a_random_start_is_check_one_at_one_query_and_no_gradient(
    linear_classifier, attacked, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = torch.tensor([[-0.1, 0.1], [0.0, 0.0], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    monkeypatch.setattr(
        "attack_service.attacks.pgd.random_points",
        lambda like, epsilon, norm, *, seed, sample_indices: starts[sample_indices],
    )
    model = linear_classifier(torch.tensor([1.0, -2.0]), bias=0.5)
    images = torch.tensor([[0.5, 0.4], [0.5, 0.3], [0.5, 0.1]]).reshape(3, 1, 1, 2)
    attack = PGD(epsilon=0.15, step_size=0.15, iteration_count=1, norm="inf", random_start=True)
    at_start, at_first_step, survived = attacked(attack, model, images, torch.tensor([1, 1, 1]), epsilon=0.15)
    assert (at_start.check_count, at_start.query_count_lower, at_start.query_count_upper) == (1, 0, 1)
    assert (at_start.gradient_count_lower, at_start.gradient_count_upper) == (0, 0)
    assert (at_first_step.check_count, at_first_step.query_count_lower, at_first_step.query_count_upper) == (2, 1, 2)
    assert (survived.check_count, survived.query_count_lower, survived.gradient_count_lower) == (2, 2, 1)


def test_no_gradient_is_computed_that_nobody_needs(attacked) -> None:
    """The last evaluation of a sample keeps no graph; nor is anything computed for a failed one."""
    asked: list[tuple[int, bool]] = []

    class Recorder(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            asked.append((len(batch), batch.requires_grad))
            return batch.flatten(1)[:, :2]

    images = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).repeat(1, 2).reshape(2, 1, 2, 2)
    attack = PGD(epsilon=0.2, step_size=0.2, iteration_count=2, norm="inf")
    attacked(attack, Recorder(), images, torch.tensor([0, 0]), epsilon=0.2, width=2)
    asked_to_probe, in_attack = asked[:-3], asked[-3:]
    assert asked_to_probe
    # After the first step one sample has failed; rows are evaluated in full passes of two.
    assert [differentiated for _, differentiated in in_attack] == [True, True, False]
    asked.clear()
    attacked(attack, Recorder(), images[:1], torch.tensor([0]), epsilon=0.2, width=2)
    assert [differentiated for _, differentiated in asked[-2:]] == [True, True]


def test_the_basic_iterative_method_is_the_descent_in_the_norm_inf_from_the_sample_itself() -> None:
    assert bim(epsilon=0.2, step_size=0.1, iteration_count=3) == PGD(
        epsilon=0.2, step_size=0.1, iteration_count=3, norm="inf", random_start=False
    )


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(["inf", "2", "1"]),
    epsilon=st.floats(1e-3, 3.0),
    share=st.floats(0.05, 1.0),
    random_start=st.booleans(),
)
def test_every_iterate_stays_inside_the_ball_and_the_box(
    seed: int, norm: str, epsilon: float, share: float, random_start: bool
) -> None:
    epsilon = min(epsilon, 1.0) if norm == "inf" else epsilon
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(5, 1, 3, 4, generator=generator)
    attack = PGD(
        epsilon=epsilon, step_size=share * epsilon, iteration_count=6, norm=norm, random_start=random_start, seed=seed
    )
    state = attack.start(Arrivals(images, torch.tensor([0, 1, 0, 1, 0]), [0, 1, 2, 3, 4]))
    assert state.checked.tolist() == [random_start] * 5
    for _ in range(6):
        assert float(state.inputs.min()) >= -1e-6
        assert float(state.inputs.max()) <= 1 + 1e-6
        assert float(lengths((state.inputs - images).flatten(1), norm).max()) <= epsilon * (1 + 1e-5) + 1e-6
        attack.advance(state, torch.zeros(5, 2), torch.randn(images.shape, generator=generator))
    assert bool(state.checked.all())
