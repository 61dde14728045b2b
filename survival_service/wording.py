"""Numbers and findings in words: what a person reads of a report."""

from __future__ import annotations

from survival_service.distributions import Distribution
from survival_service.estimates import Estimate
from survival_service.fitting import Fit, Status
from survival_service.observations import Clock
from survival_service.scoring import Conclusion, Score

CLOCKS = {Clock.QUERIES: "queries", Clock.SECONDS: "seconds", Clock.DISTANCE: "distance"}
# What a cost is counted in: a step of an attack is more than its query.
SPENT_IN = {Clock.QUERIES: "forward and backward passes", Clock.SECONDS: "seconds"}
CONCLUSIONS = {
    Conclusion.BROKEN: "broken",
    Conclusion.NOT_REJECTED: "not rejected",
    Conclusion.UNDECIDED: "undecided",
}
DISTRIBUTIONS = {
    Distribution.WEIBULL: "Weibull",
    Distribution.LOG_NORMAL: "log-normal",
    Distribution.LOG_LOGISTIC: "log-logistic",
    Distribution.EXPONENTIAL: "exponential",
    Distribution.GENERALIZED_GAMMA: "generalised gamma",
    Distribution.GAMMA: "gamma",
}


def number(value: float) -> str:
    """Three significant digits, without an exponent where a person would not write one."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        digits = f"{value:.3g}"
        return f"{value:,.0f}" if "e" in digits or abs(value) >= 1000 else digits
    return f"{value:.2e}"


def percent(share: float) -> str:
    """A share as a percentage that is 0 or 100 only if it is."""
    text = f"{100 * share:.1f}"
    if text == "0.0" and share > 0:
        return "under 0.1 %"
    if text == "100.0" and share < 1:
        return "over 99.9 %"
    return f"{text.removesuffix('.0')} %"


def level_in_words(level: float) -> str:
    """The level of an interval: 95 %."""
    return f"{100 * level:g} %"


def interval(estimate: Estimate) -> str:
    """`3.1 to 4.2`, or nothing."""
    if estimate.lower is None or estimate.upper is None:
        return ""
    return f"{number(estimate.lower)} to {number(estimate.upper)}"


def summary(
    score: Score,
    fits: tuple[Fit, ...],
    clock: Clock,
    *,
    never_fail: bool = False,
    sample_count: int,
    at_risk: int,
    failed: int,
    failure_bound: float | None,
    canceled: bool,
    priced: bool,
    level: float,
) -> str:
    """The conclusion in one or two sentences that a person understands without the rest of the report.

    `never_fail` says that a fit in which a share never fails rules these fits out, whose median then moves with the
    attack's budget; `failure_bound` is the upper end of the share of failures, `priced` says that the two sides pay
    unlike prices.
    """
    confidence = level_in_words(level)
    if sample_count == 0:
        return "Undecided: no sample was attacked."
    if at_risk == 0:
        return f"Undecided: no sample was at risk; the model misclassified all {sample_count} before the attack."
    if failed == 0 and canceled:
        return (
            f"Undecided: no sample had failed in {at_risk} when the attack was canceled, which bounds no failure rate."
        )
    if failed == 0:
        bound = percent(1.0 if failure_bound is None else failure_bound)
        return (
            f"Undecided: no sample failed in {at_risk}; with {confidence} confidence the failure rate is below {bound}."
        )
    spent = clock.of_costs
    unit = "counted in seconds at the prices given" if priced else f"counted in {SPENT_IN[spent]}"
    failures = _failures(fits, clock, at_risk, failed, confidence, never_fail=never_fail)
    return f"{_conclusion(score, unit, confidence, spent)} {failures}"


def how_to_tell_training_cost(clock: Clock) -> str:
    """What the owner of a model that was trained elsewhere passes, so that there is a rate on this clock."""
    if clock is Clock.SECONDS:
        return "pass --training-seconds and --training-samples"
    return "pass --epochs, the number of epochs that it was trained for"


def _conclusion(score: Score, on: str, confidence: str, clock: Clock) -> str:
    """What one failure costs the attacker against what training cost per training sample, not against all of it."""
    rate = score.cost_normalized_failure_rate
    if rate.value is None:
        return (
            f"Undecided: what training cost, {on}, is not known, so there is nothing to hold the cost of a failure "
            f"against; {how_to_tell_training_cost(clock)}."
        )
    spread = f" ({confidence} interval {interval(rate)})" if interval(rate) else ""
    if score.conclusion is Conclusion.BROKEN:
        return (
            f"Broken: {on}, training cost {number(rate.value)} times as much per training sample{spread} as a failure "
            "costs the attacker."
        )
    if score.conclusion is Conclusion.NOT_REJECTED:
        inverse = Estimate(1 / rate.value, _inverse(rate.upper), _inverse(rate.lower))
        spread = f" ({confidence} interval {interval(inverse)})" if interval(inverse) else ""
        return (
            f"Not rejected: {on}, a failure costs the attacker {number(1 / rate.value)} times what training cost "
            f"per training sample{spread}; that is no proof of robustness."
        )
    why = "the interval includes 1" if spread else "a single sample gives no interval"
    return (
        f"Undecided: {on}, training cost {number(rate.value)} times as much per training sample{spread} as a failure "
        f"costs the attacker, and {why}; attack more samples."
    )


def _failures(
    fits: tuple[Fit, ...], clock: Clock, at_risk: int, failed: int, confidence: str, *, never_fail: bool
) -> str:
    text = f"Of {at_risk} samples at risk {failed} failed ({percent(failed / at_risk)})"
    best = next((fit for fit in fits if fit.has_numbers), None)
    if best is None or best.median.value is None:
        return f"{text}."
    where = "at the average setting of the jobs " if len(best.coefficients) > 1 else ""
    if best.status is Status.GROUP_WITHOUT_FAILURE:
        where = f"without the group in which nothing failed, {where}"
    if never_fail:
        what = "distance at failure" if clock is Clock.DISTANCE else "time to failure"
        unit = "" if clock is Clock.DISTANCE else f" {CLOCKS[clock]}"
        return (
            f"{text}, and a share of the others seems never to; {where}the mean {what} up to "
            f"{number(best.restriction_time)}{unit} is {number(best.restricted_mean.value or 0.0)}{unit} "
            f"({confidence} interval {interval(best.restricted_mean)}, {DISTRIBUTIONS[best.distribution]} fit)."
        )
    seen = "" if best.median.value <= best.restriction_time else ", longer than any was observed"
    if clock is Clock.DISTANCE:
        median = f"the median distance at failure is {number(best.median.value)}"
    else:
        median = f"the median time to failure is {number(best.median.value)} {CLOCKS[clock]}"
    return (
        f"{text}; {where}{median}{seen} "
        f"({confidence} interval {interval(best.median)}, {DISTRIBUTIONS[best.distribution]} fit)."
    )


def _inverse(value: float | None) -> float | None:
    return None if value is None or value == 0 else 1 / value
