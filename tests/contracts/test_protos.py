"""The contract is linted, the code beside it is what it generates, and the servers do all it promises."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from afr.attack.v1 import attack_service_pb2, attack_service_pb2_grpc
from afr.survival.v1 import survival_service_pb2, survival_service_pb2_grpc

from attack_service.adapters.servicer import AttackServicer
from survival_service.adapters.servicer import SurvivalServicer

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
BIN = Path(sys.executable).parent
BUF = BIN / "buf"


def run(*command: str | Path, folder: Path = ROOT) -> None:
    done = subprocess.run([str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_is_linted_and_every_message_and_field_has_its_sentence() -> None:
    """`buf.yaml` asks for STANDARD and COMMENTS, and lets no comment switch a rule off."""
    text = (PROTOS / "buf.yaml").read_text()
    assert "- STANDARD" in text
    assert "- COMMENTS" in text
    assert "disallow_comment_ignores: true" in text
    run(BUF, "lint", folder=PROTOS)


def test_the_contract_is_formatted() -> None:
    run(BUF, "format", "--diff", "--exit-code", folder=PROTOS)


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    sources = sorted(PROTOS.glob("afr/*/v1/*.proto"))
    outputs = ["--python_out", "--grpc_python_out", "--mypy_out=quiet", "--mypy_grpc_out=quiet"]
    flags = [f"{flag}:{tmp_path}" if "=" in flag else f"{flag}={tmp_path}" for flag in outputs]
    flags += [f"--plugin={BIN / plugin}" for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    run(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *flags, *sources)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*"))
    kept = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*_pb2*.py*") if "__pycache__" not in path.parts)
    assert made == kept
    _, different, unreadable = filecmp.cmpfiles(tmp_path, PROTOS, [str(path) for path in made], shallow=False)
    assert not different + unreadable, "run `make protos`"


SERVICES = [
    (attack_service_pb2, "AttackService", AttackServicer, attack_service_pb2_grpc.AttackServiceServicer),
    (survival_service_pb2, "SurvivalService", SurvivalServicer, survival_service_pb2_grpc.SurvivalServiceServicer),
]


@pytest.mark.parametrize(
    ("ours", "generated", "method"),
    [
        pytest.param(ours, generated, method.name, id=method.full_name)
        for module, service, ours, generated in SERVICES
        for method in module.DESCRIPTOR.services_by_name[service].methods
    ],
)
def test_every_call_of_the_contract_is_implemented(ours: Any, generated: Any, method: str) -> None:
    """What the generated class has answers UNIMPLEMENTED."""
    assert getattr(ours, method) is not getattr(generated, method)


@pytest.mark.parametrize(("module", "service"), [(module, service) for module, service, *_ in SERVICES])
def test_calls_take_and_give_messages_of_their_own(module: Any, service: str) -> None:
    """So that each may grow a field without changing another call."""
    seen: list[str] = []
    for method in module.DESCRIPTOR.services_by_name[service].methods:
        assert method.input_type.name == f"{method.name}Request"
        assert method.output_type.name == f"{method.name}Response"
        seen += [method.input_type.full_name, method.output_type.full_name]
    assert len(set(seen)) == len(seen)
