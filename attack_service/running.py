"""Running one attack job from its specification to its last outcome."""

from __future__ import annotations

from pathlib import Path

from attack_service.jobs import AttackJob, Ledger, State


def run_attack(job: AttackJob, ledger: Ledger, *, store_root: Path, data_root: Path, device: str) -> State:
    """Load or train the model, measure it, attack every sample that is not recorded yet.

    `device` is `auto`, `cpu` or `cuda`. Returns `State.SUCCEEDED`, or `State.CANCELED` once every sample under attack
    has been recorded as a survivor of its last check. Raises the errors of `attack_service.errors`.
    """
    raise NotImplementedError
