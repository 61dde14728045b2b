"""What a failure costs, against what training cost: the cost-normalised failure rate and its conclusion.

The rate is C = (price of training a sample) / (price of a failure), dimensionless and finite as soon as anything
failed. A failure's price is the attacker's whole spend on samples at risk, those that survived included, divided by
the failures. Its variance is the linearised one of a ratio (Cochran 1977, section 2.11), on the logarithm, and its law
Student's with as many degrees of freedom as images failed, and fewer than there are images: neither two
samples nor a single failure among many must make a conclusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from survival_service.estimates import (
    NO_ESTIMATE,
    Estimate,
    log_interval,
    share_upper_bound,
)
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, FloatArray, IntArray, OutcomeColumns, Verdict


class Conclusion(Enum):
    """What a cost-normalised failure rate says about a model. The values are those of the wire."""

    BROKEN = 1
    NOT_REJECTED = 2
    UNDECIDED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Spending:
    """What every sample at risk cost the attacker and its defender, on one clock, a row a sample.

    `attack` is the whole spend on the sample, up to the check that found its failure or to the end of the attack, and
    `training` what a training sample of its model cost: device seconds, or forward and backward evaluations.
    `forward` is the part of `attack` that the clock of the fits counts. `cluster` numbers the attacked images, so that
    one image attacked in several jobs is known to be one.
    """

    attack: FloatArray
    forward: FloatArray
    training: FloatArray
    failed: NDArray[np.bool_]
    cluster: IntArray

    @property
    def failure_count(self) -> int:
        """Samples that failed."""
        return int(self.failed.sum())

    @property
    def attack_cost(self) -> float:
        """Everything spent on samples at risk."""
        return float(self.attack.sum())

    @property
    def training_cost_per_sample(self) -> float:
        """What training a sample cost, averaged over the samples at risk where models differ; 0 if one is unknown."""
        return _mean_cost(self.training)


@dataclass(frozen=True, slots=True)
class RatioError:
    """The standard error of the logarithm of a ratio, and the degrees of freedom that it was estimated with."""

    standard: float
    degrees: int


@dataclass(frozen=True, slots=True)
class Score:
    """What the outcomes say about cost on one clock; None and empty estimates where nothing failed."""

    cost_per_failure: Estimate
    cost_normalized_failure_rate: Estimate
    confidence_above_one: float | None
    conclusion: Conclusion


def spending(jobs: Sequence[tuple[JobFacts, OutcomeColumns]], clock: Clock) -> Spending:
    """Collect what every sample at risk of these jobs cost."""
    attack, forward, training, failed = [], [], [], []
    for facts, columns in jobs:
        at_risk = columns.verdict != Verdict.MISCLASSIFIED
        fell = columns.verdict[at_risk] == Verdict.FAILED
        if clock is Clock.QUERIES:
            queries = _spent(columns.query_count_lower, columns.query_count_upper, at_risk, fell)
            cost = queries + _spent(columns.gradient_count_lower, columns.gradient_count_upper, at_risk, fell)
            forward.append(queries)
            trained = facts.training_passes_per_sample
        else:
            cost = _spent(columns.seconds_lower, columns.seconds_upper, at_risk, fell)
            forward.append(cost)
            trained = facts.training_seconds_per_sample
        attack.append(cost)
        failed.append(fell)
        training.append(np.full(cost.size, trained))
    at_risk = np.concatenate([columns.verdict != Verdict.MISCLASSIFIED for _, columns in jobs])
    return Spending(
        np.concatenate(attack),
        np.concatenate(forward),
        np.concatenate(training),
        np.concatenate(failed),
        images(jobs)[at_risk],
    )


def images(jobs: Sequence[tuple[JobFacts, OutcomeColumns]]) -> IntArray:
    """The attacked image of every outcome as a number, the same for one image in several jobs."""
    names = [
        (facts.dataset, facts.dataset_digest, index)
        for facts, columns in jobs
        for index in columns.sample_index.tolist()
    ]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def score(spent: Spending, level: float, *, price_ratio: float = 1.0) -> Score:
    """The cost of a failure and the cost-normalised failure rate. `price_ratio` is the defender's over the attacker's.

    Without a failure, or without a known training cost, nothing is concluded.
    """
    if spent.failure_count == 0 or spent.attack_cost <= 0:
        return Score(NO_ESTIMATE, NO_ESTIMATE, None, Conclusion.UNDECIDED)
    error = _log_ratio_error(spent.attack, spent.failed.astype(float), spent.cluster)
    cost = spent.attack_cost / spent.failure_count
    cost_per_failure = _with_error(cost, error, level)
    rate = price_ratio * spent.training_cost_per_sample / cost
    if rate <= 0:  # an unknown training cost, or one that no float can tell from none
        return Score(cost_per_failure, NO_ESTIMATE, None, Conclusion.UNDECIDED)
    estimate = _with_error(rate, error, level)
    return Score(cost_per_failure, estimate, confidence_above_one(rate, error), conclude(estimate))


def conclude(rate: Estimate) -> Conclusion:
    """Broken if the whole interval lies above 1, not rejected if below, otherwise undecided."""
    if rate.lower is not None and rate.lower > 1:
        return Conclusion.BROKEN
    if rate.upper is not None and rate.upper < 1:
        return Conclusion.NOT_REJECTED
    return Conclusion.UNDECIDED


def paper_rate(expected: Estimate, spent: Spending, *, price_ratio: float = 1.0) -> Estimate | None:
    """The rate with a fit's E[T] in place of the cost of a failure; zero if E[T] is infinite.

    On the queries clock E[T] counts forward evaluations; the run's own ratio of all evaluations to those turns it
    into cost.
    """
    trained = spent.training_cost_per_sample
    if expected.value is None or trained <= 0 or spent.forward.sum() <= 0:
        return None
    if math.isinf(expected.value):
        return Estimate(value=0.0)
    factor = price_ratio * trained / (spent.attack_cost / float(spent.forward.sum()))
    value, lower, upper = (
        None if time is None else _quotient(factor, time) for time in (expected.value, expected.upper, expected.lower)
    )
    return Estimate(value, lower, upper, expected.log_standard_error)


def benign_rate(
    jobs: Sequence[tuple[JobFacts, OutcomeColumns]], level: float, *, price_ratio: float = 1.0
) -> Estimate | None:
    """The same rate for clean errors: the price of training a sample over that of a clean error, in seconds.

    Without an error it is 0, with an upper bound from that of the error rate. None if nothing was measured.
    """
    seconds = np.concatenate([columns.clean_seconds for _, columns in jobs])
    wrong = np.concatenate([(columns.verdict == Verdict.MISCLASSIFIED).astype(float) for _, columns in jobs])
    trained = np.concatenate([np.full(len(columns), facts.training_seconds_per_sample) for facts, columns in jobs])
    if seconds.size == 0 or seconds.sum() <= 0 or _mean_cost(trained) <= 0:
        return None
    worth = price_ratio * _mean_cost(trained) / float(seconds.mean())
    errors = int(wrong.sum())
    if errors == 0:
        return Estimate(0.0, 0.0, worth * share_upper_bound(0, np.unique(images(jobs)).size, level))
    return _with_error(worth * errors / wrong.size, _log_ratio_error(seconds, wrong, images(jobs)), level)


def _mean_cost(training: FloatArray) -> float:
    """The mean, or 0 if what training cost is unknown of any: the mean of the others would be another model's."""
    return float(training.mean()) if training.size and float(training.min()) > 0 else 0.0


