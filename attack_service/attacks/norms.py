"""Steps, projections and random points for the norms inf, 2 and 1.

The arithmetic is that of adversarial-robustness-toolbox 1.20 up to rounding, so that both engines move every sample
alike: the projection onto a 1-norm ball rescales (it is not the nearest point), and a step in the 1-norm moves one
input value. Only in the 2-norm, by gradients whose squares a float32 cannot hold, the toolbox does not move at all.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def lengths(rows: Tensor, norm: str) -> Tensor:
    """The norm of each row, (n, d) -> (n, 1)."""
    order = {"inf": torch.inf, "2": 2.0, "1": 1.0}[norm]
    length: Tensor = torch.linalg.vector_norm(rows, ord=order, dim=1, keepdim=True)
    return length


def steepest(gradient: Tensor, norm: str) -> Tensor:
    """The direction of length one along which a linear function with this gradient grows most."""
    if norm == "inf":
        return gradient.sign()
    rows = gradient.flatten(1)
    if norm == "1":
        position = rows.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(rows).scatter_(1, position, 1.0).reshape(gradient.shape) * gradient.sign()
    # A confident model's gradients are so small that their squares underflow: without this the step would be zero.
    largest = rows.abs().amax(dim=1, keepdim=True)
    scaled = rows / largest.where(largest > 0, 1.0)
    length = lengths(scaled, "2")
    return (scaled / length.where(length > 0, 1.0)).reshape(gradient.shape)


def project(perturbation: Tensor, epsilon: float, norm: str) -> Tensor:
    """The perturbation inside the ball of radius epsilon: clipped for the norm inf, else rescaled."""
    if norm == "inf":
        return perturbation.clamp(-epsilon, epsilon)
    rows = perturbation.flatten(1)
    length = lengths(rows, norm).double()
    shrink = torch.where(length == 0, 0.0, (epsilon / length).clamp(max=1.0))
    return (rows.double() * shrink).to(perturbation.dtype).reshape(perturbation.shape)


def random_points(like: Tensor, epsilon: float, norm: str, *, seed: int, sample_indices: list[int]) -> Tensor:
    """A point of the ball for each sample, uniform, from the seed and the sample's index alone."""
    size = like[0].numel()
    points = []
    for index in sample_indices:
        digest = hashlib.sha256(f"start:{seed}:{index}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
        if norm == "inf":
            point = torch.rand(size, generator=generator) * 2 - 1
        elif norm == "2":
            direction = torch.randn(size, generator=generator)
            radius = torch.rand(1, generator=generator) ** (1 / size)
            point = direction / direction.norm() * radius
        else:
            # The first d of d + 1 exponentials over their sum are uniform in the simplex; random signs fill the ball.
            exponentials = torch.empty(size + 1).exponential_(generator=generator)
            signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1
            point = exponentials[:-1] / exponentials.sum() * signs
        points.append(point * epsilon)
    return torch.stack(points).reshape(like.shape).to(like)
