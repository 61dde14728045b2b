"""AutoPGD against its paper, one sample at a time in float64, and its second loss against the paper's formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from attack_service.attacks.apgd import APGD, checkpoints
from attack_service.attacks.lockstep import Arrivals
from attack_service.attacks.losses import doubt, logit_ratio
from attack_service.attacks.norms import lengths
from attack_service.errors import InvalidSpecification

STEP_COUNT = 20


class Bumpy(nn.Module):
    """A small smooth network on which the loss rises and falls, so that step sizes are halved and points revisited."""

    def __init__(self, class_count: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.first = torch.randn(12, 16, generator=generator, dtype=torch.float64).to(dtype) * 3
        self.last = torch.randn(16, class_count, generator=generator, dtype=torch.float64).to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.first).sin() @ self.last


def paper_checkpoints(iteration_count: int) -> list[int]:
    """The paper's w_j = ceil(p_j N), p_0 = 0, p_1 = .22, p_(j+1) = p_j + max(p_j - p_(j-1) - .03, .06)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    found = []
    for share in shares[1:]:
        rounded = round(share * iteration_count, 9)
        step = int(rounded) + (rounded % 1 > 0)
        if step < iteration_count and step not in found:
            found.append(step)
    return found


def paper_apgd(
    image: Tensor, label: Tensor, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], norm: str, epsilon: float
) -> tuple[list[Tensor], list[float]]:
    """Algorithm 1 of arXiv 2003.01690 on one sample: every iterate, and the step size that led to it."""

    def value_and_slope(x: Tensor) -> tuple[float, Tensor]:
        leaf = x.detach().requires_grad_(True)
        value = loss(model(leaf[None]), label[None])[0]
        (slope,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), slope

    def ascend(x: Tensor, slope: Tensor) -> Tensor:
        return x + step * (slope.sign() if norm == "inf" else slope / slope.norm())

    def inside(x: Tensor) -> Tensor:
        change = x - image
        if norm == "inf":
            return (image + change.clamp(-epsilon, epsilon)).clamp(0, 1)
        return (image + change * min(1.0, epsilon / max(float(change.norm()), 1e-300))).clamp(0, 1)

    step = 2 * epsilon
    before = x = image
    value, slope = value_and_slope(x)
    best, best_value, best_slope = x, value, slope
    best_then, kept, gains, last_checkpoint = value, True, 0, 0
    iterates, steps = [x], []
    for k in range(1, STEP_COUNT + 1):
        if k == 1:
            following = inside(ascend(x, slope))
        else:
            following = inside(x + 0.75 * (inside(ascend(x, slope)) - x) + 0.25 * (x - before))
        iterates.append(following)
        steps.append(step)
        new_value, new_slope = value_and_slope(following)
        gains += new_value > value
        if new_value > best_value:
            best, best_value, best_slope = following, new_value, new_slope
        before, x, value, slope = x, following, new_value, new_slope
        if k in paper_checkpoints(STEP_COUNT):
            condition = gains < 0.75 * (k - last_checkpoint) or (kept and best_then == best_value)
            if condition:
                step /= 2
                x, value, slope = best, best_value, best_slope
            kept, best_then, gains, last_checkpoint = not condition, best_value, 0, k
    return iterates, steps


