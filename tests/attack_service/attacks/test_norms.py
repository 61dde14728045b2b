"""Steps are as long as they say, projections end inside the ball, random points depend on their sample alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attack_service.attacks.norms import lengths, project, random_points, steepest

NORMS = ["inf", "2", "1"]
DUAL = {"inf": "1", "2": "2", "1": "inf"}


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), norm=st.sampled_from(NORMS), scale=st.floats(-36, 36).map(lambda power: 10**power)
)
def test_the_steepest_step_has_length_one_and_gains_the_dual_norm(seed: int, norm: str, scale: float) -> None:
    gradient = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) * scale
    step = steepest(gradient, norm).flatten(1)
    assert torch.allclose(lengths(step, norm), torch.ones(3, 1), rtol=1e-4)
    rows = gradient.flatten(1).double()  # in a float32 the squares would underflow or overflow
    gain = (step * rows).sum(dim=1, keepdim=True)
    assert torch.allclose(gain, lengths(rows, DUAL[norm]), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_a_length_is_right_to_a_millionth_though_many_values_are_alike(norm: str) -> None:
    """The judge tolerates ten millionths. Adding one by one errs by 1.5e-3 in the norm 1, and by 1e-4 in the norm 2."""
    rows = torch.full((2, 3 * 224 * 224), 0.0137)
    exact = torch.linalg.vector_norm(rows.double(), ord=float(norm), dim=1, keepdim=True)
    assert torch.allclose(lengths(rows, norm).double(), exact, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_there_is_no_step(norm: str) -> None:
    assert torch.equal(steepest(torch.zeros(2, 1, 2, 2), norm), torch.zeros(2, 1, 2, 2))
    assert torch.equal(project(torch.zeros(2, 1, 2, 2), 0.1, norm), torch.zeros(2, 1, 2, 2))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    norm=st.sampled_from(NORMS),
    epsilon=st.floats(1e-4, 10.0),
    scale=st.floats(1e-4, 100.0),
)
def test_a_projection_ends_inside_the_ball_and_leaves_what_is_inside(
    seed: int, norm: str, epsilon: float, scale: float
) -> None:
    perturbation = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale
    projected = project(perturbation, epsilon, norm)
    assert float(lengths(projected.flatten(1), norm).max()) <= epsilon * (1 + 1e-5)
    assert torch.allclose(project(projected, epsilon, norm), projected, rtol=1e-5)
    inside = (lengths(perturbation.flatten(1), norm) < epsilon).flatten()
    assert torch.equal(projected[inside], perturbation[inside])


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_depends_on_the_seed_and_the_sample_alone(norm: str) -> None:
    like = torch.zeros(3, 1, 4, 4)
    together = random_points(like, 0.3, norm, seed=7, sample_indices=[10, 11, 12])
    alone = random_points(like[:1], 0.3, norm, seed=7, sample_indices=[11])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(alone, random_points(like[:1], 0.3, norm, seed=8, sample_indices=[11]))
    assert not torch.equal(together[0], together[1])
    assert float(lengths(together.flatten(1), norm).max()) <= 0.3 * (1 + 1e-6)


@pytest.mark.parametrize(("norm", "expected"), [("inf", 0.75), ("2", 0.75), ("1", 0.75)])
def test_random_points_fill_the_ball_evenly(norm: str, expected: float) -> None:
    """In d dimensions the radius of a uniform point, over epsilon, has the mean d / (d + 1)."""
    points = random_points(torch.zeros(4000, 3), 2.0, norm, seed=1, sample_indices=list(range(4000)))
    assert float(lengths(points, norm).mean()) / 2.0 == pytest.approx(expected, abs=0.01)
    assert float(points.mean().abs()) < 0.05
