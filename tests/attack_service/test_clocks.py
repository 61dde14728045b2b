"""The device clock measures from lap to lap, and not what happened before a restart."""

from __future__ import annotations

import time

import torch

from attack_service.clocks import DeviceClock


def test_laps_follow_one_another_and_a_restart_forgets() -> None:
    clock = DeviceClock(torch.device("cpu"))
    time.sleep(0.05)
    before = time.perf_counter()
    clock.restart()
    assert clock.lap() <= time.perf_counter() - before
    time.sleep(0.05)
    before = time.perf_counter()
    assert clock.lap() >= 0.05
    assert clock.lap() <= time.perf_counter() - before
