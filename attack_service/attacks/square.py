"""The Square Attack (Andriushchenko, Croce, Flammarion and Hein, arXiv 1912.00049): random search by patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from attack_service.attacks.lockstep import Arrivals, LockstepAttack, State
from attack_service.attacks.losses import margin
from attack_service.attacks.norms import lengths
from attack_service.attacks.randomness import sample_keys, uniform

# The share of values that a patch covers is halved after each of these queries of ten thousand.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SCHEDULED = 10_000
_FEWEST_TILES = 5
_SMALLEST_2_NORM_SIDE = 3


@dataclass(slots=True)
class SquareState(State):
    """The images with the least margin so far and those margins, infinite at first; the key of each sample's chance."""

    best: Tensor
    best_margins: Tensor
    keys: Tensor


@dataclass(frozen=True, slots=True)
class Square(LockstepAttack):
    """Puts patches of random places and signs on the image, and keeps those that make the margin smaller.

    The margin is the logit of the true class less the largest other one. Under the norm inf every value of a patch
    moves to one end of the interval of radius `epsilon` around the clean value; the search starts with vertical
    stripes. Under the norm 2 a step takes the whole change of one window and spends it on another, in bumps; the search
    starts with a tiling of them. `initial_share` of the values are in the first patch. The starting point is a check,
    as every question is. Uses no gradients.
    """

    gradient_count: ClassVar[int] = 0

    epsilon: float
    norm: str
    query_count: int
    initial_share: float
    seed: int = 0

    @property
    def evaluation_count(self) -> int:
        return self.query_count

    def start(self, arrivals: Arrivals) -> SquareState:
        images = arrivals.images
        keys = sample_keys(self.seed, arrivals.sample_indices, "square", images.device)
        if self.norm == "inf":
            n, channels, _, width = images.shape
            change = self.epsilon * _signs(uniform(keys, 0, channels * width)).reshape(n, channels, 1, width)
        else:
            tiles = _tiles(images, keys)
            change = (self.epsilon * tiles / lengths(tiles.flatten(1), "2").reshape(-1, 1, 1, 1)).to(images.dtype)
        return SquareState.of(
            arrivals,
            (images + change).clamp(0, 1),
            checked=True,
            evaluation_count=self.evaluation_count,
            best=images.clone(),
            best_margins=torch.full((len(images),), torch.inf, device=images.device),
            keys=keys,
        )

    def advance(self, state: State, logits: Tensor, gradients: Tensor | None) -> None:
        assert isinstance(state, SquareState)
        margins = margin(logits, state.labels)
        better = margins < state.best_margins
        state.best = torch.where(better.reshape(-1, 1, 1, 1), state.inputs, state.best)
        state.best_margins = torch.where(better, margins, state.best_margins)
        asked = self.query_count - state.remaining
        scheduled = (asked - 1) * _SCHEDULED // self.query_count
        stages = torch.bucketize(scheduled, _table(_HALVINGS, scheduled.device))
        step = self._patched if self.norm == "inf" else self._moved
        state.inputs = step(state, asked, stages)

    def _patched(self, state: SquareState, asked: Tensor, stages: Tensor) -> Tensor:
        """The best image with a patch of one sign a channel."""
        channels, height, width = state.best.shape[1:]
        shape = (height, width)
        sides = _table(_sides(shape, self.initial_share, "inf"), stages.device)[stages]
        draws = uniform(state.keys, asked, 2 + channels)
        window = _window(draws[:, :2], sides, shape)
        change = self.epsilon * _signs(draws[:, 2:]).reshape(-1, channels, 1, 1)
        patched = torch.where(window, (state.originals + change).clamp(0, 1), state.best)
        # A patch that was there already would be a query for nothing: its opposite is not.
        same = (patched == state.best).flatten(1).all(dim=1).nonzero().squeeze(1)
        if len(same):
            opposite = (state.originals[same] - change[same]).clamp(0, 1)
            patched[same] = torch.where(window[same], opposite, state.best[same])
        return patched

    def _moved(self, state: SquareState, asked: Tensor, stages: Tensor) -> Tensor:
        """The best image with the change of one window taken away and added to another's, which gets a new bump."""
        channels, height, width = state.best.shape[1:]
        shape = (height, width)
        all_sides = _sides(shape, self.initial_share, "2")
        sides = _table(all_sides, stages.device)[stages]
        draws = uniform(state.keys, asked, 5 + channels)
        gaining, losing = _window(draws[:, :2], sides, shape), _window(draws[:, 2:4], sides, shape)
        variants = 2 * stages + (draws[:, 4] < 0.5)
        bumps = _placed(_bump_table(all_sides, draws.device), variants, draws[:, :2], sides, shape)
        signs = _signs(draws[:, 5:]).reshape(-1, channels, 1, 1)
        change = state.best - state.originals
        squares = change.square()
        unused = (self.epsilon**2 - _sums(squares).sum(dim=1, keepdim=True)).clamp(min=0) / channels
        available = (_sums(squares * (gaining | losing)) + unused).sqrt()
        gained = torch.where(gaining, change, 0.0)
        gained = signs * bumps + gained / _lengths(gained)
        gained *= available / _lengths(gained)
        change = torch.where(gaining, gained, torch.where(losing, 0.0, change))
        return (state.originals + change).clamp(0, 1)


