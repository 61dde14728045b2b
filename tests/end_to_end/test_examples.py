"""The examples against real servers, a real worker and a real Redis."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

# One epoch is enough to have failures and survivors, and takes seconds.
SPEC = {
    "model": "resnet18",
    "attack": "pgd",
    "attack_parameters": {"epsilon": 0.05, "max_iterations": 5},
    "epoch_count": 1,
    "sample_count": 40,
}


@dataclass(frozen=True)
class Stack:
    attack_address: str
    survival_address: str


@pytest.fixture(scope="module")
def stack(module_redis_url: str, start_module_process: Any, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The three processes as somebody starts them by hand."""
    folder = tmp_path_factory.mktemp("stack")
    anywhere, redis = ("--address", "127.0.0.1:0"), ("--redis-url", module_redis_url)
    attack = start_module_process("python", "-m", "attack_service", "serve", *anywhere, *redis)
    survival = start_module_process(
        *("python", "-m", "survival_service", "serve", *anywhere),
        *("--attack-address", attack.address, "--state", folder / "state"),
    )
    start_module_process("python", "-m", "attack_service", "work", *redis, "--store", folder / "store", seconds=120)
    return Stack(attack.address, survival.address)


def evaluate(start_process: Any, stack: Stack, spec: dict[str, Any]) -> Any:
    example = ROOT / "examples" / "evaluate.py"
    return start_process(
        sys.executable, example, stack.attack_address, stack.survival_address, json.dumps(spec), ready=None
    )


def test_fifteen_lines_of_python_evaluate_a_model(stack: Stack, start_process: Any) -> None:
    process = evaluate(start_process, stack, SPEC)
    assert process.wait(200) == 0, process.stderr
    *progress, conclusion = process.stdout.splitlines()
    assert progress[0] == "0 samples, 0 failed"
    assert progress[-1].startswith("40 samples, ")
    assert conclusion.startswith(("CONCLUSION_BROKEN - ", "CONCLUSION_NOT_REJECTED - ", "CONCLUSION_UNDECIDED - "))


def test_the_example_is_short() -> None:
    lines = (ROOT / "examples" / "evaluate.py").read_text().split('"""')[2].splitlines()
    code = [line for line in lines if line and not line.startswith(("import", "from"))]
    assert len(code) <= 15
