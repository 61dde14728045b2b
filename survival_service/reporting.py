"""The robustness report: what was learnt on both clocks, what it cost, and what limits the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from survival_service.distributions import Distribution
from survival_service.estimates import DEFAULT_LEVEL, Curve, Estimate, Histogram
from survival_service.fitting import Fit
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, Observations, OutcomeTable
from survival_service.scoring import Conclusion

DEFAULT_DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC)


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is made with. Raises `InvalidRequest` for a level outside (0, 1) or a price not above 0."""

    clock: Clock = Clock.QUERIES
    distributions: tuple[Distribution, ...] = DEFAULT_DISTRIBUTIONS
    confidence_level: float = DEFAULT_LEVEL
    defender_price_usd_per_hour: float | None = None
    attacker_price_usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class ClockReport:
    """All that was learnt on one clock. Fields are those of the contract's `ClockReport`."""

    clock: Clock
    fits: tuple[Fit, ...]
    kaplan_meier: Curve
    histogram: Histogram
    cost_per_failure: Estimate
    training_cost_per_sample: float
    attack_cost: float
    cost_normalized_failure_rate: Estimate
    confidence_above_one: float | None
    conclusion: Conclusion
    paper_rate: Estimate | None
    benign_rate: Estimate | None


@dataclass(frozen=True, slots=True)
class ReportedJob:
    """One attack job of a report. Fields are those of the contract's `ReportedJob`."""

    attack_job_id: str
    model: str
    dataset: str
    attack: str
    engine: str
    norm: str
    attack_parameters: Mapping[str, float]
    weights_digest: str
    clean_accuracy: float
    attack_device_name: str
    training_device_name: str
    failed_count: int
    survived_count: int
    misclassified_count: int


@dataclass(frozen=True, slots=True)
class CostSummary:
    """Costs in device seconds and, where prices are known, in US dollars (else None).

    `training_seconds`, `attack_seconds` and `clean_seconds` are the contract's `training_duration` and so on.
    """

    training_seconds: float
    attack_seconds: float
    clean_seconds: float
    defender_price_usd_per_hour: float | None
    attacker_price_usd_per_hour: float | None
    training_cost_usd: float | None
    attack_cost_usd: float | None
    cost_per_failure_usd: float | None
    training_sample_count: int


@dataclass(frozen=True, slots=True)
class Report:
    """How long the attacked models survive, and what that robustness cost. Fields are those of the contract.

    `report_id` and `create_time` are the server's to fill in, with `dataclasses.replace`.
    """

    attack_job_ids: tuple[str, ...]
    sample_count: int
    failed_count: int
    survived_count: int
    misclassified_count: int
    clean_accuracy: Estimate
    adversarial_accuracy: Estimate
    failure_share: Estimate
    clock_reports: tuple[ClockReport, ...]
    summary: str
    conclusion: Conclusion
    limitations: tuple[str, ...]
    costs: CostSummary
    jobs: tuple[ReportedJob, ...]
    partial: bool
    confidence_level: float
    report_id: str = ""
    create_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """How far the reading of outcomes has come. Fields are those of the contract's `ReportProgress`."""

    outcome_count: int
    failed_count: int
    survived_count: int
    misclassified_count: int
    in_flight_count: int
    provisional_fits: tuple[Fit, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ObservationFits:
    """Fits to observations of any origin: the contract's `FitOutcomesResponse`."""

    fits: tuple[Fit, ...]
    observation_count: int
    failure_count: int
    misclassified_count: int
    kaplan_meier: Curve


def make_report(jobs: Sequence[tuple[JobFacts, OutcomeTable]], options: ReportOptions) -> Report:
    """Make the report of one or more jobs that have ended (or were read as far as they got)."""
    raise NotImplementedError


def make_progress(
    jobs: Sequence[tuple[JobFacts, OutcomeTable]], options: ReportOptions, previous: ReportProgress | None = None
) -> ReportProgress:
    """Count what has arrived and fit it, samples in flight censored at their last check.

    `previous` lends its fits as starting points.
    """
    raise NotImplementedError


def fit_observations(
    observations: Observations, options: ReportOptions, *, clock: Clock | None = None, misclassified_count: int = 0
) -> ObservationFits:
    """Fit observations of any origin, in whatever unit; `clock` only labels the fits."""
    raise NotImplementedError
