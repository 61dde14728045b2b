"""Does a model fit, and is it an accelerated failure time? The diagnostics of the fits of one clock, with findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from survival_service.advice import advice_on
from survival_service.assumptions import ALPHA, AssumptionCheck, assumption_checks
from survival_service.brier import brier_scores
from survival_service.calibration import Calibration, CalibrationCurve, calibration, shared_time
from survival_service.distributions import Distribution
from survival_service.fits import Fit, Status
from survival_service.fitted_rows import FittedRows
from survival_service.nesting import NestingTest, nesting_tests
from survival_service.observations import FloatArray, IntArray
from survival_service.preparing import Prepared
from survival_service.residuals import ResidualCurve, residual_curve, residual_test
from survival_service.validation import CrossValidation, cross_validation
from survival_service.wording import DISTRIBUTIONS, percent

# With more rows than this the diagnostics would take longer than all fits together by many seconds.
ROW_LIMIT = 200_000
# With fewer independent samples than this the score test of the spread rejects more often than it says.
FEW_SAMPLES = 100
_FEW = (
    f"With fewer than {FEW_SAMPLES} samples this test finds fault too often, with 60 in 7 to 11 % of fits that have "
    "none and not in 5 %, so it means little."
)


@dataclass(frozen=True, slots=True)
class DistributionDiagnostics:
    """How well one distribution fits. Fields are those of the contract's `DistributionDiagnostics`.

    What could not be computed is None; `finding` says what the residuals say, or why they say nothing.
    """

    distribution: Distribution
    ici: float | None = None
    e50: float | None = None
    e90: float | None = None
    emax: float | None = None
    calibration_curve: CalibrationCurve | None = None
    integrated_brier_score: float | None = None
    brier_gain: float | None = None
    residual_distance: float | None = None
    residual_statistic: float | None = None
    residual_degrees_of_freedom: int | None = None
    residual_p_value: float | None = None
    residual_curve: ResidualCurve | None = None
    finding: str = ""


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """The diagnostics of the fits of one clock. Fields are those of the contract's `Diagnostics`."""

    distributions: tuple[DistributionDiagnostics, ...] = ()
    calibration_time: float | None = None
    brier_horizon: float | None = None
    reference_brier_score: float | None = None
    nesting_tests: tuple[NestingTest, ...] = ()
    assumption_distribution: Distribution | None = None
    assumption_checks: tuple[AssumptionCheck, ...] = ()
    cross_validation: CrossValidation | None = None
    fit_finding: str = ""
    assumption_finding: str = ""
    notes: tuple[str, ...] = ()


def diagnose(fits: Sequence[Fit], rows: Prepared, configuration: IntArray | None = None) -> Diagnostics | None:
    """Diagnose fits of these rows, the best AIC first as `ranked` has them; None if none has numbers.

    `configuration` numbers the attack job of each row, where there are several.
    """
    if not any(one.has_numbers for one in fits):
        return None
    if rows.observations.lower.size > ROW_LIMIT:
        why = f"It is not looked at with more than {ROW_LIMIT:,} distinct rows; fit a sample of them."
        return Diagnostics(fit_finding=why, assumption_finding=why)
    known = [FittedRows.of(one, rows) for one in fits if one.has_numbers]
    # Fits that leave a group out are of other rows: only what is of the rows of the best can stand beside it.
    alike = [one for one in known if one.data.lower.size == known[0].data.lower.size]
    time = shared_time(known[0].data)
    scores = brier_scores(known[0].data, [_survival(one) for one in alike])
    reference = None if scores is None else scores.integrated(scores.reference)
    described = tuple(
        _described(one, time, None if scores is None else scores.integrated(scores.scores[i]), reference)
        for i, one in enumerate(alike)
    )
    spread = next((one for one in alike if not one.found.distribution.scale_fixed and one.found.shape is None), None)
    checks = assumption_checks(spread) if spread else ()
    names = known[0].data.names
    return Diagnostics(
        distributions=described,
        calibration_time=time,
        brier_horizon=None if scores is None else scores.horizon,
        reference_brier_score=reference,
        nesting_tests=nesting_tests(fits, rows),
        assumption_distribution=spread.found.distribution if spread and checks else None,
        assumption_checks=checks,
        cross_validation=cross_validation([one.found for one in alike], rows, configuration),
        fit_finding=_fit_finding(described, fits),
        assumption_finding=_assumption_finding(checks, spread, names, known[0]),
        notes=_notes(known[0], len(known) - len(alike)),
    )


def _survival(fitted: FittedRows) -> Callable[[float], FloatArray]:
    return lambda time: np.asarray(np.exp(fitted.log_survival(time)))


