"""What can be said without a distribution: the Kaplan-Meier curve, and when failures happened."""

from __future__ import annotations

import math

import numpy as np

from survival_service.estimates import DEFAULT_LEVEL, NO_CURVE, Curve, Histogram
from survival_service.observations import Observations

HISTOGRAM_BIN_LIMIT = 30
# A curve is looked at: on a clock of seconds it has a step a sample, and nobody sees the steps of a million.
CURVE_POINT_LIMIT = 1000


def load() -> None:
    """Import what the curve is drawn with, which takes seconds: a server calls this before it is asked."""
    # The fitter's own module, not the package's plots: nothing here draws.
    from lifelines import KaplanMeierFitter

    del KaplanMeierFitter


def kaplan_meier(observations: Observations, level: float = DEFAULT_LEVEL) -> Curve:
    """The Kaplan-Meier curve with the exponential Greenwood interval; failures at the check that found them.

    The curve begins at (0, 1) and steps down at each time listed, at most a thousand of them. Empty without
    observations.
    """
    if observations.observation_count == 0:
        return NO_CURVE
    from lifelines import KaplanMeierFitter

    time = np.where(observations.failed, observations.upper, observations.lower)
    fitter = KaplanMeierFitter(alpha=1 - level)
    fitter.fit(time, event_observed=observations.failed, weights=observations.weight)
    interval = fitter.confidence_interval_survival_function_.to_numpy()
    survival = fitter.survival_function_.to_numpy()[:, 0]
    # Where nobody has failed yet, or nobody is left, the interval is undefined. The lower edge is then the curve; the
    # upper one stays where it was, for that the last of a few has failed does not prove that nobody survives.
    lower = np.where(np.isfinite(interval[:, 0]), interval[:, 0], survival)
    upper = np.minimum.accumulate(np.where(np.isfinite(interval[:, 1]) & (survival > 0), interval[:, 1], 1.0))
    steps = fitter.survival_function_.index.to_numpy(dtype=float)
    shown = np.unique(np.linspace(0, steps.size - 1, min(steps.size, CURVE_POINT_LIMIT)).astype(int))
    return Curve(
        tuple(steps[shown].tolist()),
        *(tuple(np.clip(column[shown], 0.0, 1.0).tolist()) for column in (survival, lower, upper)),
    )


def histogram(observations: Observations) -> Histogram:
    """Failures by the time that found them, in even bins from 0 to the longest time observed.

    Times that are counts get bins of whole counts. Empty without observations.
    """
    if observations.observation_count == 0:
        return Histogram()
    time = np.where(observations.failed, observations.upper, observations.lower)
    longest = float(time.max())
    if longest <= 0:
        return Histogram()
    if (time == np.floor(time)).all():
        width = float(math.ceil(longest / HISTOGRAM_BIN_LIMIT))
        edges = np.arange(0.0, math.ceil(longest / width) * width + width / 2, width)
    else:
        edges = np.linspace(0.0, longest, HISTOGRAM_BIN_LIMIT + 1)
    failed = observations.failed
    # A failure found at t belongs to (edge, next edge], as its interval does.
    bins = np.clip(np.searchsorted(edges, time[failed], side="left") - 1, 0, edges.size - 2)
    counts = np.bincount(bins, observations.weight[failed], minlength=edges.size - 1)
    return Histogram(tuple(edges.tolist()), tuple(round(count) for count in counts))
