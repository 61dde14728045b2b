"""HopSkipJump (Chen, Jordan and Wainwright, arXiv 1904.02144): towards a sample along the boundary between two classes.

It sees decisions alone. From an image of another class it searches the boundary on the way to the sample, estimates
from the decisions on points around which way the other class lies, steps off that way, and searches the way back anew.
The constants are those of adversarial-robustness-toolbox, 0.01 where the authors' program has 1 / d. But the start is
seeded, the first search goes along the blend of image and start under either norm, and the last step is followed by a
search, too.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from attack_service.attacks.norms import lengths, steepest
from attack_service.attacks.querying import Answer, Interview, QueryAttack, Question
from attack_service.attacks.randomness import normal, sample_keys, uniform
from attack_service.black_box_parameters import SEARCH_STEP_LIMIT

# A search ends within this share of the way per sqrt(d) (norm 2) or per d (norm inf), of d values in an image.
_PRECISION = 0.01
# The same, for the way from the start to where a search under the norm inf begins.
_BLEND_PRECISION = 0.001
# How far from the first boundary point the points around it lie; later the _PRECISION of the distance to the sample.
_FIRST_RADIUS = 0.1
# Points drawn at once take memory until they are asked about, and a sum over them must not depend on the pass's width.
_POINTS_AT_ONCE = 64

Search: TypeAlias = Generator[Question, Answer, Tensor]


@dataclass(frozen=True, slots=True)
class HopSkipJump(QueryAttack):
    """`iteration_count` steps; before the t-th it asks about `initial_evaluation_count` * sqrt(t) points around.

    But never about more than `evaluation_limit`. It starts from the first of `start_limit` uniformly random images that
    the model gives another class; if there is none, it gives up on the sample.
    """

    iteration_count: int
    initial_evaluation_count: int
    evaluation_limit: int
    start_limit: int
    norm: str
    seed: int = 0

    def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
        key = sample_keys(self.seed, [sample_index], "hopskipjump start", image.device)
        for draw in range(self.start_limit):
            current = uniform(key, draw, image.numel()).reshape(image.shape)
            answer = yield Question(current[None])
            if answer.misclassified[0]:
                break
        else:
            return
        # A blend of image and noise is of another class long before noise of as small a largest value is.
        # Under the norm inf it ends a little beyond the boundary, as the authors' does: a box shrinks more there.
        if self.norm == "inf":
            current = yield from self._approach(image, current, "2", _BLEND_PRECISION)
        current = yield from self._approach(image, current, self.norm)
        key = sample_keys(self.seed, [sample_index], "hopskipjump points", image.device)
        draw, radius = 0, _FIRST_RADIUS
        for iteration in range(1, self.iteration_count + 1):
            distance = self._distance(image, current)
            count = min(int(self.initial_evaluation_count * math.sqrt(iteration)), self.evaluation_limit)
            direction = yield from self._estimate(current, radius, count, key, draw)
            draw += count
            current = yield from self._step(current, direction, distance / math.sqrt(iteration))
            # By the distance before the search, so that the points lie on both sides of where the search ends.
            radius = _PRECISION * self._distance(image, current)
            current = yield from self._approach(image, current, self.norm)

    def _distance(self, image: Tensor, other: Tensor) -> float:
        return float(lengths((other - image).reshape(1, -1), self.norm))

    def _approach(self, image: Tensor, far: Tensor, norm: str, precision: float | None = None) -> Search:
        """The point closest to the image, on the way to it from a point of another class, that has another class.

        The way is the straight line for the norm 2, and for the norm inf a box around the image that shrinks.
        `precision` is a share of the way, by default that of the norm.
        """
        change = far - image
        size = image.numel()
        if precision is None:
            precision = _PRECISION / (math.sqrt(size) if norm == "2" else size)
        largest = float(change.abs().max()) if norm == "inf" else 0.0

        def between(share: float) -> Tensor:
            if norm == "inf":
                return change.clamp(-share * largest, share * largest).add_(image)
            return torch.add(image, change, alpha=share)

        held, crossed = 0.0, 1.0
        nearest = far
        for _ in range(min(SEARCH_STEP_LIMIT, math.ceil(-math.log2(precision)))):
            middle = (held + crossed) / 2
            point = between(middle).clamp_(0, 1)
            answer = yield Question(point[None])
            if answer.misclassified[0]:
                crossed, nearest = middle, point
            else:
                held = middle
        return nearest

    def _estimate(self, point: Tensor, radius: float, count: int, key: Tensor, draw: int) -> Search:
        """The direction from a boundary point into the other class, of length one, from `count` decisions around it.

        `draw` is the number of points that were drawn with the key before. The decisions' mean is taken off each, which
        makes the estimate less random (section IV-C of the paper).
        """
        size = point.numel()
        # Of all points, and of those that have crossed the boundary.
        sums = torch.zeros(2, size, device=point.device)
        crossed_count = 0
        for first in range(0, count, _POINTS_AT_ONCE):
            n = min(_POINTS_AT_ONCE, count - first)
            draws = torch.arange(draw + first, draw + first + n, device=point.device)
            noise = normal(key, draws, size) if self.norm == "2" else uniform(key, draws, size).mul_(2).sub_(1)
            noise.mul_(radius / lengths(noise, "2"))
            points = noise.reshape(n, *point.shape).add_(point).clamp_(0, 1)
            answer = yield Question(points)
            shares = np.stack([np.ones(n), answer.misclassified]).astype(np.float32)
            sums.addmm_(torch.from_numpy(shares).to(point.device), (points - point).reshape(n, size))
            crossed_count += int(answer.misclassified.sum())
        moved_sum, crossed_sum = sums
        if crossed_count == 0:
            estimate = -moved_sum
        elif crossed_count == count:
            estimate = moved_sum
        else:
            estimate = crossed_sum - crossed_count / count * moved_sum
        direction: Tensor = steepest(estimate.reshape(1, *point.shape), self.norm)[0]
        return direction

    def _step(self, point: Tensor, direction: Tensor, length: float) -> Search:
        """The point a step further that still has another class; the step is halved until it has."""
        for halving in range(SEARCH_STEP_LIMIT):
            further = (point + length * 0.5**halving * direction).clamp(0, 1)
            answer = yield Question(further[None])
            if answer.misclassified[0]:
                return further
        return point
