"""Numbers as people read them, with their units; the words for what the contract's enums mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afr.survival.v1 import survival_service_pb2 as survival

NOTHING = "–"
_NARROW = "\u202f"

DISTRIBUTIONS = {
    1: "Weibull", 2: "log-normal", 3: "log-logistic", 4: "exponential", 5: "generalised gamma", 6: "gamma",
}  # fmt: skip
# STATUS_OK and STATUS_GROUP_WITHOUT_FAILURE; every other status says why there are no numbers.
_STATUSES_WITH_NUMBERS = frozenset({1, 8})
CONCLUSIONS = {0: "undecided", 1: "broken", 2: "not rejected", 3: "undecided"}
_AGAINST = "than one training sample cost the defender over all epochs"
MEANINGS = {
    "broken": f"One failure costs the attacker less {_AGAINST}: the whole interval of C lies above 1.",
    "not rejected": f"One failure costs the attacker more {_AGAINST}: the whole interval of C lies below 1.",
    "undecided": f"These data do not say whether one failure costs the attacker more or less {_AGAINST}.",
}
SECONDS, QUERIES, DISTANCE = 1, 2, 3
CLOCKS = {QUERIES: "queries", SECONDS: "seconds", DISTANCE: "distance"}

# What a job may be stopped for, by the contract's `Quantity`.
QUANTITIES = {1: "median", 2: "restricted mean", 3: "failure share"}

_TIME_UNITS = (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("days", 86400.0))


def has_numbers(fit: survival.Fit) -> bool:
    """Whether a fit has numbers; if not, its `status_message` says why."""
    return fit.status in _STATUSES_WITH_NUMBERS


def distribution_word(number: int) -> str:
    return DISTRIBUTIONS.get(number, f"distribution {number}")


def conclusion_word(number: int) -> str:
    return CONCLUSIONS.get(number, "undecided")


def quantity_word(number: int) -> str:
    return QUANTITIES.get(number, f"quantity {number}")


def clock_word(number: int) -> str:
    return CLOCKS.get(number, f"clock {number}")


def time_word(number: int) -> str:
    """What a clock tells of a failure."""
    return "distance at failure" if number == DISTANCE else "time to failure"


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}".replace(",", _NARROW)


def number(value: float, digits: int = 3) -> str:
    """A number with `digits` significant digits, without a power of ten where a person can do without."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e7 or size < 1e-4:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    rounded = float(f"{value:.{digits}g}")
    size = abs(rounded)
    if size >= 10 ** (digits - 1):
        return count(rounded if size < 1e4 else value).replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{rounded:.{decimals}f}".replace("-", "−")


def share(value: float) -> str:
    """A share in [0, 1] as a percentage; only a true 0 and a true 1 read 0 % and 100 %."""
    if math.isnan(value):
        return NOTHING
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def time_unit(*values: float) -> tuple[str, float]:
    """The unit that suits seconds best, and how many seconds it has: one unit for a value and its interval."""
    known = [abs(value) for value in values if math.isfinite(value) and value != 0]
    reference = known[0] if known else 1.0
    suited = [(name, seconds) for name, seconds in _TIME_UNITS if reference >= seconds * (2 if seconds > 1 else 1)]
    return suited[-1] if suited else _TIME_UNITS[0]


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them, as `12.3 ms` or `4.2 min`."""
    unit, size = time_unit(seconds)
    return f"{number(seconds / size)} {unit}" if math.isfinite(seconds) else number(seconds)


def remaining(seconds: float) -> str:
    """A time to wait, in whole seconds or minutes."""
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def money(usd: float) -> str:
    """US dollars: cents above a dollar, significant digits below one."""
    return f"${usd:,.2f}" if usd >= 1 else f"${number(usd)}"


def bounds(estimate: survival.Estimate) -> tuple[float, float, float] | None:
    """Value, lower and upper end, NaN where there is none; None without a value."""
    if not estimate.HasField("value"):
        return None
    lower = estimate.lower if estimate.HasField("lower") else math.nan
    upper = estimate.upper if estimate.HasField("upper") else math.nan
    return estimate.value, lower, upper


def interval(estimate: survival.Estimate, unit: str = "", size: float = 1.0) -> str:
    """`1.23 [1.01, 1.50] unit`, values divided by `size`; a dash without a value.

    A narrow interval gets the digits that tell its ends from the value: 1.0011 [1.0003, 1.0020], not 1.00 [1.00, 1.00].
    """
    known = bounds(estimate)
    if known is None:
        return NOTHING
    apart = {end for end in known[1:] if end != known[0]}
    digits = next((few for few in range(3, 7) if all(_differ(known[0], end, size, few) for end in apart)), 3)
    value, lower, upper = (number(part / size, digits) for part in known)
    end = f" {unit}" if unit else ""
    return f"{value}{end}" if NOTHING in (lower, upper) else f"{value} [{lower}, {upper}]{end}"


def _differ(value: float, end: float, size: float, digits: int) -> bool:
    """Whether a value and an end of its interval read differently."""
    return number(value / size, digits) != number(end / size, digits)


def effect_bound(bound: survival.EffectBound) -> str:
    """`at least 3.2` or `at most 0.4`, by what an effect without an estimate multiplies time; a dash if unbounded."""
    if bound.HasField("lower"):
        return f"at least {number(bound.lower)}"
    return f"at most {number(bound.upper)}" if bound.HasField("upper") else NOTHING


def share_interval(estimate: survival.Estimate) -> str:
    """`12.3 % [10.1, 15.0]`; a dash without a value."""
    known = bounds(estimate)
    if known is None:
        return NOTHING
    value, lower, upper = known
    if math.isnan(lower) or math.isnan(upper):
        return share(value)
    return f"{share(value)} [{100 * lower:.1f}, {100 * upper:.1f}]"


def on_clock(estimate: survival.Estimate, clock: int) -> str:
    """A time to failure with its interval: in queries, or in the unit of time that suits it."""
    if clock != SECONDS:
        return interval(estimate)
    known = bounds(estimate)
    if known is None:
        return NOTHING
    if math.isinf(known[0]):
        return interval(estimate)
    unit, size = time_unit(*known)
    return interval(estimate, unit, size)


def value_on_clock(value: float, clock: int) -> str:
    """A time on a clock, without an interval."""
    if clock == SECONDS:
        return duration(value)
    return count(value) if value == round(value) else number(value)


def with_unit(value: str, clock: int) -> str:
    """A time on a clock as `on_clock` and `value_on_clock` write it; queries, which they leave bare, get their name.

    A distance has no unit but that of the image.
    """
    return value if clock in (SECONDS, DISTANCE) or value == NOTHING else f"{value} {clock_word(clock)}"


def exceedance(confidence: float) -> str:
    """A confidence that is never rounded to certainty."""
    if confidence > 0.999:
        return "> 99.9 %"
    if confidence < 0.001:
        return "< 0.1 %"
    return f"{100 * confidence:.1f} %"
