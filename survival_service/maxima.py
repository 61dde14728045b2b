"""Whether the end of a search is a maximum that can be used, and if not, why not."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri

from survival_service.advice import Advice
from survival_service.fits import Status
from survival_service.likelihood import Maximum
from survival_service.observations import FloatArray
from survival_service.preparing import Prepared
from survival_service.recession import spread_collapses

# Standard errors that no identified parameter has: of log sigma (about 0.8 over the root of the failures), and of a
# standardised coefficient in units of sigma (about one over the root of the failures, times its collinearity).
LARGEST_LOG_SCALE_ERROR = 3.0
LARGEST_STANDARDISED_ERROR = 30.0
# From a tenth of that on it is worth the time to ask whether there is a maximum at all.
_SUSPICIOUS = 0.1


def inverse_information(information: FloatArray) -> FloatArray | None:
    """The inverse, None where the information is singular or not finite."""
    size = np.sqrt(np.abs(np.diag(information)))
    if not (np.isfinite(information).all() and (size > 0).all()):
        return None
    sizes = np.outer(size, size)
    factor, failure = dpotrf(information / sizes)
    if failure:
        return None
    upper, _ = dpotri(factor)  # its lower triangle is zero
    inverse: FloatArray = (upper + upper.T - np.diag(np.diag(upper))) / sizes
    return inverse


def doubtful(maximum: Maximum, covariance: FloatArray | None, column_count: int, *, scale_fixed: bool) -> bool:
    """Whether the search may have crept along a plateau: what gives that away is the standard error."""
    if covariance is None or not maximum.converged or not math.isfinite(maximum.log_likelihood):
        return True
    errors = np.sqrt(np.diag(covariance))
    if not scale_fixed and errors[-1] > _SUSPICIOUS * LARGEST_LOG_SCALE_ERROR * maximum.parameters[-1]:
        return True
    return bool(column_count) and errors[1 : column_count + 1].max() > _SUSPICIOUS * LARGEST_STANDARDISED_ERROR


def trouble(
    rows: Prepared, maximum: Maximum, covariance: FloatArray | None, advice: Advice, *, scale_fixed: bool
) -> tuple[Status, str]:
    """Why a doubtful maximum cannot be used, in a sentence; OK if it can."""
    names, unidentified = rows.observations.names, Status.NOT_IDENTIFIED
    fewer = f", or {advice.for_fewer_effects}" if names else ""
    if rows.limit is not None:
        return unidentified, (
            f"every failure of a group that {advice.tells_apart(rows.limit.affected)} came at its first check, so "
            f"nothing tells how soon it fails; there, {advice.for_earlier_checks}"
        )
    if not scale_fixed and rows.design is not None and spread_collapses(rows.design):
        return unidentified, (
            "one moment could hold all failures of each setting, so nothing tells how they spread; "
            f"{advice.for_checks_between}"
        )
    if covariance is not None and math.isfinite(maximum.log_likelihood):
        errors = np.sqrt(np.diag(covariance))
        if not scale_fixed and errors[-1] > LARGEST_LOG_SCALE_ERROR * maximum.parameters[-1]:
            return unidentified, (
                f"the spread of the times to failure is not identified; {advice.for_samples}, or "
                f"{advice.for_checks_between}"
            )
        worst = 1 + int(np.argmax(errors[1 : len(names) + 1])) if names else 0
        if errors[worst] > LARGEST_STANDARDISED_ERROR:
            which = f"the effect of {advice.setting(names[worst - 1])}" if names else "the median"
            return unidentified, f"{which} is not identified; {advice.for_samples}{fewer}"
        if maximum.converged:
            return Status.OK, ""
    return Status.NOT_CONVERGED, (
        f"no maximum was found in {maximum.iteration_count} iterations; {advice.for_samples}{fewer}"
    )
