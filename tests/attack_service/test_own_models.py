"""What a specification says of a model of the user's own is checked before a worker sees its file."""

from __future__ import annotations

import pytest

from attack_service.catalog import count_maxima, divide, resolve
from attack_service.errors import InvalidSpecification, UnknownName
from attack_service.jobs import AttackSpec


def specification(**fields: object) -> AttackSpec:
    return AttackSpec(**({"model": "resnet50", "dataset": "digits", "attack": "pgd"} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"weights": "IMAGENET1K_V2"},
        {"checkpoint": "/models/own.safetensors", "training_seconds": 60.0, "training_sample_count": 1000},
        {"checkpoint": "own.pt", "epoch_count": 90, "stem": "cifar"},
        {"model": "", "program": "own.pt2"},
        {"attack": "none"},
    ],
)
def test_resolving_a_resolved_specification_changes_nothing(fields: dict[str, object]) -> None:
    resolved = resolve(specification(**fields))
    assert resolve(resolved) == resolved
    divided = divide(resolved, worker_count=4)
    assert resolve(divided) == divided


def test_what_was_trained_elsewhere_has_no_epochs_that_nobody_named() -> None:
    assert resolve(specification(checkpoint="own.pt")).epoch_count == 0
    assert resolve(specification(checkpoint="own.pt", epoch_count=90)).epoch_count == 90
    assert resolve(specification()).epoch_count == 6


def test_torchvisions_weights_see_images_of_their_size_unless_told_otherwise() -> None:
    assert resolve(specification(weights="IMAGENET1K_V2")).image_size == 224
    assert resolve(specification(weights="IMAGENET1K_V2", image_size=64)).image_size == 64


def test_a_program_is_its_own_architecture() -> None:
    assert resolve(specification(model="", program="own.pt2")).model == "program"
    with pytest.raises(InvalidSpecification, match="a program is its own architecture; leave the model out"):
        resolve(specification(program="own.pt2"))
    with pytest.raises(UnknownName, match="unknown model 'program'"):
        resolve(specification(model="program"))


def test_without_an_attack_there_is_nothing_to_count() -> None:
    resolved = resolve(specification(attack="none"))
    assert (resolved.sample_count, resolved.attack_parameters) == (0, {})
    assert count_maxima(resolved) == (0, 0)
    with pytest.raises(InvalidSpecification, match="the attack none attacks nothing; leave it out") as refused:
        resolve(specification(attack="none", sample_count=5))
    assert refused.value.field == "spec.sample_count"


@pytest.mark.parametrize(
    ("fields", "path", "said"),
    [
        ({"weights": "V1", "checkpoint": "a.pt"}, "spec.checkpoint", "weights and checkpoint are given"),
        ({"weights": "../x"}, "spec.weights", "is no name of weights, such as IMAGENET1K_V2"),
        ({"weights": "IMAGENET1K_V1", "stem": "cifar"}, "spec.stem", "have the stem imagenet; leave the stem out"),
        ({"checkpoint": "own.pkl"}, "spec.checkpoint", r"ends with \.safetensors or \.pt or \.pth"),
        ({"checkpoint": "o\0n.pt"}, "spec.checkpoint", "is no path of a checkpoint"),
        ({"checkpoint": "x" * 5000 + ".pt"}, "spec.checkpoint", "is no path of a checkpoint"),
        ({"model": "", "program": "own.pt"}, "spec.program", r"is no path of a program; it ends with \.pt2"),
        ({"training_seconds": 5.0}, "spec.training_seconds", "is for a model of your own; .* leave it out"),
        ({"training_sample_count": 5}, "spec.training_sample_count", "is for a model of your own"),
        ({"checkpoint": "a.pt", "training_seconds": 5.0}, "spec.training_seconds", "give both, or neither"),
        ({"checkpoint": "a.pt", "training_sample_count": 5}, "spec.training_seconds", "give both, or neither"),
        (
            {"checkpoint": "a.pt", "training_seconds": float("nan"), "training_sample_count": 5},
            "spec.training_seconds",
            "must be finite",
        ),
        (
            {"checkpoint": "a.pt", "defence": "adversarial-training"},
            "spec.defence",
            "acts in training, but the model is trained already",
        ),
    ],
)
def test_refusals_name_the_field_and_the_way_out(fields: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(InvalidSpecification, match=said) as refused:
        resolve(specification(**fields))
    assert refused.value.field == path
