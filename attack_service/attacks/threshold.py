"""The threshold attack (Kotyan and Vargas, arXiv 1906.06026): every value may change, by a few levels of 255."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from attack_service.attacks.evolution import LEVELS, EvolutionAttack
from attack_service.attacks.randomness import coins


@dataclass(frozen=True, slots=True)
class Threshold(EvolutionAttack):
    """A gene a value: its change is a whole number of levels of 1/255, from -`threshold` to `threshold`.

    The changed value is clipped to [0, 1]. The first population changes every value by plus or minus the threshold.
    """

    threshold: int = 1

    def gene_count(self, image: Tensor) -> int:
        return image.numel()

    def express(self, image: Tensor, genes: Tensor) -> Tensor:
        change = (genes * (2 * self.threshold)).round_().sub_(self.threshold).div_(LEVELS)
        return change.reshape(len(genes), *image.shape).add_(image).clamp_(0, 1)

    def first(self, keys: Tensor, counters: Tensor, size: int) -> Tensor:
        return coins(keys, counters, size)
