"""The L2 attack of Carlini and Wagner (arXiv 1608.04644): distance and misclassification weighed in one objective."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.losses import margin

# The edges of [0, 1] lie at infinity in the space where the attack moves. The paper's program begins within 1e-6 of
# them, and then takes a hundred steps to move such a value; this close, half as many.
_EDGE = 1e-3
# Adam (Kingma and Ba, arXiv 1412.6980) with its authors' decay rates.
_FIRST_DECAY, _SECOND_DECAY, _SMALLEST = 0.9, 0.999, 1e-8
# Of the paper's program: without a success the constant grows tenfold, up to a largest; and a search is over if the
# objective is not below this share of what it was a tenth of the iterations ago. That is a hundred of them there; in
# fewer than ten Adam may swing back and forth once, and a search would be over in the middle of it.
_GROWTH, _LARGEST_CONSTANT, _STALLED, _ABORT_PARTS, _SHORTEST_STALL = 10.0, 1e10, 0.9999, 10, 10


@dataclass(slots=True)
class CarliniWagnerState(State):
    """Points in the space of the hyperbolic tangent, Adam's moments, the search for the constant, the nearest success.

    `origins` are the points, and `origin_gradients` the gradients of the margins, where every search begins.
    `iteration_counts` are those of the search under way; `constants` (n) lie between `lower` and `upper`.
    `nearest` are the images with the least squared distance that fooled the model, `nearest_distances` (n) infinite
    until there is one.
    """

    points: Tensor
    first_moments: Tensor
    second_moments: Tensor
    origins: Tensor
    origin_gradients: Tensor
    iteration_counts: Tensor
    search_counts: Tensor
    constants: Tensor
    lower: Tensor
    upper: Tensor
    succeeded: Tensor
    earlier_objectives: Tensor
    nearest: Tensor
    nearest_distances: Tensor


@dataclass(frozen=True, slots=True)
class CarliniWagner(LockstepAttack):
    """Adam on |x - x0|^2 + constant * max(margin + confidence, 0), the constant found by a binary search.

    The margin is the logit of the true class less the largest other one. An image is (tanh(point) + 1) / 2, so it never
    leaves [0, 1]. Every search begins at the clean sample, which is asked about once, for its gradient, and which is no
    check; every iterate is one. The last question is the nearest image that fooled the model (by `confidence`), so
    that what is recorded of a survivor is the best that was found, or if there was none, the last iterate again.
    """

    search_count: int
    iteration_count: int
    learning_rate: float
    initial_constant: float
    confidence: float = 0.0

    @property
    def evaluation_count(self) -> int:
        return self.search_count * self.iteration_count + 2

    def start(self, arrivals: Arrivals) -> CarliniWagnerState:
        images = arrivals.images
        n = len(images)
        inner = (2 * images - 1) * (1 - _EDGE)
        # torch.atanh rounds a value otherwise at the end of a tensor: there another sample might stand next time.
        points = ((1 + inner) / (1 - inner)).log_().div_(2)
        none = torch.zeros(n, device=images.device)
        return CarliniWagnerState.of(
            arrivals,
            _images(points),
            checked=False,
            evaluation_count=self.evaluation_count,
            points=points.clone(),
            first_moments=torch.zeros_like(images),
            second_moments=torch.zeros_like(images),
            origins=points,
            origin_gradients=torch.zeros_like(images),
            iteration_counts=torch.zeros(n, dtype=torch.int64, device=images.device),
            search_counts=torch.zeros(n, dtype=torch.int64, device=images.device),
            constants=torch.full_like(none, self.initial_constant),
            lower=none.clone(),
            upper=torch.full_like(none, torch.inf),
            succeeded=torch.zeros(n, dtype=torch.bool, device=images.device),
            earlier_objectives=torch.full_like(none, torch.inf),
            nearest=images.clone(),
            nearest_distances=torch.full_like(none, torch.inf),
        )

    def objective(self, state: State, logits: Tensor, rows: slice) -> Tensor:
        return margin(logits, state.labels[rows])

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert gradients is not None
        assert isinstance(state, CarliniWagnerState)
        begun = state.iteration_counts > 0
        changes = state.inputs - state.originals
        distances = changes.flatten(1).square().sum(dim=1)
        hinges = (margin(logits, state.labels) + self.confidence).clamp(min=0)
        self._remember(state, distances, begun & (hinges == 0) & (logits.argmax(dim=1) != state.labels))
        origins = (~begun).nonzero().squeeze(1)
        state.origin_gradients[origins] = gradients[origins]
        over = self._over(state, distances + state.constants * hinges)
        slopes = 2 * changes + (state.constants * (hinges > 0)).reshape(-1, 1, 1, 1) * gradients
        ended = over.nonzero().squeeze(1)
        last = ended[state.search_counts[ended] == self.search_count - 1]
        if len(ended):
            found = state.nearest_distances[last].isfinite().reshape(-1, 1, 1, 1)
            parting = torch.where(found, state.nearest[last], state.inputs[last])
            _begin_search(state, ended)
            slopes[ended] = state.constants[ended].reshape(-1, 1, 1, 1) * state.origin_gradients[ended]
            state.inputs[ended] = _images(state.points[ended])
        self._step(state, slopes)
        if len(last):
            state.inputs[last] = parting
            state.remaining[last] = 1
        state.checked.fill_(True)

    def _over(self, state: CarliniWagnerState, objectives: Tensor) -> Tensor:
        """Which rows' searches end with this iterate: it is the last one, or the objective falls no more."""
        counts = state.iteration_counts
        asked = (counts > 0) & (counts % max(_SHORTEST_STALL, self.iteration_count // _ABORT_PARTS) == 0)
        stalled = asked & (objectives > _STALLED * state.earlier_objectives)
        state.earlier_objectives = torch.where(asked, objectives, state.earlier_objectives)
        return stalled | (counts >= self.iteration_count)

    def _step(self, state: CarliniWagnerState, slopes: Tensor) -> None:
        """A step of Adam in every row; the slopes are by the images."""
        state.iteration_counts += 1
        slopes *= 2 * state.inputs * (1 - state.inputs)
        state.first_moments.mul_(_FIRST_DECAY).add_(slopes, alpha=1 - _FIRST_DECAY)
        state.second_moments.mul_(_SECOND_DECAY).addcmul_(slopes, slopes, value=1 - _SECOND_DECAY)
        first, second = _corrections(self.iteration_count, state.points.device)[:, state.iteration_counts]
        scales = (state.second_moments / second.reshape(-1, 1, 1, 1)).sqrt_().add_(_SMALLEST)
        state.points.sub_((self.learning_rate / first).reshape(-1, 1, 1, 1) * state.first_moments / scales)
        state.inputs = _images(state.points)

    @staticmethod
    def _remember(state: CarliniWagnerState, distances: Tensor, succeeded: Tensor) -> None:
        state.succeeded |= succeeded
        better = (succeeded & (distances < state.nearest_distances)).nonzero().squeeze(1)
        state.nearest[better] = state.inputs[better]
        state.nearest_distances[better] = distances[better]


def _begin_search(state: CarliniWagnerState, rows: Tensor) -> None:
    """The next search of these rows: with a smaller constant after a success, else with a larger one."""
    succeeded, constants = state.succeeded[rows], state.constants[rows]
    lower = torch.where(succeeded, state.lower[rows], constants)
    upper = torch.where(succeeded, constants, state.upper[rows])
    state.lower[rows], state.upper[rows] = lower, upper
    state.constants[rows] = torch.where(
        upper.isinf(), (_GROWTH * constants).clamp(max=_LARGEST_CONSTANT), (lower + upper) / 2
    )
    state.points[rows] = state.origins[rows]
    for begun in (state.first_moments, state.second_moments, state.iteration_counts, state.succeeded):
        begun[rows] = 0
    state.earlier_objectives[rows] = torch.inf
    state.search_counts[rows] += 1


@lru_cache(maxsize=8)
def _corrections(iteration_count: int, device: torch.device) -> Tensor:
    """What the moments are short of after so many steps, (2, iteration_count + 1): 1 - decay^steps.

    A table, since torch rounds a power otherwise at the end of a tensor: there another sample might stand next time.
    """
    steps = torch.arange(iteration_count + 1, dtype=torch.float64)
    decays = torch.tensor([[_FIRST_DECAY], [_SECOND_DECAY]], dtype=torch.float64)
    return (1 - decays**steps).float().to(device)


def _images(points: Tensor) -> Tensor:
    return points.tanh().add_(1).div_(2)
