"""Robustness reports as values: what was learnt on each clock, what it cost, and how far it has come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from survival_service.cure import CureFit
from survival_service.diagnostics import Diagnostics
from survival_service.distributions import Distribution
from survival_service.effects import EffectReport
from survival_service.errors import InvalidRequest
from survival_service.estimates import DEFAULT_LEVEL, NO_ESTIMATE, Curve, Estimate, Histogram
from survival_service.experiments import ExperimentGroup
from survival_service.fits import Fit
from survival_service.observations import Clock
from survival_service.ranking import FitConcordance
from survival_service.scoring import Conclusion
from survival_service.sequential import Stopping

DEFAULT_DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC)


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report is made with. Raises `InvalidRequest` for a level outside (0, 1) or a price not above 0."""

    clock: Clock = Clock.QUERIES
    distributions: tuple[Distribution, ...] = DEFAULT_DISTRIBUTIONS
    confidence_level: float = DEFAULT_LEVEL
    defender_price_usd_per_hour: float | None = None
    attacker_price_usd_per_hour: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence_level < 1:
            message = f"confidence_level must lie between 0 and 1, such as 0.95, not {self.confidence_level:g}"
            raise InvalidRequest("options.confidence_level", message)
        if not self.distributions:
            raise InvalidRequest("options.distributions", "name at least one distribution to fit")
        for name in ("defender_price_usd_per_hour", "attacker_price_usd_per_hour"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price > 0):
                raise InvalidRequest(f"options.{name}", f"{name} must be a price above 0, not {price:g}")

    def price_ratio(self, clock: Clock) -> float:
        """The defender's price over the attacker's. A count of evaluations has no price of its own."""
        defender, attacker = self.defender_price_usd_per_hour, self.attacker_price_usd_per_hour
        if clock is not Clock.SECONDS or defender is None or attacker is None:
            return 1.0
        return defender / attacker


@dataclass(frozen=True, slots=True)
class ClockReport:
    """All that was learnt on one clock. Fields are those of the contract's `ClockReport`.

    Nothing is spent in distance: there the fields on costs stay empty.
    """

    clock: Clock
    fits: tuple[Fit, ...]
    kaplan_meier: Curve
    histogram: Histogram
    cost_per_failure: Estimate = NO_ESTIMATE
    training_cost_per_sample: float = 0.0
    attack_cost: float = 0.0
    cost_normalized_failure_rate: Estimate = NO_ESTIMATE
    confidence_above_one: float | None = None
    conclusion: Conclusion | None = None
    paper_rate: Estimate | None = None
    benign_rate: Estimate | None = None
    averaged_median: Estimate | None = None
    averaged_restricted_mean: Estimate | None = None
    cure_fits: tuple[CureFit, ...] = ()
    hurdle_restricted_mean: Estimate | None = None
    concordances: tuple[FitConcordance, ...] = ()
    diagnostics: Diagnostics | None = None


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
    defence: str
    defence_parameters: Mapping[str, float]
    defended_accuracy: float
    clean_rejection_share: float
    randomized: bool
    rejected_count: int


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
    experiment_groups: tuple[ExperimentGroup, ...] = ()
    effect_report: EffectReport | None = None
    distance_norm: str = ""
    stopping: Stopping | None = None
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
    provisional_fits: tuple[Fit, ...] = ()
    stopping: Stopping | None = None


@dataclass(frozen=True, slots=True)
class ObservationFits:
    """Fits to observations of any origin: the contract's `FitOutcomesResponse`."""

    fits: tuple[Fit, ...]
    observation_count: int
    failure_count: int
    misclassified_count: int
    kaplan_meier: Curve
    diagnostics: Diagnostics | None = None
