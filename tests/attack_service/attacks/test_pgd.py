"""Projected gradient descent against an answer in closed form, and its invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attack_service.attacks.fgm import fgm
from attack_service.attacks.iterates import Iterate, Iterates
from attack_service.attacks.norms import lengths, random_points
from attack_service.attacks.pgd import pgd
from attack_service.jobs import MemoryLedger
from attack_service.outcomes import Outcome, Verdict
from attack_service.watching import Journal, Samples, Watch, follow

EPSILON, STEP, STEP_COUNT = 0.2, 0.03, 12


def watched(images: Tensor, labels: Tensor, batch_size: int, clock_type, attack) -> list[Outcome]:
    """The outcomes of an attack, `attack(images, labels)`, on samples that are all classified correctly."""
    ledger = MemoryLedger()
    journal = Journal(ledger, total_count=len(images), recorded=(), seconds_per_query=1.0, check_maximum=10)
    for rows in torch.arange(len(images)).split(batch_size):
        samples = Samples(rows, images[rows], labels[rows], labels[rows], torch.zeros(len(rows)))
        watch = Watch(samples, clock_type(), journal)
        follow(attack(images[rows], labels[rows]), watch)
        watch.finish()
    journal.record(now=True)
    return sorted(ledger.outcomes, key=lambda outcome: outcome.sample_index)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), batch_size=st.sampled_from([1, 2, 7, 64]))
def test_a_linear_model_fails_at_exactly_the_check_that_its_margin_says(
    linear_classifier, ticking_clock, seed: int, batch_size: int
) -> None:
    """Every step moves the score by step · ‖w‖₁ towards the boundary, so a sample whose margin |f|/‖w‖₁ is below
    epsilon fails at check ceil(margin / step), and the others hold; batches change nothing."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, generator=generator).sign() * (0.5 + torch.rand(6, generator=generator))
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    # Inside the box by more than epsilon: nothing is clipped.
    images = 0.25 + 0.5 * torch.rand(40, 1, 2, 3, generator=generator)
    scores = model(images)[:, 1]
    margins = scores.abs() / weights.abs().sum()
    clear = ((margins / STEP - (margins / STEP).round()).abs() > 1e-3) & ((margins - EPSILON).abs() > 1e-3)
    images, margins, labels = images[clear], margins[clear], (scores[clear] > 0).long()

    outcomes = watched(
        images,
        labels,
        batch_size,
        ticking_clock,
        lambda x, y: pgd(model, x, y, epsilon=EPSILON, step_size=STEP, iteration_count=STEP_COUNT, norm="inf"),
    )

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


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(["inf", "2", "1"]), scale=st.sampled_from([30.0, 1e4, 1e7]))
def test_a_model_that_is_surer_of_itself_is_not_harder_to_fool(
    linear_classifier, ticking_clock, seed: int, norm: str, scale: float
) -> None:
    """Logits times a number decide the same, so the same samples fail at the same checks. The cross-entropy's gradient
    would be zero in float32 from a margin of 17 on, and every sample would survive."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(6, generator=generator)
    images = torch.rand(20, 1, 2, 3, generator=generator)

    def checks(scale: float) -> list[tuple[Verdict, int]]:
        model = linear_classifier(scale * weights, bias=-0.5 * scale * float(weights.sum()))
        outcomes = watched(
            images,
            (model(images)[:, 1] > 0).long(),
            20,
            ticking_clock,
            lambda x, y: pgd(model, x, y, epsilon=0.4, step_size=0.1, iteration_count=5, norm=norm),
        )
        return [(outcome.verdict, outcome.check_count) for outcome in outcomes]

    assert checks(scale) == checks(1.0)


def test_fgm_is_one_check_after_one_step_of_length_epsilon(linear_classifier, ticking_clock) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0]), bias=0.5)
    images = torch.tensor([[0.5, 0.4], [0.5, 0.1]]).reshape(2, 1, 1, 2)  # scores .2 and .8, margins .067 and .267
    labels = torch.tensor([1, 1])
    failed, survived = watched(images, labels, 2, ticking_clock, lambda x, y: fgm(model, x, y, epsilon=0.1, norm="inf"))
    assert (failed.verdict, failed.query_count_lower, failed.query_count_upper) == (Verdict.FAILED, 0, 2)
    assert (survived.verdict, survived.query_count_lower, survived.gradient_count_lower) == (Verdict.SURVIVED, 2, 1)
    assert (failed.check_count, survived.check_count) == (1, 1)


def test_a_random_start_is_check_one_at_one_query_and_no_gradient(linear_classifier, ticking_clock) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0]), bias=0.5)
    images = torch.tensor([[0.5, 0.4], [0.5, 0.3], [0.5, 0.1]]).reshape(3, 1, 1, 2)
    start = torch.tensor([[-0.1, 0.1], [0.0, 0.0], [0.0, 0.0]]).reshape(3, 1, 1, 2)
    outcomes = watched(
        images,
        torch.tensor([1, 1, 1]),
        3,
        ticking_clock,
        lambda x, y: pgd(model, x, y, epsilon=0.15, step_size=0.15, iteration_count=1, norm="inf", start=start),
    )
    at_start, at_first_step, survived = outcomes
    assert (at_start.check_count, at_start.query_count_lower, at_start.query_count_upper) == (1, 0, 1)
    assert (at_start.gradient_count_lower, at_start.gradient_count_upper) == (0, 0)
    assert (at_first_step.check_count, at_first_step.query_count_lower, at_first_step.query_count_upper) == (2, 1, 2)
    assert (survived.check_count, survived.query_count_lower, survived.gradient_count_lower) == (2, 2, 1)


def all_iterates(iterates: Iterates) -> list[Iterate]:
    """Every iterate, nothing ever dropped."""
    found: list[Iterate] = []
    try:
        iterate = next(iterates)
        while True:
            found.append(iterate)
            iterate = iterates.send(torch.ones(len(iterate.rows), dtype=torch.bool))
    except StopIteration:
        return found


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(["inf", "2", "1"]),
    epsilon=st.floats(1e-3, 3.0),
    share=st.floats(0.05, 1.0),
    random_start=st.booleans(),
)
def test_every_iterate_stays_inside_the_ball_and_the_box(
    linear_classifier, seed: int, norm: str, epsilon: float, share: float, random_start: bool
) -> None:
    epsilon = min(epsilon, 1.0) if norm == "inf" else epsilon
    generator = torch.Generator().manual_seed(seed)
    model = linear_classifier(torch.randn(12, generator=generator))
    images = torch.rand(5, 1, 3, 4, generator=generator)
    start = random_points(images, epsilon, norm, seed=seed, sample_indices=[0, 1, 2, 3, 4]) if random_start else None
    found = all_iterates(
        pgd(
            model,
            images,
            torch.tensor([0, 1, 0, 1, 0]),
            epsilon=epsilon,
            step_size=share * epsilon,
            iteration_count=6,
            norm=norm,
            start=start,
        )
    )
    assert len(found) == 6 + random_start
    for iterate in found:
        assert bool((iterate.inputs >= -1e-6).all())
        assert bool((iterate.inputs <= 1 + 1e-6).all())
        assert float(lengths((iterate.inputs - images).flatten(1), norm).max()) <= epsilon * (1 + 1e-4) + 1e-6


def test_rows_that_are_dropped_never_come_back_and_the_others_do_not_notice(linear_classifier) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0, 0.5]))
    images, labels = torch.rand(4, 1, 1, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
    whole = all_iterates(pgd(model, images, labels, epsilon=0.3, step_size=0.1, iteration_count=3, norm="2"))
    attack = pgd(model, images, labels, epsilon=0.3, step_size=0.1, iteration_count=3, norm="2")
    next(attack)
    second = attack.send(torch.tensor([True, False, True, False]))
    assert second.rows.tolist() == [0, 2]
    assert torch.equal(second.inputs, whole[1].inputs[[0, 2]])
    third = attack.send(torch.tensor([False, True]))
    assert third.rows.tolist() == [2]
    assert torch.equal(third.inputs, whole[2].inputs[[2]])


def test_no_gradient_is_computed_that_nobody_needs() -> None:
    """The last iterate's evaluation keeps no graph, and dropping every row ends the attack without another one."""
    images = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    seen = []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch.requires_grad)
        return batch.flatten(1)[:, :2]

    all_iterates(pgd(model, images, torch.tensor([0, 1]), epsilon=0.1, step_size=0.1, iteration_count=2, norm="inf"))  # type: ignore[arg-type]
    assert seen == [True, True, False]
    seen.clear()
    attack = pgd(model, images, torch.tensor([0, 1]), epsilon=0.1, step_size=0.1, iteration_count=5, norm="inf")  # type: ignore[arg-type]
    next(attack)
    with pytest.raises(StopIteration):
        attack.send(torch.tensor([False, False]))
    assert seen == [True, True]
