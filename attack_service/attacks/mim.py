"""The momentum iterative method (Dong et al., arXiv 1710.06081): steps along what the gradients so far agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.losses import doubt
from attack_service.attacks.norms import bounded_step, unit


@dataclass(slots=True)
class MomentumState(State):
    """`momentum` is the decayed sum of the gradients so far, each of length one in the 1-norm."""

    momentum: Tensor


@dataclass(frozen=True, slots=True)
class MIM(LockstepAttack):
    """Steps of length `step_size` up the decayed sum of all gradients, each projected onto the ball of `epsilon`.

    A gradient counts with its direction alone: it is divided by its 1-norm before it is added. With a `decay` of 0 the
    attack is projected gradient descent. The first evaluation is of the clean sample, and no check.
    """

    epsilon: float
    step_size: float
    iteration_count: int
    norm: str
    decay: float

    @property
    def evaluation_count(self) -> int:
        return self.iteration_count + 1

    def start(self, arrivals: Arrivals) -> MomentumState:
        return MomentumState.of(
            arrivals,
            arrivals.images,
            checked=False,
            evaluation_count=self.evaluation_count,
            momentum=torch.zeros_like(arrivals.images),
        )

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        return doubt(logits, state.labels[rows])

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert isinstance(state, MomentumState)
        assert gradients is not None
        state.momentum = self.decay * state.momentum + unit(gradients, "1")
        state.inputs = bounded_step(
            state.inputs, state.originals, state.momentum, self.step_size, self.epsilon, self.norm
        )
        state.checked.fill_(True)
