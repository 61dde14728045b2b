"""Scales of a drawing: from a number to a place, with ticks at round numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to [start, end], linearly or by logarithms. Values outside are brought to its ends."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        span = high - low
        return self.start + (self.end - self.start) * ((value - low) / span if span else 0.0)


def round_ticks(high: float, wanted: int) -> list[float]:
    """About `wanted` round numbers from 0 up to `high`, in steps of 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(high) and high > 0):
        return [0.0]
    rough = high / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * i for i in range(math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers between `low` and `high` for a logarithmic scale, at most about `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**k for k in decades for factor in factors if low <= factor * 10.0**k <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]
