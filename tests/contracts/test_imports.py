"""Who imports whom, which processes stay light, and that every extra works without the others."""

from __future__ import annotations

import importlib.metadata
import json
import pkgutil
import subprocess
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DISTRIBUTION = "afr-robustness"
HEAVY = {"torch", "torchvision", "art"}

_RUN_WITHOUT = """
import importlib, json, sys

class Without:
    # Does not find some packages, as where they are not installed.

    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

blocked, modules = json.load(sys.stdin)
sys.meta_path[:] = [Without(finder, set(blocked)) for finder in sys.meta_path]
for module in modules:
    importlib.import_module(module)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def import_all(modules: list[str], *, without: Collection[str] = ()) -> set[str]:
    """Import `modules` in a fresh process that cannot import `without`; the top-level packages that it then has."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN_WITHOUT],
        input=json.dumps([sorted(without), modules]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@cache
def modules_of(package: str) -> list[str]:
    """Every module of a package, found without importing more than the packages themselves."""
    names = [package]
    for module in pkgutil.iter_modules([str(ROOT / package.replace(".", "/"))], f"{package}."):
        names += modules_of(module.name) if module.ispkg else [module.name]
    return names


@cache
def installed_with(extra: str) -> frozenset[str]:
    """The distributions that installing this extra brings, ours included, by their metadata here and now."""
    todo, found = [(DISTRIBUTION, extra)], set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a dependency for another platform
        for text in requirements:
            requirement = Requirement(text)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in ("", wanted)):
                child = canonicalize_name(requirement.name)
                todo += [(child, ""), *((child, one) for one in requirement.extras)]
    return frozenset(name for name, _ in found)


@cache
def foreign_to(extra: str) -> frozenset[str]:
    """The top-level modules installed here that this extra does not bring."""
    allowed = installed_with(extra)
    return frozenset(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & allowed
    )


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(["attack_service.__main__", "attack_service.adapters.server"], id="attack server"),
        pytest.param(modules_of("survival_service"), id="survival server"),
        pytest.param(modules_of("cli"), id="command line"),
    ],
)
def test_only_the_worker_loads_torch(modules: list[str]) -> None:
    assert not import_all(modules) & HEAVY


@pytest.mark.parametrize(
    ("extra", "modules"),
    [
        ("attack", ["attack_service.__main__", "attack_service.adapters.server"]),
        ("gpu", modules_of("attack_service")),
        ("survival", modules_of("survival_service")),
        ("cli", modules_of("cli")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_extra_is_enough_for_its_own_process(extra: str, modules: list[str]) -> None:
    """Every module imports where nothing is installed but what the extra brings."""
    import_all(modules, without=foreign_to(extra))


def test_the_check_itself_sees_what_is_missing() -> None:
    """Without this the test above would pass for an empty blocker."""
    assert {"torch", "celery", "redis"} <= foreign_to("survival")
    assert {"torch", "numpy", "celery"} <= foreign_to("cli")
    assert {"torch", "lifelines"} <= foreign_to("attack")
    assert "lifelines" in foreign_to("gpu")
    assert not {"grpc", "google"} & foreign_to("cli")
    with pytest.raises(AssertionError, match="No module named 'numpy'"):
        import_all(["survival_service.fitting"], without=foreign_to("cli"))
