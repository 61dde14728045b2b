"""What becomes of a sample is its own affair: every native attack, on a ResNet, whoever is attacked beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_service import catalog
from attack_service.attacks.building import build
from attack_service.attacks.lockstep import LockstepAttack
from attack_service.attacks.querying import QueryAttack
from attack_service.jobs import AttackSpec
from attack_service.known_attacks import ATTACKS
from attack_service.outcomes import Outcome

NATIVE = [entry.name for entry in ATTACKS.values() if "native" in entry.engines and entry.access]

# Budgets that take a second or two an attack, of whatever has such a parameter.
SMALL = {
    "max_iterations": 4,
    "max_queries": 20,
    "max_generations": 2,
    "population_size": 8,
    "pixel_count": 2,
    "threshold": 60,
    "initial_evaluations": 4,
    "max_evaluations": 8,
    "max_starts": 10,
    "binary_search_steps": 2,
    "candidate_count": 3,
    "random_start": 1,
}
# A step of HopSkipJump asks some fifty questions.
SMALLER = {"hopskipjump": {"max_iterations": 2}}


@pytest.fixture(scope="module")
def correct(trained) -> tuple[nn.Module, Tensor, Tensor]:
    """A small ResNet and digits that it classifies correctly."""
    model, dataset = trained
    labels = dataset.test.labels
    images = dataset.test.images(torch.arange(len(labels)))
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    return model, images[right], labels[right]


def specified(name: str, norm: str = "") -> AttackSpec:
    small = SMALL | SMALLER.get(name, {})
    parameters = {schema.name: float(small[schema.name]) for schema in ATTACKS[name].parameters if schema.name in small}
    spec = AttackSpec(model="resnet18", dataset="digits", attack=name, attack_parameters=parameters, norm=norm, seed=5)
    return catalog.resolve(spec)


def without_seconds(outcomes: list[Outcome]) -> list[Outcome]:
    return [
        replace(outcome, seconds_lower=0.0, seconds_upper=None if outcome.seconds_upper is None else 0.0)
        for outcome in outcomes
    ]


@pytest.mark.parametrize("name", NATIVE)
def test_a_samples_outcome_is_the_same_bits_in_any_order_shard_or_attempt(
    correct: tuple[nn.Module, Tensor, Tensor], attacked: Callable[..., list[Outcome]], name: str
) -> None:
    """All but the seconds: verdict, checks, counts, prediction, and the distances to the last digit."""
    model, images, labels = correct
    spec = specified(name)
    attack: LockstepAttack | QueryAttack = build(spec, 10)
    # More samples than slots; one that asks about many images at once shares its passes anyway.
    count = 14 if isinstance(attack, LockstepAttack) else 8
    images, labels = images[:count], labels[:count]
    epsilon = spec.attack_parameters.get("epsilon", math.inf)

    def run(*orders: list[int]) -> list[Outcome]:
        found: list[Outcome] = []
        for order in orders:
            found += attacked(attack, model, images, labels, epsilon=epsilon, norm=spec.norm, width=12, order=order)
        return without_seconds(sorted(found, key=lambda outcome: outcome.sample_index))

    whole = run(list(range(count)))
    assert [outcome.sample_index for outcome in whole] == list(range(count))
    # Two shards, each from its last sample to its first; then an attempt that stopped after five samples, and the next.
    assert run(list(range(0, count, 2))[::-1], list(range(1, count, 2))[::-1]) == whole
    assert run(list(range(5)), list(range(5, count))) == whole


@pytest.mark.parametrize(("name", "norm"), [("fgm", "inf"), ("pgd", "2")])
def test_slots_of_another_width_change_hardly_a_sample(
    correct: tuple[nn.Module, Tensor, Tensor], attacked: Callable[..., list[Outcome]], name: str, norm: str
) -> None:
    """Verdict and failing check agree for 99.5 % of the samples at least; only rounding is another."""
    model, images, labels = correct
    images, labels = images[:200], labels[:200]
    assert len(images) == 200
    spec = specified(name, norm)
    attack = build(spec, 10)
    found = [
        [
            (outcome.verdict, outcome.check_count)
            for outcome in attacked(
                attack, model, images, labels, epsilon=spec.attack_parameters["epsilon"], norm=norm, width=width
            )
        ]
        for width in (64, 13)
    ]
    assert len({verdict for verdict, _ in found[0]}) == 2
    assert sum(one == other for one, other in zip(*found, strict=True)) / 200 >= 0.995
