"""The mean time over all samples, those that the model misclassified before the attack counted as what they are: at 0.

They are a point mass at time zero and not times that are merely short, so no small number stands in for them: first a
hurdle, classified correctly or not, then the time of those that pass it (Cragg 1971).
"""

from __future__ import annotations

import math

from survival_service.estimates import NO_ESTIMATE, Estimate, log_interval


def hurdle_restricted_mean(
    restricted_mean: Estimate,
    correct_share: float,
    trials: float,
    horizon: float,
    level: float,
    *,
    degrees_of_freedom: int | None = None,
) -> Estimate:
    """E[min(T, horizon)] over all samples: the share classified correctly times the restricted mean of those.

    `trials` independent samples, n, tell the share, `correct_share`. The two factors come from different parts of the
    likelihood, so the variances of their logarithms add: that of a share is (1 - p) / (p n), here with
    p = (n correct_share + 1/2) / (n + 1), so that a share of 1 is not certain. Absent without a restricted mean.
    With the `degrees_of_freedom` of a clustered fit the interval is Student's, as that of its restricted mean is.
    """
    mean, error = restricted_mean.value, restricted_mean.log_standard_error
    if mean is None or error is None or not (mean > 0 and correct_share > 0):
        return NO_ESTIMATE
    likely = (correct_share * trials + 0.5) / (trials + 1)
    spread = math.hypot(error, math.sqrt((1 - likely) / (likely * trials)))
    estimate = log_interval(math.log(correct_share * mean), spread, level, degrees_of_freedom=degrees_of_freedom)
    upper = None if estimate.upper is None else min(estimate.upper, horizon)
    return Estimate(estimate.value, estimate.lower, upper, spread)
