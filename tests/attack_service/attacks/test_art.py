"""The toolbox attacks with its own code, sample by sample, and agrees with ours where both have the attack."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_service import catalog
from attack_service.attacks.building import build
from attack_service.attacks.querying import Answer, Question
from attack_service.errors import InvalidSpecification
from attack_service.handles import Handle
from attack_service.jobs import AttackSpec, State
from attack_service.known_attacks import ATTACKS
from attack_service.outcomes import Outcome, Verdict

pytest.importorskip("art")

from art.attacks import EvasionAttack, evasion
from art.estimators import classification

from attack_service.attacks.art.attack import ToolboxAttack
from attack_service.attacks.art.classes import Recipe, recipe_of, runnable
from attack_service.attacks.art.coroutines import Coroutine

# The toolbox computes a step in another order than we do. So much may the two largest logits differ where it decides.
ROUNDING_MARGIN = 1e-3

SHORT = {
    "apgd": {"max_iterations": 5.0},
    "apgd-dlr": {"max_iterations": 5.0},
    "cw": {"max_iterations": 5.0, "binary_search_steps": 2.0},
    "deepfool": {"max_iterations": 5.0},
    "hopskipjump": {"max_iterations": 2.0, "initial_evaluations": 10.0},
    "pixel": {"max_generations": 1.0},
    "square": {"max_queries": 30.0},
    "threshold": {"max_generations": 1.0},
}


def specification(attack: str, norm: str = "", **parameters: float) -> AttackSpec:
    return catalog.resolve(
        AttackSpec("resnet18", "digits", attack, engine="art", norm=norm, attack_parameters=parameters)
    )


def toolbox(attack: str, norm: str = "", seed: int = 0, **parameters: float) -> ToolboxAttack:
    return ToolboxAttack(recipe_of(specification(attack, norm, **parameters)), 10, seed)


def started_coroutines() -> list[Coroutine]:
    gc.collect()
    # Some things that are asked for their class warn, or are made.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Coroutine) and thing]


def disagreeing(
    attacked: Callable[..., list[Outcome]],
    fates: Callable[..., dict[int, tuple[object, ...]]],
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: str,
    norm: str,
) -> list[int]:
    """The samples that do not fail at the same check, at the same cost, in both engines.

    Raises `AssertionError` if none fails or none survives, or for a disagreement that rounding does not explain.
    """
    spec = specification(attack, norm)
    epsilon = spec.attack_parameters["epsilon"]
    art = ToolboxAttack(recipe_of(spec), 10, 0)
    native = build(spec, 10)
    of_art = attacked(art, model, images, labels, epsilon=epsilon, norm=spec.norm, width=64)
    of_native = attacked(native, model, images, labels, epsilon=epsilon, norm=spec.norm, width=64)
    assert {outcome.verdict for outcome in of_native} == {Verdict.FAILED, Verdict.SURVIVED}
    seen, expected = fates(of_art), fates(of_native)
    rows = [row for row in expected if seen[row] != expected[row]]
    for row in rows:
        margins: list[float] = []

        class Watched(nn.Module):
            def forward(self, asked: Tensor, margins: list[float] = margins) -> Tensor:
                logits: Tensor = model(asked)
                first, second = logits[0].topk(2).values.tolist()
                margins.append(first - second)
                return logits

        handle = Handle(Watched(), 64)
        attacked(native, model, images, labels, epsilon=epsilon, norm=spec.norm, order=[row], handle=handle)
        assert min(margins) <= ROUNDING_MARGIN, f"sample {row}: {seen[row]} is not {expected[row]}, and not by rounding"
    return rows


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        *[(attack, norm) for attack in ("fgm", "pgd") for norm in ("inf", "2", "1")],
        ("bim", "inf"),
        ("mim", "inf"),
        ("mim", "2"),
    ],
)
def test_both_engines_agree_on_which_samples_fail_at_which_check_and_cost(
    attacked, fates, digits, attack: str, norm: str
) -> None:
    model, images, labels = digits
    assert len(disagreeing(attacked, fates, model, images, labels, attack, norm)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["fgm", "pgd"])
def test_five_hundred_real_digits_fail_alike_in_a_resnet_but_for_rounding(attacked, fates, trained, attack) -> None:
    model, dataset = trained
    images = torch.cat([dataset.test.images(torch.arange(360)), dataset.train.images(torch.arange(400))])
    labels = torch.cat([dataset.test.labels, dataset.train.labels[:400]])
    with torch.no_grad():
        correct = torch.cat([model(part) for part in images.split(64)]).argmax(dim=1) == labels
    images, labels = images[correct][:500], labels[correct][:500]
    assert len(images) == 500
    assert len(disagreeing(attacked, fates, model, images, labels, attack, "inf")) <= 0.005 * 500


def test_a_whole_job_finds_the_same_in_both_engines(first_run, run_job, fates) -> None:
    root, native = first_run
    art = run_job(root, engine="art")
    assert art.state is State.SUCCEEDED
    assert art.ledger.warnings == native.ledger.warnings
    assert fates(art.ledger.outcomes) == fates(native.ledger.outcomes)


def test_a_whole_job_succeeds_though_the_size_of_the_population_is_the_toolboxs_own(first_run, run_job) -> None:
    """Whoever computes how much such an attack may spend misses a parameter."""
    root, _ = first_run
    run = run_job(root, engine="art", attack="pixel", sample_count=1, attack_parameters={"max_generations": 1.0})
    assert run.state is State.SUCCEEDED
    assert len(run.ledger.outcomes) == 1


@pytest.mark.parametrize("attack", [attack.name for attack in ATTACKS.values() if "art" in attack.engines])
def test_every_attack_that_the_catalogue_gives_to_the_toolbox_runs_there(attacked, digits, attack: str) -> None:
    model, images, labels = digits
    spec = specification(attack, **SHORT.get(attack, {}))
    epsilon = spec.attack_parameters.get("epsilon", float("inf"))
    outcomes = attacked(
        ToolboxAttack(recipe_of(spec), 10, 0), model, images[:4], labels[:4], epsilon=epsilon, norm=spec.norm
    )
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert outcome.check_count >= 1
        if outcome.verdict is Verdict.FAILED:
            distance = {"inf": outcome.distance_linf, "2": outcome.distance_l2, "0": 0.0}[spec.norm]
            assert distance <= epsilon * 1.001
            assert outcome.query_count_lower < outcome.query_count_upper


@pytest.mark.parametrize(
    ("attack", "parameters"),
    [
        ("hopskipjump", {"max_iterations": 2.0, "initial_evaluations": 10.0, "epsilon": 2.0}),
        ("pgd", {"random_start": 1.0, "epsilon": 0.3, "max_iterations": 4.0}),
        ("art:SimBA", {"max_iter": 20.0, "epsilon": 2.0}),
    ],
)
def test_no_neighbour_changes_what_the_toolbox_does_to_a_sample(attacked, fates, digits, attack, parameters) -> None:
    model, images, labels = digits
    images, labels = images[:8], labels[:8]

    def run(order: list[int], seed: int = 0) -> list[Outcome]:
        epsilon = parameters["epsilon"]
        attacking = toolbox(attack, "2", seed, **parameters)
        return attacked(attacking, model, images, labels, epsilon=epsilon, norm="2", width=16, order=order)

    together = run(list(range(8)))
    assert fates(run(list(range(7, -1, -1)))) == fates(together)
    assert fates(run([5])) == {5: fates(together)[5]}
    distances = [outcome.distance_l2 for outcome in together]
    assert [outcome.distance_l2 for outcome in run(list(range(8)))] == distances
    assert [outcome.distance_l2 for outcome in run(list(range(8)), seed=1)] != distances


def test_the_model_is_not_asked_any_more_once_a_sample_has_failed(attacked, digits) -> None:
    model, images, labels = digits
    handle = Handle(model, 1)
    (outcome,) = attacked(
        toolbox("pgd", max_iterations=50.0, epsilon=0.4), model, images, labels, epsilon=0.4, order=[3], handle=handle
    )
    assert outcome.verdict is Verdict.FAILED
    assert outcome.check_count < 50
    assert (outcome.query_count_upper, outcome.gradient_count_upper) == (outcome.check_count + 1, outcome.check_count)
    assert handle.pass_count == outcome.query_count_upper


def test_what_the_toolbox_asks_twice_is_asked_once_and_its_account_of_itself_is_no_check(attacked, digits) -> None:
    model, images, labels = digits
    handle = Handle(model, 1)
    asked = toolbox("art:SquareAttack", max_iter=5.0, epsilon=1e-4)
    (outcome,) = attacked(asked, model, images, labels, epsilon=1e-4, order=[0], handle=handle)
    # The clean image, the stripes and five squares: the toolbox evaluates them eighteen times.
    assert outcome.verdict is Verdict.SURVIVED
    assert outcome.query_count_lower == handle.pass_count == 7
    assert outcome.check_count == 6


def test_the_process_is_left_as_it_was(attacked, digits) -> None:
    model, images, labels = digits
    kind, classifier = np.random.RandomState, classification.PyTorchClassifier
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    expected = np.random.rand(), random.random(), float(torch.rand(1))
    np.random.seed(1)
    random.seed(1)
    torch.manual_seed(1)
    parameters = {"max_iterations": 1.0, "initial_evaluations": 5.0}
    attacked(toolbox("hopskipjump", **parameters), model, images[:3], labels[:3], epsilon=0.05)
    with pytest.raises(InvalidSpecification, match="SquareAttack of adversarial-robustness-toolbox stopped"):
        attacked(toolbox("square", initial_share=1.0), model, images[:3], labels[:3], epsilon=0.05)
    assert (np.random.rand(), random.random(), float(torch.rand(1))) == expected
    assert (np.random.RandomState, classification.PyTorchClassifier) == (kind, classifier)
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert not started_coroutines()


def test_an_attack_by_the_toolbox_stops_when_it_is_canceled(first_run: tuple[Path, object], run_job, canceling) -> None:
    root, _ = first_run
    run = run_job(root, canceling(after_passes=2), engine="art", batch_size=8)
    assert run.state is State.CANCELED
    assert 0 < len(run.ledger.outcomes) < 40
    assert not started_coroutines()


def test_an_abstention_is_told_to_the_toolbox_as_of_the_true_class(digits) -> None:
    _, images, labels = digits
    label = int(labels[0])
    other = torch.nn.functional.one_hot(torch.tensor([(label + 1) % 10]), 10).float()
    interview = toolbox("hopskipjump", max_starts=6.0).ask(images[0], label, 0)
    question: Question | None = next(interview)
    checked = []
    while question is not None:
        checked.append(question.checked)
        answers = other.expand(len(question.images), 10)
        try:
            question = interview.send(Answer(answers, None, np.zeros(len(answers), dtype=bool)))
        except StopIteration:
            question = None
    # The clean image and six starts, all of which a defence rejects: the attack finds nowhere to start from.
    assert checked == [False] + [True] * 6


class NotANumber(EvasionAttack):
    """Divides by zero."""

    _estimator_requirements = ()

    def __init__(self, estimator) -> None:
        super().__init__(estimator=estimator)

    def generate(self, x, y=None, **kwargs):
        return self.estimator.predict(x * np.nan)


class Circle(NotANumber):
    """Halves a step until it fools the model, which it never does."""

    def generate(self, x, y=None, **kwargs):
        while True:
            self.estimator.predict(x)


@pytest.mark.parametrize(("kind", "reason"), [(NotANumber, "what is not a number"), (Circle, "round in circles")])
def test_an_attack_that_loses_its_way_is_ended_and_the_job_says_so(
    attacked, digits, monkeypatch: pytest.MonkeyPatch, kind: type, reason: str
) -> None:
    model, images, labels = digits
    monkeypatch.setattr(evasion, kind.__name__, kind, raising=False)
    attack = ToolboxAttack(Recipe(kind.__name__, {}), 10, 0)
    outcomes = attacked(attack, model, images[:3], labels[:3], epsilon=0.05)
    assert [(outcome.verdict, outcome.check_count) for outcome in outcomes] == [(Verdict.SURVIVED, 1)] * 3
    complaint = attack.complaint()
    assert complaint is not None
    assert "3 times" in complaint
    assert reason in complaint


def test_deepfool_of_the_toolbox_on_some_classes_only_may_not_move_and_the_job_says_so(attacked, digits) -> None:
    """It takes a class's place among those it looks at for the class (adversarial-robustness-toolbox 1.20.1)."""
    model, images, labels = digits

    def far(candidate_count: float) -> tuple[list[float], str | None]:
        attack = toolbox("deepfool", candidate_count=candidate_count, max_iterations=5.0, epsilon=1e7)
        outcomes = attacked(attack, model, images[:8], labels[:8], epsilon=1e7, norm="2")
        return [outcome.distance_l2 for outcome in outcomes], attack.complaint()

    some, complaint = far(5.0)
    everything, nothing = far(10.0)
    assert min(some) == 0 < min(everything)
    assert nothing is None
    assert complaint is not None
    assert "set candidate_count (nb_grads of art:DeepFool) to 10" in complaint


