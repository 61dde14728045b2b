"""The losses that attacks ascend."""

from __future__ import annotations

import torch
from torch import Tensor

from attack_service.errors import InvalidSpecification

_LEAST_CLASSES_OF_A_RATIO = 3


def doubt(logits: Tensor, labels: Tensor) -> Tensor:
    """How much more the model makes of all other classes than of the true one, (n, classes) -> (n).

    The cross-entropy is softplus(doubt), so both have the same direction of steepest ascent, and attacks use nothing of
    a gradient but its direction. But the cross-entropy's gradient vanishes in float32 for a model that is very sure of
    itself, and an attack on it would stand still: samples would survive by rounding alone. This one's does not.
    """
    true = labels[:, None]
    return torch.logsumexp(logits.scatter(1, true, -torch.inf), dim=1) - logits.gather(1, true).squeeze(1)


def logit_ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """One more than the difference of logits ratio (Croce and Hein, arXiv 2003.01690), (n, classes) -> (n).

    The paper's loss is (max of the other z_i - z_y) / (z_1st - z_3rd), and does not change when logits are scaled. Of a
    model that is sure of itself it is -1 up to rounding, and the slope of z_y the difference of two almost equal
    numbers. With the one that is added here the same expression is (z_2nd - z_3rd) / (z_1st - z_3rd) while the true
    class is first, which a float32 holds to its last digit. Raises `InvalidSpecification` for less than three classes.
    """
    if logits.shape[1] < _LEAST_CLASSES_OF_A_RATIO:
        raise InvalidSpecification(
            "spec.attack",
            f"apgd-dlr compares the three largest logits, but the dataset has {logits.shape[1]} classes; use apgd",
        )
    first, second, third = logits.topk(_LEAST_CLASSES_OF_A_RATIO, dim=1).values.unbind(dim=1)
    true = logits.gather(1, labels[:, None]).squeeze(1)
    above = torch.where(true == first, second - third, (first - third) + (first - true))
    span = first - third
    return above / torch.where(span > 0, span, 1.0)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the true class exceeds the largest other one, (n, classes) -> (n)."""
    true = labels.unsqueeze(1)
    return logits.gather(1, true).squeeze(1) - logits.scatter(1, true, -torch.inf).amax(dim=1)
