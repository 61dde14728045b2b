"""An image has one extra in it: what its process imports must be in that extra, not merely on a developer's machine."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "afr-robustness"

PROGRAM = '''
import importlib, pkgutil, sys

class Without:
    """A finder of modules that does not find some."""
    def __init__(self, finder, names):
        self.finder, self.names = finder, names
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, *arguments)

names = set(sys.argv[1].split(","))
sys.meta_path[:] = [Without(finder, names) for finder in sys.meta_path]

def load_all(package):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

'''

ATTACK_SERVER = """
import attack_service.__main__, attack_service.adapters.server
from attack_service.adapters.queueing import build_app
with build_app("redis://127.0.0.1:1/0").connection_for_write() as connection:
    connection.transport  # made at the first job only; connects to nothing yet
"""


def distributions(extra: str) -> set[str]:
    """The names of all distributions that our extra brings, as installed here."""
    found: set[str] = set()
    todo = [(OURS, extra)]
    seen = set(todo)
    while todo:
        name, wanted = todo.pop()
        found.add(canonicalize_name(name))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                more = [(requirement.name, each) for each in ("", *requirement.extras)]
                todo += [pair for pair in more if pair not in seen]
                seen.update(more)
    return found


@pytest.mark.parametrize(
    ("extra", "program"),
    [
        ("attack", ATTACK_SERVER),
        ("survival", "load_all('survival_service')"),
        ("cli", "load_all('cli')"),
        pytest.param("gpu", ATTACK_SERVER + "load_all('attack_service')", marks=pytest.mark.slow),
    ],
)
def test_a_process_needs_nothing_beyond_its_extra(extra: str, program: str) -> None:
    present = distributions(extra)
    absent = {
        name for name, owners in packages_distributions().items() if not present & set(map(canonicalize_name, owners))
    }
    assert "hypothesis" in absent
    command = [sys.executable, "-c", PROGRAM + program, ",".join(sorted(absent))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
