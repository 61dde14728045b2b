"""Had a GPU nothing else to do while its seconds were measured? Asked of NVIDIA's management library, before and after.

Other processes take turns with ours, a slice of a GPU (MIG) shares its power and its clock with the other slices, and
a GPU that is too hot slows down: seconds measured meanwhile are not the attack's.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Reading:
    """What a GPU says of itself at one moment."""

    process_count: int
    """Processes that compute on it, ours included."""
    is_slice: bool
    slowdowns: tuple[str, ...] = ()
    """Why its clock is lower than it could be, if that is no matter of load."""


def read(device: torch.device, library: Any = None) -> Reading | None:
    """What the GPU says now; None for another device, or if the management library cannot be asked.

    `library` is `pynvml`, or what stands for it.
    """
    if device.type != "cuda":
        return None
    if library is None:
        try:
            library = import_module("pynvml")
        except ModuleNotFoundError:
            return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    try:
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        is_slice = uuid.startswith("MIG-")
        handle = library.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("MIG-", "GPU-")) else f"GPU-{uuid}")
        reasons = {
            "it was too hot": library.nvmlClocksEventReasonSwThermalSlowdown
            | library.nvmlClocksEventReasonHwThermalSlowdown,
            "its power supply slowed it down": library.nvmlClocksEventReasonHwPowerBrakeSlowdown,
        }
        # A slice has no clock of its own to ask about.
        active = 0 if is_slice else library.nvmlDeviceGetCurrentClocksEventReasons(handle)
        return Reading(
            process_count=len(library.nvmlDeviceGetComputeRunningProcesses(handle)),
            is_slice=is_slice,
            slowdowns=tuple(words for words, bits in reasons.items() if active & bits),
        )
    except library.NVMLError:
        return None
    finally:
        library.nvmlShutdown()


def violations(before: Reading | None, after: Reading | None, name: str) -> list[str]:
    """Why seconds measured between two readings of the GPU `name` mean nothing, a sentence each."""
    readings = [reading for reading in (before, after) if reading is not None]
    sentences = []
    most = max((reading.process_count for reading in readings), default=0)
    if most > 1:
        sentences.append(f"{most} processes computed on {name} at once; give the worker a GPU of its own")
    if any(reading.is_slice for reading in readings):
        sentences.append(
            f"{name} is a slice of a GPU, which shares power and clock with its neighbours; use a whole one"
        )
    slowdowns = dict.fromkeys(words for reading in readings for words in reading.slowdowns)
    sentences.extend(
        f"{name} ran slower than it can, because {words}; cool it, or limit its clock, and measure again"
        for words in slowdowns
    )
    return sentences
