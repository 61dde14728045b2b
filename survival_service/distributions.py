"""Distributions of log T = mu + sigma * epsilon."""

from __future__ import annotations

from enum import Enum


class Distribution(Enum):
    """A distribution of times to failure that can be fitted. The values are those of the wire."""

    WEIBULL = 1
    LOG_NORMAL = 2
    LOG_LOGISTIC = 3
    EXPONENTIAL = 4
