"""What is attacked, and with which settings.

Settings are named alike for all libraries; `ours` are the parameters of our catalogue that say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from throughput.ground import Ground, answers


@dataclass(frozen=True, slots=True)
class Case:
    """`epsilon`, in `norm`, is how far an adversarial image may be for a failure, by whomever it was found.

    `full_floor` is the number of steps that every sample would take if none failed: the floor is one forward and one
    input-gradient backward evaluation for each. 0 if there is no such number; then the floor is what the samples
    needed of ours. With `steps_told` a library's step of failure is told from outside. With `to_the_end` ours is not
    stopped by a failure, and the nearest image that it has found is judged as those of the others are.

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
    full_floor: int = 0
    steps_told: bool = False
    to_the_end: bool = False
    least_sure: bool = False
    surest: bool = False
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
        128,
        16,
        **_pgd(0.005, 0.00125, 40),
        full_floor=40,
        steps_told=True,
        surest=True,
        quick_settings={"steps": 10},
        quick_ours={"max_iterations": 10},
    ),
    Case(
        "fixed",
        "PGD, the fixed case",
        "pgd",
        "inf",
        0.1,
        512,
        16,
        **_pgd(0.1, 0.0055, 40),
        full_floor=40,
        steps_told=True,
        frozen_too=("ART", "torchattacks"),
    ),
    Case(
        "few",
        "PGD where 28 % fail",
        "pgd",
        "inf",
        0.03,
        256,
        16,
        **_pgd(0.03, 0.0075, 40),
        full_floor=40,
        steps_told=True,
    ),
    Case(
        "deepfool",
        "DeepFool",
        "deepfool",
        "2",
        3.0,
        128,
        4,
        settings={"steps": 50, "overshoot": 0.02},
        # The others look for the boundaries of all classes, ours for those of the likeliest five, as is its default.
        ours={"epsilon": 3.0, "max_iterations": 50, "overshoot": 0.02, "candidate_count": 5},
        left_out={"torchattacks": "takes one sample at a time, 0.33 s each, and only some of them fail; see --quick"},
    ),
    Case(
        "cw",
        "Carlini and Wagner, L2",
        "cw",
        "2",
        3.0,
        12,
        2,
        settings={"step_size": 0.01, "steps": 40, "searches": 4, "weight": 1.0, "fixed_weight": 1.0},
        # Nothing is that near, so that ours searches to the end for the nearest image, as the others do.
        ours={
            "epsilon": 1e-3,
            "learning_rate": 0.01,
            "max_iterations": 40,
            "binary_search_steps": 4,
            "initial_constant": 1.0,
        },
        to_the_end=True,
        quick_settings={"steps": 10, "searches": 2},
        quick_ours={"max_iterations": 10, "binary_search_steps": 2},
    ),
    Case(
        "apgd",
        "APGD on the cross-entropy",
        "apgd",
        "inf",
        0.05,
        192,
        16,
        settings={"epsilon": 0.05, "steps": 40},
        ours={"epsilon": 0.05, "max_iterations": 40, "random_start": 1},
    ),
    Case(
        "square",
        "Square",
        "square",
        "inf",
        0.1,
        256,
        16,
        settings={"epsilon": 0.1, "queries": 300},
        ours={"epsilon": 0.1, "max_queries": 300, "initial_share": 0.8},
        quick_settings={"queries": 50},
        quick_ours={"max_queries": 50},
    ),
    Case(
        "hopskipjump",
        "HopSkipJump",
        "hopskipjump",
        "2",
        2.5,
        16,
        2,
        settings={"steps": 8, "estimates": 50},
        ours={
            "epsilon": 2.5,
            "max_iterations": 8,
            "initial_evaluations": 50,
            "max_evaluations": 10000,
            "max_starts": 100,
        },
        quick_settings={"steps": 3},
        quick_ours={"max_iterations": 3},
    ),
    Case(
        "pixel",
        "Pixel, 5 pixels by differential evolution",
        "pixel",
        "0",
        5.0,
        12,
        4,
        settings={"pixels": 5, "generations": 10},
        # ART's own number of members: as many times the 15 genes as fit into 400.
        ours={"pixel_count": 5, "population_size": 390, "max_generations": 10},
        least_sure=True,
    ),
    Case(
        "threshold",
        "Threshold, 12 of 255 levels by differential evolution",
        "threshold",
        "inf",
        12 / 255,
        4,
        1,
        settings={"levels": 12, "generations": 6},
        # ART's own number of members: one for each of the image's values.
        ours={"threshold": 12, "population_size": 1024, "max_generations": 6},
        least_sure=True,
    ),
)
