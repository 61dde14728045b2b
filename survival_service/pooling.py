"""Several attack jobs as one set of observations, told apart by their covariates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from survival_service.covariates import job_covariates
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, IntArray, Observations
from survival_service.outcome_table import OutcomeTable


def pooled(jobs: Sequence[tuple[JobFacts, OutcomeTable]], clock: Clock) -> Observations:
    """The observations of all jobs. One job is its count table; of several, each sample keeps its row.

    An image that is attacked in several jobs is one cluster, so that its rows are not taken as independent.
    """
    if len(jobs) == 1:
        return jobs[0][1].observations(clock)
    levels, names = job_covariates([facts for facts, _ in jobs])
    parts: list[Observations] = []
    images: list[tuple[str, str, int]] = []
    job_of_row: list[int] = []
    for j, (facts, table) in enumerate(jobs):
        rows, samples = table.rows(clock)
        parts.append(rows)
        job_of_row.extend([j] * samples.size)
        images.extend((facts.dataset, facts.dataset_digest, sample) for sample in samples.tolist())
    number = {image: i for i, image in enumerate(dict.fromkeys(images))}
    return Observations(
        lower=np.concatenate([part.lower for part in parts]),
        upper=np.concatenate([part.upper for part in parts]),
        weight=np.concatenate([part.weight for part in parts]),
        covariates=levels[np.array(job_of_row, dtype=int)],
        names=names,
        cluster=np.array([number[image] for image in images], dtype=np.int64),
        check=np.concatenate([part.check for part in parts if part.check is not None]),
    )


def models_of_rows(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> IntArray:
    """The trained model of every row of `pooled`, as a number: jobs on the same weights share it."""
    names = [facts.weights_digest or facts.attack_job_id for facts, _ in jobs]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    rows = [table.failed_count + table.survived_count + table.in_flight_count for _, table in jobs]
    return np.repeat(np.array([number[name] for name in names], dtype=np.int64), rows)


def jobs_of_rows(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> IntArray:
    """The job of every row of `pooled`, as a number; one job, whose rows are counts, is one number."""
    if len(jobs) == 1:
        return np.zeros(1, dtype=np.int64)
    rows = [table.failed_count + table.survived_count + table.in_flight_count for _, table in jobs]
    return np.repeat(np.arange(len(jobs), dtype=np.int64), rows)
