"""A wrong command line gets one line that says what to do, at once, and starts nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EVALUATE = ("evaluate", "--model", "resnet18", "--attack", "pgd")

MISUSES: list[tuple[tuple[str, ...], int, str]] = [
    (("evaluate",), 2, "--model"),
    ((*EVALUATE, "--epsilon", "nan"), 2, "nan"),
    ((*EVALUATE, "--defence-parameter", "deviation"), 2, "no NAME=VALUE, such as deviation=0.1"),
    ((*EVALUATE, "--defence-parameter", "deviation=much"), 2, "8/255"),
    ((*EVALUATE, "--defence-parameter", "cutoff=0.5", "--defence-parameter", "cutoff=0.9"), 2, "cutoff is given twice"),
    ((*EVALUATE, "--epsilon", "0.1", "--attack-parameter", "epsilon=0.1"), 2, "epsilon is given twice"),
    ((*EVALUATE, "--checkpoint", ""), 2, "--checkpoint is empty; give a value, or leave the option out"),
    ((*EVALUATE, "--defence", "jpeg", "--defence", "high-confidence"), 2, "--defence is given twice; give it once"),
    ((*EVALUATE, "--epsilon=0.1", "--epsilon=0.1", "--epsilon=0.2"), 2, "--epsilon is given 3 times"),
    (("models", "--attack-address", ""), 2, "--attack-address is empty"),
    ((*EVALUATE, "--epsilon", "-1"), 2, "not above 0"),
    ((*EVALUATE, "--epsilon", "0"), 2, "not above 0"),
    ((*EVALUATE, "--epsilon", "inf"), 2, "finite"),
    ((*EVALUATE, "--norm", "inf", "--epsilon", "1.5"), 2, "at most 1"),
    ((*EVALUATE, "--norm", "inf", "--epsilon", "8"), 2, "8 of 255 levels is 8/255"),
    ((*EVALUATE, "--epsilon", "much"), 2, "8/255"),
    ((*EVALUATE, "--epsilon", "1/0"), 2, "no number"),
    ((*EVALUATE, "--step-size", "0"), 2, "not above 0"),
    ((*EVALUATE, "--max-iterations", "0"), 2, "at least 1"),
    ((*EVALUATE, "--samples", "0"), 2, "at least 1"),
    ((*EVALUATE, "--samples", "4294967296"), 2, "too large; the largest is 4294967295"),
    ((*EVALUATE, "--samples", "ten"), 2, "no whole number"),
    ((*EVALUATE, "--epochs", "0"), 2, "at least 1"),
    ((*EVALUATE, "--seed", "-1"), 2, "from 0"),
    ((*EVALUATE, "--price-usd-per-hour", "-2"), 2, "at least 0"),
    ((*EVALUATE, "--clock", "moons"), 2, "moons"),
    ((*EVALUATE, "--format", "pdf"), 2, "pdf"),
    ((*EVALUATE, "--data-root", "/no/such/folder"), 2, "/no/such/folder"),
    ((*EVALUATE, "--data-root", "/dev/null"), 2, "/dev/null is not a folder"),
    ((*EVALUATE, "--dataset", "imagefolder:nowhere"), 2, "nowhere is no folder"),
    ((*EVALUATE, "--output", "/proc/report"), 1, "--output"),
    ((*EVALUATE, "--output", "/dev/null"), 1, "it is not a folder"),
    ((*EVALUATE, "--tls-ca", "ca.pem"), 2, "TLS is not available yet"),
    ((*EVALUATE, "--attack-address", "nowhere", "--survival-address", "127.0.0.1:1"), 2, "HOST:PORT"),
    ((*EVALUATE, "--attack-address", "127.0.0.1:1", "--survival-address", "127.0.0.1:1"), 1, "cannot be reached"),
    ((*EVALUATE, "--survival-address", "127.0.0.1:1"), 2, "--attack-address"),
    ((*EVALUATE, "--attack-address", "http://127.0.0.1:1"), 2, "HOST:PORT"),
    ((*EVALUATE, "--attack-address", "::1:50051"), 2, "[::1]:50051"),
    ((*EVALUATE, "--attack-address", "127.0.0.1:1", "--data-root", "/tmp"), 2, "--data-root has no effect"),
    ((*EVALUATE, "--attack-address", "127.0.0.1:1", "--workers", "2"), 2, "--workers has no effect"),
    ((*EVALUATE, "--workers", "0"), 2, "--workers"),
    ((*EVALUATE, "--shards", "0"), 2, "0 is not a whole number of at least 1"),
    (("evaluat",), 2, "evaluat"),
    (("jobs", "list"), 1, "afrctl up"),
    (("jobs", "show", "x", "--attack-address", "127.0.0.1:1"), 1, "cannot be reached"),
    (("jobs", "follow", "x", "--attack-address", "127.0.0.1:1", "--csv", "no/such/file.csv"), 1, "no folder"),
    (("report",), 2, "JOB"),
    (("report", "x"), 1, "afrctl up"),
    (("report", "x", "--survival-address", "127.0.0.1:99999"), 2, "HOST:PORT"),
    (("report", "x", "--confidence-level", "95"), 2, "95 % is 0.95"),
    (("report", "x", "--distribution", "gompertz"), 2, "'exponential'"),
    (("report", "x", "--tls-ca", "ca.pem"), 2, "TLS is not available yet"),
    (("models", "--attack-address", "127.0.0.1:1"), 1, "cannot be reached"),
    (("status",), 1, "no stack is running"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISUSES, ids=[" ".join(row[0]) for row in MISUSES])
def test_a_misuse_is_one_line(afrctl: Any, arguments: tuple[str, ...], code: int, said: str) -> None:
    ended = afrctl(*arguments)
    assert ended.returncode == code
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    afrctl.assert_no_process()


def test_a_folder_that_was_made_for_nothing_is_removed(afrctl: Any, tmp_path: Path) -> None:
    afrctl(*EVALUATE, "--attack-address", "127.0.0.1:1", "--survival-address", "127.0.0.1:1", "--output", "deep/down")
    assert not (tmp_path / "deep").exists()


def test_the_reserved_variable_is_refused_as_well(afrctl: Any) -> None:
    ended = afrctl("jobs", "list", AFRCTL_TLS_CA="ca.pem")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --tls-ca (AFRCTL_TLS_CA) has no effect, since TLS is not available yet")
    assert len(ended.stderr.splitlines()) == 1


BROKEN = """
from cli import catalogs
from cli.main import main

def fail(**options):
    raise ZeroDivisionError("by zero")

catalogs.datasets.callback = fail
main()
"""


def test_a_defect_is_one_line_and_keeps_its_traceback(afrctl: Any, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN, "datasets"],
        env=afrctl.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: a defect in afrctl: ZeroDivisionError: by zero (the traceback is in ")
    assert len(ended.stderr.splitlines()) == 1
    (log,) = (tmp_path / "state" / "afr").glob("defect-*.log")
    assert "Traceback" in log.read_text()


def test_down_without_a_stack_is_no_error(afrctl: Any) -> None:
    ended = afrctl("down")
    assert (ended.returncode, ended.stdout) == (0, "no stack is running\n")
