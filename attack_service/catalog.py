"""What can be attacked, and how: models, datasets, attacks, defences, and the parameters they take.

Names and numbers only: the attack server answers from here without loading torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from attack_service.entries import Attack, Dataset, Defence, Model, ParameterSchema
from attack_service.errors import InvalidSpecification, UnknownName
from attack_service.jobs import AttackSpec
from attack_service.known_attacks import ATTACKS as ATTACKS
from attack_service.known_attacks import DEFAULT_EPSILON, STEP_SHARE, TOOLBOX_PREFIX, toolbox_attack
from attack_service.known_defences import DEFENCES as DEFENCES
from attack_service.known_defences import answer_price

Entry = TypeVar("Entry", Model, Attack, Defence, Dataset)

STEMS = ("imagenet", "cifar")

DEFAULT_DATASET = "digits"
DEFAULT_IMAGE_SIZE = 32
# What torchvision's weights were trained for.
WEIGHTS_IMAGE_SIZE = 224
DEFAULT_SAMPLE_COUNT = 200
DEFAULT_BATCH_SIZE = 64

_LARGEST = {"sample_count": 10_000_000, "epoch_count": 10_000, "batch_size": 65_536, "image_size": 1024}
_SMALLEST_IMAGE_SIZE = 8
# Each has a log of its own, and every resume token says how far each was read.
LARGEST_SHARD_COUNT = 256
_LONGEST_PATH = 4096
_LONGEST_NAME = 100
_MOST_PARAMETERS = 50

# Attacks that ask the same questions in both engines, and those that the toolbox begins at a random point anyway.
_ASK_AS_NATIVE = ("fgm", "pgd", "bim", "mim")
_ALWAYS_RANDOM = ("apgd", "apgd-dlr")
# What the toolbox's class for an attack does not know: norms, and parameters.
_NORMS_IN_ART = {"deepfool": ("2",)}
_UNKNOWN_IN_ART = {"pixel": ("population_size",), "threshold": ("population_size",)}
PROGRAM = "program"
"""The name of the model where the user brings a program."""
SUFFIXES = {"checkpoint": (".safetensors", ".pt", ".pth"), "program": (".pt2",)}


def _by_name(entries: Iterable[Entry]) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


MODELS: dict[str, Model] = _by_name(
    Model(f"resnet{depth}", f"ResNet-{depth} of torchvision, trained from scratch (He et al., arXiv 1512.03385)", depth)
    for depth in (18, 34, 50, 101, 152)
)

DATASETS: dict[str, Dataset] = _by_name(
    (
        Dataset("digits", "Handwritten digits, 8x8 grey, shipped with scikit-learn", 10, 1437, 360, 1, True, 6),
        Dataset("mnist", "Handwritten digits, 28x28 grey (LeCun et al.)", 10, 60_000, 10_000, 1, False, 3),
        Dataset("fashion-mnist", "Zalando's articles of clothing, 28x28 grey", 10, 60_000, 10_000, 1, False, 5),
        Dataset("cifar10", "Small photographs, 32x32 colour (Krizhevsky)", 10, 50_000, 10_000, 3, False, 20),
        Dataset("cifar100", "Small photographs, 32x32 colour, 100 classes", 100, 50_000, 10_000, 3, False, 40),
        Dataset(
            "imagefolder",
            "Your own images: imagefolder:PATH, where PATH has a folder of images for each class, or folders `train` "
            "and `test` with those inside. Without them every fifth image of a class is a test sample.",
            0,
            0,
            0,
            0,
            False,
            10,
        ),
    )
)


def resolve(spec: AttackSpec) -> AttackSpec:
    """Check a specification and fill in every default.

    Resolving a resolved specification changes nothing. Raises `UnknownName` or `InvalidSpecification`, whose `field`
    is the path in the request, such as `spec.attack_parameters.epsilon`.
    """
    model_name = _model_name(spec)
    attack = attack_entry(spec.attack)
    defence = _known("defence", spec.defence or "none", DEFENCES)
    dataset = spec.dataset or DEFAULT_DATASET
    described = _dataset(dataset)
    _check_brought(spec, defence)
    norm = _one_of("norm", spec.norm, attack.norms, of=attack.name)
    engine = _one_of("engine", spec.engine, attack.engines, of=attack.name)
    if spec.seed < 0 or spec.seed >= 2**64:
        raise InvalidSpecification("spec.seed", f"seed is {spec.seed}; it must lie between 0 and 2^64 - 1")
    image_size = _count("image_size", spec.image_size, WEIGHTS_IMAGE_SIZE if spec.weights else DEFAULT_IMAGE_SIZE)
    if image_size < _SMALLEST_IMAGE_SIZE:
        raise InvalidSpecification(
            "spec.image_size", f"image_size is {image_size}; the least is {_SMALLEST_IMAGE_SIZE}"
        )
    sample_count = _sample_count(spec)
    if described.test_sample_count and sample_count > described.test_sample_count:
        raise InvalidSpecification(
            "spec.sample_count",
            f"sample_count is {sample_count}, but the test split of {dataset} has "
            f"{described.test_sample_count} samples; ask for at most that many",
        )
    _check_shard_count(spec.shard_count, sample_count)
    attack_parameters = _attack_parameters(attack, norm, spec.attack_parameters)
    _check_pixel_count(attack_parameters, image_size)
    if engine == "art":
        norms = _NORMS_IN_ART.get(attack.name, attack.norms)
        norm = _one_of("norm", spec.norm, norms, of=f"the toolbox's {attack.name}")
        attack_parameters = _art_parameters(attack, attack_parameters, spec.attack_parameters)
    return replace(
        spec,
        model=model_name,
        dataset=dataset,
        attack=attack.name,
        attack_parameters=attack_parameters,
        engine=engine,
        sample_count=sample_count,
        epoch_count=_count("epoch_count", spec.epoch_count, 0 if spec.brought else described.default_epoch_count),
        stem=_one_of("stem", spec.stem, STEMS),
        image_size=image_size,
        norm=norm,
        batch_size=_count("batch_size", spec.batch_size, DEFAULT_BATCH_SIZE),
        defence=defence.name,
        defence_parameters=_defence_parameters(defence, spec.defence_parameters),
    )


def _model_name(spec: AttackSpec) -> str:
    if not spec.program:
        return _known("model", spec.model, MODELS).name
    if spec.model not in ("", PROGRAM):
        raise InvalidSpecification(
            "spec.model", f"model is {spec.model!r}, but a program is its own architecture; leave the model out"
        )
    return PROGRAM


def _sample_count(spec: AttackSpec) -> int:
    if spec.attack != "none":
        return _count("sample_count", spec.sample_count, DEFAULT_SAMPLE_COUNT)
    if spec.sample_count:
        raise InvalidSpecification(
            "spec.sample_count",
            f"sample_count is {spec.sample_count}, but the attack none attacks nothing; leave it out",
        )
    return 0


def _check_brought(spec: AttackSpec, defence: Defence) -> None:
    """Check what can be known of a user's own model without its file, which only workers read."""
    given = [name for name in ("weights", "checkpoint", "program") if getattr(spec, name)]
    if len(given) > 1:
        raise InvalidSpecification(
            f"spec.{given[1]}", f"{' and '.join(given)} are given, but one model is attacked; leave out all but one"
        )
    known = (spec.training_seconds, spec.training_sample_count)
    if not given:
        if any(known):
            field = "training_seconds" if spec.training_seconds else "training_sample_count"
            raise InvalidSpecification(
                f"spec.{field}",
                f"{field} is for a model of your own; what is trained here is measured, so leave it out",
            )
        return
    if not 0 <= spec.training_seconds < math.inf or not 0 <= spec.training_sample_count < 2**32:
        raise InvalidSpecification("spec.training_seconds", "what training cost must be finite and not below 0")
    if any(known) and not all(known):
        raise InvalidSpecification(
            "spec.training_seconds",
            "training_seconds and training_sample_count belong together: their quotient is what a sample cost; "
            "give both, or neither",
        )
    if defence.trains:
        raise InvalidSpecification(
            "spec.defence",
            f"the defence {defence.name} acts in training, but the model is trained already; leave out one of the two",
        )
    name, value = given[0], str(getattr(spec, given[0]))
    if name == "weights":
        if re.fullmatch(r"[A-Za-z0-9_]{1,100}", value) is None:
            raise InvalidSpecification("spec.weights", f"{value[:80]!r} is no name of weights, such as IMAGENET1K_V2")
        if spec.stem not in ("", "imagenet"):
            raise InvalidSpecification("spec.stem", "torchvision's weights have the stem imagenet; leave the stem out")
        return
    suffixes = SUFFIXES[name]
    if not value.endswith(suffixes) or len(value) > _LONGEST_PATH or "\0" in value:
        raise InvalidSpecification(
            f"spec.{name}", f"{value[:80]!r} is no path of a {name}; it ends with {' or '.join(suffixes)}"
        )


