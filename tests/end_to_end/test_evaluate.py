"""`afrctl evaluate` on real parts: Redis, attack server, worker, survival server, a ResNet trained on real digits.

The tests of this module share one model store, and after the first of them nothing is trained.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# The first test imports torch, trains and attacks, on however slow a machine.
pytestmark = pytest.mark.timeout(480)

Run = Callable[..., subprocess.CompletedProcess[str]]
EVALUATE = ("evaluate", "--model", "resnet18", "--epochs", "1")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("evaluate")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AFR_", "AFRCTL_"))}
    for name in ("TMPDIR", "XDG_STATE_HOME", "XDG_DATA_HOME", "HOME"):
        (folder / name).mkdir()
        kept[name] = str(folder / name)
    return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module")
def afrctl(environment: dict[str, str]) -> Run:
    def run(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from cli.main import main; main()", *map(str, arguments)],
            env={**environment, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=440,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def first(afrctl: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The first run: trains the model that all others find in the store."""
    folder = tmp_path_factory.mktemp("first")
    ended = afrctl(
        *EVALUATE, "--attack", "pgd", "--samples", "40", "--price-usd-per-hour", "2", "--output", folder,
        # A folder of datasets that does not exist yet is no mistake: downloads would make it.
        "--data-root", folder / "data",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended, folder


@pytest.fixture(scope="module")
def addresses(
    first: Any, environment: dict[str, str], module_redis_url: str, start_module_process: Any
) -> dict[str, str]:
    """A server, a worker and a survival server, started by hand as in three terminals."""
    url = ("--redis-url", module_redis_url)
    serve = start_module_process(
        "python", "-m", "attack_service", "serve", "--address", "127.0.0.1:0", *url, env=environment
    )
    start_module_process("python", "-m", "attack_service", "work", *url, "--device", "cpu", env=environment)
    survival = start_module_process(
        "python", "-m", "survival_service", "serve", "--address", "127.0.0.1:0", "--attack-address", serve.address,
        env=environment,
    )  # fmt: skip
    return {"AFRCTL_ATTACK_ADDRESS": serve.address, "AFRCTL_SURVIVAL_ADDRESS": survival.address}


def report_in(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_one_command_trains_attacks_and_reports(first: Any) -> None:
    ended, folder = first
    assert "resnet18 trained 1 epoch in" in ended.stderr
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.html", "outcomes.csv"}
    report = report_in(folder)
    with (folder / "outcomes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    verdicts = [row["verdict"] for row in rows]
    assert len({row["sample_index"] for row in rows}) == len(rows) == int(report["sampleCount"]) == 40
    assert verdicts.count("failed") == int(report["failedCount"]) > 0
    assert verdicts.count("survived") == int(report["survivedCount"]) > 0
    assert verdicts.count("misclassified") == int(report["misclassifiedCount"])
    assert [clock["clock"] for clock in report["clockReports"]] == ["CLOCK_QUERIES", "CLOCK_SECONDS"]
    for clock in report["clockReports"]:
        assert [fit["status"] for fit in clock["fits"]] == ["STATUS_OK"] * 3
        assert clock["costNormalizedFailureRate"]["value"] > 0
    assert report["costs"]["costPerFailureUsd"] > 0
    assert ended.stdout.splitlines()[0].endswith("resnet18 on digits under pgd")
    assert "<svg" in (folder / "report.html").read_text()


def test_nothing_of_the_stack_is_left(first: Any, environment: dict[str, str], wait_until: Any) -> None:
    mark = f"AFRCTL_STACK={environment['TMPDIR']}".encode()

    def left() -> list[bytes]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes())
        return found

    wait_until(lambda: left() == [])
    assert list(Path(environment["TMPDIR"]).glob("afr-*")) == []


def test_the_second_run_trains_nothing_and_a_single_check_has_a_status(
    addresses: dict[str, str], afrctl: Run, tmp_path: Path
) -> None:
    """FGM asks once: a failure share and a cost, but no curve that could be fitted."""
    ended = afrctl(*EVALUATE, "--attack", "fgm", "--samples", "40", "--output", tmp_path, **addresses)
    assert ended.returncode == 0, ended.stderr
    assert "taken from the store" in ended.stderr
    assert "training resnet18" not in ended.stderr
    report = report_in(tmp_path)
    assert int(report["failedCount"]) > 0
    for clock in report["clockReports"]:
        assert {fit["status"] for fit in clock["fits"]} == {"STATUS_SINGLE_CHECK"}
    assert "every sample was checked once" in ended.stdout


def test_an_attack_that_fools_nothing_is_undecided(addresses: dict[str, str], afrctl: Run, tmp_path: Path) -> None:
    ended = afrctl(
        *EVALUATE,
        "--attack",
        "pgd",
        "--epsilon",
        "1e-6",
        "--samples",
        "20",
        "--output",
        tmp_path,
        "--quiet",
        **addresses,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    report = report_in(tmp_path)
    assert (report["failedCount"], report["conclusion"]) == ("0", "CONCLUSION_UNDECIDED")
    assert ended.stdout.startswith("UNDECIDED")
    assert "no sample failed in" in ended.stdout
    assert "with 95 % confidence the failure rate is below" in " ".join(ended.stdout.split())
    assert {fit["status"] for clock in report["clockReports"] for fit in clock["fits"]} == {"STATUS_NO_FAILURE"}


def test_art_and_native_agree_through_the_whole_path(addresses: dict[str, str], afrctl: Run, tmp_path: Path) -> None:
    verdicts = {}
    for engine in ("native", "art"):
        folder = tmp_path / engine
        ended = afrctl(
            *EVALUATE, "--attack", "pgd", "--engine", engine, "--samples", "20", "--output", folder, "-q", **addresses
        )
        assert ended.returncode == 0, ended.stderr
        with (folder / "outcomes.csv").open(newline="") as file:
            verdicts[engine] = [
                (row["sample_index"], row["verdict"], row["check_count"]) for row in csv.DictReader(file)
            ]
    assert verdicts["native"] == verdicts["art"]


def test_jobs_and_a_report_over_all_of_them(addresses: dict[str, str], afrctl: Run, tmp_path: Path) -> None:
    for epsilon in ("0.03", "0.08"):
        options = ("--epsilon", epsilon, "--samples", "20", "--output", tmp_path, "-q")
        ended = afrctl(*EVALUATE, "--attack", "pgd", *options, **addresses)
        assert ended.returncode == 0, ended.stderr
    listed = afrctl("jobs", "list", "--limit", "2", **addresses).stdout.splitlines()
    ids = [line.split()[0] for line in listed[1:]]
    assert len(ids) == 2
    assert all("succeeded" in line for line in listed[1:])
    assert json.loads(afrctl("jobs", "show", ids[0], **addresses).stdout)["spec"]["model"] == "resnet18"
    followed = afrctl("jobs", "follow", ids[0], "--csv", tmp_path / "again.csv", "-q", **addresses)
    assert followed.returncode == 0
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "outcomes.csv").read_text()
    shortened = [job_id[:8] for job_id in ids]
    both = afrctl("report", *shortened, "--format", "json", "--output", tmp_path / "both", "-q", **addresses)
    assert both.returncode == 0, both.stderr
    assert int(json.loads(both.stdout)["sampleCount"]) == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attack", "pdg"), "unknown attack 'pdg'; known: fgm, pgd"),
        (("--attack", "pgd", "--dataset", "digit"), "unknown dataset 'digit'; known:"),
        (("--attack", "pgd", "--engine", "arts"), "native"),
        (("--attack", "pgd", "--samples", "100000"), "360"),
        (("--attack", "pgd", "--dataset", "imagefolder:/no/such/folder"), "/no/such/folder"),
        (("--attack", "pgd", "--step-size", "0.5"), "step_size"),
    ],
)
def test_what_the_services_refuse_is_one_line(
    addresses: dict[str, str], afrctl: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    ended = afrctl(*EVALUATE, *options, "--output", tmp_path / "report", "--quiet", **addresses)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "report").exists()


