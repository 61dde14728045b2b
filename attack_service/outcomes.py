"""What happened to attacked samples: verdicts, per-sample outcomes, samples in flight."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What happened to one attacked sample. The values are those of the wire."""

    SURVIVED = 1
    FAILED = 2
    MISCLASSIFIED = 3
    REJECTED = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attacked sample: its verdict and the interval (lower, upper] of its failure on every clock.

    Counts and seconds are what was spent on this sample alone. Without a failure the upper bounds are
    None; a misclassified sample was never at risk and all its bounds are zero.
    """

    sample_index: int
    verdict: Verdict
    label: int
    clean_prediction: int
    adversarial_prediction: int
    query_count_lower: int
    query_count_upper: int | None
    gradient_count_lower: int
    gradient_count_upper: int | None
    seconds_lower: float
    seconds_upper: float | None
    distance_l2: float
    distance_linf: float
    distance_l0: int
    check_count: int
    clean_seconds: float

    def __post_init__(self) -> None:
        uppers = (self.query_count_upper, self.gradient_count_upper, self.seconds_upper)
        bounded = self.verdict in (Verdict.FAILED, Verdict.MISCLASSIFIED)
        if any((upper is None) == bounded for upper in uppers):
            raise ValueError(f"sample {self.sample_index}: upper bounds {uppers} do not fit {self.verdict.name}")
        lowers = (self.query_count_lower, self.gradient_count_lower, self.seconds_lower)
        for lower, upper in zip(lowers, uppers, strict=True):
            if not (math.isfinite(lower) and lower >= 0 and (upper is None or upper >= lower)):
                raise ValueError(f"sample {self.sample_index}: ({lower}, {upper}] is no interval")


@dataclass(frozen=True, slots=True)
class InFlight:
    """A sample under attack: what its last check, which it survived, had cost."""

    sample_index: int
    check_count: int
    query_count: int
    gradient_count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of outcomes, and a checksum that does not depend on their order."""

    failed_count: int = 0
    survived_count: int = 0
    misclassified_count: int = 0
    checksum: int = 0

    @property
    def outcome_count(self) -> int:
        return self.failed_count + self.survived_count + self.misclassified_count

    def __add__(self, other: Tally) -> Tally:
        """Of the outcomes of both."""
        return Tally(
            self.failed_count + other.failed_count,
            self.survived_count + other.survived_count,
            self.misclassified_count + other.misclassified_count,
            (self.checksum + other.checksum) % 2**64,
        )

    def plus(self, rows: Iterable[tuple[int, int, int, int]]) -> Tally:
        """Add rows of (sample_index, verdict number, query_count_lower, query_count_upper or -1).

        The checksum is the one that `End.checksum` of the contract describes.
        """
        counts = dict.fromkeys(Verdict, 0)
        checksum = self.checksum
        for row in rows:
            counts[Verdict(row[1])] += 1
            digest = hashlib.sha256(":".join(map(str, row)).encode()).digest()
            checksum = (checksum + int.from_bytes(digest[:8], "big")) % 2**64
        return Tally(
            self.failed_count + counts[Verdict.FAILED],
            self.survived_count + counts[Verdict.SURVIVED] + counts[Verdict.REJECTED],
            self.misclassified_count + counts[Verdict.MISCLASSIFIED],
            checksum,
        )
