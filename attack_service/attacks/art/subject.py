"""A sample under an attack of the toolbox, from within its coroutine: what is asked, and what is known already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attack_service.attacks.art.coroutines import ask
from attack_service.attacks.art.estimator import RowObjective
from attack_service.attacks.art.memory import Array, Memory
from attack_service.attacks.querying import Answer, Question

# Some loops of the toolbox end when the model is fooled, if need be never.
_LONGEST_CIRCLE = 1000


class GivesUp(BaseException):
    """Ends the attack on a sample. Not an `Exception`, so that no code on the way takes it for one of its own."""


class Subject:
    """Asks the model about one sample for an attack of the toolbox, an `estimator.Oracle`.

    What the attack has been told it is told again without asking, and what was judged before is no check. But when it
    asks for the answer, or for the same gradient, where it has just been told one, then it has made a step and not
    moved: that is a question like any other. Images are clipped to [0, 1]: the model takes no
    others. An image on which a defence abstains is told as of the true class: the attack has not reached its end.
    Raises `GivesUp` when the attack asks about what is not a number, or about nothing new for ever.
    """

    def __init__(self, image: Tensor, label: int, class_count: int) -> None:
        self.image: Array = image.cpu().numpy()
        self.label = label
        self._device = image.device
        self._class_count = class_count
        self._memory = Memory(self.image)
        self._attacked = False
        self._check_count = 0
        self._circle = 0
        # The image and the kind of the last question, if it asked for the gradient of a single image.
        self._slope: tuple[bytes, object] | None = None

    def begin(self) -> None:
        """The attack is built: from now on it is told the truth."""
        self._attacked = True

    def logits(self, images: Array, *, of_iterate: bool = False) -> Array:
        if not self._attacked:
            # A constructor looks whether it gets logits or probabilities, of an image that is none of ours.
            return np.tile(np.arange(self._class_count, dtype=np.float32), (len(images), 1))
        images = _inside(images)
        stays = of_iterate and self._stays(images)
        self._slope = None
        told = [None if stays else self._memory.recall(image) for image in images]
        new = [row for row, logits in enumerate(told) if logits is None]
        self._circle = 0 if new else self._circle + 1
        if self._circle > _LONGEST_CIRCLE:
            raise GivesUp("it went round in circles")
        # The clean image is known, but not yet what the model says to it.
        clean = [row for row in new if self._memory.is_known(images[row])]
        others = [row for row in new if not self._memory.is_known(images[row])]
        for rows, checked in ((clean, stays), (others, True)):
            if rows:
                answer = self._ask(Question(self._tensor(images[rows]), checked=checked))
                for row, logits in zip(rows, self._keep(images[rows], answer), strict=True):
                    told[row] = logits
        return np.stack([logits for logits in told if logits is not None])

    def gradients(self, images: Array, objective: RowObjective, gradient_count: int, kind: object) -> Array:
        images = _inside(images)
        checked = self._stays(images, kind) or not all(self._memory.is_known(image) for image in images)
        self._slope = (images.tobytes(), kind) if len(images) == 1 else None
        answer = self._ask(Question(self._tensor(images), objective, gradient_count, checked))
        self._circle = 0
        self._keep(images, answer)
        assert answer.gradients is not None
        gradients: Array = answer.gradients.cpu().numpy()
        return gradients

    def conclude(self, result: Any) -> None:
        """Ask about the image that the attack has come to, if nobody has; at least one check is made."""
        image = self.image
        if isinstance(result, np.ndarray) and result.shape == (1, *image.shape) and np.isfinite(result).all():
            image = _inside(result.astype(np.float32))[0]
        if not self._check_count or not self._memory.is_known(image):
            self._ask(Question(self._tensor(image[None])))

    def _stays(self, images: Array, *kind: object) -> bool:
        """Whether the last question was for the gradient of this one image, of this kind if one is given."""
        return self._slope is not None and (images.tobytes(), *kind) == self._slope[: 1 + len(kind)]

    def _ask(self, question: Question) -> Answer:
        self._check_count += question.checked
        return ask(question)

    def _keep(self, images: Array, answer: Answer) -> Sequence[Array]:
        logits: Array = answer.logits.cpu().numpy()
        abstained = (logits.argmax(axis=1) != self.label) & ~answer.misclassified
        if abstained.any():
            logits = logits.copy()
            logits[abstained, self.label] = np.nextafter(logits[abstained].max(axis=1), np.float32(np.inf))
        for image, row in zip(images, logits, strict=True):
            self._memory.keep(image, row)
        return list(logits)

    def _tensor(self, images: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).to(self._device)


def _inside(images: Array) -> Array:
    if np.isnan(images).any():
        raise GivesUp("it asked about what is not a number")
    return np.clip(images, 0.0, 1.0)
