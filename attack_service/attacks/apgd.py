"""AutoPGD (Croce and Hein, arXiv 2003.01690): projected gradient ascent that chooses its own step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.norms import project, random_points, steepest

# The paper's constants: the weight of a new step against the one before, and the share of steps that must gain.
_STEP_WEIGHT = 0.75
_GAIN_SHARE = 0.75
# The paper's periods between checkpoints, in hundredths of all steps.
_FIRST_PERIOD, _PERIOD_DECREASE, _SHORTEST_PERIOD = 22, 3, 6


@dataclass(slots=True)
class AscentState(State):
    """What AutoPGD remembers of each sample.

    `step_counts` are the steps made; `previous` is the iterate before `inputs`, and `values` its loss; `best`,
    `best_gradients` and `best_values` are the iterate of the largest loss. `gain_counts` are the steps since the last
    checkpoint that raised the loss; of that checkpoint are `checkpoint_values`, the largest loss then, and `halved`.
    """

    step_counts: Tensor
    previous: Tensor
    values: Tensor
    best: Tensor
    best_gradients: Tensor
    best_values: Tensor
    step_sizes: Tensor
    gain_counts: Tensor
    checkpoint_values: Tensor
    halved: Tensor


@dataclass(frozen=True, slots=True)
class APGD(LockstepAttack):
    """Steps with momentum that begin at twice `epsilon` and are halved, at the best point, where the loss stalls.

    `loss` maps logits (n, classes) and labels (n) to (n) numbers to be raised. At a checkpoint the step size of a
    sample is halved, and it returns to its best iterate, if fewer than three quarters of the steps since the one before
    have raised the loss, or if the step size was kept there and the largest loss has not grown since. Evaluations and
    checks are those of `pgd`.
    """

    epsilon: float
    iteration_count: int
    norm: str
    loss: Callable[[Tensor, Tensor], Tensor]
    random_start: bool = False
    seed: int = 0

    @property
    def evaluation_count(self) -> int:
        return self.iteration_count + 1

    def start(self, arrivals: Arrivals) -> AscentState:
        inputs = arrivals.images
        if self.random_start:
            start = random_points(
                inputs, self.epsilon, self.norm, seed=self.seed, sample_indices=arrivals.sample_indices
            )
            inputs = (inputs + start).clamp(0, 1)
        n, device = len(inputs), inputs.device
        nothing = torch.zeros(n, dtype=torch.int64, device=device)
        lowest = torch.full((n,), -torch.inf, dtype=inputs.dtype, device=device)
        return AscentState.of(
            arrivals,
            inputs,
            checked=self.random_start,
            evaluation_count=self.evaluation_count,
            step_counts=nothing,
            previous=inputs.clone(),
            values=lowest,
            best=inputs.clone(),
            best_gradients=torch.zeros_like(inputs),
            best_values=lowest.clone(),
            step_sizes=torch.full_like(lowest, 2 * self.epsilon),
            gain_counts=nothing.clone(),
            checkpoint_values=lowest.clone(),
            halved=torch.zeros(n, dtype=torch.bool, device=device),
        )

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        return self.loss(logits, state.labels[rows])

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert isinstance(state, AscentState)
        assert gradients is not None
        values = self.loss(logits, state.labels).to(state.values.dtype)
        first = state.step_counts == 0
        better = values > state.best_values
        state.gain_counts += (values > state.values) & ~first
        state.best_values = torch.where(better, values, state.best_values)
        state.best = torch.where(_wide(better), state.inputs, state.best)
        state.best_gradients = torch.where(_wide(better), gradients, state.best_gradients)
        state.checkpoint_values = torch.where(first, values, state.checkpoint_values)

        halve = self._checkpoint(state)
        current = torch.where(_wide(halve), state.best, state.inputs)
        gradients = torch.where(_wide(halve), state.best_gradients, gradients)
        state.values = torch.where(halve, state.best_values, values)

        stepped = self._bounded(current + _wide(state.step_sizes) * steepest(gradients, self.norm), state.originals)
        weight = _wide(torch.where(first, 1.0, _STEP_WEIGHT).to(current.dtype))
        moved = current + weight * (stepped - current) + (1 - weight) * (current - state.previous)
        state.previous = current
        state.inputs = self._bounded(moved, state.originals)
        state.step_counts += 1
        state.checked.fill_(True)

    def _checkpoint(self, state: AscentState) -> Tensor:
        """Which samples return to their best iterate, with half the step size, (n)."""
        periods = _periods(self.iteration_count, state.step_counts.device)[state.step_counts]
        here = periods > 0
        few_gains = state.gain_counts < _GAIN_SHARE * periods
        stalled = ~state.halved & (state.best_values <= state.checkpoint_values)
        halve = here & (few_gains | stalled)
        state.step_sizes = torch.where(halve, state.step_sizes / 2, state.step_sizes)
        state.halved = torch.where(here, halve, state.halved)
        state.checkpoint_values = torch.where(here, state.best_values, state.checkpoint_values)
        state.gain_counts = torch.where(here, 0, state.gain_counts)
        return halve

    def _bounded(self, inputs: Tensor, originals: Tensor) -> Tensor:
        # The box comes last: it only shortens what lies in the ball.
        return (originals + project(inputs - originals, self.epsilon, self.norm)).clamp(0, 1)


def checkpoints(iteration_count: int) -> list[int]:
    """After how many steps the step size is reconsidered: the paper's w_1 < w_2 < … < `iteration_count`."""
    found: list[int] = []
    share = period = _FIRST_PERIOD
    while (step := -(-share * iteration_count // 100)) < iteration_count:
        if not found or step > found[-1]:
            found.append(step)
        period = max(period - _PERIOD_DECREASE, _SHORTEST_PERIOD)
        share += period
    return found


@lru_cache(maxsize=8)
def _periods(iteration_count: int, device: torch.device) -> Tensor:
    """For each number of steps, those since the last checkpoint if it is one, else 0, (iteration_count + 1)."""
    periods = torch.zeros(iteration_count + 1, dtype=torch.int64)
    before = 0
    for step in checkpoints(iteration_count):
        periods[step] = step - before
        before = step
    return periods.to(device)


def _wide(rows: Tensor) -> Tensor:
    """(n) as (n, 1, 1, 1), beside images."""
    return rows[:, None, None, None]
