"""How far predicted shares of failures by one time are from observed ones: ICI, E50, E90 and Emax.

After Austin, Harrell and van Klaveren (2020), Statistics in Medicine 39, 2714-2742: the observed P(T <= t0) is a smooth
function of log(-log(1 - p)), p being the prediction, found by a proportional hazards model with a restricted cubic
spline of it, and compared with p for every sample. All distributions are compared at one t0, which is a time that the
data have, so that nothing here depends on the unit of time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from survival_service.fitted_rows import FittedRows, at_steps, step_curve, weighted_quantile
from survival_service.grouped_hazards import fit_grouped_hazards
from survival_service.observations import FloatArray, Observations

CURVE_POINT_COUNT = 41
# Harrell's places for three knots.
_KNOT_SHARES = (0.1, 0.5, 0.9)
_LARGEST_CLOGLOG = 30.0


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """Predicted shares of failures, rising, and what was observed where they were predicted."""

    predicted: tuple[float, ...] = ()
    observed: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """The mean, the median, the 90th percentile and the maximum of |predicted - observed| over the samples.

    `curve` is empty where every sample has the same prediction, which is then compared with Kaplan and Meier's curve.
    """

    ici: float
    e50: float
    e90: float
    emax: float
    curve: CalibrationCurve


def shared_time(observations: Observations) -> float | None:
    """The time at which half of the failures had been found, which is that of a check; None without a failure."""
    failed = observations.failed
    if not failed.any():
        return None
    time, weight = observations.upper[failed], observations.weight[failed]
    order = np.argsort(time, kind="stable")
    until = np.cumsum(weight[order])
    return float(time[order][np.searchsorted(until, 0.5 * until[-1] * (1 - 1e-12))])


def calibration(fitted: FittedRows, time: float) -> Calibration | None:
    """How well P(T <= time) is predicted; None if the observed share cannot be found.

    Failures stand at the check that found them, as in the Kaplan-Meier curve. The proportional hazards model is the
    one for grouped times (Prentice and Gloeckler 1978), which takes any number of ties as they are. With two distinct
    predictions the spline is a line.
    """
    predicted, weight = fitted.failure_probability(time), fitted.data.weight
    failed = fitted.data.failed
    if np.ptp(predicted) <= 1e-9:
        at, values = step_curve(fitted.found_time, failed, weight)
        observed = np.full(predicted.size, 1.0 - float(at_steps(at, values, np.array([time]))[0]))
        curve = CalibrationCurve()
    else:
        spread = cloglog(fitted.log_survival(time))
        knots = _knots(spread, weight)
        model = fit_grouped_hazards(fitted.found_time, failed, spline(spread, knots), weight, until=time)
        if model is None:
            return None
        observed = model.failure_probability(spline(spread, knots))
        grid = np.linspace(spread.min(), spread.max(), CURVE_POINT_COUNT)
        curve = CalibrationCurve(
            tuple((-np.expm1(-np.exp(grid))).tolist()), tuple(model.failure_probability(spline(grid, knots)).tolist())
        )
    gap = np.abs(predicted - observed)
    return Calibration(
        ici=float(weight @ gap / weight.sum()),
        e50=weighted_quantile(gap, weight, 0.5),
        e90=weighted_quantile(gap, weight, 0.9),
        emax=float(gap.max()),
        curve=curve,
    )


def cloglog(log_survival: FloatArray) -> FloatArray:
    """log(-log(1 - p)) from log(1 - p), which does not lose a p next to 1; within bounds that no float leaves."""
    with np.errstate(divide="ignore"):
        value: FloatArray = np.log(-log_survival)
    return np.clip(value, -_LARGEST_CLOGLOG, _LARGEST_CLOGLOG)


def spline(x: FloatArray, knots: FloatArray) -> FloatArray:
    """The restricted cubic spline basis with three knots (Durrleman and Simon 1989), x first; x alone with fewer.

    The second column is scaled by the square of the outer knots' distance, as Harrell's `rcs` does. (n, 1 or 2)
    """
    if knots.size < 3:
        return x[:, None]
    first, middle, last = knots
    cubes = [np.maximum(x - knot, 0.0) ** 3 for knot in (first, middle, last)]
    bent = cubes[0] - cubes[1] * (last - first) / (last - middle) + cubes[2] * (middle - first) / (last - middle)
    return np.column_stack([x, bent / (last - first) ** 2])


def _knots(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Three knots where three places can be told apart, otherwise none."""
    knots = np.array([weighted_quantile(x, weight, share) for share in _KNOT_SHARES])
    apart = np.diff(knots).min() > 1e-6 * np.ptp(x)
    # With two distinct predictions, or no more than that between the knots, the spline would be a line twice.
    return knots if apart and np.unique(np.round(x / np.ptp(x), 9)).size > 2 else np.empty(0)
