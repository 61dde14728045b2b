"""What observations can carry before anything is fitted, and the share of failures that is known if nothing can be."""

from __future__ import annotations

import math

import numpy as np

from survival_service.advice import advice_on
from survival_service.distributions import Distribution
from survival_service.estimates import Estimate, effective_trials, share_upper_bound, wilson
from survival_service.fits import Status
from survival_service.observations import Clock, Observations

# Fewer failures than this a parameter, and a fit is refused. A floor: a report warns of many more (`limitations`).
FAILURES_PER_PARAMETER = 2


def screened(
    data: Observations, distribution: Distribution, parameter_count: int, clock: Clock | None
) -> tuple[Status, str]:
    """What the data can carry, and if that is no fit what to do about it. Sees nothing that depends on covariates."""
    failures, advice = data.failure_count, advice_on(clock)
    if data.observation_count == 0:
        return Status.NO_SAMPLE, advice.nobody_at_risk
    if failures == 0:
        return Status.NO_FAILURE, f"no {advice.one} failed, so there is no failure rate to fit; {advice.for_failures}"
    if not (data.lower > 0).any():
        # The sooner, the likelier: the supremum is at time zero.
        once = _checked_once(data)
        status = Status.SINGLE_CHECK if once and not distribution.scale_fixed else Status.ONE_INTERVAL
        what = (
            f"every {advice.one} was checked once, and failed then" if once else "every failure came at the first check"
        )
        return status, f"{what}, so nothing tells how soon they fail; {advice.for_earlier_checks}"
    if not distribution.scale_fixed:
        if _checked_once(data):
            return Status.SINGLE_CHECK, (
                f"every {advice.one} was checked once, which gives a failure share but no curve; "
                f"{advice.for_more_checks}"
            )
        if _one_interval(data):
            return Status.ONE_INTERVAL, (
                "all failures fall between the same two checks, so nothing tells how they spread; "
                f"{advice.for_checks_between}"
            )
    needed = FAILURES_PER_PARAMETER * parameter_count
    if failures < needed:
        return Status.TOO_FEW_FAILURES, (
            f"{failures:g} {'failure is' if failures == 1 else 'failures are'} too few for "
            f"{parameter_count} {'parameter' if parameter_count == 1 else 'parameters'} ({needed} are needed); "
            f"{advice.for_samples}, or {advice.for_failures}"
        )
    return Status.OK, ""


def failure_probability(data: Observations, level: float) -> tuple[Estimate, float] | None:
    """P(T <= t) and t, the latest check that found a failure or, without one, that half of the samples reached.

    The share of the samples that were watched until t, with Wilson's interval for as many of them as are independent
    (clusters count by their design effect); without a failure the exact one-sided bound. None where it is no plain
    share: rows were censored after a failure could have happened and before t.
    """
    failed = data.failed
    if not data.weight.size:
        return None
    if not failed.any():
        reached, time = _reached(data)
        trials = effective_trials(failed[reached], *_clusters(data, reached))
        return Estimate(0.0, 0.0, share_upper_bound(0, trials, level)), time
    time = float(data.upper[failed].max())
    if _checked_once(data):
        known = np.ones(failed.size, dtype=bool)
    elif data.check is not None:
        last, first = int(data.check[failed].max()), int(data.check[failed].min())
        known = failed | (data.check >= last)
        # Who was last seen before the first failure could happen says nothing of the share.
        if (~known & (data.check >= first)).any():
            return None
    else:
        known = failed | (data.lower >= time)
        if (~known & (data.lower > data.lower[failed].min())).any():
            return None
    trials = effective_trials(failed[known], *_clusters(data, known))
    weight = data.weight[known]
    share = float(weight[failed[known]].sum() / weight.sum())
    return wilson(share * trials, trials, level), time


def _reached(data: Observations) -> tuple[np.ndarray, float]:
    """The rows without a failure that were watched longest, at least half of the samples; and for how long."""
    if data.check is not None:
        rows = data.check >= data.check.max()
        if data.weight[rows].sum() >= 0.5 * data.observation_count:
            return rows, float(data.lower[rows].min())
    order = np.argsort(-data.lower)
    half = int(np.searchsorted(np.cumsum(data.weight[order]), 0.5 * data.observation_count))
    time = float(data.lower[order[min(half, order.size - 1)]])
    return data.lower >= time, time


def _clusters(data: Observations, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cluster and weight of each of some rows; without clusters every row is its own."""
    cluster = np.arange(data.weight.size) if data.cluster is None else data.cluster
    return cluster[rows], data.weight[rows]


def _checked_once(data: Observations) -> bool:
    if data.check is not None:
        return int(data.check.max()) <= 1
    if (data.lower == data.upper).any():
        return False
    ends = [data.lower[data.lower > 0], data.upper[data.failed]]
    return bool(max(end.max(initial=0.0) for end in ends) <= min(end.min(initial=math.inf) for end in ends))


def _one_interval(data: Observations) -> bool:
    """Whether one moment could hold every failure: then the likelihood has its supremum at sigma = 0."""
    failed = data.failed
    if data.check is not None:
        check = data.check[failed]
        if check.min() == check.max():
            return True
    lower, upper = data.lower[failed], data.upper[failed]
    least, greatest, earliest = lower.min(), lower.max(), upper.min()
    if least == greatest and earliest == upper.max():
        return True
    # Every failure can sit at one moment, and nothing outlives it.
    return bool(greatest < earliest and data.lower[~failed].max(initial=0.0) < earliest)
