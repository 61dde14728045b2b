"""How far a sample had to be changed until the model was fooled, as observations on a clock of its own.

A distance is a time to failure where it rises until the failure, and only there. An attack at one fixed epsilon leaves
its sample at once and moves about in the ball: where it is when it succeeds says nothing. Two kinds of jobs do say
something:

- attacks that go outwards for the nearest boundary: the norm of the first change that fooled the model;
- a sweep, the same attack on the same samples at several epsilons: between the largest epsilon at which the sample
  held and the smallest at which it failed.

A sample that was never fooled is censored at the largest epsilon at which it held.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np

from survival_service.covariates import job_covariates
from survival_service.jobs import JobFacts
from survival_service.observations import FloatArray, Observations, OutcomeColumns, Verdict
from survival_service.outcome_table import OutcomeTable

# Attacks that begin at the sample and go outwards, so that the first change that fools the model is a near one.
_OUTWARD = frozenset({"deepfool", "cw"})
# Of them, those that stop where they cross the boundary: beyond epsilon, too, that is the distance.
_STOPS_WHERE_IT_CROSSES = frozenset({("deepfool", "native")})
# The columns of outcomes that hold the lengths of changes, by norm.
_LENGTHS = {"2": "distance_l2", "inf": "distance_linf"}
# What a sweep varies. The default step is a share of epsilon.
_SWEPT = frozenset({"epsilon", "step_size"})

Bounds = tuple[float, float]


def no_distance(jobs: Sequence[JobFacts]) -> str:
    """Why these jobs have no clock of distance, and what to do about it; empty if they have one."""
    norms = dict.fromkeys(facts.norm for facts in jobs)
    if len(norms) > 1:
        return (
            f"the jobs measure distance in different norms ({', '.join(norm or 'unknown' for norm in norms)}), and "
            "lengths in one say nothing about lengths in another; report on the jobs of each norm apart"
        )
    if "" in norms:
        return "the norm of the jobs is not known; run them on an attack service, which records it"
    for group in _sweeps(jobs):
        facts = jobs[group[0]]
        name = f"job {facts.attack_job_id} ({facts.attack})"
        if facts.attack in _OUTWARD and facts.norm in _LENGTHS:
            continue
        epsilons = {jobs[j].attack_parameters.get("epsilon") for j in group}
        if None in epsilons:
            return f"{name} has no epsilon, so there is no distance at which a sample held; use deepfool or cw"
        if len(epsilons) < 2:
            return (
                f"{name} ran at one epsilon, and the distance of what it tries does not rise until the model is "
                "fooled, so the distance at failure says nothing about robustness; attack the same samples of the same "
                "model at several epsilons and report on those jobs together, or use deepfool or cw"
            )
    return ""


def distances(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Observations:
    """The distance at which each sample failed. Only for jobs for which `no_distance` is empty.

    Jobs of one sweep are one configuration: the sample's row has all that they say. What else differs between jobs
    is a covariate, and an image attacked in several configurations one cluster.
    """
    facts = [of for of, _ in jobs]
    bounds: list[Bounds] = []
    checks: list[int] = []
    images: list[tuple[str, str, int]] = []
    groups: list[int] = []
    sweeps = _sweeps(facts)
    for g, group in enumerate(sweeps):
        known: dict[int, list[Bounds]] = {}
        fell_before: set[int] = set()
        for j in group:
            of_samples, misclassified = _bounds_of(*jobs[j])
            fell_before |= misclassified
            for sample, one in of_samples.items():
                known.setdefault(sample, []).append(one)
        tried = sorted({facts[j].attack_parameters.get("epsilon", math.inf) for j in group})
        for sample in sorted(known.keys() - fell_before):
            lower, upper = _joined(known[sample])
            bounds.append((lower, upper))
            checks.append(1 + tried.index(upper) if upper in tried else sum(epsilon <= lower for epsilon in tried))
            images.append((facts[group[0]].dataset, facts[group[0]].dataset_digest, sample))
            groups.append(g)
    levels, names = job_covariates([_at_no_epsilon(facts[group[0]]) for group in sweeps])
    table = np.array(bounds, dtype=np.float64).reshape(-1, 2)
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    swept = all(facts[group[0]].attack not in _OUTWARD for group in sweeps)
    rows = Observations(
        lower=table[:, 0].copy(),
        upper=table[:, 1].copy(),
        weight=np.ones(len(bounds)),
        covariates=levels[np.array(groups, dtype=np.int64)],
        names=names,
        cluster=np.array([number[image] for image in images], dtype=np.int64) if len(number) < len(images) else None,
        check=np.array(checks, dtype=np.int64) if swept else None,
    )
    return rows.merged()


def _sweeps(jobs: Sequence[JobFacts]) -> list[list[int]]:
    """The positions of the jobs that differ in epsilon at most, together."""
    groups: dict[Hashable, list[int]] = {}
    for j, facts in enumerate(jobs):
        of = _at_no_epsilon(facts)
        key = (
            of.weights_digest or of.attack_job_id, of.model, of.dataset, of.dataset_digest, of.stem, of.image_size,
            of.attack, of.engine, of.norm, tuple(sorted(of.attack_parameters.items())),
            of.defence, tuple(sorted(of.defence_parameters.items())),
        )  # fmt: skip
        groups.setdefault(key, []).append(j)
    return list(groups.values())


def _at_no_epsilon(facts: JobFacts) -> JobFacts:
    kept = {name: value for name, value in facts.attack_parameters.items() if name not in _SWEPT}
    return replace(facts, attack_parameters=kept)


def _bounds_of(facts: JobFacts, table: OutcomeTable) -> tuple[dict[int, Bounds], set[int]]:
    """Between which distances each sample of one job failed, and the samples that were misclassified before.

    What a canceled job did not fool says nothing: its attack had not searched all that it was to search.
    """
    columns = table.columns()
    samples = columns.sample_index.tolist()
    misclassified = columns.verdict == Verdict.MISCLASSIFIED
    failed = columns.verdict == Verdict.FAILED
    lower, upper = _outward(facts, columns) if facts.attack in _OUTWARD else _within(facts, columns)
    told = ~misclassified & (failed | (not facts.canceled)) & ((lower > 0) | np.isfinite(upper))
    found = {samples[i]: (float(lower[i]), float(upper[i])) for i in np.flatnonzero(told)}
    return found, {samples[i] for i in np.flatnonzero(misclassified)}


def _within(facts: JobFacts, columns: OutcomeColumns) -> tuple[FloatArray, FloatArray]:
    """An attack within a ball: whether the sample holds in it."""
    failed, epsilon = columns.verdict == Verdict.FAILED, facts.attack_parameters["epsilon"]
    return np.where(failed, 0.0, epsilon), np.where(failed, epsilon, math.inf)


def _outward(facts: JobFacts, columns: OutcomeColumns) -> tuple[FloatArray, FloatArray]:
    """An attack that goes outwards: how far it was when it fooled the model, or how far it got without."""
    epsilon = facts.attack_parameters.get("epsilon", math.inf)
    length = getattr(columns, _LENGTHS[facts.norm]).astype(np.float64)
    failed = columns.verdict == Verdict.FAILED
    beyond = (
        (columns.verdict == Verdict.SURVIVED) & (columns.adversarial_prediction != columns.label) & (length > epsilon)
    )
    # A model that answers by chance may be fooled by no change at all; all that is known is that epsilon was enough.
    at_once = failed & (length <= 0)
    exact = (failed & ~at_once) | (beyond & ((facts.attack, facts.engine) in _STOPS_WHERE_IT_CROSSES))
    held = np.where(beyond, epsilon, np.minimum(epsilon, length))
    lower = np.where(exact, length, np.where(at_once, 0.0, held))
    upper = np.where(exact | beyond, length, np.where(at_once, epsilon, math.inf))
    return lower, upper


def _joined(known: Sequence[Bounds]) -> Bounds:
    """What several jobs say of one sample. One that failed at an epsilon fails at every larger one, found or not."""
    lower, upper = min(known, key=lambda one: (one[1], -one[0]))
    if lower == upper:
        return lower, upper
    return max((held for held, _ in known if held < upper), default=0.0), upper