def _described(
    fitted: FittedRows, time: float | None, score: float | None, reference: float | None
) -> DistributionDiagnostics:
    found: Calibration | None = None if time is None else calibration(fitted, time)
    curve, test = residual_curve(fitted), residual_test(fitted)
    word, gap = DISTRIBUTIONS[fitted.found.distribution], percent(curve.distance)
    if isinstance(test, str):
        finding = f"{test}; predicted and observed shares differ by at most {gap}"
    elif test.p_value < ALPHA:
        finding = f"the residuals speak against the {word} fit; predicted and observed shares differ by at most {gap}"
    else:
        finding = f"nothing speaks against the {word} fit; predicted and observed shares differ by at most {gap}"
    tested = None if isinstance(test, str) else test
    return DistributionDiagnostics(
        distribution=fitted.found.distribution,
        ici=found.ici if found else None,
        e50=found.e50 if found else None,
        e90=found.e90 if found else None,
        emax=found.emax if found else None,
        calibration_curve=found.curve if found and found.curve.predicted else None,
        integrated_brier_score=score,
        brier_gain=1.0 - score / reference if score is not None and reference else None,
        residual_distance=curve.distance,
        residual_statistic=tested.statistic if tested else None,
        residual_degrees_of_freedom=tested.degrees_of_freedom if tested else None,
        residual_p_value=tested.p_value if tested else None,
        residual_curve=curve,
        finding=finding,
    )


def _fit_finding(described: Sequence[DistributionDiagnostics], fits: Sequence[Fit]) -> str:
    best = described[0]
    word = DISTRIBUTIONS[best.distribution]
    weight = next((one.akaike_weight for one in fits if one.distribution is best.distribution), None)
    lead = f"The {word} is the only fit"
    if len(described) > 1:
        lead = f"Of the distributions fitted, the {word} has the lowest AIC"
        lead += "" if weight is None else f" (Akaike weight {percent(weight)})"
    off = ""
    if best.ici is not None:
        off = f"; when half of the failures had been found, predicted shares are off by {percent(best.ici)} on average"
    gap = percent(best.residual_distance or 0.0)
    if best.residual_p_value is None:
        judged = "whether it fits cannot be tested here"
    elif best.residual_p_value < ALPHA:
        judged = f"it does not quite fit: its residuals are off by up to {gap}, more than chance would have it"
    else:
        judged = f"nothing speaks against it: its residuals are off by up to {gap}, no more than chance would have it"
    return f"{lead}; {judged}{off}."


def _assumption_finding(
    checks: Sequence[AssumptionCheck], spread: FittedRows | None, names: Sequence[str], best: FittedRows
) -> str:
    if not names and best.found.status is Status.GROUP_WITHOUT_FAILURE:
        return "Nothing failed in a group, so its effect has no estimate to check, and the others have one setting."
    if not names:
        return "There is one setting, so there is no effect that could stretch time by a factor, and nothing to check."
    if spread is None:
        return "No fit with a free scale has numbers, so it cannot be checked."
    tested = [check for check in checks if check.adjusted_p_value is not None]
    setting = advice_on(best.found.clock).setting
    broken = [setting(check.covariate) for check in tested if (check.adjusted_p_value or 0.0) < ALPHA]
    if not tested:
        return "It could not be tested for any covariate."
    untested = [setting(check.covariate) for check in checks if check.adjusted_p_value is None]
    rest = f" For {' and '.join(untested)} it could not be tested." if untested else ""
    if broken:
        return (
            f"Not for {' and '.join(broken)}: {'its' if len(broken) == 1 else 'their'} time ratio is an average over "
            "early and late failures, that do not change by the same factor. "
            + ("Nothing speaks against it for the other covariates tested. " if len(broken) < len(tested) else "")
            + (_FEW if _independent(best) < FEW_SAMPLES else "")
        ).strip() + rest
    which = "covariate that was tested" if untested else "covariate"
    return (
        f"Nothing speaks against it: no {which} changes the spread of log times more than chance would, so each "
        f"stretches early and late failures by one factor.{rest}"
    )


def _independent(fitted: FittedRows) -> float:
    """How many samples there are that do not belong together."""
    cluster = fitted.data.cluster
    return float(fitted.data.weight.sum()) if cluster is None else float(np.unique(cluster).size)


def _notes(best: FittedRows, left_out: int) -> tuple[str, ...]:
    notes, cluster = [], advice_on(best.found.clock).cluster
    if np.ptp(best.mu) <= 1e-9:
        notes.append(
            "All samples have the same prediction, so calibration is how far the predicted share is from the "
            "Kaplan–Meier curve, and a Brier score cannot gain over that curve."
        )
    if best.data.cluster is not None:
        notes.append(
            f"The tests of residuals and of spread allow for rows that belong together, those of one {cluster}; "
            "likelihood-ratio tests of nested distributions do not, and have no p-values here."
        )
    if left_out:
        notes.append(f"{left_out} of the fits leave other samples out and cannot stand beside the others.")
    return tuple(notes)
