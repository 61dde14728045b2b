"""The pixel attack: a few pixels may take any colour (Su et al., arXiv 1710.08864; Kotyan and Vargas, 1906.06026)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attack_service.attacks.evolution import LEVELS, EvolutionAttack
from attack_service.attacks.randomness import uniform


@dataclass(frozen=True, slots=True)
class Pixel(EvolutionAttack):
    """For each of `pixel_count` pixels the genes of its row, its column and its values, whole levels of 1/255.

    Of two that choose the same place the later one counts, so a member may change fewer pixels.
    """

    pixel_count: int = 1

    def gene_count(self, image: Tensor) -> int:
        return self.pixel_count * (2 + len(image))

    def express(self, image: Tensor, genes: Tensor) -> Tensor:
        channels, height, width = image.shape
        n = len(genes)
        pixels = genes.reshape(n, self.pixel_count, 2 + channels)
        rows = (pixels[:, :, 0] * height).long().clamp_(max=height - 1)
        columns = (pixels[:, :, 1] * width).long().clamp_(max=width - 1)
        values = (pixels[:, :, 2:] * LEVELS).round_().div_(LEVELS)
        places = rows * width + columns
        # Only the last pixel at a place is written, the others into the void: the order of writing is the device's.
        numbers = torch.arange(self.pixel_count, device=genes.device).expand(n, -1)
        last = torch.full((n, height * width), -1, device=genes.device)
        last.scatter_reduce_(1, places, numbers, "amax")
        places = torch.where(last.gather(1, places) == numbers, places, height * width)
        images = torch.empty(n, channels, height * width + 1, device=genes.device)
        images[:, :, :-1] = image.reshape(channels, -1)
        images.scatter_(2, places[:, None].expand(-1, channels, -1), values.transpose(1, 2))
        return images[:, :, :-1].reshape(n, channels, height, width)

    def repair(self, genes: Tensor, keys: Tensor, counters: Tensor) -> Tensor:
        """Values stop at black and white; a place beyond the image's edge becomes any other place."""
        outside = (genes < 0) | (genes > 1)
        outside.reshape(len(genes), self.pixel_count, -1)[:, :, 2:] = False
        return torch.where(outside, uniform(keys, counters, genes.shape[1]), genes).clamp_(0, 1)
