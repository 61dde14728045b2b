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
    """The time that a device takes for the work between two calls.

    CUDA calls return before their work is done, so the wall time around them is that of launching it, and the next
    stretch would be charged with the work. There the device itself marks begin and end in its queue; whoever reads the
    time waits for the end mark alone.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.restart()

    def restart(self) -> None:
        self._begin = self._mark()

    def lap(self) -> float:
        end = self._mark()
        seconds = _between(self._begin, end)
        self._begin = end
        return seconds

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float)
        assert isinstance(end, float)
        return end - begin
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