def divide(spec: AttackSpec, worker_count: int) -> AttackSpec:
    """A resolved specification with its number of shards, which stays the same whatever becomes of the workers.

    If it was left open: a shard for every worker, as long as each has at least a batch of samples.
    """
    whole_batches = spec.sample_count // spec.batch_size
    open_count = max(1, min(worker_count, whole_batches, LARGEST_SHARD_COUNT))
    return replace(spec, shard_count=spec.shard_count or open_count)


def attack_entry(name: str) -> Attack:
    """The attack of this name: one of `ATTACKS`, or `art:` and a class of the toolbox.

    Raises `UnknownName` or `InvalidSpecification`; whether there is such a class only the worker knows.
    """
    if not name.startswith(TOOLBOX_PREFIX):
        if name and name not in ATTACKS:
            raise UnknownName("spec.attack", "attack", name, [*ATTACKS, f"{TOOLBOX_PREFIX}CLASS"])
        return _known("attack", name, ATTACKS)
    class_name = name.removeprefix(TOOLBOX_PREFIX)
    if not (class_name.isascii() and class_name.isidentifier() and len(class_name) <= _LONGEST_NAME):
        raise InvalidSpecification(
            "spec.attack",
            f"{name[:80]!r} names no class; give one of art.attacks.evasion, for example {TOOLBOX_PREFIX}SignOPTAttack",
        )
    return toolbox_attack(class_name)


