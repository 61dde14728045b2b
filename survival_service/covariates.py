"""Covariates: what differs between jobs, as columns of a design, without those that say the same twice.

Covariates come from the specification of a job and the record of its model only, never from its outcomes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import qr

from survival_service.jobs import JobFacts
from survival_service.observations import FloatArray

# Relative to the largest column: below this a column is a combination of the others but for rounding.
_RANK_TOLERANCE = 1e-9
# An eigenvalue of the correlations (the square of such a distance) above this needs no closer look.
_CLEARLY_INDEPENDENT = 1e-6
# Strengths whose effect is a power of time: one unit of the covariate is a factor e in strength.
_LOGARITHMIC = frozenset({"epsilon", "step_size"})
# The names made below, as they are read again.
_TREATMENT = re.compile(r"(\w+)=(.+) \(against (.+)\)")
_DEFENCE_STRENGTH = re.compile(r"(.+) \(0 is (.+), 1 is (.+)\)")
_WORDS = {"epoch_count": "training epochs"}


def job_covariates(jobs: Sequence[JobFacts]) -> tuple[FloatArray, tuple[str, ...]]:
    """One row a job: everything that differs between the jobs. Names of treatment levels state their reference.

    Categories are coded against their first level in the order of the jobs, defences against none where a job has none;
    `epsilon` and `step_size` enter as logarithms, other strengths of an attack as they are; those of a defence from 0
    to 1 between its least and its greatest among the jobs, which the name states; the depth of a ResNet as its number
    of layers. A strength that some job lacks is that of the average of the others there, so that the effect of an
    attack without it is against the average of those that have it; of a defence it is 0, beside the indicator of that
    defence.
    """
    columns: dict[str, list[float]] = {}
    depths = [re.fullmatch(r"resnet(\d+)", job.model) for job in jobs]
    if all(depths):
        columns["model_depth"] = [float(match.group(1)) for match in depths if match]
    else:
        columns |= _treatments("model", [job.model for job in jobs])
    for name in ("dataset", "stem", "attack", "engine", "norm", "defence"):
        columns |= _treatments(name, [str(getattr(job, name)) for job in jobs])
    columns |= _strengths([job.attack_parameters for job in jobs])
    columns |= _defence_strengths(jobs)
    columns["image_size"] = [float(job.image_size) for job in jobs]
    columns["epoch_count"] = [float(job.epoch_count) for job in jobs]
    varying = {name: values for name, values in columns.items() if len(set(values)) > 1}
    matrix = np.array(list(varying.values()), dtype=float).reshape(len(varying), len(jobs)).T
    return matrix, tuple(varying)


def in_words(name: str) -> str:
    """What a covariate of `job_covariates` compares or measures, in words.

    `attack=fgm (against pgd)` is `attack fgm instead of pgd`, `log_epsilon` is `epsilon`. A name that a fit in the
    limit gave a covariate, since the level that it was against has left, names the level that it is against now. The
    words of `cli.covariates` are the same.
    """
    name, _, others = name.partition(", against ")
    if treatment := _TREATMENT.fullmatch(name):
        what, level, reference = treatment.groups()
        gone = _TREATMENT.fullmatch(others)
        return f"{what} {level} instead of {gone[2] if gone and gone[1] == what else reference}"
    if strength := _DEFENCE_STRENGTH.fullmatch(name):
        what, least, greatest = strength.groups()
        return f"{what.replace('_', ' ')} {greatest} instead of {least}"
    return _WORDS.get(name, name.removeprefix("log_").replace("_", " "))


def independent_columns(
    matrix: FloatArray, names: tuple[str, ...], weight: FloatArray
) -> tuple[list[int], tuple[str, ...]]:
    """The columns that are neither constant nor combinations of others, in order, and a sentence for each other one."""
    if not names or not weight.any():
        return [], ()
    centred = matrix - np.average(matrix, axis=0, weights=weight)
    size = np.sqrt(np.average(centred**2, axis=0, weights=weight))
    varies = size > 1e-12 * (1e-300 + np.abs(matrix).max(axis=0))
    dropped = [f"{name} is the same in every observation" for name, v in zip(names, varies, strict=True) if not v]
    candidates = np.flatnonzero(varies)
    if candidates.size == 0:
        return [], tuple(dropped)
    scaled = centred[:, candidates] / size[candidates]
    # Well-conditioned by their correlations, as almost always: nothing to find.
    if np.linalg.eigvalsh(scaled.T @ scaled / len(scaled))[0] > _CLEARLY_INDEPENDENT:
        return candidates.tolist(), tuple(dropped)
    # Column j of R ends on its diagonal: what of it the columns before leave unexplained.
    diagonal = np.abs(np.diag(qr(scaled, mode="r", check_finite=False)[0]))
    diagonal = np.append(diagonal, np.zeros(max(0, candidates.size - diagonal.size)))
    free = diagonal > _RANK_TOLERANCE * np.linalg.norm(scaled, axis=0).max()
    # Of columns that say the same the first stays; with more columns than distinct rows, none beyond their number does.
    kept = candidates[free]
    for j in np.flatnonzero(~free):
        weights = np.linalg.lstsq(scaled[:, free], scaled[:, j], rcond=None)[0]
        others = [names[k] for k, size_of in zip(kept, np.abs(weights), strict=True) if size_of > 1e-6]
        dropped.append(f"{names[candidates[j]]} cannot be told apart from {' and '.join(others)}")
    return [int(j) for j in kept], tuple(dropped)


def _treatments(name: str, levels: Sequence[str]) -> dict[str, list[float]]:
    # The undefended model is the control, wherever it comes.
    reference, *others = dict.fromkeys(["none", *levels] if "none" in levels else levels)
    return {f"{name}={level} (against {reference})": [float(own == level) for own in levels] for level in others}


def _defence_strengths(jobs: Sequence[JobFacts]) -> dict[str, list[float]]:
    columns = {}
    for defence, name in dict.fromkeys((job.defence, name) for job in jobs for name in job.defence_parameters):
        values = [job.defence_parameters.get(name) if job.defence == defence else None for job in jobs]
        known = [value for value in values if value is not None]
        least, greatest = min(known), max(known)
        if least < greatest:
            scaled = [0.0 if value is None else (value - least) / (greatest - least) for value in values]
            columns[f"{defence} {name} (0 is {least:g}, 1 is {greatest:g})"] = scaled
    return columns


def _strengths(parameters: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    columns = {}
    # In the order of their names, since a message keeps none: of two that say the same the first stays, epsilon rather
    # than the step size that follows from it.
    for name in sorted({name for own in parameters for name in own}):
        values = [own.get(name) for own in parameters]
        column = name
        if name in _LOGARITHMIC and all(value is None or value > 0 for value in values):
            column, values = f"log_{name}", [None if value is None else math.log(value) for value in values]
        known = [value for value in values if value is not None]
        average = known[0] if len(set(known)) == 1 else sum(known) / len(known)
        columns[column] = [average if value is None else value for value in values]
    return columns
