"""Simulated attack jobs with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from survival_service.jobs import JobFacts
from survival_service.observations import OutcomeColumns, OutcomeTable, Verdict


@pytest.fixture
def outcome_columns() -> Callable[..., OutcomeColumns]:
    """Columns of a PGD-like attack from the check at which each sample fails (0 = misclassified, None = survives)."""

    def build(
        checks: Sequence[int | None],
        *,
        budget: int,
        seconds_per_check: float | Sequence[float] = 0.01,
        clean_seconds: float = 0.002,
        first_sample: int = 0,
    ) -> OutcomeColumns:
        n = len(checks)
        each = np.broadcast_to(np.asarray(seconds_per_check, dtype=float), n)
        failed = np.array([c is not None and c > 0 for c in checks], dtype=bool)
        missed = np.array([c == 0 for c in checks], dtype=bool)
        last = np.array([budget if c is None else c for c in checks], dtype=np.int64)
        verdict = np.where(missed, Verdict.MISCLASSIFIED, np.where(failed, Verdict.FAILED, Verdict.SURVIVED))
        survived = ~failed & ~missed
        # Check k is made at query k + 1 and gradient k; time starts at 0.
        query_lower = np.where(failed, np.where(last > 1, last, 0), np.where(missed, 0, last + 1))
        query_upper = np.where(survived, -1, np.where(missed, 0, last + 1))
        gradient_lower = np.where(failed, last - 1, np.where(missed, 0, last))
        gradient_upper = np.where(survived, -1, last)
        blank = np.zeros(n, dtype=np.int64)
        return OutcomeColumns(
            sample_index=np.arange(first_sample, first_sample + n),
            verdict=verdict.astype(np.int64),
            label=blank,
            clean_prediction=blank,
            adversarial_prediction=blank,
            query_count_lower=query_lower,
            query_count_upper=query_upper,
            gradient_count_lower=gradient_lower,
            gradient_count_upper=gradient_upper,
            seconds_lower=gradient_lower * each,
            seconds_upper=np.where(survived, np.inf, last * each),
            distance_l2=np.zeros(n),
            distance_linf=np.zeros(n),
            distance_l0=blank,
            check_count=last,
            clean_seconds=np.full(n, clean_seconds),
        )

    return build


@pytest.fixture
def facts() -> Callable[..., JobFacts]:
    """A job on a ResNet-50 trained for six epochs, with overrides."""

    def build(**overrides: object) -> JobFacts:
        values: dict[str, object] = {
            "attack_job_id": "job-1",
            "model": "resnet50",
            "dataset": "digits",
            "attack": "pgd",
            "engine": "native",
            "norm": "inf",
            "attack_parameters": {"epsilon": 0.1, "step_size": 0.01, "max_iterations": 20.0, "random_start": 0.0},
            "weights_digest": "a" * 64,
            "dataset_digest": "d" * 64,
            "training_seconds": 120.0,
            "training_sample_count": 1437,
            "epoch_count": 6,
            "clean_accuracy": 0.97,
            "test_sample_count": 360,
            "class_count": 10,
            "training_device_name": "cpu",
            "attack_device_name": "cpu",
        }
        return JobFacts(**(values | overrides))  # type: ignore[arg-type]

    return build


@pytest.fixture
def simulated_checks() -> Callable[..., list[int | None]]:
    """The check at which each of n samples fails, from Weibull times measured in checks; None beyond the budget."""

    def build(n: int, *, scale: float = 8.0, sigma: float = 0.7, budget: int = 20, seed: int = 0) -> list[int | None]:
        generator = np.random.default_rng(seed)
        times = scale * generator.exponential(size=n) ** sigma
        checks = np.maximum(1, np.ceil(times)).astype(int)
        return [None if c > budget else int(c) for c in checks]

    return build


@pytest.fixture
def job(
    outcome_columns: Callable[..., OutcomeColumns], facts: Callable[..., JobFacts]
) -> Callable[..., tuple[JobFacts, OutcomeTable]]:
    """A finished job and its table, from the checks at which its samples fail."""

    def build(
        checks: Sequence[int | None],
        *,
        budget: int = 20,
        seconds_per_check: float | Sequence[float] = 0.01,
        clean_seconds: float = 0.002,
        **overrides: object,
    ) -> tuple[JobFacts, OutcomeTable]:
        table = OutcomeTable()
        table.add(
            outcome_columns(checks, budget=budget, seconds_per_check=seconds_per_check, clean_seconds=clean_seconds)
        )
        table.end()
        return facts(**({"sample_count": len(checks)} | overrides)), table

    return build
