"""Looks at a running job, and what was decided: whether it may stop, and what stopping it has saved.

The service only looks; whoever asked for a precision cancels the job. Samples under attack count as censored at their
last check, so that a look at a job in mid-run says what its whole would, as far as the samples that came first are like
the others: they come in the order of the dataset, one of each class in turn.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from survival_service.jobs import JobFacts
from survival_service.observations import Clock, Observations, Verdict
from survival_service.outcome_table import OutcomeTable
from survival_service.sequential import (
    FEWEST_AT_END,
    FEWEST_FAILURES,
    Look,
    Monitor,
    Quantity,
    Stopping,
    evidence,
    mean_spent,
)
from survival_service.wording import CLOCKS, number, percent

_NAMES = {
    Quantity.MEDIAN: "median time to failure",
    Quantity.RESTRICTED_MEAN: "restricted mean time to failure",
    Quantity.FAILURE_SHARE: "share that fails",
}


def look_at(monitor: Monitor, facts: JobFacts, table: OutcomeTable, clock: Clock, *, ended: bool = False) -> Monitor:
    """Look at a job if a look is due, the last time when it has `ended` by itself."""
    last = ended and not facts.canceled
    if not monitor.due(table.failed_count, last=last) or (ended and facts.canceled):
        return monitor
    observations = table.observations(clock)
    watched = observations
    if monitor.quantity is Quantity.FAILURE_SHARE and observations.check is not None:
        # What fails within the budget has no clock but the checks, which all samples share.
        check = observations.check.astype(float)
        lower = np.where(observations.failed, np.maximum(check - 1, 0), check)
        watched = replace(observations, lower=lower, upper=np.where(observations.failed, check, np.inf))
    known = evidence(monitor.quantity, watched, _budget(monitor.quantity, table))
    if known is None:
        return monitor
    return monitor.look(known, table.failed_count, round(observations.observation_count), last=last)


def decided(monitor: Monitor, facts: JobFacts, table: OutcomeTable, clock: Clock, *, ended: bool = False) -> Stopping:
    """Where the looks stand; once the job has `ended`, with what was saved and in a sentence."""
    found = Stopping(
        quantity=monitor.quantity,
        interval_factor=monitor.interval_factor,
        met=monitor.met,
        looks=monitor.looks,
        next_failure_count=0 if ended else monitor.next_failure_count,
    )
    if not ended:
        return found
    rest = max(0, facts.sample_count - table.outcome_count)
    saved = {one: _saved(facts, table, one) for one in (Clock.QUERIES, Clock.SECONDS)}
    return replace(
        found,
        saved_sample_count=rest,
        saved_query_count=saved[Clock.QUERIES],
        saved_seconds=saved[Clock.SECONDS],
        message=_message(monitor, facts, table, clock, rest),
    )


def _budget(quantity: Quantity, table: OutcomeTable) -> float | None:
    """How far the attack goes: the most checks, or queries, that a survivor took. None without one."""
    columns = table.columns()
    survived = (columns.verdict == Verdict.SURVIVED) | (columns.verdict == Verdict.REJECTED)
    if not survived.any():
        return None
    reached = columns.check_count if quantity is Quantity.FAILURE_SHARE else columns.query_count_lower
    return float(reached[survived].max())


def _saved(facts: JobFacts, table: OutcomeTable, clock: Clock) -> float:
    """What the whole job would have spent beyond what it did: as much a sample at risk as the mean says."""
    rows: Observations = table.observations(clock)
    at_risk = rows.observation_count
    if not at_risk or (facts.sample_count <= table.outcome_count and not facts.canceled):
        return 0.0
    spent = float(np.where(rows.failed, rows.upper, rows.lower) @ rows.weight)
    # A shard tells all that are misclassified before it attacks the others, so their share so far says nothing.
    expected = facts.sample_count * (facts.defended_accuracy or facts.clean_accuracy or 1.0)
    whole = min(max(expected, at_risk), facts.sample_count - table.misclassified_count)
    return max(0.0, whole * mean_spent(rows) - spent)


def _message(monitor: Monitor, facts: JobFacts, table: OutcomeTable, clock: Clock, rest: int) -> str:
    what, wanted = _NAMES[monitor.quantity], f"×/÷ {number(monitor.interval_factor)}"
    if not monitor.looks:
        return f"{_why_none(monitor, table)}, so no look was taken at the {what}; attack more samples"
    last = monitor.looks[-1]
    looks = f"{len(monitor.looks)} look{'' if len(monitor.looks) == 1 else 's'}"
    reached = _reached(last, monitor.quantity, clock)
    if monitor.met and facts.canceled:
        return (
            f"stopped as planned after {looks}, with {last.failure_count} failures among {last.sample_count} samples "
            f"at risk: the {what} is {reached}, as precise as asked ({wanted}); {rest} of {facts.sample_count} samples "
            "were not attacked"
        )
    if monitor.met:
        return f"the {what} is {reached}, as precise as asked ({wanted}), but the job had run to its end by then"
    end = "the job was canceled before" if facts.canceled else "the job ended before"
    if math.isinf(last.interval_factor):
        return (
            f"{end} the {what} was as precise as asked ({wanted}): its interval has no end, since too few fail within "
            "the budget; ask for the failure-share or the restricted-mean, or attack longer"
        )
    needed = last.sample_count * (math.log(last.interval_factor) / math.log(monitor.interval_factor)) ** 2
    return (
        f"{end} the {what} was as precise as asked ({wanted}): after {looks} it is {reached}; about "
        f"{number(needed)} samples at risk would be enough"
    )


def _reached(look: Look, quantity: Quantity, clock: Clock) -> str:
    value, low, high = look.estimate.value or 0.0, look.estimate.lower or 0.0, look.estimate.upper or 0.0
    if quantity is Quantity.FAILURE_SHARE:
        return f"{percent(value)} ({percent(low)} to {percent(high)}, ×/÷ {number(look.interval_factor)})"
    factor = number(look.interval_factor) if math.isfinite(look.interval_factor) else "∞"
    return f"{number(value)} {CLOCKS[clock]} ({number(low)} to {number(high)}, ×/÷ {factor})"


def _why_none(monitor: Monitor, table: OutcomeTable) -> str:
    if table.failed_count < FEWEST_FAILURES:
        return f"fewer than {FEWEST_FAILURES} samples failed"
    if monitor.quantity is not Quantity.MEDIAN and table.survived_count < FEWEST_AT_END:
        return f"fewer than {FEWEST_AT_END} samples were watched to the end of the attack's budget"
    return "the job ended before a look was due"
