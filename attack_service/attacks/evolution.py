"""Differential evolution (Storn and Price, 1997, doi 10.1023/A:1008202821328) of changes to an image.

A member of the population is a row of genes in [0, 1]; what they mean to the image the attack says. Every generation,
each member is rivalled by one that is bred from the best and from the difference of two others, and the better of the
two stays. Rivals are bred on the device, many at once.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.losses import doubt
from attack_service.attacks.querying import Interview, QueryAttack, Question
from attack_service.attacks.randomness import coins, sample_keys, uniform

# The levels of an 8-bit image between black and white.
LEVELS = 255
# How much of the difference is added: another share in this range every generation.
_LEAST_SHARE, _LARGEST_SHARE = 0.5, 1.0
# Rivals are bred when they are asked about, so many at once: a sample that has failed needs no more of them. But more
# of them while their genes and their images are few values, so that these stay in a cache.
_BRED_AT_ONCE = 64
_GENES_AT_ONCE, _VALUES_AT_ONCE = 2**16, 2**18


@dataclass(frozen=True, slots=True)
class EvolutionAttack(QueryAttack):
    """Minimises the probability of the true class over `generation_count` generations of `population_size` members.

    It does so by maximising the `doubt`, which grows as that probability falls, also where float32 makes it 1. A rival
    takes each gene from the bred ones with probability 1/2, and else from the member: if it took all, as in
    adversarial-robustness-toolbox, nothing of what is good in the member would be left in its rival.
    """

    population_size: int
    generation_count: int
    seed: int = 0

    @abstractmethod
    def gene_count(self, image: Tensor) -> int:
        """How many genes describe a change of an image (channels, height, width)."""

    @abstractmethod
    def express(self, image: Tensor, genes: Tensor) -> Tensor:
        """The images (n, channels, height, width) in [0, 1] that genes (n, gene_count) in [0, 1] make of one."""

    def first(self, keys: Tensor, counters: Tensor, size: int) -> Tensor:
        """The genes (n, size) of members of the first population; `counters` (n) name what chance gives each."""
        return uniform(keys, counters, size)

    def repair(self, genes: Tensor, keys: Tensor, counters: Tensor) -> Tensor:
        """Bred genes, with those brought back that have left [0, 1]; chance may help."""
        return genes.clamp_(0, 1)

    def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
        n, size, device = self.population_size, self.gene_count(image), image.device
        choices, coin_keys, other_keys = (
            sample_keys(self.seed, [sample_index], f"evolution {purpose}", device)
            for purpose in ("choices", "coins", "others")
        )
        labels = torch.full((n,), label, device=device)
        genes, scores = torch.empty(n, size, device=device), torch.empty(n, device=device)
        bred_count = max(_BRED_AT_ONCE, min(_GENES_AT_ONCE // size, _VALUES_AT_ONCE // image.numel()))
        for generation in range(self.generation_count + 1):
            parents = genes
            if generation:
                best = genes[scores.argmax()]
                one, other, share = _pairs(uniform(choices, generation, 2 * n + 1)[0], n)
                # The difference is between members of one generation, whoever of the next is known already.
                genes = torch.empty_like(genes)
            for begin in range(0, n, bred_count):
                block = slice(begin, min(begin + bred_count, n))
                counters = torch.arange(block.start, block.stop, device=device) + generation * n
                if not generation:
                    genes[block] = self.first(other_keys, counters, size)
                    answer = yield Question(self.express(image, genes[block]))
                    scores[block] = doubt(answer.logits, labels[block])
                    continue
                difference = parents.index_select(0, one[block]).sub_(parents.index_select(0, other[block]))
                bred = self.repair(difference.mul_(share).add_(best), other_keys, counters)
                # Between a gene and another there is nothing but one of both; `where` is many times slower.
                rivals = torch.lerp(parents[block], bred, coins(coin_keys, counters, size))
                answer = yield Question(self.express(image, rivals))
                rival_scores = doubt(answer.logits, labels[block])
                better = rival_scores >= scores[block]
                torch.lerp(parents[block], rivals, better[:, None].float(), out=genes[block])
                scores[block] = torch.where(better, rival_scores, scores[block])


def _pairs(chance: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two different ones of n for each of them, and the share of their difference, from 2 n + 1 uniform numbers."""
    one = (chance[:n] * n).long()
    # Any but that one: the difference of a member and itself is none.
    other = (one + 1 + (chance[n:-1] * (n - 1)).long()) % n
    return one, other, _LEAST_SHARE + (_LARGEST_SHARE - _LEAST_SHARE) * chance[-1]
