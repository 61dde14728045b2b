"""What is written in the documents exists: commands parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from cli.app import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
)


def commands() -> list[str]:
    """Every line of a shell block that calls afrctl."""
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.partition("#")[0].strip() for line in lines if line.startswith("afrctl ")]
    return sorted(set(found))


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_parses(command: str) -> None:
    words: list[str] = shlex.split(command)[1:]
    known: click.Command = app
    context = click.Context(known, info_name="afrctl")
    while isinstance(known, click.Group):
        name, known, words = known.resolve_command(context, words)  # type: ignore[assignment]
        context = click.Context(known, info_name=name, parent=context)
    known.make_context(known.name, words, parent=context.parent)


def test_the_readme_shows_commands() -> None:
    assert len(commands()) >= 8


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_to_a_file_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing
