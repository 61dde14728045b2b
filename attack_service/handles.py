"""The handle by which attacks ask a model: rows in, logits and gradients out, in passes that do not change the answer.

Libraries round differently for batches of different sizes, and a sample's fate must not depend on who happened to be
attacked beside it. So passes have widths at which the arithmetic is the same to the bit: the full width, and on a CPU
such multiples of four below it as `probe` found to give the same bits. Missing rows are filled up and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from attack_service.attacks.losses import doubt

# (logits of these rows, the rows) -> the numbers that are differentiated by the inputs, (n) or (n, m).
Objective: TypeAlias = Callable[[Tensor, slice], Tensor]

# Where a CPU's libraries were seen to agree with themselves: they treat the rest of a batch below four rows otherwise.
_LANE = 4
_NARROWEST = 8
# torch's allocator, what it passes on from the C++ library, and oneDNN.
_WORDS_OF_NO_MEMORY = ("can't allocate memory", "bad_alloc", "could not create a memory")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The model's answer to n rows: logits (n, classes), and the gradients (n, …) or (n, m, …) if they were asked for.

    A gradient that is not a number is zero: there the model has no slope to follow.
    """

    logits: Tensor
    gradients: Tensor | None


class Handle:
    """A frozen model (or what `defences` puts around one), asked in passes of at most `width` rows.

    When the device runs out of memory the width is halved, `on_narrower` is told, and the same rows are asked again.
    `pass_count` and `row_count` say what was spent, filled rows included.
    """

    def __init__(self, model: nn.Module, width: int, on_narrower: Callable[[int], None] = lambda width: None) -> None:
        self.model = model
        self.width = width
        self.pass_count = 0
        self.row_count = 0
        self._lanes = False
        self._on_narrower = on_narrower

    def padded(self, row_count: int) -> int:
        """The width of the pass in which so many rows are evaluated."""
        if not self._lanes:
            return self.width
        return min(self.width, max(_NARROWEST, -(-row_count // _LANE) * _LANE))

    def probe(self, images: Tensor, labels: Tensor) -> None:
        """Warm up on some images, and find out whether narrower passes round as the full one does.

        On a CPU they mostly do; on other devices only full passes are made.
        """
        images, labels = images[: self.width], labels[: self.width]

        def slopes(logits: Tensor, rows: slice) -> Tensor:
            return doubt(logits, labels[rows])

        full = self.evaluate(images, slopes)
        if images.device.type != "cpu" or self.width <= _NARROWEST:
            return
        counts = [min(width, len(images)) for width in (_NARROWEST, min(_NARROWEST + _LANE, self.width))]
        narrow = [self._pass(_filled(images[:count], -(-count // _LANE) * _LANE), slopes, count) for count in counts]
        self._lanes = all(_same_bits(evaluation, full) for evaluation in narrow)

    def evaluate(self, inputs: Tensor, objective: Objective | None = None) -> Evaluation:
        """Ask about n rows, in as many passes as it takes; gradients only with an objective."""
        parts: list[Evaluation] = []
        first, told_width = 0, self.width
        while first < len(inputs):
            rows = slice(first, min(first + self.width, len(inputs)))
            count = rows.stop - rows.start
            shifted = None if objective is None else _shifted(objective, rows)
            try:
                parts.append(self._pass(_filled(inputs[rows], self.padded(count)), shifted, count))
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or self.width == 1:
                    raise
                self.width = (self.width + 1) // 2
                continue
            # Told once, when it is known how far the width had to go down.
            if self.width < told_width:
                told_width = self.width
                self._on_narrower(self.width)
            first = rows.stop
        if len(parts) == 1:
            return parts[0]
        gradients = [part.gradients for part in parts if part.gradients is not None]
        return Evaluation(torch.cat([part.logits for part in parts]), torch.cat(gradients) if gradients else None)

    def _pass(self, inputs: Tensor, objective: Objective | None, count: int) -> Evaluation:
        self.pass_count += 1
        self.row_count += len(inputs)
        if objective is None:
            with torch.inference_mode():
                logits = self.model(inputs)[:count]
            # A tensor of the inference mode could not become part of an attack's state.
            return Evaluation(logits.clone(), None)
        leaf = inputs.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model(leaf)[:count]
            # A sum, not a mean: no row's gradient may depend on how many there are.
            sums = objective(logits, slice(0, count)).sum(dim=0)
            if sums.ndim == 0:
                (gradients,) = torch.autograd.grad(sums, leaf)
                gradients = gradients[:count]
            else:
                last = len(sums) - 1
                columns = [
                    torch.autograd.grad(total, leaf, retain_graph=column < last)[0][:count]
                    for column, total in enumerate(sums)
                ]
                gradients = torch.stack(columns, dim=1)
        return Evaluation(logits.detach(), torch.nan_to_num(gradients, nan=0.0, posinf=None, neginf=None))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had not enough memory; on a CPU torch says so in words only."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS_OF_NO_MEMORY)


def _same_bits(narrow: Evaluation, full: Evaluation) -> bool:
    assert narrow.gradients is not None
    assert full.gradients is not None
    count = len(narrow.logits)
    return torch.equal(narrow.logits, full.logits[:count]) and torch.equal(narrow.gradients, full.gradients[:count])


def _shifted(objective: Objective, rows: slice) -> Objective:
    """The objective of a part of the rows, which knows them by their place among all."""

    def of_part(logits: Tensor, part: slice) -> Tensor:
        return objective(logits, slice(rows.start + part.start, rows.start + part.stop))

    return of_part


def _filled(inputs: Tensor, width: int) -> Tensor:
    missing = width - len(inputs)
    if missing <= 0:
        return inputs
    return torch.cat([inputs, inputs[-1:].expand(missing, *inputs.shape[1:])])
