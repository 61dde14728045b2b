"""The attacks that there are, and the parameters they take. `attacks.building` makes what is described here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attack_service.black_box_parameters import (
    INITIAL_EVALUATIONS,
    MAX_EVALUATIONS,
    MAX_GENERATIONS,
    MAX_STARTS,
    PIXEL_COUNT,
    POPULATION_SIZE,
    THRESHOLD,
    by_generations,
    hopskipjump_maxima,
)
from attack_service.entries import Attack, ParameterSchema

NORMS = ("inf", "2", "1")
ENGINES = ("native", "art")

# The budgets at which some digits fool a ResNet-50 and some do not: docs/attacks.md has the measurement. Under the norm
# 1 an attack moves one pixel a step, and a larger epsilon changes nothing.
DEFAULT_EPSILON = {"inf": 0.05, "2": 0.75, "1": 15.0}
DEFAULT_ITERATION_COUNT = 10
# An attack that never clips would reach the ball's surface after this share of its iterations.
STEP_SHARE = 0.8

# No image is further away, in any norm; a float32 can hold what is computed from it.
LARGEST_EPSILON = 1e7

EPSILON = ParameterSchema(
    name="epsilon",
    description=(
        "The radius of the ball around the sample that the attack searches, in the chosen norm, for inputs in [0, 1]. "
        f"Default by norm: inf {DEFAULT_EPSILON['inf']:g}, 2 {DEFAULT_EPSILON['2']:g}, 1 {DEFAULT_EPSILON['1']:g}; "
        "at most 1 for the norm inf."
    ),
    default_value=DEFAULT_EPSILON["inf"],
    minimum=0.0,
    minimum_exclusive=True,
    maximum=LARGEST_EPSILON,
    default_derived=True,
    unit="length in the norm",
    paper_values=(0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0),
)
STEP_SIZE = ParameterSchema(
    name="step_size",
    description=(
        "The length of one step, in the chosen norm, for inputs in [0, 1]; at most epsilon. "
        f"Default: epsilon / ({STEP_SHARE:g} x max_iterations), but at most epsilon."
    ),
    default_value=DEFAULT_EPSILON["inf"] / (STEP_SHARE * DEFAULT_ITERATION_COUNT),
    minimum=0.0,
    minimum_exclusive=True,
    maximum=LARGEST_EPSILON,
    default_derived=True,
    unit="length in the norm",
)
MAX_ITERATIONS = ParameterSchema(
    name="max_iterations",
    description="The number of steps after which the attack gives up on a sample.",
    default_value=float(DEFAULT_ITERATION_COUNT),
    minimum=1.0,
    minimum_exclusive=False,
    maximum=100_000.0,
    integer=True,
    unit="steps",
    paper_values=(10.0,),
)
RANDOM_START = ParameterSchema(
    name="random_start",
    description="1 starts at a random point of the ball, 0 at the sample itself.",
    default_value=0.0,
    minimum=0.0,
    minimum_exclusive=False,
    maximum=1.0,
    integer=True,
)

DECAY = ParameterSchema(
    name="decay",
    description="How much of the gradients so far a new one joins: 1 forgets nothing, 0 is projected gradient descent.",
    default_value=1.0,
    minimum=0.0,
    minimum_exclusive=False,
    maximum=1.0,
)
DEEPFOOL_ITERATIONS = replace(
    MAX_ITERATIONS,
    description="The number of steps after which the attack gives up on a sample that has not fooled the model.",
    default_value=50.0,
    paper_values=(),
)
CANDIDATE_COUNT = ParameterSchema(
    name="candidate_count",
    description=(
        "Of how many classes the boundaries are looked for: the likeliest at the clean sample besides the true one, a "
        "gradient each a step. More than there are means all."
    ),
    default_value=5.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=1_000.0,
    integer=True,
    unit="classes",
    paper_values=(1.0, 3.0, 5.0, 10.0),
)
OVERSHOOT = ParameterSchema(
    name="overshoot",
    description="The share by which all steps together are lengthened, so that the image lies beyond the boundary.",
    default_value=0.02,
    minimum=0.0,
    minimum_exclusive=False,
    maximum=10.0,
    unit="share of the perturbation",
)
SEARCH_ITERATIONS = replace(
    MAX_ITERATIONS,
    description="The most steps of one search; it ends earlier when a tenth of them, and ten, have brought nothing.",
    default_value=40.0,
    paper_values=(),
)
BINARY_SEARCH_STEPS = ParameterSchema(
    name="binary_search_steps",
    description="How many constants are tried, with a search each.",
    default_value=4.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=100.0,
    integer=True,
    unit="searches",
)
LEARNING_RATE = ParameterSchema(
    name="learning_rate",
    description="Adam's, in the space of the hyperbolic tangent whose images are those in [0, 1].",
    default_value=0.1,
    minimum=0.0,
    minimum_exclusive=True,
    maximum=100.0,
)
INITIAL_CONSTANT = ParameterSchema(
    name="initial_constant",
    description="The weight of the misclassification beside the squared distance, in the first search.",
    default_value=1.0,
    minimum=0.0,
    minimum_exclusive=True,
    maximum=1e10,
)
CONFIDENCE = ParameterSchema(
    name="confidence",
    description="By how much another logit is to exceed that of the true class before the attack is content.",
    default_value=0.0,
    minimum=0.0,
    minimum_exclusive=False,
    maximum=1e6,
    unit="logits",
)
MAX_QUERIES = ParameterSchema(
    name="max_queries",
    description="The number of queries after which the attack gives up on a sample; its schedule is stretched to it.",
    default_value=300.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=10_000_000.0,
    integer=True,
    unit="queries",
)
INITIAL_SHARE = ParameterSchema(
    name="initial_share",
    description="The share of the image that the first patch covers; it is halved nine times.",
    default_value=0.8,
    minimum=0.0,
    minimum_exclusive=True,
    maximum=1.0,
    unit="share of the values",
)

# The number of steps of the paper of AutoPGD; its step sizes are made for many.
APGD_ITERATIONS = replace(MAX_ITERATIONS, default_value=100.0, paper_values=())

FIXED_BUDGET = (
    "The first iterate that the model gives another class than the true one; every iterate lies within epsilon. "
    "Each is a check."
)

NEAREST = (
    "The first iterate within epsilon that the model gives another class than the true one. Each is a check, wherever "
    "it lies: the attack looks for the nearest boundary, and epsilon only says what is near enough. "
)


def _by_steps(parameters: Mapping[str, float]) -> tuple[int, int]:
    """An evaluation of the clean sample, then a gradient and an evaluation a step."""
    step_count = int(parameters.get("max_iterations", 1))
    return step_count + 1, step_count


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack(
            "fgm",
            "Fast gradient method: one step of length epsilon up the gradient of the loss "
            "(Goodfellow et al., arXiv 1412.6572). A single check: it tells how many samples fail, not when.",
            (EPSILON,),
            NORMS,
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "pgd",
            "Projected gradient descent: many small steps up the gradient, each projected back onto the ball of "
            "radius epsilon (Madry et al., arXiv 1706.06083). Every step is a check.",
            (EPSILON, STEP_SIZE, MAX_ITERATIONS, RANDOM_START),
            NORMS,
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "bim",
            "Basic iterative method: projected gradient descent in the norm inf from the sample itself "
            "(Kurakin et al., arXiv 1607.02533). Every step is a check.",
            (EPSILON, STEP_SIZE, MAX_ITERATIONS),
            ("inf",),
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "mim",
            "Momentum iterative method: steps up the decayed sum of all gradients so far, each gradient of length one "
            "in the norm 1 (Dong et al., arXiv 1710.06081). Every step is a check.",
            (EPSILON, STEP_SIZE, MAX_ITERATIONS, DECAY),
            ("inf", "2"),
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "apgd",
            "AutoPGD: projected gradient ascent with momentum that halves its step size, and returns to its best "
            "point, where the loss stalls (Croce and Hein, arXiv 2003.01690). Every step is a check.",
            (EPSILON, APGD_ITERATIONS, RANDOM_START),
            ("inf", "2"),
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "apgd-dlr",
            "AutoPGD on the difference of logits ratio, a loss that does not change when all logits are scaled "
            "(Croce and Hein, arXiv 2003.01690). It needs three classes or more.",
            (EPSILON, APGD_ITERATIONS, RANDOM_START),
            ("inf", "2"),
            ENGINES,
            access="gradients",
            failure=FIXED_BUDGET,
            maxima=_by_steps,
        ),
        Attack(
            "deepfool",
            "DeepFool: steps to where the nearest boundary would be if the model were linear, until it is crossed "
            "(Moosavi-Dezfooli et al., arXiv 1511.04599). Every step is a check.",
            (EPSILON, DEEPFOOL_ITERATIONS, CANDIDATE_COUNT, OVERSHOOT),
            ("2", "inf"),
            ENGINES,
            access="gradients",
            failure=NEAREST + "A sample that crosses the boundary further away survives, at that distance.",
            maxima=lambda parameters: (
                int(parameters["max_iterations"]) + 1,
                int(parameters["max_iterations"] * parameters["candidate_count"]),
            ),
        ),
        Attack(
            "cw",
            "Carlini and Wagner's L2 attack: Adam on the squared distance plus a constant times the margin, the "
            "constant found by a binary search (arXiv 1608.04644). Every iterate is a check.",
            (EPSILON, BINARY_SEARCH_STEPS, SEARCH_ITERATIONS, LEARNING_RATE, INITIAL_CONSTANT, CONFIDENCE),
            ("2",),
            ENGINES,
            access="gradients",
            failure=NEAREST + "A sample that is never fooled so near survives, at the least distance that was found.",
            maxima=lambda parameters: (
                int(parameters["binary_search_steps"] * parameters["max_iterations"]) + 2,
                int(parameters["binary_search_steps"] * parameters["max_iterations"]) + 1,
            ),
        ),
        Attack(
            "square",
            "Square Attack: random patches of values, of which those are kept that make the true class less likely "
            "(Andriushchenko et al., arXiv 1912.00049). Every query is a check.",
            (EPSILON, MAX_QUERIES, INITIAL_SHARE),
            ("inf", "2"),
            ENGINES,
            access="logits",
            failure=FIXED_BUDGET,
            maxima=lambda parameters: (int(parameters["max_queries"]), 0),
        ),
        Attack(
            "hopskipjump",
            "HopSkipJump: from an image of another class towards the sample along the boundary, by the model's "
            "decisions alone (Chen et al., arXiv 1904.02144). Every query is a check.",
            (EPSILON, MAX_ITERATIONS, INITIAL_EVALUATIONS, MAX_EVALUATIONS, MAX_STARTS),
            ("inf", "2"),
            ENGINES,
            access="decisions",
            failure=(
                "The first image it asks about that lies within epsilon and that the model gives another class than "
                "the true one. Each is a check, wherever it lies: the attack begins far away and comes nearer, and "
                "epsilon only says what is near enough."
            ),
            maxima=hopskipjump_maxima,
        ),
        Attack(
            "pixel",
            "Pixel attack: differential evolution of a few pixels, their places and colours (Su et al., "
            "arXiv 1710.08864; Kotyan and Vargas, arXiv 1906.06026). Every query is a check.",
            (PIXEL_COUNT, POPULATION_SIZE, MAX_GENERATIONS),
            ("0",),
            ENGINES,
            access="logits",
            failure=(
                "The first image it asks about that the model gives another class than the true one; none has more "
                "than pixel_count other pixels. Each is a check."
            ),
            maxima=by_generations,
        ),
        Attack(
            "threshold",
            "Threshold attack: differential evolution of a small change to every value "
            "(Kotyan and Vargas, arXiv 1906.06026). Every query is a check.",
            (THRESHOLD, POPULATION_SIZE, MAX_GENERATIONS),
            ("inf",),
            ENGINES,
            access="logits",
            failure=(
                "The first image it asks about that the model gives another class than the true one; none has a value "
                "further away than the threshold. Each is a check."
            ),
            maxima=by_generations,
        ),
        Attack(
            "none",
            "No attack: the model is trained, or taken from the store, and measured on clean samples. It fills the "
            "store ahead.",
            (),
            ("inf",),
            ("native",),
            access="",
            failure="Nothing fails, since nothing is attacked.",
            maxima=lambda parameters: (0, 0),
        ),
    )
}


TOOLBOX_PREFIX = "art:"
# What these of the toolbox's classes see of the model; the others use its gradients.
_TOOLBOX_ACCESS = {
    "BoundaryAttack": "decisions",
    "GeoDA": "decisions",
    "HopSkipJump": "decisions",
    "PixelAttack": "logits",
    "SignOPTAttack": "decisions",
    "SimBA": "logits",
    "SpatialTransformation": "logits",
    "SquareAttack": "logits",
    "ThresholdAttack": "logits",
    "VirtualAdversarialMethod": "logits",
    "ZooAttack": "logits",
}


def toolbox_attack(class_name: str) -> Attack:
    """An evasion attack of adversarial-robustness-toolbox by the name of its class; the worker knows which exist."""
    return Attack(
        TOOLBOX_PREFIX + class_name,
        f"{class_name} of adversarial-robustness-toolbox, unchanged.",
        (EPSILON,),
        NORMS,
        ("art",),
        access=_TOOLBOX_ACCESS.get(class_name, "gradients"),
        failure=(
            "The first image it asks about that the model gives another class than the true one, within epsilon in the "
            "chosen norm. Each image is a check."
        ),
        maxima=lambda parameters: (0, 0),
        open_parameters=True,
    )
