"""Device time: what a stretch of work cost once the device has really done it."""

from __future__ import annotations

import time
from typing import Protocol

import torch


class Clock(Protocol):
    """Measures stretches of device work."""

    def restart(self) -> None:
        """Begin a stretch; work done before it is not counted."""

    def lap(self) -> float:
        """Seconds since the stretch began, all queued device work included; begins the next stretch."""


class DeviceClock:
    """Wall time around synchronised device work.

    CUDA calls return before their work is done; without waiting for it, a stretch would be charged with the launch
    alone and the next one with the work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin = self._now()

    def restart(self) -> None:
        self._begin = self._now()

    def lap(self) -> float:
        now = self._now()
        seconds = now - self._begin
        self._begin = now
        return seconds

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
