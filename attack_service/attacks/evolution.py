"""Differential evolution (Storn and Price, 1997, doi 10.1023/A:1008202821328) of changes to an image.

A member of the population is a row of genes in [0, 1]; what they mean to the image the attack says. Every generation,
each member is rivalled by one that is bred from the best and from the difference of two others, and the better of the
two stays. A whole generation is bred at once, on the device, and is one question.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.losses import doubt
from attack_service.attacks.querying import Interview, QueryAttack, Question
from attack_service.attacks.randomness import sample_keys, uniform

# The levels of an 8-bit image between black and white.
LEVELS = 255
# How much of the difference is added: another share in this range every generation.
_LEAST_SHARE, _LARGEST_SHARE = 0.5, 1.0
# A rival takes each gene from the bred ones with this probability, and else from the member. With 1, as
# adversarial-robustness-toolbox has it, a rival of hundreds of genes loses most of what is good in its member.
_CROSSOVER = 0.5


@dataclass(frozen=True, slots=True)
class EvolutionAttack(QueryAttack):
    """Minimises the probability of the true class over `generation_count` generations of `population_size` members.

    It does so by maximising the `doubt`, which grows as that probability falls, also where float32 makes it 1.
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

    def first(self, image: Tensor, random: Tensor) -> Tensor:
        """The first population, from uniform random numbers of its shape."""
        return random

    def repair(self, genes: Tensor, random: Tensor) -> Tensor:
        """Bred genes, with those brought back that have left [0, 1]; uniform random numbers may help."""
        return genes.clamp_(0, 1)

    def ask(self, image: Tensor, label: int, sample_index: int) -> Interview:
        n, size = self.population_size, self.gene_count(image)
        key = sample_keys(self.seed, [sample_index], "evolution", image.device)
        labels = torch.full((n,), label, device=image.device)
        genes = self.first(image, uniform(key, 0, n * size).reshape(n, size))
        answer = yield Question(self.express(image, genes))
        scores = doubt(answer.logits, labels)
        for generation in range(1, self.generation_count + 1):
            rivals = self._breed(genes, scores, uniform(key, generation, n * size + 2 * n + 1)[0])
            answer = yield Question(self.express(image, rivals))
            rival_scores = doubt(answer.logits, labels)
            better = rival_scores >= scores
            genes = torch.where(better[:, None], rivals, genes)
            scores = torch.where(better, rival_scores, scores)

    def _breed(self, genes: Tensor, scores: Tensor, random: Tensor) -> Tensor:
        n, size = genes.shape
        crossing, choices = random[: n * size].reshape(n, size), random[n * size :]
        one = (choices[:n] * n).long()
        # Any but that one: the difference of a member and itself is none.
        other = (one + 1 + (choices[n:-1] * (n - 1)).long()) % n
        share = _LEAST_SHARE + (_LARGEST_SHARE - _LEAST_SHARE) * choices[-1]
        bred = genes[scores.argmax()] + share * (genes[one] - genes[other])
        # Where a gene crosses over, its random number is uniform below the probability, so it can serve once more.
        return torch.where(crossing < _CROSSOVER, self.repair(bred, crossing / _CROSSOVER), genes)