def batch(n: int = 12, class_count: int = 5) -> tuple[nn.Module, Tensor, Tensor]:
    model = Bumpy(class_count, torch.float64)
    images = torch.rand(n, 1, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return model, images, model(images).argmax(dim=1)


@pytest.mark.parametrize("norm", ["inf", "2"])
@pytest.mark.parametrize(("loss", "epsilon"), [(doubt, 0.3), (logit_ratio, 0.02)])
def test_every_iterate_and_every_step_size_is_the_papers(
    norm: str, loss: Callable[[Tensor, Tensor], Tensor], epsilon: float
) -> None:
    """The ratio has no slope once the true class is third, and rounding chooses the step: so a smaller epsilon."""
    model, images, labels = batch()
    expected = [
        paper_apgd(image, label, model, loss, norm, epsilon) for image, label in zip(images, labels, strict=True)
    ]
    attack = APGD(epsilon=epsilon, iteration_count=STEP_COUNT, norm=norm, loss=loss)
    state = attack.start(Arrivals(images, labels, list(range(len(images)))))
    for k in range(STEP_COUNT + 1):
        for row, (iterates, steps) in enumerate(expected):
            # The norm 2 compares lengths that were rounded to a float64 in another order.
            assert torch.allclose(state.inputs[row], iterates[k], atol=1e-9), (row, k)
            if k:
                assert float(state.step_sizes[row]) == pytest.approx(steps[k - 1])
        leaf = state.inputs.detach().requires_grad_(True)
        logits = model(leaf)
        (gradients,) = torch.autograd.grad(attack.objective(state, logits, slice(0, len(images))).sum(), leaf)
        attack.advance(state, logits.detach(), gradients)
    sizes = {len(set(steps)) for _, steps in expected}
    # The comparison would be idle if no step size had been halved, or all alike.
    assert max(sizes) >= 3


def test_the_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == []
    for iteration_count in range(1, 60):
        assert checkpoints(iteration_count) == paper_checkpoints(iteration_count)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(["inf", "2"]), random_start=st.booleans())
def test_every_iterate_stays_inside_the_ball_and_the_box(seed: int, norm: str, random_start: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(5, 1, 3, 4, generator=generator)
    attack = APGD(epsilon=0.4, iteration_count=12, norm=norm, loss=doubt, random_start=random_start, seed=seed)
    state = attack.start(Arrivals(images, torch.tensor([0, 1, 0, 1, 0]), [0, 1, 2, 3, 4]))
    assert state.checked.tolist() == [random_start] * 5
    for _ in range(12):
        assert float(state.inputs.min()) >= 0
        assert float(state.inputs.max()) <= 1
        assert float(lengths((state.inputs - images).flatten(1), norm).max()) <= 0.4 * (1 + 1e-5) + 1e-6
        attack.advance(state, torch.randn(5, 2, generator=generator), torch.randn(images.shape, generator=generator))
    assert bool(state.checked.all())


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-6, 6).map(lambda power: 10**power))
def test_the_logit_ratio_is_the_papers_plus_one_and_does_not_change_with_the_scale(seed: int, scale: float) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(6) % 5
    for row, label in zip(logits, labels.tolist(), strict=True):
        first, _, third, *_ = row.sort(descending=True).values.tolist()
        other = max(value for index, value in enumerate(row.tolist()) if index != label)
        paper = -(float(row[label]) - other) / (first - third)
        found = logit_ratio(scale * row[None], torch.tensor([label]))
        assert float(found) == pytest.approx(paper + 1, rel=1e-9, abs=1e-12)


def test_of_a_confident_model_a_float32_still_holds_the_changes_of_the_logit_ratio() -> None:
    """Beside a true logit of 1e8 the paper's expression is -1 in float32 wherever the others lie, and has no slope."""
    labels = torch.tensor([0, 0])
    logits = torch.tensor([[1e8, 2.0, 1.0], [1e8, 3.0, 1.0]], requires_grad=True)
    paper = -(logits[:, 0] - logits[:, 1]) / (logits[:, 0] - logits[:, 2])
    assert paper[0] == paper[1] == -1
    low, high = logit_ratio(logits, labels)
    assert low.item() == pytest.approx(1e-8, rel=1e-6)
    assert high.item() == pytest.approx(2e-8, rel=1e-6)
    (slopes,) = torch.autograd.grad(high, logits)
    # d/dz of (z2 - z3) / (z1 - z3).
    assert slopes[1].tolist() == pytest.approx([-2e-16, 1e-8, -1e-8], rel=1e-6)


def test_three_equal_logits_have_a_ratio() -> None:
    ratio = logit_ratio(torch.zeros(1, 4, requires_grad=True), torch.tensor([2]))
    assert bool(ratio.isfinite())


def test_the_logit_ratio_of_two_classes_is_refused(linear_classifier, attacked) -> None:
    model = linear_classifier(torch.tensor([1.0, -2.0]), bias=0.5)
    attack = APGD(epsilon=0.1, iteration_count=3, norm="inf", loss=logit_ratio)
    with pytest.raises(InvalidSpecification, match=r"2 classes; use apgd"):
        attacked(attack, model, torch.full((1, 1, 1, 2), 0.4), torch.tensor([1]), epsilon=0.1)