def count_maxima(spec: AttackSpec) -> tuple[int, int]:
    """The most queries and gradients that a resolved specification's attack may spend, over all samples.

    0 if nobody knows: the toolbox asks as it likes.
    """
    attack = attack_entry(spec.attack)
    if spec.engine == "art" and attack.name not in _ASK_AS_NATIVE:
        return 0, 0
    answers, gradients = attack.maxima(spec.attack_parameters)
    queries = answers * answer_price(spec.defence, spec.defence_parameters, attack.access)
    return spec.sample_count * queries, spec.sample_count * gradients


def _known(kind: str, name: str, known: Mapping[str, Entry]) -> Entry:
    if not name:
        raise InvalidSpecification(f"spec.{kind}", f"{kind} is required; known: {', '.join(known)}")
    if name not in known:
        raise UnknownName(f"spec.{kind}", kind, name, known)
    return known[name]


def _dataset(name: str) -> Dataset:
    kind, colon, path = name.partition(":")
    if kind == "imagefolder" and not path:
        raise InvalidSpecification("spec.dataset", "imagefolder needs the folder of the images: imagefolder:PATH")
    if len(path) > _LONGEST_PATH:
        raise InvalidSpecification("spec.dataset", f"the path of the images has {len(path)} characters; no folder has")
    if kind not in DATASETS or (colon and kind != "imagefolder"):
        known = [known if known != "imagefolder" else "imagefolder:PATH" for known in DATASETS]
        raise UnknownName("spec.dataset", "dataset", name, known)
    return DATASETS[kind]


def _one_of(field: str, value: str, known: tuple[str, ...], of: str = "") -> str:
    if value and value not in known:
        raise UnknownName(f"spec.{field}", f"{field} of {of}" if of else field, value, known)
    return value or known[0]


def _count(field: str, value: int, default: int) -> int:
    if value < 0 or value > _LARGEST[field]:
        raise InvalidSpecification(f"spec.{field}", f"{field} is {value}; it must lie between 1 and {_LARGEST[field]}")
    return value or default


def _check_shard_count(shard_count: int, sample_count: int) -> None:
    most = max(1, min(sample_count, LARGEST_SHARD_COUNT))
    if not 0 <= shard_count <= most:
        raise InvalidSpecification(
            "spec.shard_count",
            f"shard_count is {shard_count}; {sample_count} samples can be divided into 1 to {most} shards",
        )


