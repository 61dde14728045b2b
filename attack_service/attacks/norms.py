"""Steps, projections and random points for the norms inf, 2 and 1.

The arithmetic is that of adversarial-robustness-toolbox 1.20 up to rounding, so that both engines move every sample
alike: the projection onto a 1-norm ball rescales (it is not the nearest point), and a step in the 1-norm moves one
input value. Only in the 2-norm, by gradients whose squares a float32 cannot hold, the toolbox does not move at all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attack_service.attacks.randomness import normal, sample_keys, uniform


def lengths(rows: Tensor, norm: str) -> Tensor:
    """The norm of each row, (n, d) -> (n, 1), the same whatever the other rows are, to seven digits or so.

    `torch.linalg.vector_norm` adds one value after the other, and where many are alike its rounding errors are, too: of
    a 3 x 224 x 224 image it may keep three digits in the norm 1, and four in the norm 2. A sum is divided in halves.
    """
    if norm == "inf":
        return rows.abs().amax(dim=1, keepdim=True)
    if len(rows) == 1:
        # A single sum may be divided among threads, and is then rounded otherwise than each of many.
        return lengths(rows.repeat(2, 1), norm)[:1]
    if norm == "1":
        return rows.abs().sum(dim=1, keepdim=True)
    if norm == "0":
        return rows.count_nonzero(dim=1)[:, None].to(rows.dtype)
    return rows.square().sum(dim=1, keepdim=True).sqrt_()


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The direction of length one along which a linear function with this gradient grows most."""
    if norm == "inf":
        return gradient.sign()
    rows = gradient.flatten(1)
    if norm == "1":
        position = rows.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(rows).scatter_(1, position, 1.0).reshape(gradient.shape) * gradient.sign()
    return unit(gradient, "2")


def unit(gradient: Tensor, norm: str) -> Tensor:
    """The gradient divided by its length; zero stays zero."""
    rows = gradient.flatten(1)
    # A confident model's gradients are so small that their squares underflow: without this the step would be zero.
    largest = rows.abs().amax(dim=1, keepdim=True)
    scaled = rows / largest.where(largest > 0, 1.0)
    length = lengths(scaled, norm)
    return (scaled / length.where(length > 0, 1.0)).reshape(gradient.shape)


def project(perturbation: Tensor, epsilon: float, norm: str) -> Tensor:
    """The perturbation inside the ball of radius epsilon: clipped for the norm inf, else rescaled."""
    if norm == "inf":
        return perturbation.clamp(-epsilon, epsilon)
    rows = perturbation.flatten(1)
    length = lengths(rows, norm).double()
    shrink = torch.where(length == 0, 0.0, (epsilon / length).clamp(max=1.0))
    return (rows.double() * shrink).to(perturbation.dtype).reshape(perturbation.shape)


def bounded_step(
    inputs: Tensor, originals: Tensor, direction: Tensor, step_size: float, epsilon: float, norm: str
) -> Tensor:
    """The inputs after the steepest step along a direction, clipped to the box, then projected onto the ball."""
    stepped = steepest(direction, norm).mul_(step_size).add_(inputs).clamp_(0, 1)
    return project(stepped.sub_(originals), epsilon, norm).add_(originals)


def random_points(like: Tensor, epsilon: float, norm: str, *, seed: int, sample_indices: list[int]) -> Tensor:
    """A point of the ball for each sample, uniform, from the seed and the sample's index alone."""
    keys = sample_keys(seed, sample_indices, "start", like.device)
    size = like[0].numel()
    if norm == "inf":
        points = uniform(keys, 0, size) * 2 - 1
    elif norm == "2":
        direction = normal(keys, 0, size)
        radius = uniform(keys, 1, 1) ** (1 / size)
        points = direction / lengths(direction, "2") * radius
    else:
        # The first d of d + 1 exponentials over their sum are uniform in the simplex; random signs fill the ball.
        exponentials = -torch.log1p(-uniform(keys, 0, size + 1))
        signs = (uniform(keys, 1, size) < 0.5).to(like.dtype) * 2 - 1
        points = exponentials[:, :-1] / exponentials.sum(dim=1, keepdim=True) * signs
    return (points * epsilon).reshape(like.shape).to(like.dtype)
