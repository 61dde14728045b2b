"""The Brier score of predicted survival, with inverse probability of censoring weights, and its integral.

Graf, Schmoor, Sauerbrei and Schumacher (1999), Statistics in Medicine 18, 2529-2545; Gerds and Schumacher (2006),
Biometrical Journal 48, 1029-1040. The reference is the Kaplan-Meier curve of all samples, which knows no covariate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survival_service.fitted_rows import at_steps, step_curve
from survival_service.observations import FloatArray, Observations

# The times at which the score is computed: all at which failures were found or, of more, these many in even ranks.
TIME_LIMIT = 40


@dataclass(frozen=True, slots=True, eq=False)
class BrierScores:
    """Brier scores at m `times` up to the last failure found, of each prediction (p, m) and of the reference (m,)."""

    times: FloatArray
    scores: FloatArray
    reference: FloatArray

    @property
    def horizon(self) -> float:
        """The time up to which scores are integrated."""
        return float(self.times[-1])

    def integrated(self, scores: FloatArray) -> float:
        """The mean score over times from 0, where it is 0, to the last, by the trapezoidal rule."""
        at, value = np.append(0.0, self.times), np.append(0.0, scores)
        return float(np.sum(np.diff(at) * (value[1:] + value[:-1]) / 2) / at[-1])


def brier_scores(
    observations: Observations, predictions: Sequence[Callable[[float], FloatArray]]
) -> BrierScores | None:
    """Score predictions, each of which gives P(T > time) of every row; None without a failure.

    A row's status at a time is known if it failed before, or was followed until then; it then counts for one over the
    probability of being followed so long, P(C >= min(T, time)), after Kaplan and Meier's curve of the times of
    censoring. A row that failed somewhere around a time, between two checks, counts in both parts as the Kaplan-Meier
    curve of failures falls over that interval (after Tsouprou 2015); on one grid of checks there is no such row.
    """
    o = observations
    event, seen = o.failed, np.where(o.failed, o.upper, o.lower)
    if not event.any():
        return None
    steps, curve = step_curve(seen, event, o.weight)
    places = np.linspace(0, steps.size - 1, min(steps.size, TIME_LIMIT))
    times = steps[np.unique(places.round().astype(int))]
    ends, followed = _follow_up(seen, ~event, o.weight)
    of_failure = at_steps(ends, followed, seen, before=True)
    begin = at_steps(steps, curve, o.lower)
    fall = begin - at_steps(steps, curve, seen)
    total, made, reference = o.observation_count, np.empty((len(predictions), times.size)), np.empty(times.size)
    for k, time in enumerate(times.tolist()):
        here, known = (float(at_steps(*of, np.array([time]), before=before)[0])
                       for of, before in (((steps, curve), False), ((ends, followed), True)))  # fmt: skip
        gone = event & (seen <= time)
        around = event & (o.lower < time) & (seen > time)
        split = np.clip((begin - here) / np.where(around, fall, 1.0), 0.0, 1.0)
        failed = np.where(gone, o.weight / of_failure, np.where(around, split * o.weight / known, 0.0))
        staying = np.where(around, 1.0 - split, ~gone & (o.lower >= time))
        survived = staying * o.weight / known
        for prediction, row in zip(predictions, made, strict=True):
            s = prediction(time)
            row[k] = (failed @ (s * s) + survived @ (1.0 - s) ** 2) / total
        reference[k] = (failed.sum() * here**2 + survived.sum() * (1.0 - here) ** 2) / total
    return BrierScores(times, made, reference)


def _follow_up(seen: FloatArray, censored: NDArray[np.bool_], weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Kaplan and Meier's curve of the times of censoring: failures at one time leave before what is censored there."""
    # Half a rank later, so that at one time the failures are gone when the censored are counted.
    rank = np.unique(seen, return_inverse=True)[1].ravel().astype(np.float64) + np.where(censored, 0.5, 0.0)
    ends, followed = step_curve(rank, censored, weight)
    return np.unique(seen[censored]), followed if ends.size else ends