def _attack_parameters(attack: Attack, norm: str, given: Mapping[str, float]) -> dict[str, float]:
    described = {schema.name for schema in attack.parameters}
    others = {name: float(value) for name, value in given.items() if attack.open_parameters and name not in described}
    _check_open(others)
    parameters = _parameters("attack", attack, {name: given[name] for name in given if name not in others}) | others
    if "epsilon" in parameters:
        parameters["epsilon"] = given.get("epsilon", DEFAULT_EPSILON[norm])
        if norm == "inf" and parameters["epsilon"] > 1:
            raise InvalidSpecification(
                "spec.attack_parameters.epsilon",
                f"epsilon is {parameters['epsilon']:g}; inputs lie in [0, 1], so the norm inf takes at most 1 "
                "(8/255 is 0.031)",
            )
    if "step_size" in parameters:
        epsilon = parameters["epsilon"]
        derived = min(epsilon, epsilon / (STEP_SHARE * parameters["max_iterations"]))
        parameters["step_size"] = given.get("step_size", derived)
        if parameters["step_size"] > epsilon:
            raise InvalidSpecification(
                "spec.attack_parameters.step_size",
                f"step_size is {parameters['step_size']:g}; a step longer than epsilon ({epsilon:g}) leaves the ball; "
                "give at most that, or raise epsilon",
            )
    initial_count = parameters.get("initial_evaluations", 0.0)
    if initial_count > parameters.get("max_evaluations", math.inf):
        raise InvalidSpecification(
            "spec.attack_parameters.initial_evaluations",
            f"initial_evaluations is {initial_count:g}, above max_evaluations ({parameters['max_evaluations']:g}); "
            "give at most that, or raise max_evaluations",
        )
    return parameters


def _check_pixel_count(parameters: Mapping[str, float], image_size: int) -> None:
    pixel_count = parameters.get("pixel_count", 0.0)
    if pixel_count > image_size**2:
        raise InvalidSpecification(
            "spec.attack_parameters.pixel_count",
            f"pixel_count is {pixel_count:g}, but an image of {image_size} x {image_size} has {image_size**2} pixels; "
            "give at most that",
        )


def _art_parameters(attack: Attack, parameters: dict[str, float], given: Mapping[str, float]) -> dict[str, float]:
    """What the toolbox's class for an attack takes of its parameters."""
    unknown = _UNKNOWN_IN_ART.get(attack.name, ())
    for name in unknown:
        if name in given:
            raise InvalidSpecification(
                f"spec.attack_parameters.{name}",
                f"{attack.name} of the toolbox chooses its own {name}; leave it out, or use native",
            )
    parameters = {name: value for name, value in parameters.items() if name not in unknown}
    if attack.name in _ALWAYS_RANDOM:
        if given.get("random_start") == 0:
            raise InvalidSpecification(
                "spec.attack_parameters.random_start",
                f"{attack.name} of the toolbox always starts at a random point; give random_start=1, or use native",
            )
        parameters["random_start"] = 1.0
    return parameters


def _check_open(parameters: Mapping[str, float]) -> None:
    """Refuse what cannot be a parameter of anything; only the worker knows the rest."""
    if len(parameters) > _MOST_PARAMETERS:
        raise InvalidSpecification(
            "spec.attack_parameters", f"{len(parameters)} parameters are given; no attack takes that many"
        )
    for name, value in parameters.items():
        if not (name.isascii() and name.isidentifier() and len(name) <= _LONGEST_NAME):
            raise InvalidSpecification("spec.attack_parameters", f"{name[:80]!r} cannot be the name of a parameter")
        if not math.isfinite(value):
            raise InvalidSpecification(
                f"spec.attack_parameters.{name}", f"{name} is {value:g}; it must be a finite number"
            )


def _defence_parameters(defence: Defence, given: Mapping[str, float]) -> dict[str, float]:
    parameters = _parameters("defence", defence, given)
    window = parameters.get("window", 1.0)
    if window % 2 == 0:
        raise InvalidSpecification(
            "spec.defence_parameters.window",
            f"window is {window:g}; it must be odd, so that a value is the middle of its window: give {window + 1:g}",
        )
    return parameters


def _parameters(kind: str, entry: Attack | Defence, given: Mapping[str, float]) -> dict[str, float]:
    """All parameters of an attack or a defence: those given, checked, and the defaults of the others."""
    schemas = {schema.name: schema for schema in entry.parameters}
    for name, value in given.items():
        field = f"spec.{kind}_parameters.{name}"
        if name not in schemas:
            raise UnknownName(field, f"parameter of {entry.name}", name, schemas or ["(it takes none)"])
        _check_range(field, schemas[name], value)
    return {name: float(given.get(name, schema.default_value)) for name, schema in schemas.items()}


def _check_range(field: str, schema: ParameterSchema, value: float) -> None:
    too_small = value <= schema.minimum if schema.minimum_exclusive else value < schema.minimum
    if math.isfinite(value) and not too_small and value <= schema.maximum:
        if not schema.integer or float(value).is_integer():
            return
        raise InvalidSpecification(field, f"{schema.name} is {value:g}; it must be a whole number")
    bounds = f"greater than {schema.minimum:g}" if schema.minimum_exclusive else f"at least {schema.minimum:g}"
    bounds += f" and at most {schema.maximum:g}"
    raise InvalidSpecification(field, f"{schema.name} is {value:g}; it must be {bounds}")
