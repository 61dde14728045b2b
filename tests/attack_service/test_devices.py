"""What a process does with the memory of its passes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: a heap that others have filled decides where blocks find their place.
_FAULTS = """
import resource, torch
from attack_service.devices import keep_memory
keep_memory()
for _ in range(4):
    torch.ones(2**24)  # until the heap has grown to where all of them find their place
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_a_pass_frees_is_there_for_the_next_one() -> None:
    """A block of 64 MiB is more than glibc keeps by itself: of new memory every page is a fault (4 KiB, or 2 MiB)."""
    ended = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, timeout=300, check=True)
    assert int(ended.stdout) < 100
