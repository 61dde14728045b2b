"""How many samples are classified correctly, before the attack and after it, also where a job did not reach its end.

Each shard tells all its misclassified samples before it attacks the others. Of a job that stopped early their share
among the outcomes is therefore too large, but once every shard has begun to attack, their number is that of the whole
job: all others were classified correctly, attacked or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from survival_service.estimates import NO_ESTIMATE, Estimate, effective_trials, wilson
from survival_service.jobs import JobFacts
from survival_service.observations import OutcomeColumns, Verdict
from survival_service.outcome_table import OutcomeTable
from survival_service.scoring import images

Jobs = Sequence[tuple[JobFacts, OutcomeTable]]


@dataclass(frozen=True, slots=True)
class CleanShare:
    """The share of samples classified correctly before the attack, and how many independent samples tell it."""

    value: float
    trials: float

    def estimate(self, level: float) -> Estimate:
        """With Wilson's interval."""
        return wilson(self.value * self.trials, self.trials, level)


def stopped_early(facts: JobFacts, table: OutcomeTable) -> bool:
    """Whether some samples of a job have no outcome, or one that only says where their attack was cut off."""
    return facts.canceled or table.outcome_count < facts.sample_count


def clean_pass_told(facts: JobFacts, table: OutcomeTable) -> bool:
    """Whether the outcomes have every misclassified sample of a job."""
    return table.outcome_count >= facts.sample_count or table.attacking_shard_count >= facts.shard_count


def clean_share(jobs: Jobs) -> CleanShare | None:
    """Over all samples that the jobs were to attack; None as long as a job has not told which were misclassified."""
    outcomes: list[tuple[JobFacts, OutcomeColumns]] = [(facts, table.columns()) for facts, table in jobs]
    seen = sum(table.outcome_count for _, table in jobs)
    if not seen or not all(clean_pass_told(facts, table) for facts, table in jobs):
        return None
    whole = sum(max(facts.sample_count, table.outcome_count) for facts, table in jobs)
    wrong = sum(table.misclassified_count for _, table in jobs)
    exposed = np.concatenate([columns.verdict for _, columns in outcomes]) != Verdict.MISCLASSIFIED
    # Images that several jobs share tell less; those not attacked yet are taken to be shared as the others are.
    return CleanShare(1.0 - wrong / whole, effective_trials(exposed, images(outcomes)) * whole / seen)


def adversarial_accuracy(jobs: Jobs, level: float) -> Estimate:
    """The share classified correctly after the attack, with Wilson's interval.

    Absent where a job stopped early: samples whose attack was cut off did not outlive its budget, and those never
    attacked would have been at risk.
    """
    if any(stopped_early(facts, table) for facts, table in jobs):
        return NO_ESTIMATE
    outcomes = [(facts, table.columns()) for facts, table in jobs]
    survived = np.concatenate([columns.verdict for _, columns in outcomes]) == Verdict.SURVIVED
    if not survived.size:
        return NO_ESTIMATE
    trials = effective_trials(survived, images(outcomes))
    return wilson(float(survived.mean()) * trials, trials, level)
