"""The Square Attack against brute force, its patches and its schedule against the paper's."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from attack_service.attacks.lockstep import Arrivals
from attack_service.attacks.losses import margin
from attack_service.attacks.square import Square, SquareState, _bump, _sides
from attack_service.outcomes import Verdict

EPSILON = 0.1


def square(**fields: object) -> Square:
    usual = {"epsilon": EPSILON, "norm": "inf", "query_count": 60, "initial_share": 0.8, "seed": 5}
    return Square(**(usual | fields))  # type: ignore[arg-type]


def searched(attack: Square, model: nn.Module, images: Tensor, labels: Tensor) -> list[tuple[Tensor, SquareState]]:
    """What is asked in every query, and the state after it; no sample ever leaves."""
    state = attack.start(Arrivals(images, labels, list(range(len(images)))))
    history = []
    for _ in range(attack.query_count):
        asked = state.inputs
        state.remaining -= 1
        attack.advance(state, model(asked), None)
        history.append((asked.clone(), dataclasses.replace(state)))
    return history


@pytest.fixture(scope="module")
def plane(linear_classifier) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model on six values, samples inside the box, their labels and scores."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(6, generator=generator)
    images = 0.25 + 0.5 * torch.rand(60, 1, 2, 3, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    scores = model(images)[:, 1]
    return model, images, (scores > 0).long(), scores.abs()


def test_it_fools_the_samples_that_brute_force_over_all_corners_fools_and_no_other(plane, attacked) -> None:
    model, images, labels, scores = plane
    corners = torch.tensor(list(itertools.product((-EPSILON, EPSILON), repeat=6))).reshape(-1, 1, 1, 2, 3)
    asked = (images + corners).reshape(-1, 1, 2, 3)
    least = margin(model(asked), labels.repeat(len(corners))).reshape(len(corners), -1).amin(dim=0)
    # A search by chance may miss the one corner of 64 that is just enough.
    clear = least.abs() > 0.05 * float(scores.mean())
    images, labels, least = images[clear], labels[clear], least[clear]

    outcomes = attacked(square(query_count=150), model, images, labels, epsilon=EPSILON)

    fooled = [outcome.verdict is Verdict.FAILED for outcome in outcomes]
    assert fooled == (least < 0).tolist()
    assert 0 < sum(fooled) < len(fooled)
    for outcome in outcomes:
        assert (outcome.gradient_count_lower, outcome.gradient_count_upper or 0) == (0, 0)
        if outcome.verdict is Verdict.FAILED:
            assert outcome.query_count_upper == outcome.check_count == outcome.query_count_lower + 1
        else:
            assert outcome.query_count_lower == outcome.check_count == 150
    history = searched(square(query_count=150), model, images, labels)
    assert torch.allclose(history[-1][1].best_margins, least, atol=1e-5)


def test_every_query_changes_one_square_of_the_best_image_so_far_to_ends_of_the_interval(digits) -> None:
    model, images, labels = digits
    images, labels = images[:8], labels[:8]
    attack = square(epsilon=0.05)
    lower, upper = (images - 0.05).clamp(0, 1), (images + 0.05).clamp(0, 1)
    history = searched(attack, model, images, labels)
    for query, ((_, before), (asked, after)) in enumerate(itertools.pairwise(history), start=1):
        assert bool(((asked == lower) | (asked == upper)).all())
        assert bool((after.best_margins <= before.best_margins).all())
        side = _sides((12, 12), 0.8, "inf")[stage(query, 60)]
        for sample, changed in enumerate((asked != before.best)[:, 0]):
            rows, columns = changed.nonzero().unbind(dim=1)
            assert len(rows) > 0
            assert int(rows.max() - rows.min()) < side
            assert int(columns.max() - columns.min()) < side
            ends = (asked == lower)[sample, 0, changed], (asked == upper)[sample, 0, changed]
            assert bool(ends[0].all() or ends[1].all())
    margins = torch.stack([after.best_margins for _, after in history])
    assert torch.equal(margins, margins.cummin(dim=0).values)
    assert bool((margins[-1] < margins[0]).any())


def stage(query: int, query_count: int) -> int:
    """How often the share has been halved, as section 3 of the paper and its program say for 10 000 queries."""
    scheduled = (query - 1) * 10_000 // query_count
    return sum(scheduled > bound for bound in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))


def test_the_start_is_vertical_stripes(digits) -> None:
    _, images, labels = digits
    gray = torch.full_like(images, 0.5)
    start = square().start(Arrivals(gray, labels, list(range(len(images))))).inputs - gray
    assert torch.allclose(start.abs(), torch.tensor(EPSILON))
    assert torch.equal(start, start[:, :, :1].expand_as(start))
    assert 0.4 < float((start > 0).float().mean()) < 0.6


def test_patches_become_smaller_by_the_paper_s_schedule() -> None:
    """A share of 0.8 of 32 x 32 is a side of 29 (28.6), and every halving divides it by the root of 2."""
    assert _sides((32, 32), 0.8, "inf") == (29, 20, 14, 10, 7, 5, 4, 3, 2, 1)
    assert _sides((32, 32), 0.8, "2") == (29, 21, 15, 11, 7, 5, 5, 3, 3, 3)
    assert _sides((2, 3), 1.0, "inf")[0] == 2
    assert max(_sides((2, 3), 1.0, "2")) == 1


def test_a_bump_is_the_eta_of_the_paper() -> None:
    """eta^(h1, h2) at (r, s) is the sum over k = 0 … M of 1 / (n + 1 - k)^2, where n is the half of the longer side
    and n - M the distance to the middle; the two halves of the square have opposite signs."""

    def eta(height: int, width: int) -> Tensor:
        n = max(height // 2, width // 2)
        values = torch.zeros(height, width)
        for r, s in itertools.product(range(height), range(width)):
            reach = n - max(abs(r - height // 2), abs(s - width // 2))
            values[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(reach + 1))
        return values / values.norm()

    for side in (3, 5, 7, 11):
        expected = torch.cat([eta(side // 2, side), -eta(side - side // 2, side)])
        assert torch.allclose(_bump(side), expected / expected.norm(), atol=1e-6)
    assert _bump(1).abs().tolist() == [[1.0]]


def test_under_the_norm_2_every_change_has_length_epsilon_and_only_near_boundaries_are_crossed(
    linear_classifier, attacked
) -> None:
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(75, generator=generator)
    images = 0.35 + 0.3 * torch.rand(30, 3, 5, 5, generator=generator)
    model = linear_classifier(weights, bias=-0.5 * float(weights.sum()))
    scores = model(images)[:, 1]
    labels, distances = (scores > 0).long(), scores.abs() / weights.norm()
    epsilon = float(2 * distances.median())
    attack = square(norm="2", epsilon=epsilon, query_count=300)
    outcomes = attacked(attack, model, images, labels, epsilon=epsilon, norm="2")
    for outcome, distance in zip(outcomes, distances.tolist(), strict=True):
        if distance > epsilon:
            assert outcome.verdict is Verdict.SURVIVED
        elif distance < 0.3 * epsilon:
            assert outcome.verdict is Verdict.FAILED
    assert {outcome.verdict for outcome in outcomes} == {Verdict.SURVIVED, Verdict.FAILED}
    small = square(norm="2", epsilon=0.3, query_count=80)  # nothing is clipped
    for (_, before), (asked, after) in itertools.pairwise(searched(small, model, images, labels)):
        assert torch.allclose((asked - images).flatten(1).norm(dim=1), torch.tensor(0.3), rtol=1e-4)
        assert bool((after.best_margins <= before.best_margins).all())


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_no_neighbour_changes_what_is_asked_about_a_sample(digits, attacked, norm: str) -> None:
    model, images, labels = digits
    epsilon = {"inf": 0.15, "2": 1.0}[norm]
    attack = square(norm=norm, epsilon=epsilon, query_count=40)
    asked = {"epsilon": epsilon, "norm": norm, "width": 8}
    together = attacked(attack, model, images, labels, **asked)
    backwards = attacked(attack, model, images, labels, order=range(len(images) - 1, -1, -1), **asked)
    alone = [attacked(attack, model, images, labels, order=[row], **asked)[0] for row in (0, 7, 9)]
    assert {outcome.verdict for outcome in together} == {Verdict.FAILED, Verdict.SURVIVED}
    for outcome in [*backwards, *alone]:
        own = together[outcome.sample_index]
        assert outcome.distance_l2 == pytest.approx(own.distance_l2, rel=1e-6)
        upper = None if own.seconds_upper is None else 0.0
        left_out = {"seconds_lower": 0.0, "seconds_upper": upper, "distance_l2": 0.0}
        assert dataclasses.replace(own, **left_out) == dataclasses.replace(outcome, **left_out)
    other = attacked(dataclasses.replace(attack, seed=6), model, images, labels, **asked)
    assert [o.check_count for o in other] != [o.check_count for o in together]
    assert math.isfinite(sum(outcome.distance_l2 for outcome in other))
