"""The classes of the toolbox that can attack a sample on its own, and the arguments that ours become.

What cannot be run is refused by name, with the reason.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from art.attacks import EvasionAttack, evasion

from attack_service.attacks.art.estimator import WatchedClassifier
from attack_service.errors import InvalidSpecification, UnknownName
from attack_service.jobs import AttackSpec
from attack_service.known_attacks import TOOLBOX_PREFIX

_ORDERS = {"inf": np.inf, "2": 2, "1": 1}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A class of the toolbox and the arguments to build it with.

    `as_probabilities`: it expects them of the model instead of logits. `takes_label`: what it calls a label is the true
    class, not a target.
    """

    class_name: str
    arguments: Mapping[str, Any]
    as_probabilities: bool = False
    takes_label: bool = True


@dataclass(frozen=True, slots=True)
class _Equivalent:
    """The toolbox's class for one of our attacks: its names for our parameters, and what it needs besides.

    `more` is by how much a number of the toolbox's is larger than ours; `in_epsilons` are lengths in units of epsilon.
    """

    class_name: str
    names: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, int] = field(default_factory=dict)
    in_epsilons: Mapping[str, float] = field(default_factory=dict)


_STEPS = {"epsilon": "eps", "step_size": "eps_step", "max_iterations": "max_iter"}
# Differential evolution; the other kind takes its seed from the time.
_EVOLUTION = {"es": 1}
# The paper's, and ours.
_FIRST_STEP = {"eps_step": 2.0}
_APGD = {"epsilon": "eps", "max_iterations": "max_iter", "random_start": "nb_random_init"}

_EQUIVALENTS = {
    "fgm": _Equivalent("FastGradientMethod", {"epsilon": "eps"}),
    "pgd": _Equivalent("ProjectedGradientDescent", _STEPS | {"random_start": "num_random_init"}),
    "bim": _Equivalent("BasicIterativeMethod", _STEPS),
    "mim": _Equivalent("MomentumIterativeMethod", _STEPS | {"decay": "decay"}),
    # Without a loss type it ascends that of the classifier: the doubt.
    "apgd": _Equivalent("AutoProjectedGradientDescent", _APGD, in_epsilons=_FIRST_STEP),
    "apgd-dlr": _Equivalent(
        "AutoProjectedGradientDescent",
        _APGD,
        {"loss_type": "difference_logits_ratio"},
        in_epsilons=_FIRST_STEP,
    ),
    # It counts the predicted class among those that it looks at.
    "deepfool": _Equivalent(
        "DeepFool",
        {"max_iterations": "max_iter", "candidate_count": "nb_grads", "overshoot": "epsilon"},
        more={"nb_grads": 1},
    ),
    "cw": _Equivalent(
        "CarliniL2Method",
        {
            "binary_search_steps": "binary_search_steps",
            "max_iterations": "max_iter",
            "learning_rate": "learning_rate",
            "initial_constant": "initial_const",
            "confidence": "confidence",
        },
    ),
    # The stripes that it begins with are none of its iterations.
    "square": _Equivalent(
        "SquareAttack",
        {"epsilon": "eps", "max_queries": "max_iter", "initial_share": "p_init"},
        more={"max_iter": -1},
    ),
    "hopskipjump": _Equivalent(
        "HopSkipJump",
        {
            "max_iterations": "max_iter",
            "initial_evaluations": "init_eval",
            "max_evaluations": "max_eval",
            "max_starts": "init_size",
        },
    ),
    "pixel": _Equivalent("PixelAttack", {"pixel_count": "th", "max_generations": "max_iter"}, _EVOLUTION),
    "threshold": _Equivalent("ThresholdAttack", {"threshold": "th", "max_generations": "max_iter"}, _EVOLUTION),
}

# What is set from outside, or must not be: an attack is untargeted, and its norm and epsilon are the job's.
_OWN = {"classifier", "estimator", "norm", "eps", "es", "targeted", "verbose", "summary_writer", "batch_size"}

_PROBABILITIES = {"GeoDA", "SimBA", "VirtualAdversarialMethod", "PixelAttack", "ThresholdAttack"}
_TARGETS = {"SaliencyMapMethod"}