def _signs(draws: Tensor) -> Tensor:
    return (draws < 0.5).to(draws.dtype) * 2 - 1


def _sums(images: Tensor) -> Tensor:
    """(n, channels, height, width) to (n, channels, 1, 1)."""
    return images.sum(dim=(2, 3), keepdim=True)


def _lengths(images: Tensor) -> Tensor:
    """The length of each channel, (n, channels, 1, 1); 1 where there is none."""
    length = _sums(images.square()).sqrt()
    filled: Tensor = length.where(length > 0, 1.0)
    return filled


def _corners(draws: Tensor, sides: Tensor, shape: tuple[int, int]) -> Tensor:
    """The first row and column of each window, (n, 2), uniform among all that leave it inside the image."""
    free = torch.tensor(shape, device=draws.device) - sides[:, None] + 1
    return (draws * free).long()


def _window(draws: Tensor, sides: Tensor, shape: tuple[int, int]) -> Tensor:
    """Square windows as masks, (n, 1, height, width)."""
    corners = _corners(draws, sides, shape)
    rows, columns = (
        (places >= corners[:, axis, None]) & (places < (corners[:, axis] + sides)[:, None])
        for axis, places in enumerate(torch.arange(size, device=draws.device) for size in shape)
    )
    return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)


@lru_cache(maxsize=64)
def _sides(shape: tuple[int, int], initial_share: float, norm: str) -> tuple[int, ...]:
    """The side of a patch by the number of halvings; under the norm 2 it is odd."""
    sides = [
        max(1, round(math.sqrt(initial_share / 2**count * shape[0] * shape[1]))) for count in range(len(_HALVINGS) + 1)
    ]
    if norm == "inf":
        return tuple(min(side, *shape) for side in sides)
    largest = min(shape) - 1 + min(shape) % 2
    return tuple(min(max(side, _SMALLEST_2_NORM_SIDE) // 2 * 2 + 1, largest) for side in sides)


@lru_cache(maxsize=64)
def _table(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


def _bump(side: int) -> Tensor:
    """Two bumps of opposite signs side by side, (side, side), of length 1: the eta of the paper."""
    halves = [_half(side // 2, side), -_half(side - side // 2, side)]
    bump = torch.cat(halves)
    length: Tensor = bump.norm()
    return bump / length


def _half(height: int, width: int) -> Tensor:
    """A bump whose value is a sum of 1 / (k + 1)^2 over all k from the distance to its middle on, of length 1."""
    if not height:
        return torch.zeros(0, width)
    count = max(height // 2, width // 2) + 1
    sums = (1 / torch.arange(1, count + 1).double().square()).flip(0).cumsum(0).flip(0)
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    half = sums[torch.maximum(rows[:, None], columns[None, :])].float()
    length: Tensor = half.norm()
    return half / length


@lru_cache(maxsize=16)
def _bump_table(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """For each side its bump, and that transposed, (2 x sides, edge, edge): zeros beyond the side, and at the edge."""
    edge = max(sides) + 1
    table = torch.zeros(2 * len(sides), edge, edge)
    for position, side in enumerate(sides):
        bump = _bump(side)
        table[2 * position, :side, :side] = bump
        table[2 * position + 1, :side, :side] = bump.T
    return table.to(device)


def _placed(table: Tensor, variants: Tensor, draws: Tensor, sides: Tensor, shape: tuple[int, int]) -> Tensor:
    """The bumps of these variants in their windows, (n, 1, height, width), zero elsewhere."""
    corners = _corners(draws, sides, shape)
    edge = table.shape[1]
    rows, columns = (
        torch.where((inside >= 0) & (inside < edge), inside, edge - 1)
        for inside in (
            torch.arange(size, device=draws.device) - corners[:, axis, None] for axis, size in enumerate(shape)
        )
    )
    places = (variants[:, None, None] * edge + rows[:, :, None]) * edge + columns[:, None, :]
    return table.take(places).unsqueeze(1)


def _tiles(images: Tensor, keys: Tensor) -> Tensor:
    """A tiling with bumps, each of a random sign in every channel and transposed at random."""
    n, channels, height, width = images.shape
    side = max(1, min(height, width) // _FEWEST_TILES)
    across, along = height // side, width // side
    bump = _bump(side).to(images.device)
    count = across * along
    draws = uniform(keys, 0, (1 + channels) * count).reshape(n, 1 + channels, across, along, 1, 1)
    tiles = torch.where(draws[:, :1] < 0.5, bump, bump.T) * _signs(draws[:, 1:])
    tiled = tiles.permute(0, 1, 2, 4, 3, 5).reshape(n, channels, across * side, along * side)
    top, left = (height - across * side) // 2, (width - along * side) // 2
    whole = torch.zeros_like(images)
    whole[:, :, top : top + across * side, left : left + along * side] = tiled
    return whole
