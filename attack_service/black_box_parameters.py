"""The parameters of HopSkipJump and of the attacks by differential evolution, and the most that these may spend."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attack_service.entries import ParameterSchema

# HopSkipJump's searches: a float32 image cannot be halved more often.
SEARCH_STEP_LIMIT = 24

MAX_STARTS = ParameterSchema(
    name="max_starts",
    description="The random images that are tried as a start; if all get the true class, the attack gives up.",
    default_value=100.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=100_000.0,
    integer=True,
    unit="queries",
)
INITIAL_EVALUATIONS = ParameterSchema(
    name="initial_evaluations",
    description="The queries that the first step's direction is estimated from; the t-th step's from sqrt(t) times it.",
    default_value=100.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=1_000_000.0,
    integer=True,
    unit="queries",
)
MAX_EVALUATIONS = ParameterSchema(
    name="max_evaluations",
    description="The most queries that one step's direction is estimated from; at least initial_evaluations.",
    default_value=10_000.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=1_000_000.0,
    integer=True,
    unit="queries",
)
PIXEL_COUNT = ParameterSchema(
    name="pixel_count",
    description="How many pixels may change, to any colour; at most as many as an image has.",
    default_value=16.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=1_048_576.0,
    integer=True,
    unit="pixels",
    paper_values=(1.0, 4.0, 16.0, 64.0, 256.0),
)
THRESHOLD = ParameterSchema(
    name="threshold",
    description="By how much every value may change: whole levels of 1/255, for inputs in [0, 1].",
    default_value=16.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=256.0,
    integer=True,
    unit="1/255",
    paper_values=(1.0, 4.0, 16.0, 64.0, 256.0),
)
POPULATION_SIZE = ParameterSchema(
    name="population_size",
    description="The number of changes that evolve together; a generation is as many queries.",
    default_value=100.0,
    minimum=4.0,
    minimum_exclusive=False,
    maximum=10_000.0,
    integer=True,
    unit="members",
)
MAX_GENERATIONS = ParameterSchema(
    name="max_generations",
    description="The number of generations after the first population, after which the attack gives up on a sample.",
    default_value=20.0,
    minimum=1.0,
    minimum_exclusive=False,
    maximum=100_000.0,
    integer=True,
    unit="generations",
)


def by_generations(parameters: Mapping[str, float]) -> tuple[int, int]:
    """A query a member of every generation, the first population included."""
    return int(parameters["population_size"] * (parameters["max_generations"] + 1)), 0


def hopskipjump_maxima(parameters: Mapping[str, float]) -> tuple[int, int]:
    """The starts, two searches from the start, and for every step its estimate, its halvings and a search."""
    step_count = int(parameters["max_iterations"])
    initial, most = parameters["initial_evaluations"], int(parameters["max_evaluations"])
    estimates = sum(min(int(initial * math.sqrt(step)), most) for step in range(1, step_count + 1))
    return int(parameters["max_starts"]) + 2 * SEARCH_STEP_LIMIT * (step_count + 1) + estimates, 0
