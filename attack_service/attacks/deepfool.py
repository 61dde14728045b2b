"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, arXiv 1511.04599): the nearest boundary, were the model linear."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.norms import lengths, steepest

# The authors' own program adds this length to every step: without it iterates creep up to the boundary, and rounding
# decides when one crosses it.
_SHORTEST_STEP = 1e-4
# The distance to a hyperplane is measured along its slope in the dual norm.
_DUAL_ORDER = {"2": 2.0, "inf": 1.0}


@dataclass(slots=True)
class DeepFoolState(State):
    """`perturbations` are the sums of the steps, not yet overshot; `candidates` (n, m) classes, -1 before chosen."""

    perturbations: Tensor
    candidates: Tensor


@dataclass(frozen=True, slots=True)
class DeepFool(LockstepAttack):
    """Steps to where a linear model with the gradients of this one would put its nearest boundary.

    Boundaries are those between the true class and the `candidate_count` likeliest others at the clean sample. What the
    model is asked, and judged by, is the clean sample plus all steps times 1 + `overshoot`, clipped to [0, 1]; what the
    steps come to is clipped, too. The first evaluation is of the clean sample, for its gradients, and no check. Where
    the model is fooled further away than `epsilon` the attack gives up: it does not go back.
    """

    epsilon: float
    norm: str
    candidate_count: int
    overshoot: float
    iteration_count: int

    @property
    def gradient_count(self) -> int:  # type: ignore[override]  # as many as there are candidates
        return self.candidate_count

    @property
    def evaluation_count(self) -> int:
        return self.iteration_count + 1

    def start(self, arrivals: Arrivals) -> DeepFoolState:
        images = arrivals.images
        return DeepFoolState.of(
            arrivals,
            images,
            checked=False,
            evaluation_count=self.evaluation_count,
            perturbations=torch.zeros_like(images),
            candidates=torch.full((len(images), self.candidate_count), -1, device=images.device),
        )

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        return self._leads(state, logits, rows)[0]

    def finished(self, state: State, logits: Tensor) -> Tensor:
        spent = state.remaining <= 1
        if math.isinf(self.epsilon):
            return spent
        # Within epsilon such a sample has failed, or a defence abstains and the next step goes further.
        far = lengths((state.inputs - state.originals).flatten(1), self.norm).squeeze(1) > self.epsilon
        return spent | ((logits.argmax(dim=1) != state.labels) & far)

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert gradients is not None
        assert isinstance(state, DeepFoolState)
        leads, state.candidates = self._leads(state, logits, slice(None))
        slopes = torch.linalg.vector_norm(gradients.flatten(2), ord=_DUAL_ORDER[self.norm], dim=2)
        distances = torch.where(slopes > 0, leads.abs() / slopes, torch.inf)
        distance, nearest = distances.min(dim=1)
        direction = steepest(gradients[torch.arange(len(nearest), device=nearest.device), nearest], self.norm)
        # Without any slope there is no step; towards a boundary beyond all numbers it ends at the edges of the box.
        length = (distance + _SHORTEST_STEP).clamp(max=1e30).reshape(-1, 1, 1, 1)
        moved = (state.originals + (state.perturbations + length * direction)).clamp(0, 1)
        state.perturbations = moved - state.originals
        state.inputs = (state.originals + (1 + self.overshoot) * state.perturbations).clamp(0, 1)
        state.checked.fill_(True)

    def _leads(self, state: State, logits: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """By how much each candidate leads the true class, (n, m), and the candidates."""
        assert isinstance(state, DeepFoolState)
        labels = state.labels[rows].unsqueeze(1)
        others = logits.detach().scatter(1, labels, -torch.inf)
        likeliest = others.topk(self.candidate_count, dim=1).indices
        candidates = torch.where(state.candidates[rows] < 0, likeliest, state.candidates[rows])
        return logits.gather(1, candidates) - logits.gather(1, labels), candidates
