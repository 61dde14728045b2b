"""Projected gradient descent (Madry et al., arXiv 1706.06083), and two attacks that are a special case of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.losses import doubt
from attack_service.attacks.norms import bounded_step, random_points


@dataclass(frozen=True, slots=True)
class PGD(LockstepAttack):
    """Steps of length `step_size` up the gradient, each projected onto the ball of radius `epsilon`.

    The forward evaluation that judges an iterate also serves the gradient of the next step. Without a random start the
    first evaluation is of the clean sample, for its gradient, and no check; with one it is of the start, and is one.
    """

    epsilon: float
    step_size: float
    iteration_count: int
    norm: str
    random_start: bool = False
    seed: int = 0

    @property
    def evaluation_count(self) -> int:
        return self.iteration_count + 1

    def start(self, arrivals: Arrivals) -> State:
        inputs = arrivals.images
        if self.random_start:
            start = random_points(
                inputs, self.epsilon, self.norm, seed=self.seed, sample_indices=arrivals.sample_indices
            )
            inputs = (inputs + start).clamp(0, 1)
        return State.of(arrivals, inputs, checked=self.random_start, evaluation_count=self.evaluation_count)

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        return doubt(logits, state.labels[rows])

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert gradients is not None
        state.inputs = bounded_step(state.inputs, state.originals, gradients, self.step_size, self.epsilon, self.norm)
        state.checked.fill_(True)


def fgm(*, epsilon: float, norm: str) -> PGD:
    """The fast gradient method (Goodfellow et al., arXiv 1412.6572): a single step of length epsilon."""
    return PGD(epsilon=epsilon, step_size=epsilon, iteration_count=1, norm=norm)


def bim(*, epsilon: float, step_size: float, iteration_count: int) -> PGD:
    """The basic iterative method (Kurakin et al., arXiv 1607.02533): in the norm inf, and from the sample itself."""
    return PGD(epsilon=epsilon, step_size=step_size, iteration_count=iteration_count, norm="inf")
