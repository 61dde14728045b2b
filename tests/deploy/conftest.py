"""What the tests of the deployment files compare them with: the code's own settings, ports and service names."""

from __future__ import annotations

import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from afr.attack.v1 import attack_service_pb2
from afr.survival.v1 import survival_service_pb2

from attack_service.settings import ServeSettings, WorkSettings
from survival_service import settings as survival_settings

_ROOT = Path(__file__).parents[2]


class _ReadVariables(Mapping[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _ComposeLoader(yaml.SafeLoader):
    """Reads Compose's own tags too."""


_ComposeLoader.add_constructor("!reset", lambda loader, node: [])


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return _ROOT


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((_ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="session")
def ports() -> dict[str, int]:
    """The default port of each server."""
    return {
        "attack-server": int(ServeSettings().address.rpartition(":")[2]),
        "survival-server": int(survival_settings.DEFAULT_ADDRESS.rpartition(":")[2]),
    }


@pytest.fixture(scope="session")
def health_names() -> dict[str, str]:
    """The service of each server that its health service answers for."""
    return {
        "attack-server": attack_service_pb2.DESCRIPTOR.services_by_name["AttackService"].full_name,
        "survival-server": survival_service_pb2.DESCRIPTOR.services_by_name["SurvivalService"].full_name,
    }


@pytest.fixture(scope="session")
def variables() -> dict[str, set[str]]:
    """The environment variables that each process reads."""
    survival = _ReadVariables()
    survival_settings.Settings.gather(survival)
    return {
        "attack-server": {setting.metadata["variable"] for setting in fields(ServeSettings)},
        "attack-worker": {setting.metadata["variable"] for setting in fields(WorkSettings)},
        "survival-server": survival.names,
    }


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """The compose file."""
    contents: dict[str, Any] = yaml.safe_load((_ROOT / "deploy/compose.yaml").read_text())
    return contents


@pytest.fixture(scope="session")
def compose_cpu() -> dict[str, Any]:
    """What the compose file for machines without a GPU changes."""
    contents: dict[str, Any] = yaml.load((_ROOT / "deploy/compose.cpu.yaml").read_text(), _ComposeLoader)
    return contents


@pytest.fixture(scope="session")
def is_program() -> Callable[[list[str]], bool]:
    """Whether a command starts `python -m MODULE COMMAND`, with a module of ours that can be started, or a script."""
    scripts = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    def check(command: list[str]) -> bool:
        match command:
            case ["python", "-m", module, "serve" | "work"]:
                return importlib.util.find_spec(f"{module}.__main__") is not None
            case [script]:
                return script in scripts
        return False

    return check


@pytest.fixture(scope="session")
def tool() -> Callable[[str, str], str]:
    """`tool(program, package)` is the path of a program of the environment, which brings it with `package`."""

    def find(program: str, package: str) -> str:
        path = Path(sys.executable).parent / program
        if path.exists():
            return os.fspath(path)
        pytest.fail(f"{package} is a development dependency and is not installed; run `make install`")

    return find


@pytest.fixture(scope="session")
def instructions() -> Callable[[str], list[tuple[str, str]]]:
    """`instructions(path)` are the (keyword, rest) of a Dockerfile, continued lines joined, comments left out."""

    def read(path: str) -> list[tuple[str, str]]:
        lines = [line for line in (_ROOT / path).read_text().splitlines() if not line.lstrip().startswith("#")]
        joined = "\n".join(lines).replace("\\\n", " ")
        pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
        return [(keyword, " ".join(rest.split())) for keyword, rest in pairs]

    return read
