"""The attacks within a ball, on a linear model, fail exactly the samples whose margin is smaller than epsilon."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attack_service import catalog
from attack_service.attacks.building import build
from attack_service.attacks.lockstep import Arrivals
from attack_service.attacks.mim import MIM, MomentumState
from attack_service.attacks.norms import lengths
from attack_service.attacks.pgd import PGD
from attack_service.jobs import AttackSpec
from attack_service.outcomes import Verdict

EPSILON = {"inf": 0.05, "2": 0.1, "1": 0.15}
DUAL = {"inf": "1", "2": "2", "1": "inf"}
CASES = [
    *(("fgm", norm) for norm in ("inf", "2", "1")),
    *(("pgd", norm) for norm in ("inf", "2", "1")),
    ("bim", "inf"),
    *(("mim", norm) for norm in ("inf", "2")),
    *(("apgd", norm) for norm in ("inf", "2")),
    *(("apgd-dlr", norm) for norm in ("inf", "2")),
]


class ThreeClasses(nn.Module):
    """Logits (0, w·x + b, -c) with c beyond every |w·x + b|: two classes decide, and the third is always last."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.bias = weights, -0.5 * float(weights.sum())

    def forward(self, images: Tensor) -> Tensor:
        scores = images.flatten(1) @ self.weights + self.bias
        return torch.stack([torch.zeros_like(scores), scores, torch.full_like(scores, -50.0)], dim=1)


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_exactly_the_samples_with_a_margin_below_epsilon_fail(attacked, name: str, norm: str) -> None:
    """The margin |f|/‖w‖* is the distance to the boundary, and nothing is clipped: the box is further away."""
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(8, generator=generator)
    model = ThreeClasses(weights)
    images = 0.35 + 0.3 * torch.rand(60, 1, 2, 4, generator=generator)
    scores = model(images)[:, 1]
    margins = scores.abs() / lengths(weights[None], DUAL[norm])[0]
    epsilon = EPSILON[norm]
    clear = (margins - epsilon).abs() > 1e-3
    images, margins, labels = images[clear], margins[clear], (scores[clear] > 0).long()
    spec = catalog.resolve(
        AttackSpec(model="resnet18", dataset="digits", attack=name, norm=norm, attack_parameters={"epsilon": epsilon})
    )
    outcomes = attacked(build(spec, 3), model, images, labels, epsilon=epsilon, norm=norm)
    failed = [outcome.verdict is Verdict.FAILED for outcome in outcomes]
    assert failed == (margins < epsilon).tolist()
    assert 0 < sum(failed) < len(failed)


def test_momentum_is_the_decayed_sum_of_gradients_of_length_one_in_the_norm_1() -> None:
    """Gradients (3, 1) and (-4, 0) with decay .5: g1 = (.75, .25); g2 = (.375, .125) + (-1, 0) = (-.625, .125)."""
    images = torch.full((1, 1, 1, 2), 0.5)
    attack = MIM(epsilon=0.3, step_size=0.1, iteration_count=3, norm="inf", decay=0.5)
    state = attack.start(Arrivals(images, torch.tensor([0]), [0]))
    assert state.checked.tolist() == [False]
    attack.advance(state, torch.zeros(1, 2), torch.tensor([[[[3.0, 1.0]]]]))
    assert isinstance(state, MomentumState)
    assert state.momentum.flatten().tolist() == pytest.approx([0.75, 0.25])
    assert state.inputs.flatten().tolist() == pytest.approx([0.6, 0.6])
    attack.advance(state, torch.zeros(1, 2), torch.tensor([[[[-4.0, 0.0]]]]))
    assert state.momentum.flatten().tolist() == pytest.approx([-0.625, 0.125])
    assert state.inputs.flatten().tolist() == pytest.approx([0.5, 0.7])
    assert state.checked.tolist() == [True]


@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e37])
def test_the_length_of_a_gradient_says_nothing_to_the_momentum(scale: float) -> None:
    images = torch.full((1, 1, 1, 2), 0.5)
    attack = MIM(epsilon=0.3, step_size=0.1, iteration_count=3, norm="2", decay=1.0)
    state = attack.start(Arrivals(images, torch.tensor([0]), [0]))
    attack.advance(state, torch.zeros(1, 2), scale * torch.tensor([[[[3.0, 1.0]]]]))
    assert isinstance(state, MomentumState)
    assert state.momentum.flatten().tolist() == pytest.approx([0.75, 0.25], rel=1e-4)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_without_memory_the_momentum_method_is_projected_gradient_descent(norm: str) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 1, 3, 3, generator=generator)
    arrivals = Arrivals(images, torch.zeros(4, dtype=torch.int64), [0, 1, 2, 3])
    momentum = MIM(epsilon=0.3, step_size=0.1, iteration_count=8, norm=norm, decay=0.0)
    descent = PGD(epsilon=0.3, step_size=0.1, iteration_count=8, norm=norm)
    one, other = momentum.start(arrivals), descent.start(arrivals)
    for _ in range(8):
        gradients = torch.randn(images.shape, generator=generator)
        momentum.advance(one, torch.zeros(4, 2), gradients)
        descent.advance(other, torch.zeros(4, 2), gradients)
        assert torch.allclose(one.inputs, other.inputs, atol=1e-6)
        assert float(lengths((one.inputs - images).flatten(1), norm).max()) <= 0.3 * (1 + 1e-5) + 1e-6
        assert float(one.inputs.min()) >= -1e-6
        assert float(one.inputs.max()) <= 1 + 1e-6
