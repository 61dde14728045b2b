"""What is attacked, and with which settings.

Settings are named alike for all libraries; `ours` are the parameters of our catalogue that say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from throughput.ground import SLOTS, Ground, answers


@dataclass(frozen=True, slots=True)
class Case:
    """`epsilon`, in `norm`, is how far an adversarial image may be for a failure, by whomever it was found.

    With `full_floor` the floor is one forward and one input-gradient backward evaluation for each of the steps that
    every sample would take if none failed. Without it the floor is what the samples needed of ours. With `steps_told` a
    library's step of failure is told from outside. With `to_the_end` ours is not stopped by a failure, and the nearest
    image that it has found is judged as those of the others are.

    The libraries are given `piece_size` samples at a time. What they make of a piece does not depend on the others,
    so that they are looked at with the first `looked_count` pieces, and timed on `timed_count` a repeat, other ones
    each time; 0 are all.

    `left_out` says why a library is not run but with few samples. Those of `frozen_too` attack our frozen
    model as well.

    The samples are digits in the order of `ground.py`: `first` and `least_sure` choose which.
    """

    name: str
    title: str
    attack: str
    norm: str
    epsilon: float
    sample_count: int
    quick_count: int
    settings: Mapping[str, float]
    ours: Mapping[str, float]
    full_floor: bool = False
    steps_told: bool = False
    to_the_end: bool = False
    least_sure: bool = False
    surest: bool = False
    piece_size: int = SLOTS
    looked_count: int = 0
    timed_count: int = 0
    frozen_too: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    quick_settings: Mapping[str, float] = field(default_factory=dict)
    quick_ours: Mapping[str, float] = field(default_factory=dict)

    def shortened(self) -> Case:
        """The case for a quick look: few samples, and where a single one takes seconds, fewer steps."""
        return replace(
            self,
            sample_count=self.quick_count,
            settings={**self.settings, **self.quick_settings},
            ours={**self.ours, **self.quick_ours},
            looked_count=0,
            left_out={},
        )

    def samples(self, ground: Ground) -> tuple[Tensor, Tensor]:
        """Images and labels. `least_sure` and `surest`: by the margin between the true class and the next."""
        count = self.sample_count
        chosen = torch.arange(count)
        if self.least_sure or self.surest:
            logits = answers(ground.trained, ground.images)
            true = logits.gather(1, ground.labels[:, None]).squeeze(1)
            margins = true - logits.scatter(1, ground.labels[:, None], -torch.inf).amax(dim=1)
            # Rounding alone could fool the model with the very first.
            order = margins.argsort()[4:] if self.least_sure else margins.argsort(descending=True)
            chosen = order[:count].sort().values
        return ground.images[chosen], ground.labels[chosen]


_NOT_DEMANDED = "nothing is demanded beside it here, and it would take minutes; see --quick"


def _pgd(epsilon: float, step_size: float, steps: int) -> dict[str, Mapping[str, float]]:
    return {
        "settings": {"epsilon": epsilon, "step_size": step_size, "steps": steps},
        "ours": {"epsilon": epsilon, "step_size": step_size, "max_iterations": steps},
    }


CASES: tuple[Case, ...] = (
    Case(
        "lockstep",
        "PGD where no sample fails",
        "pgd",
        "inf",
        0.005,
        64,
        8,
        **_pgd(0.005, 0.00125, 16),
        full_floor=True,
        steps_told=True,
        surest=True,
        quick_settings={"steps": 5},
        quick_ours={"max_iterations": 5},
    ),
    Case(
        "fixed",
        "PGD, the fixed case",
        "pgd",
        "inf",
        0.1,
        512,
        16,
        **_pgd(0.1, 0.0037, 40),
        full_floor=True,
        steps_told=True,
        timed_count=1,
        quick_settings={"steps": 10},
        quick_ours={"max_iterations": 10},
    ),
    Case(
        "few",
        "PGD where few fail",
        "pgd",
        "inf",
        0.022,
        128,
        8,
        **_pgd(0.022, 0.0055, 40),
        full_floor=True,
        steps_told=True,
        timed_count=1,
        left_out=dict.fromkeys(("torchattacks", "Foolbox", "adv-lib"), _NOT_DEMANDED),
        quick_settings={"steps": 10},
        quick_ours={"max_iterations": 10},
    ),
    Case(
        "deepfool",
        "DeepFool",
        "deepfool",
        "2",
        3.0,
        24,
        2,
        # Nobody needs more steps, and ART makes all of them.
        settings={"steps": 15, "overshoot": 0.02},
        # The others look for the boundaries of all classes, ours for those of the likeliest five, as is its default.
        ours={"epsilon": 3.0, "max_iterations": 15, "overshoot": 0.02, "candidate_count": 5},
        left_out={"torchattacks": "takes one sample at a time, 2 s each, and only some of them fail; see --quick"},
        quick_settings={"steps": 8},
        quick_ours={"max_iterations": 8},
    ),
    Case(
        "cw",
        "Carlini and Wagner, L2",
        "cw",
        "2",
        3.0,
        8,
        2,
        settings={"step_size": 0.01, "steps": 30, "searches": 4, "weight": 1.0, "fixed_weight": 1.0},
        # Nothing is that near, so that ours searches to the end for the nearest image, as the others do.
        ours={
            "epsilon": 1e-3,
            "learning_rate": 0.01,
            "max_iterations": 30,
            "binary_search_steps": 4,
            "initial_constant": 1.0,
        },
        to_the_end=True,
        quick_settings={"steps": 10, "searches": 1},
        quick_ours={"max_iterations": 10, "binary_search_steps": 1},
    ),
    Case(
        "apgd",
        "APGD on the cross-entropy",
        "apgd",
        "inf",
        0.03,
        128,
        8,
        settings={"epsilon": 0.03, "steps": 25},
        ours={"epsilon": 0.03, "max_iterations": 25, "random_start": 1},
        timed_count=1,
        quick_settings={"steps": 10},
        quick_ours={"max_iterations": 10},
    ),
    Case(
        "square",
        "Square",
        "square",
        "inf",
        0.08,
        48,
        8,
        settings={"epsilon": 0.08, "queries": 100},
        ours={"epsilon": 0.08, "max_queries": 100, "initial_share": 0.8},
        quick_settings={"queries": 50},
        quick_ours={"max_queries": 50},
    ),
    Case(
        "hopskipjump",
        "HopSkipJump",
        "hopskipjump",
        "2",
        2.5,
        40,
        1,
        settings={"steps": 8, "estimates": 50},
        ours={
            "epsilon": 2.5,
            "max_iterations": 8,
            "initial_evaluations": 50,
            "max_evaluations": 10000,
            "max_starts": 100,
        },
        # ART takes one sample after the other.
        piece_size=4,
        looked_count=3,
        timed_count=1,
        left_out={"Foolbox": _NOT_DEMANDED},
        quick_settings={"steps": 3},
        quick_ours={"max_iterations": 3},
    ),
    Case(
        "pixel",
        "Pixel, 4 pixels by differential evolution",
        "pixel",
        "0",
        4.0,
        32,
        1,
        settings={"pixels": 4, "generations": 5},
        # ART's own number of members: as many times the 12 genes as fit into 400.
        ours={"pixel_count": 4, "population_size": 396, "max_generations": 5},
        least_sure=True,
        piece_size=4,
        looked_count=4,
        timed_count=1,
    ),
    Case(
        "threshold",
        "Threshold, 8 of 255 levels by differential evolution",
        "threshold",
        "inf",
        8 / 255,
        16,
        1,
        settings={"levels": 8, "generations": 3},
        # ART's own number of members: one for each of the image's values.
        ours={"threshold": 8, "population_size": 1024, "max_generations": 3},
        least_sure=True,
        piece_size=2,
        looked_count=2,
        timed_count=1,
        quick_settings={"generations": 1},
        quick_ours={"max_generations": 1},
    ),
)
