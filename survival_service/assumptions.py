"""Whether the effects are those of an accelerated failure model: the same factor at every quantile of time.

If a covariate also changes the spread of log times, it stretches early failures by another factor than late ones. The
test is the score test of log sigma = a + c x at c = 0 (Cook and Weisberg 1983 for least squares; Boos 1992 for the
covariance), one covariate at a time, in the fit with the best AIC whose scale is free.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from survival_service.advice import Advice, advice_on
from survival_service.effects import holm
from survival_service.fitted_rows import FittedRows, step_curve
from survival_service.likelihood import Likelihood
from survival_service.moments import moment_sums, single_test
from survival_service.observations import FloatArray

ALPHA = 0.05
QUANTILE_COUNT = 19
# Drawings and numbers for so many treatments: nobody looks at more.
TREATMENT_LIMIT = 8
_ROWS_PER_PARAMETER = 5


@dataclass(frozen=True, slots=True)
class GroupQuantiles:
    """Times by which equal shares of two groups had failed, shares rising; other effects taken out of them.

    One factor between the groups puts (reference, treated) on a line of slope 1 in logarithms. `slope` is the ratio of
    the spreads of their logarithms; None with fewer than three pairs.
    """

    reference: tuple[float, ...] = ()
    treated: tuple[float, ...] = ()
    slope: float | None = None


@dataclass(frozen=True, slots=True)
class AssumptionCheck:
    """The check of one covariate. Fields are those of the contract's `AssumptionCheck`."""

    covariate: str
    statistic: float | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    finding: str = ""
    quantiles: GroupQuantiles | None = None


def assumption_checks(fitted: FittedRows) -> tuple[AssumptionCheck, ...]:
    """One check a covariate, p-values corrected by Holm's method for their number; empty without covariates.

    Raises `ValueError` for a fit with a shape or a fixed scale.
    """
    found, data, design = fitted.found, fitted.data, fitted.rows.design
    if found.shape is not None or found.distribution.scale_fixed:
        raise ValueError("the spread is tested in a fit with a free scale and no shape")
    if not data.names or design is None:
        return ()
    likelihood = Likelihood(design, found.family)
    at = likelihood.standardised(np.array([c.estimate for c in found.coefficients]), found.scale)

    def moments(parameters: FloatArray) -> FloatArray:
        # The score in log sigma, that in (delta, gamma) taken back along the ray on which both shrink.
        by_log_scale = -(likelihood.row_scores(parameters) @ parameters)
        # Columns of terms are mean less value, standardised.
        return -design.terms[1:-1].T * by_log_scale[:, None]

    weight = np.ones(design.row_count) if design.weight is None else design.weight
    cluster = None if data.cluster is None else data.cluster[design.rows]
    independent = design.total_weight if cluster is None else float(np.unique(cluster).size)
    needed = _ROWS_PER_PARAMETER * (at.size + 1)
    sums = None
    if independent >= needed:
        sums = moment_sums(moments, at, -likelihood(at)[2], likelihood.row_scores(at), weight, cluster)
    treatments = [j for j in range(len(data.names)) if _two_groups(data.covariates[:, j])][:TREATMENT_LIMIT]
    checks: list[AssumptionCheck] = []
    advice = advice_on(found.clock)
    few, more = (advice.one, advice.for_samples) if cluster is None else (advice.cluster, advice.for_clusters)
    for j, name in enumerate(data.names):
        quantiles = group_quantiles(fitted, j) if j in treatments else None
        test = None if sums is None else single_test(sums, j)
        if test is None or sums is None:
            why = (
                f"{advice.setting(name)} is not tested with fewer than {needed} {few}s; {more}"
                if sums is None
                else f"these checks do not tell whether {advice.setting(name)} changes the spread"
            )
            checks.append(AssumptionCheck(name, finding=why, quantiles=quantiles))
            continue
        more = "more" if sums.value[j] > 0 else "less"
        checks.append(AssumptionCheck(name, test.statistic, test.p_value, None, more, quantiles))
    return _adjusted(checks, advice)


def _adjusted(checks: list[AssumptionCheck], advice: Advice) -> tuple[AssumptionCheck, ...]:
    tested = [i for i, check in enumerate(checks) if check.p_value is not None]
    for i, p_value in zip(tested, holm([checks[i].p_value or 0.0 for i in tested]), strict=True):
        one = checks[i]
        if p_value < ALPHA:
            finding = (
                f"{advice.setting(one.covariate)} does not stretch all times by one factor: where it is larger, log "
                f"times spread {one.finding}, so its time ratio is an average over early and late failures"
            )
        else:
            finding = f"nothing speaks against one factor for {advice.setting(one.covariate)}"
        checks[i] = replace(one, adjusted_p_value=p_value, finding=finding)
    return tuple(checks)


def group_quantiles(fitted: FittedRows, j: int) -> GroupQuantiles:
    """The quantile pairs of the two groups that covariate j tells apart, each by its Kaplan-Meier curve.

    Times are divided by what the other covariates stretch them by, according to the fit, so that the groups differ in
    this covariate alone.
    """
    data, beta = fitted.data, np.array([c.estimate for c in fitted.found.coefficients[1:]])
    others = data.covariates @ beta - data.covariates[:, j] * beta[j]
    time = fitted.found_time * np.exp(float(data.weight @ others / data.weight.sum()) - others)
    upper = data.covariates[:, j] > data.covariates[:, j].min()
    curves = []
    for group in (~upper, upper):
        steps, survival = step_curve(time[group], data.failed[group], data.weight[group])
        curves.append((steps, 1.0 - survival))
    reach = min((float(failed[-1]) if failed.size else 0.0) for _, failed in curves)
    shares = np.arange(1, QUANTILE_COUNT + 1) / (QUANTILE_COUNT + 1)
    shares = shares[shares <= reach + 1e-12]
    if not shares.size:
        return GroupQuantiles()
    reference, treated = (
        steps[np.minimum(np.searchsorted(failed, shares - 1e-12), steps.size - 1)] for steps, failed in curves
    )
    spreads = [float(np.log(part).std()) for part in (reference, treated)]
    slope = spreads[1] / spreads[0] if shares.size >= 3 and min(spreads) > 0 else None
    return GroupQuantiles(tuple(reference.tolist()), tuple(treated.tolist()), slope)


def _two_groups(column: FloatArray) -> bool:
    return np.unique(column[: min(column.size, 1000)]).size <= 2 and np.unique(column).size == 2
