"""Attacks that stream, simulated: samples in slots, checked in steps, looked at in mid-run."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.distributions import Distribution
from survival_service.observations import FloatArray, Observations
from survival_service.sequential import Look, Monitor, Quantity, evidence


@dataclass(frozen=True)
class Law:
    """Weibull or log-normal times, `share` of them within the budget of `checks`; a `cured` share never fails."""

    distribution: Distribution
    sigma: float
    share: float
    cured: float = 0.0
    checks: int = 20

    @property
    def mu(self) -> float:
        return math.log(self.checks) - self.sigma * self.distribution.family.quantile(self.share)

    def truth(self) -> Mapping[Quantity, float]:
        """What is estimated, times in checks; the mean counts a failure at the check that finds it."""
        family = self.distribution.family
        z = (np.log(np.arange(1, self.checks)) - self.mu) / self.sigma
        beyond = self.cured + (1 - self.cured) * family.survival(z)
        return {
            Quantity.MEDIAN: math.exp(self.mu + self.sigma * family.quantile(0.5 / (1 - self.cured))),
            Quantity.RESTRICTED_MEAN: 1.0 + float(beyond.sum()),
            Quantity.FAILURE_SHARE: self.share * (1 - self.cured),
        }

    def draw(self, generator: np.random.Generator, count: int) -> FloatArray:
        normal = self.distribution is Distribution.LOG_NORMAL
        z = generator.normal(size=count) if normal else np.log(generator.exponential(size=count))
        times: FloatArray = np.exp(self.mu + self.sigma * z)
        times[generator.random(count) < self.cured] = np.inf
        return times


class Attack:
    """Samples attacked in order in so many slots, each refilled when its sample has failed or outlived all checks."""

    def __init__(self, times: FloatArray, checks: int, slots: int) -> None:
        self.budget = float(checks)
        found = np.maximum(np.ceil(np.minimum(times, checks + 1)), 1).astype(int)
        self.failed: NDArray[np.bool_] = found <= checks
        self.steps = np.minimum(found, checks)
        free, begins = [0] * slots, []
        for steps in self.steps.tolist():
            begins.append(heapq.heappop(free))
            heapq.heappush(free, begins[-1] + steps)
        self.begins = np.array(begins)
        self.ends = self.begins + self.steps
        self.end = int(self.ends.max())
        self.failures = np.sort(self.ends[self.failed])

    def seen(self, moment: int) -> Observations:
        """What is known at a moment, those in flight censored at their last check."""
        steps = np.minimum(self.steps, moment - self.begins)
        fell = self.failed & (self.ends <= moment)
        begun = steps > 0
        counts = np.bincount(2 * steps[begun] + fell[begun])
        cell = np.flatnonzero(counts)
        time, down = (cell // 2).astype(float), cell % 2 == 1
        return Observations(
            lower=np.where(down, time - 1, time),
            upper=np.where(down, time, np.inf),
            weight=counts[cell].astype(float),
            covariates=np.empty((cell.size, 0)),
            check=cell // 2,
        )

    def budget_at(self, moment: int) -> float | None:
        """The budget, once a sample has survived it."""
        return self.budget if bool((~self.failed & (self.ends <= moment)).any()) else None


@dataclass(frozen=True)
class Watched:
    """One attack watched until it was stopped: whether intervals missed the truth, ours and naive ones of 95 %."""

    monitor: Monitor
    missed: bool
    ever_missed: bool
    naive_missed: bool
    naive_ever_missed: bool

    @property
    def last(self) -> Look:
        return self.monitor.looks[-1]


def watched(attack: Attack, monitor: Monitor, truth: float) -> Watched:
    """Look whenever a look is due, from the first failures to the stop or the end of the attack.

    The naive rule looks as often, and stops at the first interval of 1.96 standard errors that is narrow enough.
    """
    needed, ours, naive, naive_stop = monitor.next_failure_count, [False], [False], None
    while True:
        last = needed > attack.failures.size
        moment = attack.end if last else int(attack.failures[needed - 1])
        seen = attack.seen(moment)
        failures = int(seen.failure_count)
        known = evidence(monitor.quantity, seen, attack.budget_at(moment))
        before = monitor
        if known is not None:
            monitor = monitor.look(known, failures, round(seen.observation_count), last=last)
        if known is not None and monitor is not before:
            found = monitor.looks[-1].estimate
            ours.append(not (found.lower or 0.0) <= truth <= (found.upper or 0.0))
            low, high = known.interval(1.959963984540054)
            naive.append(not low <= truth <= high)
            if naive_stop is None and low > 0 and 0.5 * math.log(high / low) <= math.log(monitor.interval_factor):
                naive_stop = naive[-1]
        if monitor.met or last:
            stopped = naive[-1] if naive_stop is None else naive_stop
            return Watched(monitor, ours[-1], any(ours), stopped, any(naive))
        needed = max(monitor.next_failure_count, math.ceil(1.05 * failures))
