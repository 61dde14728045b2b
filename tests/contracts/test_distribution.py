"""What somebody gets who installs us: the extras, the program, the contract's types, and no more than that."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = {"attack", "gpu", "survival", "cli", "all", "dev", "parquet"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as its build backend makes it from the tracked files, without a network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "README.md").write_text("# afr\n")
    for package in ("attack_service", "survival_service", "cli", "protos"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and not {"__pycache__", "node_modules"} & set(path.parts):
                copy = source / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    program = (
        "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_is_for_every_machine_and_says_its_licence(wheel: zipfile.ZipFile, metadata: Message) -> None:
    assert Path(str(wheel.filename)).name == f"afr_robustness-{metadata['Version']}-py3-none-any.whl"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_extras_are_those_of_the_processes(metadata: Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS


def test_nothing_heavy_is_installed_unasked(metadata: Message) -> None:
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    unasked = {requirement.name for requirement in requirements if "extra" not in str(requirement.marker)}
    assert unasked == {
        "googleapis-common-protos",
        "grpcio",
        "grpcio-health-checking",
        "grpcio-reflection",
        "grpcio-status",
        "protobuf",
    }


def test_the_wheel_has_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "afr",
        "attack_service",
        "cli",
        "survival_service",
    }


def test_the_wheel_has_the_types_of_the_contract_and_the_pages_of_the_report(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {"afr/py.typed", "afr/survival/v1/survival_service_pb2.pyi"} <= names
    kept = {f"cli/html/{path.name}" for path in (ROOT / "cli" / "html").glob("*") if path.is_file()}
    assert kept <= names


def test_afrctl_is_its_one_program(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert wheel.read(name).decode().split() == ["[console_scripts]", "afrctl", "=", "cli.main:main"]


def test_every_module_that_is_installed_comes_from_the_lock(metadata: Message) -> None:
    """`constraints.txt` pins all that any extra needs."""
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    needed = {Requirement(text).name.lower() for text in metadata.get_all("Requires-Dist", [])} - {"afr-robustness"}
    assert needed <= pinned


def test_the_runtime_is_not_older_than_the_generated_code() -> None:
    """protobuf refuses to load code that a newer generator made; the lower bound must say so."""
    text = (ROOT / "protos/afr/outcome/v1/outcome_pb2.py").read_text()
    generator = next(line for line in text.splitlines() if line.startswith("# Protobuf Python Version:"))
    made_with = tuple(int(part) for part in generator.split(":")[1].strip().split("."))
    (bound,) = (
        Requirement(text).specifier
        for text in importlib.metadata.requires("afr-robustness") or []
        if Requirement(text).name == "protobuf"
    )
    (lowest,) = (tuple(map(int, one.version.split("."))) for one in bound)
    assert lowest[:2] >= made_with[:2]
