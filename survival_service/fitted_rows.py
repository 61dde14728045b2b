"""Observations beside what a fit predicts for each of them: what every diagnostic of a fit reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from survival_service.fits import Fit, Status
from survival_service.observations import FloatArray, Observations
from survival_service.preparing import Prepared


@dataclass(frozen=True, eq=False)
class FittedRows:
    """The n observations that the numbers of a fit are of, with its log-scale location `mu` for each of them.

    Not slotted, since it keeps what it has computed.
    """

    found: Fit
    rows: Prepared
    mu: FloatArray

    @staticmethod
    def of(found: Fit, rows: Prepared) -> FittedRows:
        """A fit with numbers beside its rows. Raises `ValueError` for a fit without."""
        if not found.has_numbers:
            raise ValueError("only a fit with numbers predicts anything")
        if found.status is Status.GROUP_WITHOUT_FAILURE and rows.limit is not None:
            rows = rows.limit.rows
        beta = np.array([c.estimate for c in found.coefficients])
        return FittedRows(found, rows, beta[0] + rows.observations.covariates @ beta[1:])

    @property
    def data(self) -> Observations:
        """The observations, with the covariates of the fit."""
        return self.rows.observations

    @cached_property
    def found_time(self) -> FloatArray:
        """When each failure was found, and until when each survivor was followed: as a Kaplan-Meier curve has it."""
        return np.where(self.data.failed, self.data.upper, self.data.lower)

    def log_survival(self, time: FloatArray | float) -> FloatArray:
        """Log P(T > time) of each row: 0 at time 0, minus infinity at an infinite one. (n,)"""
        at = np.broadcast_to(np.asarray(time, dtype=float), self.mu.shape)
        known = (at > 0) & np.isfinite(at)
        z = (np.log(np.where(known, at, 1.0)) - self.mu) / self.found.scale
        with np.errstate(all="ignore"):
            logarithm = self.found.family.right(np.clip(z, -1e6, 700.0))[0]
        return np.where(known, np.minimum(logarithm, 0.0), np.where(at > 0, -np.inf, 0.0))

    def failure_probability(self, time: FloatArray | float) -> FloatArray:
        """P(T <= time) of each row. (n,)"""
        return -np.expm1(self.log_survival(time))


def merged(observations: Observations) -> Observations:
    """Equal rows counted once, whatever cluster they belong to: for what reads rows one at a time."""
    return replace(observations, cluster=None, check=None).merged()


def weighted_quantile(values: FloatArray, weight: FloatArray, share: float) -> float:
    """The quantile of values of which each is repeated `weight` times: Hyndman and Fan's type 7 (1996), R's default."""
    order = np.argsort(values, kind="stable")
    ordered, until = values[order], np.cumsum(weight[order])
    position = share * (until[-1] - 1.0)
    whole = np.floor(position + 1e-9)
    # The entry at 0-based place k is the first with more than k entries up to it.
    last = ordered.size - 1
    at, after = (ordered[min(last, int(np.searchsorted(until, whole + i + 1e-9, side="right")))] for i in (0, 1))
    return float(at + max(0.0, position - whole) * (after - at))


def step_curve(time: FloatArray, event: NDArray[np.bool_], weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The distinct times with an event, rising, and Kaplan and Meier's curve after each; both empty without one."""
    steps = np.unique(time[event])
    at = np.searchsorted(steps, time, side="right")
    # A row is at risk at every step up to its time.
    leaving = np.bincount(at, weight, steps.size + 1)
    risk = leaving[::-1].cumsum()[::-1][1:]
    events = np.bincount(np.searchsorted(steps, time[event]), weight[event], steps.size)
    return steps, np.cumprod(np.clip(1.0 - events / risk, 0.0, 1.0)) if steps.size else steps


def at_steps(steps: FloatArray, values: FloatArray, time: FloatArray, *, before: bool = False) -> FloatArray:
    """A step curve that begins at 1, at these times; with `before` its value just before them."""
    place = np.searchsorted(steps, time, side="left" if before else "right")
    return np.append(1.0, values)[place]
