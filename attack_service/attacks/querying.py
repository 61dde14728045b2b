"""Attacks that go their own way with every sample, asking as many questions at once as they like.

Black-box attacks are of this kind, and those of other libraries. `driving.drive_queries` runs many samples side by
side, pools their questions into full batches, judges every answer, and ends a sample at the first question that fools
the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Question:
    """Images (k, channels, height, width) in [0, 1] to ask the model about.

    With an `objective`, (k, classes) logits to (k) numbers, or to (k, m) if `gradient_count` is m above 1, the answer
    has gradients. A row's number may depend on its logits alone. `checked` says whether the answer is a check: it is
    none where the images have been judged before, or are the clean one.
    """

    images: Tensor
    objective: Callable[[Tensor], Tensor] | None = None
    gradient_count: int = 0
    checked: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """Logits (k, classes), and the gradients that were asked for, (k, …) or (k, m, …).

    `misclassified` (k) is what a defender's public answer gives away: whether the image got another class than the true
    one, and no abstention. It lies in the memory of the host, so that to branch on it waits for no device.
    """

    logits: Tensor
    gradients: Tensor | None
    misclassified: npt.NDArray[np.bool_]


Interview: TypeAlias = Generator[Question, Answer, None]


class QueryAttack(ABC):
    """An attack that goes its own way with every sample. Each image that it asks about is a check, if `checked`."""

    @abstractmethod
    def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
        """Attack a sample, an image (channels, height, width) on the attack's device; make at least one check.

        Returns when it gives up; is closed as soon as the sample has failed. Randomness derives from the attack's seed
        and `sample_index` alone.
        """

    def complaint(self) -> str | None:
        """A sentence on what a reader of the outcomes should know of how they came about; None if there is nothing."""
        return None