_PATCH = "it makes one patch for many images"
_UNIVERSAL = "it makes one perturbation for many images"
_REFUSED = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "AdversarialPatchTensorFlowV2": _PATCH,
    "CompositeAdversarialAttackPyTorch": "it differentiates the model by itself, where nobody can watch",
    "FeatureAdversariesNumpy": "it looks at layers inside the model",
    "FeatureAdversariesPyTorch": "it looks at layers inside the model",
    "FeatureAdversariesTensorFlowV2": "it looks at layers inside the model",
    "FrameSaliencyAttack": "it attacks videos",
    "GRAPHITEBlackbox": _PATCH,
    "GRAPHITEWhiteboxPyTorch": _PATCH,
    "LowProFool": "it attacks tables",
    "MalwareGDTensorFlow": "it attacks programs",
    "OverTheAirFlickeringPyTorch": "it attacks videos",
    "ProjectedGradientDescentTensorFlowV2": "it attacks models of TensorFlow",
    "TargetedUniversalPerturbation": _UNIVERSAL,
    "UniversalPerturbation": _UNIVERSAL,
}


def recipe_of(spec: AttackSpec) -> Recipe:
    """What to build for a resolved specification.

    Raises `UnknownName` or `InvalidSpecification` if the toolbox has no such class, or none that can be run, or the
    class has no such parameter.
    """
    known = _EQUIVALENTS.get(spec.attack)
    given = dict(spec.attack_parameters)
    if known is not None:
        class_name = known.class_name
        named = {known.names[name]: value for name, value in given.items() if name in known.names}
        arguments = {name: value + known.more.get(name, 0) for name, value in named.items()} | dict(known.constants)
        arguments |= {name: length * given["epsilon"] for name, length in known.in_epsilons.items()}
    else:
        class_name = spec.attack.removeprefix(TOOLBOX_PREFIX)
        _require_runnable(class_name)
        epsilon = given.pop("epsilon")
        _require_parameters(class_name, given)
        arguments = given | ({"eps": epsilon} if "eps" in _parameters(class_name) else {})
        arguments |= _EVOLUTION if "es" in _parameters(class_name) else {}
    parameters = _parameters(class_name)
    arguments = {name: _as_default(value, parameters[name].default) for name, value in arguments.items()}
    if "norm" in parameters:
        arguments["norm"] = spec.norm if isinstance(parameters["norm"].default, str) else _ORDERS[spec.norm]
    arguments |= {name: False for name in ("targeted", "verbose") if name in parameters}
    return Recipe(
        class_name,
        arguments,
        as_probabilities=class_name in _PROBABILITIES,
        takes_label=class_name not in _TARGETS,
    )


def runnable() -> list[str]:
    """The names of the toolbox's classes that can be run."""
    names = [name for name, kind in vars(evasion).items() if inspect.isclass(kind) and _refusal(name) is None]
    return sorted(names)


def _require_runnable(class_name: str) -> None:
    if not inspect.isclass(getattr(evasion, class_name, None)):
        raise UnknownName("spec.attack", "attack of the toolbox", class_name, runnable())
    reason = _refusal(class_name)
    if reason is not None:
        raise InvalidSpecification(
            "spec.attack",
            f"{class_name} of the toolbox cannot be run here: {reason}; these can: {', '.join(runnable())}",
        )


def _refusal(class_name: str) -> str | None:
    """Why a class of the toolbox cannot attack one image classified by a network; None if it can."""
    if class_name in _REFUSED:
        return _REFUSED[class_name]
    kind = getattr(evasion, class_name)
    if not issubclass(kind, EvasionAttack):
        return "it is no attack on images"
    if not EvasionAttack.is_estimator_valid(_ESTIMATOR, kind._estimator_requirements or ()):
        return "it attacks other models than classifiers of images"
    if class_name == "AutoAttack" and importlib.util.find_spec("multiprocess") is None:
        return "the worker lacks the package multiprocess, which the toolbox does not install"
    open_ended = [
        name
        for name, parameter in list(_parameters(class_name).items())[1:]
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if open_ended:
        return f"it needs {', '.join(open_ended)}"
    return None


def _require_parameters(class_name: str, given: Mapping[str, float]) -> None:
    known = {
        name: parameter.default
        for name, parameter in _parameters(class_name).items()
        if name not in _OWN | {"epsilon"} and isinstance(parameter.default, int | float | None)
    }
    for name in given:
        if name not in known:
            listed = [f"{known_name} ({default})" for known_name, default in known.items()]
            raise UnknownName(
                f"spec.attack_parameters.{name}",
                f"parameter of {class_name}",
                name,
                ["epsilon", *listed],
            )


def _parameters(class_name: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of the constructor by name, the classifier first."""
    parameters = dict(inspect.signature(getattr(evasion, class_name).__init__).parameters)
    del parameters["self"]
    return parameters


def _as_default(value: Any, default: Any) -> Any:
    """A number in the type of a parameter's default; the toolbox checks types."""
    if not isinstance(value, float):
        return value
    if isinstance(default, bool):
        return bool(value)
    if isinstance(default, int) or (default is None and value.is_integer()):
        return int(value)
    return value


_ESTIMATOR = object.__new__(WatchedClassifier)
