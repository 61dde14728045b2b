"""What an attack yields: its iterates, for someone else to judge."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Iterate:
    """One iterate of every sample still under attack, and what the model said to it.

    `rows` (n) are positions in the batch that the attack was given, `inputs` (n, channels, height, width) lie in
    [0, 1], `logits` are (n, classes). Counts are what the attack has spent on each of these rows so far: forward
    evaluations, the one of this iterate included, and backward evaluations.
    """

    rows: Tensor
    inputs: Tensor
    logits: Tensor
    query_count: int
    gradient_count: int


# An attack receives, for every row of the iterate, whether it stays under attack.
Iterates: TypeAlias = Generator[Iterate, Tensor, None]
