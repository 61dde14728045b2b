"""Tests that need a CUDA device. They are skipped without one, unless AFR_REQUIRE_GPU=1 says that there must be one."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from attack_service import catalog
from attack_service.jobs import AttackJob, AttackSpec, MemoryLedger, State
from attack_service.running import run_attack


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        if os.environ.get("AFR_REQUIRE_GPU") == "1":
            pytest.fail("AFR_REQUIRE_GPU=1, but torch sees no CUDA device")
        pytest.skip("there is no CUDA device")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def run_on(store_root: Path):
    """Attack a ResNet-50 trained on digits, by default: `run_on("cuda", sample_count=…)`. A ledger given is resumed."""

    def run(device: str, ledger: MemoryLedger | None = None, **fields: object) -> MemoryLedger:
        asked = {"model": "resnet50", "dataset": "digits", "attack": "pgd"} | fields
        spec = catalog.resolve(AttackSpec(**asked))  # type: ignore[arg-type]
        ledger = ledger or MemoryLedger()
        job = AttackJob("job", spec, State.RUNNING, datetime.now(UTC))
        state = run_attack(job, ledger, store_root=store_root, data_root=store_root / "data", device=device)
        assert state is State.SUCCEEDED
        return ledger

    return run


@pytest.fixture(scope="session")
def first_run(cuda: torch.device, run_on) -> MemoryLedger:
    """The run that trained the model, on the device."""
    return run_on("cuda")