def _spent(lower: NDArray[Any], upper: NDArray[Any], at_risk: NDArray[np.bool_], fell: NDArray[np.bool_]) -> FloatArray:
    return np.where(fell, upper[at_risk], lower[at_risk]).astype(np.float64)


def _log_ratio_error(numerator: FloatArray, denominator: FloatArray, cluster: IntArray) -> RatioError | None:
    """The error of log(sum numerator / sum denominator) over clusters; None from fewer than two.

    The denominator counts events. When every sample is alike the linearised variance is zero, which n samples cannot
    promise: it is at least that of the share of events, half an event and half a non-event added.
    """
    influence = numerator / numerator.sum() - denominator / denominator.sum()
    index = np.unique(cluster, return_inverse=True)[1].ravel()
    totals = np.bincount(index, influence)
    n, with_events = totals.size, np.unique(index[denominator > 0]).size
    if n < 2:
        return None
    share = (denominator.sum() + 0.5) / (denominator.size + 1)
    variance = max(float(totals @ totals) * n / (n - 1), (1 - share) / (share * n))
    return RatioError(math.sqrt(variance), min(n - 1, with_events))


def _with_error(value: float, error: RatioError | None, level: float) -> Estimate:
    if error is None:
        return Estimate(value=value)
    estimate = log_interval(math.log(value), error.standard, level, degrees_of_freedom=error.degrees)
    return Estimate(value, estimate.lower, estimate.upper, error.standard)


def confidence_above_one(rate: float, error: RatioError | None) -> float | None:
    """How sure it is that a rate lies above 1; None without an error."""
    if error is None:
        return None
    return float(stdtr(error.degrees, math.log(rate) / error.standard))


def _quotient(numerator: float, denominator: float) -> float:
    if math.isinf(denominator):
        return 0.0
    return numerator / denominator if denominator > 0 else math.inf
