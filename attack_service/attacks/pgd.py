"""Projected gradient descent (Madry et al., arXiv 1706.06083), batched, with failed samples leaving the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attack_service.attacks.iterates import Iterate, Iterates
from attack_service.attacks.losses import doubt
from attack_service.attacks.norms import project, steepest


def pgd(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    iteration_count: int,
    norm: str,
    start: Tensor | None = None,
) -> Iterates:
    """Yield one iterate a step; a random `start`, if given, is the first.

    The forward evaluation that judges an iterate also serves the gradient of the next step, and no gradient is
    computed that no row needs. A step from a random start costs what any step costs; without one the first iterate
    is charged two forward evaluations, of the clean sample (for its gradient) and its own.
    """
    rows = torch.arange(len(inputs), device=inputs.device)
    current = inputs if start is None else (inputs + start).clamp(0, 1)
    leaf, logits = _evaluate(model, current)
    if start is not None:
        kept = yield Iterate(rows, leaf.detach(), logits.detach(), query_count=1, gradient_count=0)
        rows = rows[kept]
    else:
        kept = torch.ones_like(rows, dtype=torch.bool)
    for step in range(1, iteration_count + 1):
        if not len(rows):
            return
        gradient = _gradient(leaf, logits, labels, rows, kept)
        stepped = (leaf.detach()[kept] + step_size * steepest(gradient, norm)).clamp(0, 1)
        current = inputs[rows] + project(stepped - inputs[rows], epsilon, norm)
        leaf, logits = _evaluate(model, current, gradients=step < iteration_count)
        kept = yield Iterate(rows, leaf.detach(), logits.detach(), query_count=step + 1, gradient_count=step)
        rows = rows[kept]


def _evaluate(model: nn.Module, inputs: Tensor, *, gradients: bool = True) -> tuple[Tensor, Tensor]:
    leaf = inputs.detach().requires_grad_(gradients)
    with torch.set_grad_enabled(gradients):
        return leaf, model(leaf)


def _gradient(leaf: Tensor, logits: Tensor, labels: Tensor, rows: Tensor, kept: Tensor) -> Tensor:
    """The gradient of each kept row's loss. A sum, not a mean: no row's gradient may depend on the batch."""
    (gradient,) = torch.autograd.grad(doubt(logits[kept], labels[rows]).sum(), leaf)
    return torch.nan_to_num(gradient[kept], nan=0.0, posinf=None, neginf=None)
