"""What counts as a failure: the model is fooled, the defence does not abstain, and the change is within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.norms import lengths

# Rounding of a length that is epsilon by construction.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge's word on n inputs: the predicted class, whether the model was fooled, whether the defence abstains."""

    predictions: Tensor
    fooled: Tensor
    rejected: Tensor


@dataclass(frozen=True, slots=True)
class Judge:
    """Fooled: another class than the true one, no abstention, and a change of length at most `epsilon` in `norm`.

    `abstains` maps logits (n, classes) to (n) booleans; None is a model without a defence that abstains.
    """

    epsilon: float
    norm: str
    abstains: Callable[[Tensor], Tensor] | None = None

    def judge(
        self, inputs: Tensor, originals: Tensor, labels: Tensor, logits: Tensor, owners: Tensor | None = None
    ) -> Judgement:
        """Judge n inputs (n, channels, height, width) by what the model says to them.

        `owners` (n) say which of the `originals` each belongs to; None: there is one for each, in order.
        """
        predictions = logits.argmax(dim=1)
        rejected = torch.zeros_like(predictions, dtype=torch.bool) if self.abstains is None else self.abstains(logits)
        fooled = (predictions != labels) & ~rejected
        if math.isfinite(self.epsilon):
            # To find out which they are would be to wait for a device; on a CPU it saves measuring the others.
            at = fooled.nonzero().squeeze(1) if fooled.device.type == "cpu" else None
            if at is not None:
                inputs, owners = inputs.index_select(0, at), at if owners is None else owners[at]
            if owners is not None:
                originals = originals.index_select(0, owners)
            if len(inputs):
                near = lengths((inputs - originals).flatten(1), self.norm).squeeze(1) <= self._reach
                if at is None:
                    fooled &= near
                else:
                    fooled[at] = near
        return Judgement(predictions, fooled, rejected)

    @property
    def _reach(self) -> float:
        return self.epsilon * (1 + _RELATIVE) + _ABSOLUTE
