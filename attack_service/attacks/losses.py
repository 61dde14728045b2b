"""The loss that attacks ascend."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """How much more the model makes of all other classes than of the true one, (n, classes) -> (n).

    The cross-entropy is softplus(doubt), so both have the same direction of steepest ascent, and attacks use nothing of
    a gradient but its direction. But the cross-entropy's gradient vanishes in float32 for a model that is very sure of
    itself, and an attack on it would stand still: samples would survive by rounding alone. This one's does not.
    """
    true = nn.functional.one_hot(labels, logits.shape[1]).bool()
    return torch.logsumexp(logits.masked_fill(true, -torch.inf), dim=1) - logits[true]


class Doubt(nn.CrossEntropyLoss):
    """The mean doubt of a batch, in the place of the cross-entropy that the toolbox asks for."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return doubt(input, target).mean()
