"""Specifications are checked once, completely, and every refusal says what would be accepted."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from attack_service.catalog import ATTACKS, DATASETS, DEFENCES, MODELS, count_maxima, resolve
from attack_service.errors import InvalidSpecification, UnknownName
from attack_service.jobs import AttackSpec
from attack_service.known_attacks import DEFAULT_EPSILON


def specification(**fields: object) -> AttackSpec:
    return AttackSpec(**({"model": "resnet50", "dataset": "digits", "attack": "pgd"} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("attack", "norm"), [(entry.name, norm) for entry in ATTACKS.values() for norm in entry.norms])
def test_resolving_fills_every_default_and_changes_nothing_the_second_time(attack: str, norm: str) -> None:
    resolved = resolve(AttackSpec(model="resnet18", dataset="", attack=attack, norm=norm))
    assert resolve(resolved) == resolved
    assert resolved.dataset == "digits"
    assert resolved.engine == "native"
    assert resolved.sample_count == (0 if attack == "none" else 200)
    assert set(resolved.attack_parameters) == {schema.name for schema in ATTACKS[attack].parameters}


def test_the_default_step_follows_epsilon_and_the_iterations() -> None:
    resolved = resolve(specification(attack_parameters={"epsilon": 0.4, "max_iterations": 20}))
    assert resolved.attack_parameters["step_size"] == pytest.approx(0.4 / (0.8 * 20))
    one_step = resolve(specification(attack_parameters={"epsilon": 0.4, "max_iterations": 1}))
    assert one_step.attack_parameters["step_size"] == 0.4


def test_schema_defaults_are_the_defaults() -> None:
    resolved = resolve(specification())
    assert resolved.attack_parameters == {schema.name: schema.default_value for schema in ATTACKS["pgd"].parameters}


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        ({"model": ""}, "spec.model", "model is required; known: resnet18, "),
        ({"model": "resnet5"}, "spec.model", "unknown model 'resnet5'; known: resnet18, resnet34, resnet50, "),
        ({"dataset": "minst"}, "spec.dataset", "known: digits, mnist, fashion-mnist, cifar10, cifar100, imagefolder:"),
        ({"dataset": "imagefolder:"}, "spec.dataset", "imagefolder:PATH"),
        ({"dataset": "imagefolder:/" + "x" * 5000}, "spec.dataset", "5001 characters"),
        ({"dataset": "mnist:/x"}, "spec.dataset", "unknown dataset"),
        ({"attack": "gdp"}, "spec.attack", "known: fgm, pgd"),
        ({"attack": "gdp"}, "spec.attack", ", art:CLASS"),
        ({"attack": "bim", "norm": "2"}, "spec.norm", "unknown norm of bim '2'; known: inf"),
        (
            {"attack": "deepfool", "norm": "inf", "engine": "art"},
            "spec.norm",
            "unknown norm of the toolbox's deepfool 'inf'; known: 2",
        ),
        ({"defence": "hope"}, "spec.defence", "known: none, gaussian-augmentation, "),
        ({"norm": "3"}, "spec.norm", "known: inf, 2, 1"),
        ({"engine": "foolbox"}, "spec.engine", "known: native, art"),
        ({"stem": "vit"}, "spec.stem", "known: imagenet, cifar"),
        ({"seed": -1}, "spec.seed", "between 0 and"),
        ({"image_size": 4}, "spec.image_size", "the least is 8"),
        ({"sample_count": 361}, "spec.sample_count", "the test split of digits has 360 samples"),
        ({"sample_count": -1}, "spec.sample_count", "between 1 and"),
        ({"epoch_count": 10_001}, "spec.epoch_count", "between 1 and"),
        ({"attack_parameters": {"eps": 0.1}}, "spec.attack_parameters.eps", "known: epsilon, step_size, "),
        ({"attack_parameters": {"epsilon": 0.0}}, "spec.attack_parameters.epsilon", "greater than 0"),
        ({"attack_parameters": {"epsilon": -1.0}}, "spec.attack_parameters.epsilon", "greater than 0"),
        ({"attack_parameters": {"epsilon": math.nan}}, "spec.attack_parameters.epsilon", "at most 1"),
        ({"attack_parameters": {"epsilon": math.inf}}, "spec.attack_parameters.epsilon", "at most 1"),
        ({"attack_parameters": {"epsilon": 1e39}, "norm": "1"}, "spec.attack_parameters.epsilon", "at most 1e+07"),
        ({"attack_parameters": {"epsilon": 8.0}}, "spec.attack_parameters.epsilon", "at most 1"),
        (
            {"attack_parameters": {"step_size": 0.9}},
            "spec.attack_parameters.step_size",
            "leaves the ball; give at most that",
        ),
        ({"attack_parameters": {"max_iterations": 2.5}}, "spec.attack_parameters.max_iterations", "whole number"),
        ({"attack_parameters": {"max_iterations": 0.0}}, "spec.attack_parameters.max_iterations", "at least 1"),
        ({"attack_parameters": {"random_start": 2.0}}, "spec.attack_parameters.random_start", "at most 1"),
        (
            {"attack": "apgd", "attack_parameters": {"random_start": 0.0}, "engine": "art"},
            "spec.attack_parameters.random_start",
            "use native",
        ),
        ({"attack": "art:"}, "spec.attack", "names no class"),
        ({"attack": "art:os.system"}, "spec.attack", "names no class"),
        ({"attack": "art:DeepFool", "engine": "native"}, "spec.engine", "known: art"),
        ({"attack": "art:DeepFool", "attack_parameters": {"a b": 1.0}}, "spec.attack_parameters", "be the name of"),
        ({"attack": "art:DeepFool", "attack_parameters": {"a": math.nan}}, "spec.attack_parameters.a", "finite"),
        ({"attack": "fgm", "attack_parameters": {"step_size": 0.1}}, "spec.attack_parameters.step_size", "known: eps"),
        ({"defence_parameters": {"bits": 1.0}}, "spec.defence_parameters.bits", "it takes none"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_path(fields: dict[str, object], path: str, message: str) -> None:
    with pytest.raises(InvalidSpecification) as caught:
        resolve(specification(**fields))
    assert caught.value.field == path
    assert message in str(caught.value)
    assert isinstance(caught.value, UnknownName) == ("unknown" in str(caught.value))


def test_norms_2_and_1_take_an_epsilon_above_1() -> None:
    assert resolve(specification(norm="2", attack_parameters={"epsilon": 8.0})).attack_parameters["epsilon"] == 8.0


def test_the_split_of_an_image_folder_is_not_known_before_the_worker_reads_it() -> None:
    assert resolve(specification(dataset="imagefolder:/pictures", sample_count=50_000)).sample_count == 50_000


def test_a_class_of_the_toolbox_takes_an_epsilon_and_whatever_the_worker_may_know() -> None:
    resolved = resolve(specification(attack="art:SignOPTAttack", norm="2", attack_parameters={"max_iter": 5.0}))
    assert resolved.engine == "art"
    assert resolved.attack_parameters == {"epsilon": DEFAULT_EPSILON["2"], "max_iter": 5.0}
    assert resolve(resolved) == resolved


def test_nobody_knows_what_the_toolbox_will_ask() -> None:
    assert count_maxima(resolve(specification(attack="art:SignOPTAttack"))) == (0, 0)
    assert count_maxima(resolve(specification(engine="art"))) == count_maxima(resolve(specification()))


def test_the_most_an_attack_may_spend_is_a_gradient_a_step_and_one_query_more() -> None:
    assert count_maxima(resolve(specification(sample_count=7, attack_parameters={"max_iterations": 5}))) == (42, 35)
    assert count_maxima(resolve(specification(sample_count=7, attack="fgm"))) == (14, 7)


def test_entries_are_listed_under_their_names() -> None:
    for entries in (MODELS, ATTACKS, DEFENCES, DATASETS):
        assert all(entry.name == name and entry.description for name, entry in entries.items())


def test_the_page_of_the_attacks_has_every_parameter_its_range_and_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
    for attack in ATTACKS.values():
        _, _, section = page.partition(f"\n## {attack.name}\n")
        rows = {row.split("`")[1]: row for row in section.partition("\n## ")[0].splitlines() if row.startswith("| `")}
        assert list(rows) == [schema.name for schema in attack.parameters]
        for schema in attack.parameters:
            if not schema.default_derived:
                assert f"| {schema.default_value:g} |" in rows[schema.name]
                assert f"{schema.maximum:.0f}" in rows[schema.name]
        if "epsilon" in rows:
            assert all(f"{norm} {epsilon:g}" in rows["epsilon"] for norm, epsilon in DEFAULT_EPSILON.items())
            assert f"{attack.parameters[0].maximum:g}" in rows["epsilon"]


def test_the_catalogue_answers_without_torch() -> None:
    program = "import sys, attack_service.catalog; sys.exit(bool({'torch', 'numpy', 'art'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