@pytest.mark.parametrize(
    ("attack", "parameters", "field", "message"),
    [
        ("art:SignOptAttack", {}, "spec.attack", "unknown attack of the toolbox 'SignOptAttack'; known: "),
        ("art:EvasionAttack", {}, "spec.attack", "unknown attack of the toolbox"),
        ("art:AdversarialPatch", {}, "spec.attack", "one patch for many images; these can: AutoConjugateGradient, "),
        ("art:UniversalPerturbation", {}, "spec.attack", "one perturbation for many images"),
        ("art:ImperceptibleASR", {}, "spec.attack", "other models than classifiers of images"),
        ("art:HighConfidenceLowUncertainty", {}, "spec.attack", "other models than classifiers of images"),
        ("art:SignOPTAttack", {"speed": 1.0}, "spec.attack_parameters.speed", "known: epsilon, num_trial (100), "),
        ("art:SignOPTAttack", {"targeted": 1.0}, "spec.attack_parameters.targeted", "unknown parameter"),
        ("art:ThresholdAttack", {"es": 0.0}, "spec.attack_parameters.es", "unknown parameter"),
    ],
)
def test_what_the_toolbox_has_not_is_refused_with_what_it_has(attack, parameters, field, message) -> None:
    with pytest.raises(InvalidSpecification) as caught:
        recipe_of(specification(attack, **parameters))
    assert caught.value.field == field
    assert message in str(caught.value)


