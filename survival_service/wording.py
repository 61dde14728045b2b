"""Numbers and findings in words: what a person reads of a report."""

from __future__ import annotations

from survival_service.distributions import Distribution
from survival_service.estimates import Estimate, share_upper_bound
from survival_service.fitting import Fit, Status
from survival_service.observations import Clock
from survival_service.scoring import Conclusion, Score

CLOCKS = {Clock.QUERIES: "queries", Clock.SECONDS: "seconds"}
DISTRIBUTIONS = {
    Distribution.WEIBULL: "Weibull",
    Distribution.LOG_NORMAL: "log-normal",
    Distribution.LOG_LOGISTIC: "log-logistic",
    Distribution.EXPONENTIAL: "exponential",
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
    score: Score, fits: tuple[Fit, ...], clock: Clock, *, sample_count: int, at_risk: int, failed: int, level: float
) -> str:
    """The conclusion in one or two sentences that a person understands without the rest of the report."""
    confidence = level_in_words(level)
    if sample_count == 0:
        return "Undecided: no sample was attacked."
    if at_risk == 0:
        return f"Undecided: no sample was at risk; the model misclassified all {sample_count} before the attack."
    if failed == 0:
        bound = percent(share_upper_bound(0, at_risk, level))
        return (
            f"Undecided: no sample failed in {at_risk}; with {confidence} confidence the failure rate is below {bound}."
        )
    return f"{_conclusion(score, clock, confidence)} {_failures(fits, clock, at_risk, failed, confidence)}"


def _conclusion(score: Score, clock: Clock, confidence: str) -> str:
    rate, on = score.cost_normalized_failure_rate, f"counted in {CLOCKS[clock]}"
    if rate.value is None:
        return "Undecided: what training cost is not known, so there is nothing to hold the cost of a failure against."
    spread = f" ({confidence} interval {interval(rate)})" if interval(rate) else ""
    if score.conclusion is Conclusion.BROKEN:
        return (
            f"Broken: {on}, training cost {number(rate.value)} times as much a sample{spread} as the attacker pays "
            "for a failure."
        )
    if score.conclusion is Conclusion.NOT_REJECTED:
        inverse = Estimate(1 / rate.value, _inverse(rate.upper), _inverse(rate.lower))
        spread = f" ({confidence} interval {interval(inverse)})" if interval(inverse) else ""
        return (
            f"Not rejected: {on}, a failure costs the attacker {number(1 / rate.value)} times what training cost a "
            f"sample{spread}; that is no proof of robustness."
        )
    why = "the interval includes 1" if spread else "one sample gives no interval"
    return (
        f"Undecided: {on}, training cost {number(rate.value)} times as much a sample{spread} as the attacker pays for "
        f"a failure, and {why}; attack more samples."
    )


def _failures(fits: tuple[Fit, ...], clock: Clock, at_risk: int, failed: int, confidence: str) -> str:
    text = f"Of {at_risk} samples at risk {failed} failed ({percent(failed / at_risk)})"
    best = next((fit for fit in fits if fit.status is Status.OK), None)
    if best is None or best.median.value is None:
        return f"{text}."
    reached = "half of them fall within" if best.median.value <= best.restriction_time else "half would fall within"
    return (
        f"{text}; {reached} {number(best.median.value)} {CLOCKS[clock]} "
        f"({confidence} interval {interval(best.median)}, {DISTRIBUTIONS[best.distribution]} fit)."
    )


def _inverse(value: float | None) -> float | None:
    return None if value is None or value == 0 else 1 / value
