"""Aggregated rows: experiments of which only totals are known, as most published data are.

One experiment attacked n samples together in a total time; d of them failed. With t the time a sample, that is d
failures somewhere in (0, t] and the others beyond t: current-status counts. They carry a failure rate and the cost of
a failure, and no shape of the times to failure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.errors import InvalidObservations
from survival_service.estimates import NO_ESTIMATE, Estimate, log_interval, wilson
from survival_service.observations import FloatArray, Observations
from survival_service.scoring import Conclusion, RatioError, Score, conclude, confidence_above_one

_COLUMNS = ("sample_count", "failure_count", "misclassified_count", "attack_seconds", "training_seconds_per_sample")


@dataclass(frozen=True, slots=True, eq=False)
class Experiments:
    """Totals of experiments, an entry an experiment. Counts may be expectations, and so need not be whole.

    `failure_count` counts among the samples at risk, those that were not misclassified before. `attack_seconds` is what
    attacking all samples took, misclassified ones included; `training_seconds_per_sample` is 0 where it is unknown.
    `covariates` has a row an experiment and a column a name. Raises `InvalidObservations`, naming the column of the
    contract's `ExperimentBatch`.
    """

    group: tuple[str, ...]
    sample_count: FloatArray
    failure_count: FloatArray
    misclassified_count: FloatArray
    attack_seconds: FloatArray
    training_seconds_per_sample: FloatArray
    covariates: FloatArray
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = self.sample_count.size
        if len(self.group) != n or self.covariates.shape != (n, len(self.names)):
            raise InvalidObservations("group", "all columns of experiments must have one length")
        for name in _COLUMNS:
            column = getattr(self, name)
            if column.size != n:
                raise InvalidObservations(name, f"{name} has {column.size} entries, sample_count has {n}")
            if not (np.isfinite(column).all() and (column >= 0).all()):
                raise InvalidObservations(name, f"{name} must be finite and not negative")
        for name in ("sample_count", "attack_seconds"):
            if not (getattr(self, name) > 0).all():
                raise InvalidObservations(name, f"{name} must be above 0")
        # Expectations are computed: a rounding error more than all samples is no mistake.
        if (self.failure_count + self.misclassified_count > self.sample_count * (1 + 1e-9)).any():
            message = "failures and misclassified samples of an experiment must not be more than its samples"
            raise InvalidObservations("failure_count", message)
        if not np.isfinite(self.covariates).all():
            raise InvalidObservations("covariates", "covariates must be finite numbers")

    @property
    def at_risk(self) -> FloatArray:
        """The samples of each experiment that were classified correctly before the attack."""
        return np.maximum(self.sample_count - self.misclassified_count, self.failure_count)

    @property
    def seconds_per_sample(self) -> FloatArray:
        """What attacking one sample took, the same for all of an experiment."""
        return self.attack_seconds / self.sample_count

    def observations(self) -> Observations:
        """The current-status counts: failures up to an experiment's time a sample, the others beyond it.

        An experiment is a cluster, since its samples share a model and a time.
        """
        time, failed, n = self.seconds_per_sample, self.failure_count, self.sample_count.size
        weight = np.concatenate([failed, self.at_risk - failed])
        kept = weight > 0
        return Observations(
            lower=np.concatenate([np.zeros(n), time])[kept],
            upper=np.concatenate([time, np.full(n, np.inf)])[kept],
            weight=weight[kept],
            covariates=np.concatenate([self.covariates, self.covariates])[kept],
            names=self.names,
            cluster=np.tile(np.arange(n, dtype=np.int64), 2)[kept],
            # Nobody looked in between: a single check, and so no shape, however many experiments there are.
            check=np.ones(int(kept.sum()), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True)
class ExperimentGroup:
    """What the experiments of one group cost, and their rates. Fields are those of the contract's `ExperimentGroup`.

    `median_rate` is the median of the experiments' own rates, each of them a number without an interval.
    """

    group: str
    experiment_count: int
    sample_count: int
    misclassified_count: int
    failed_count: int
    attack_seconds: float
    training_cost_per_sample: float
    cost_per_failure: Estimate
    cost_normalized_failure_rate: Estimate
    median_rate: float | None
    conclusion: Conclusion


def groups(experiments: Experiments, level: float, *, price_ratio: float = 1.0) -> tuple[ExperimentGroup, ...]:
    """Every group of the experiments, in the order in which they come."""
    names = np.array(experiments.group, dtype=object)
    found = []
    for name in dict.fromkeys(experiments.group):
        here = names == name
        scored = score(experiments, level, here, price_ratio=price_ratio)
        found.append(
            ExperimentGroup(
                group=name,
                experiment_count=int(here.sum()),
                sample_count=round(float(experiments.sample_count[here].sum())),
                misclassified_count=round(float(experiments.misclassified_count[here].sum())),
                failed_count=round(float(experiments.failure_count[here].sum())),
                attack_seconds=float(experiments.attack_seconds[here].sum()),
                training_cost_per_sample=training_cost(experiments, here),
                cost_per_failure=scored.cost_per_failure,
                cost_normalized_failure_rate=scored.cost_normalized_failure_rate,
                median_rate=_median_rate(experiments, here, price_ratio),
                conclusion=scored.conclusion,
            )
        )
    return tuple(found)


def training_cost(experiments: Experiments, here: NDArray[np.bool_]) -> float:
    """What training cost a training sample, averaged over the samples at risk; 0 if it is unknown of any experiment."""
    trained, risk = experiments.training_seconds_per_sample[here], experiments.at_risk[here]
    if not trained.size or trained.min() <= 0 or risk.sum() <= 0:
        return 0.0
    return float(trained @ risk / risk.sum())


def score(experiments: Experiments, level: float, here: NDArray[np.bool_], *, price_ratio: float = 1.0) -> Score:
    """The cost of a failure over all these experiments, and the rate that training cost makes of it.

    Intervals are those of ratios of totals over experiments (Cochran 1977, section 2.11), which are the clusters: they
    cover how experiments differ. One experiment has none, for its total does not tell how its samples differ.
    """
    attack, failed, risk = experiments.attack_seconds[here], experiments.failure_count[here], experiments.at_risk[here]
    if failed.sum() <= 0:
        return Score(NO_ESTIMATE, NO_ESTIMATE, None, Conclusion.UNDECIDED)
    influence = attack / attack.sum() - failed / failed.sum()
    cost = float(attack.sum() / failed.sum())
    cost_per_failure = _with_error(cost, _error(influence, failed, risk), level)
    trained = training_cost(experiments, here)
    if trained <= 0:
        return Score(cost_per_failure, NO_ESTIMATE, None, Conclusion.UNDECIDED)
    spent = experiments.training_seconds_per_sample[here] * risk
    error = _error(influence - (spent / spent.sum() - risk / risk.sum()), failed, risk)
    rate = price_ratio * trained / cost
    estimate = _with_error(rate, error, level)
    confidence = confidence_above_one(rate, error)
    return Score(cost_per_failure, estimate, confidence, conclude(estimate))


def share(events: FloatArray, trials: FloatArray, level: float) -> Estimate:
    """A share of samples with Wilson's interval, for as many samples as are independent between experiments."""
    total = float(trials.sum())
    if total <= 0:
        return NO_ESTIMATE
    value = min(1.0, float(events.sum()) / total)
    independent = total
    if trials.size > 1 and 0 < value < 1:
        residual = events - value * trials
        variance = float(residual @ residual) / total**2 * trials.size / (trials.size - 1)
        independent = min(total, value * (1 - value) / variance) if variance > 0 else total
    return wilson(value * independent, independent, level)


def _median_rate(experiments: Experiments, here: NDArray[np.bool_], price_ratio: float) -> float | None:
    trained = experiments.training_seconds_per_sample[here]
    if trained.min() <= 0:
        return None
    return float(np.median(price_ratio * trained * experiments.failure_count[here] / experiments.attack_seconds[here]))


def _error(influence: FloatArray, failed: FloatArray, risk: FloatArray) -> RatioError | None:
    """The standard error of the logarithm of a ratio of totals; at least that of the share of failures alone."""
    n = influence.size
    if n < 2:
        return None
    likely = (float(failed.sum()) + 0.5) / (float(risk.sum()) + 1)
    floor = (1 - likely) / (likely * float(risk.sum()))
    variance = max(float(influence @ influence) * n / (n - 1), floor)
    return RatioError(math.sqrt(variance), min(n - 1, int((failed > 0).sum())))


def _with_error(value: float, error: RatioError | None, level: float) -> Estimate:
    if error is None:
        return Estimate(value=value)
    estimate = log_interval(math.log(value), error.standard, level, degrees_of_freedom=error.degrees)
    return Estimate(value, estimate.lower, estimate.upper, error.standard)