def test_arguments_have_the_types_that_the_toolbox_asks_for() -> None:
    recipe = recipe_of(specification("art:ProjectedGradientDescent", "2", max_iter=7.0, epsilon=0.5, random_eps=1.0))
    assert recipe.arguments == {
        "eps": 0.5,
        "max_iter": 7,
        "random_eps": True,
        "norm": 2,
        "targeted": False,
        "verbose": False,
    }
    assert [type(recipe.arguments[name]) for name in ("max_iter", "random_eps")] == [int, bool]
    assert recipe_of(specification("art:SignOPTAttack")).arguments == {"targeted": False, "verbose": False}
    assert "SignOPTAttack" in runnable()


def test_a_job_that_the_toolbox_cannot_run_is_refused_before_a_model_is_trained(tmp_path, run_job) -> None:
    with pytest.raises(InvalidSpecification, match="unknown attack of the toolbox"):
        run_job(tmp_path, attack="art:SignOptAttack")
    assert not list(tmp_path.iterdir())


def test_the_labels_of_the_toolbox_are_the_true_classes_unless_it_takes_them_for_targets(attacked, digits) -> None:
    model, images, labels = digits
    attack = toolbox("art:SaliencyMapMethod", "2", epsilon=3.0, theta=0.3)
    outcomes = attacked(attack, model, images[:3], labels[:3], epsilon=3.0, norm="2")
    assert any(outcome.check_count > 1 for outcome in outcomes)
