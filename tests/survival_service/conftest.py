"""Simulated attack jobs with a known truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.special import log_expit, log_ndtr

from survival_service.distributions import Distribution
from survival_service.jobs import JobFacts
from survival_service.observations import FloatArray, Observations, OutcomeColumns, Verdict
from survival_service.outcome_table import OutcomeTable


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


@pytest.fixture(scope="session")
def row_log_likelihoods() -> Callable[[Observations, Distribution, FloatArray, float], FloatArray]:
    """The log-likelihood of each row, unweighted, at (beta, sigma): straight from distribution functions by SciPy.

    It shares no formula with the engine: an interval is the difference of two tail probabilities, formed on that side
    of the median where they are small.
    """

    def extreme_value(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        hazard = np.exp(z)
        return z - hazard, np.log(-np.expm1(-hazard)), -hazard

    def normal(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        return -0.5 * z * z - 0.5 * np.log(2 * np.pi), log_ndtr(z), log_ndtr(-z)

    def logistic(z: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        return log_expit(z) + log_expit(-z), log_expit(z), log_expit(-z)

    # Log density, distribution and survival function of the standardised log time.
    laws = {
        Distribution.WEIBULL: extreme_value,
        Distribution.EXPONENTIAL: extreme_value,
        Distribution.LOG_NORMAL: normal,
        Distribution.LOG_LOGISTIC: logistic,
    }

    def rows(data: Observations, distribution: Distribution, beta: FloatArray, sigma: float) -> FloatArray:
        law, mu = laws[distribution], beta[0] + data.covariates @ beta[1:]
        with np.errstate(all="ignore"):
            z_lower, z_upper = (np.log(data.lower) - mu) / sigma, (np.log(data.upper) - mu) / sigma
            density, below_lower, above_lower = law(z_lower)
            _, below_upper, above_upper = law(z_upper)
            by_upper_tail = above_lower + np.log(-np.expm1(above_upper - above_lower))
            by_lower_tail = below_upper + np.log(-np.expm1(below_lower - below_upper))
            between = np.where(z_lower > 0, by_upper_tail, by_lower_tail)
            exact = density - np.log(sigma) - np.log(data.lower)
        cases = [data.lower == data.upper, np.isinf(data.upper), data.lower == 0]
        return np.asarray(np.select(cases, [exact, above_lower, below_upper], between))

    return rows
