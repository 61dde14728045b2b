"""The device that computes, and the arithmetic it is held to."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from attack_service.errors import InvalidSpecification

# Of glibc's mallopt: the free memory at the end of the heap that is kept, and the largest block that lies in the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 2**30, 2**28


def choose_device(device: str) -> torch.device:
    """The device named `cpu` or `cuda`, or for `auto` the best there is."""
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidSpecification("device", "this machine has no CUDA device; start the worker with --device auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def device_name(device: torch.device) -> str:
    """What a person calls the device, threads included: times mean nothing without it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    thread_count = torch.get_num_threads()
    return f"{_processor()}, {thread_count} thread{'' if thread_count == 1 else 's'}"


def device_identity(device: torch.device) -> str:
    """The same for every process of a host that computes on this very device."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_properties(device).uuid)
    return device.type


def disturbance(device: torch.device, neighbour_count: int) -> str | None:
    """A sentence if other runs on this device make the seconds of this one mean nothing.

    A CPU has room for as many threads as it has cores that this process may use.
    """
    if neighbour_count == 0:
        return None
    name = device_name(device)
    if device.type == "cuda":
        return f"{neighbour_count + 1} runs shared {name} at once; give every worker a device of its own"
    thread_count = (neighbour_count + 1) * torch.get_num_threads()
    core_count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if thread_count <= core_count:
        return None
    return (
        f"{neighbour_count + 1} runs with {thread_count} threads shared {core_count} cores ({name}) at once; "
        "start fewer workers on this host, or give each fewer threads (OMP_NUM_THREADS)"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def keep_memory() -> None:
    """Have this process keep the memory that a pass through a model frees, for the next pass.

    The C library of Linux else returns it to the system after every pass, and gets it anew a page at a time: on a CPU
    that was a fifth of the time of a forward pass. Elsewhere nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return
    # In a C library that has no such function, or another one than glibc's, there is nothing to be won.
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        if not library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES):
            # Older versions take no more than this.
            library.mallopt(_MMAP_THRESHOLD, 2**25)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Keep float32 what it says: with tf32, which CUDA convolutions default to, other samples fail than on a CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
