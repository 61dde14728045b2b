"""The fast gradient method (Goodfellow et al., arXiv 1412.6572)."""

from __future__ import annotations

from torch import Tensor, nn

from attack_service.attacks.iterates import Iterates
from attack_service.attacks.pgd import pgd


def fgm(model: nn.Module, inputs: Tensor, labels: Tensor, *, epsilon: float, norm: str) -> Iterates:
    """Yield the one iterate: a single step of length epsilon, which is what one step of projected descent is."""
    return pgd(model, inputs, labels, epsilon=epsilon, step_size=epsilon, iteration_count=1, norm=norm)
