"""What a failure costs, against what training cost: the cost-normalised failure rate and its conclusion."""

from __future__ import annotations

from enum import Enum


class Conclusion(Enum):
    """What a cost-normalised failure rate says about a model. The values are those of the wire."""

    BROKEN = 1
    NOT_REJECTED = 2
    UNDECIDED = 3