def test_a_job_stops_once_it_has_told_enough(addresses: dict[str, str], afrctl: Run, tmp_path: Path) -> None:
    """Many small steps, so that a look comes long before the end; the job that is left stands on the server."""
    ended = afrctl(
        *EVALUATE, "--attack", "pgd", "--epsilon", "0.1", "--step-size", "0.004", "--max-iterations", "30",
        "--samples", "360", "--until-precision", "1.6", "--output", tmp_path, **addresses,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "stopping the job as planned" in ended.stderr
    assert "stopped as precise as asked" in ended.stdout
    report = report_in(tmp_path)
    stopping = report["stopping"]
    last = stopping["looks"][-1]
    assert stopping["met"] is True
    assert int(last["failureCount"]) >= 20
    assert last["estimate"]["upper"] / last["estimate"]["lower"] <= 1.6**2
    assert last["spentError"] <= 0.05 + 1e-9
    assert int(stopping["savedSampleCount"]) == 360 - int(report["sampleCount"]) > 0
    assert stopping["savedQueryCount"] > 0
    assert stopping["savedSeconds"] > 0
    assert any("stopped as planned" in sentence for sentence in report["limitations"])
    assert "The interval over the looks" in (tmp_path / "report.html").read_text()
    newest = afrctl("jobs", "list", "--limit", "1", **addresses).stdout.splitlines()[1]
    assert "canceled" in newest


def test_ctrl_c_cancels_the_job_on_the_server(
    addresses: dict[str, str], afrctl: Run, environment: dict[str, str], tmp_path: Path, wait_until: Any
) -> None:
    """The samples that were under attack are kept too, as censored at their last check."""
    command = [
        sys.executable, "-c", "from cli.main import main; main()", *EVALUATE, "--attack", "pgd", "--max-iterations",
        "2000", "--epsilon", "0.01", "--samples", "100", "--output", str(tmp_path),
    ]  # fmt: skip
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen(command, env={**environment, **addresses}, stderr=said, stdout=said)
        wait_until(lambda: "attacking with pgd" in (tmp_path / "said").read_text(), 120)
        running.send_signal(signal.SIGINT)
        assert running.wait(90) == 130
    text = (tmp_path / "said").read_text()
    assert "Traceback" not in text
    assert "is canceled" in text.splitlines()[-1]
    newest = afrctl("jobs", "list", "--limit", "1", **addresses).stdout.splitlines()[1]
    assert "canceled" in newest
