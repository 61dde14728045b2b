"""What a process does with the memory of its passes."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from attack_service.devices import keep_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_a_pass_frees_is_there_for_the_next_one() -> None:
    """A block of 64 MiB is more than glibc keeps by itself: of new memory every page is a fault (4 KiB, or 2 MiB)."""
    keep_memory()
    for _ in range(4):
        # Until the heap has grown to where all of them find their place.
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100
