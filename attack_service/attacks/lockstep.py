"""Attacks that move all their samples a step at a time: what one is, and the state it keeps of its samples.

Such an attack never decides whether it has succeeded, never counts and never stops: `driving.drive_lockstep` asks the
model, judges the answer, ends a sample that has failed and gives its slot to the next one. All that an attack knows of
a sample is a row of its `State`, and no row may influence another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Samples that take slots: images (n, channels, height, width) in [0, 1], labels (n), positions in their split."""

    images: Tensor
    labels: Tensor
    sample_indices: list[int]


@dataclass(slots=True)
class State:
    """What an attack knows of its samples, a row each; attacks add fields, all of them tensors of n rows.

    `inputs` is what the model is asked next, within [0, 1]; `originals` are the clean images. `checked` says whether
    that answer is a check: it is not one for the clean image itself, which only serves a gradient. `remaining` is the
    number of evaluations the attack still has for the row, the next one included; its driver counts it down.
    """

    inputs: Tensor
    originals: Tensor
    labels: Tensor
    checked: Tensor
    remaining: Tensor

    @classmethod
    def of(cls, arrivals: Arrivals, inputs: Tensor, *, checked: bool, evaluation_count: int, **others: Tensor) -> Self:
        """The state of samples that arrive; `inputs` are copied."""
        n, device = len(inputs), inputs.device
        return cls(
            inputs=inputs.clone(),
            originals=arrivals.images,
            labels=arrivals.labels,
            checked=torch.full((n,), checked, dtype=torch.bool, device=device),
            remaining=torch.full((n,), evaluation_count, dtype=torch.int64, device=device),
            **others,
        )

    def take(self, rows: Tensor) -> Self:
        """These rows, in this order, copied."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def put(self, rows: Tensor, arrived: Self) -> None:
        """Replace these rows by those of another state, in place."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(arrived, field.name)


class LockstepAttack(ABC):
    """An attack on many samples at once, a row each."""

    gradient_count: ClassVar[int] = 1
    """Backward evaluations that a step takes; 0 for an attack that uses none. An instance may have its own."""

    @property
    @abstractmethod
    def evaluation_count(self) -> int:
        """The most forward evaluations that the attack spends on a sample."""

    @abstractmethod
    def start(self, arrivals: Arrivals) -> State:
        """The state of samples at their first evaluation. What is random derives from seed and sample index alone."""

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        """What is differentiated by the inputs: (n) numbers from the logits (n, classes) of these rows of the state.

        (n, m) numbers for an attack whose `gradient_count` is m above 1. A row's number may depend on its logits alone.
        """
        raise NotImplementedError(f"{type(self).__name__} uses no gradients")

    def finished(self, state: State, logits: Tensor) -> Tensor:
        """Whether the attack gives up on a row after this evaluation (n); asked before `advance`."""
        return state.remaining <= 1

    @abstractmethod
    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        """Set the next `inputs` from the model's answer, in place.

        `gradients` are (n, channels, height, width), or (n, m, channels, height, width), finite; None if
        `gradient_count` is 0. Rows that have ended are among them; what becomes of these does not matter. `remaining`
        is counted down by the driver.
        """
