"""What a process does with the memory of its passes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# In a process of its own: a heap that others have filled decides where blocks find their place.
_FAULTS = """
import resource, torch
from attack_service.devices import keep_memory
keep_memory()
layers = [torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.Conv2d(32, 64, 3)]
model, images = torch.nn.Sequential(*layers), torch.rand(64, 3, 32, 32)

def passes(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    with torch.inference_mode():
        for _ in range(count):
            model(images)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

passes(4)  # until the heap has grown to where everything finds its place
print(passes(10))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_memory_that_a_pass_frees_is_there_for_the_next_one() -> None:
    """Of new memory every page is a fault: over a hundred thousand in ten of these passes as the system comes."""
    ended = subprocess.run(
        [sys.executable, "-c", _FAULTS],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert int(ended.stdout) < 20_000
