"""Every command says what it does, at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from cli.app import app


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = list(commands(app))


def test_the_commands_are_those_of_the_documentation() -> None:
    assert {" ".join(path) for path in ALL} == {
        "evaluate", "report", "plan", "jobs", "jobs list", "jobs show", "jobs follow", "jobs cancel",
        "models", "attacks", "defences", "datasets", "up", "down", "status", "train", "fit",
    }  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(afrctl: Any, path: tuple[str, ...]) -> None:
    said = afrctl(*path, "--help")
    assert said.returncode == 0
    assert "Example:" in said.stdout
    assert f"afrctl {' '.join(path)}" in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_has_help(path: tuple[str, ...]) -> None:
    command: click.Command = app
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    without = [p.name for p in command.params if isinstance(p, click.Option) and not p.hidden and not p.help]
    assert without == []


def test_no_short_help_is_cut_off(afrctl: Any) -> None:
    commands_listed = afrctl("--help").stdout.partition("Commands:")[2]
    assert "..." not in commands_listed


def test_help_loads_no_heavy_package() -> None:
    """Neither what computes nor what connects: `afrctl --help` needs click and nothing else."""
    program = (
        "import sys\nfrom cli.app import run\nrun(['--help'])\n"
        "heavy = {'torch', 'torchvision', 'art', 'lifelines', 'pandas', 'matplotlib', 'numpy', 'scipy', "
        "'grpc', 'google.protobuf', 'celery', 'redis'}\nprint('loaded', sorted(heavy & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "loaded []"


def test_help_answers_at_once(afrctl: Any) -> None:
    """About 0.2 s of a core, whatever else the machine does; with torch or SciPy it would be several."""
    spent = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        afrctl("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert 0 < min(spent) < 1.0


def test_version(afrctl: Any) -> None:
    said = afrctl("--version")
    assert said.returncode == 0
    assert said.stdout.startswith("afrctl 0.")
