"""`afrctl report --outcomes`: a report from a row a sample, or from a row an experiment."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.data_files import open_data
from cli.errors import Misuse, Problem
from cli.outcome_files import ExperimentReading, experiment_batches, outcome_batches, unfinished_job
from cli.outcomes import COLUMNS

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "cifar100_experiments.csv"
PUBLISHED_MEDIANS = {"FGM": 11.2, "PGD": 1.3, "Deep": 0.17, "Pixel": 0.006, "HSJ": 0.004, "Thresh": 0.0014}


@pytest.fixture(scope="module")
def survival_server(tmp_path_factory: pytest.TempPathFactory, start_module_process: Any) -> str:
    """The address of a real survival server."""
    state = tmp_path_factory.mktemp("state")
    words = ("python", "-m", "survival_service", "serve", "--address", "127.0.0.1:0", "--state", state)
    return str(start_module_process(*words).address)


def outcome_rows() -> list[dict[str, Any]]:
    """Forty samples: 24 failed at checks 1 to 6, twelve survived six, four were wrong before.

    A check costs one query, one gradient and 10 ms.
    """
    rows = []
    for i in range(40):
        check = i % 6 + 1
        verdict = "failed" if i < 24 else "survived" if i < 36 else "misclassified"
        last = {"failed": check, "survived": 6, "misclassified": 0}[verdict]
        passed = last - 1 if verdict == "failed" else last
        upper = {"failed": last, "survived": "", "misclassified": 0}[verdict]
        rows.append(
            dict(zip(COLUMNS, (
                i, verdict, i % 10, i % 10, (i + 1) % 10, passed, upper, passed, upper, 0.01 * passed,
                0.01 * upper if isinstance(upper, int) else "", 0.5, 0.1, 64, last, 0.002,
            ), strict=True))
        )  # fmt: skip
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def experiment_rows() -> list[dict[str, Any]]:
    """Eight experiments in the columns of the contract, two groups of four."""
    return [
        {
            "attack": "fgm" if i < 4 else "pgd", "n": 100, "failure_count": 40 + 5 * i, "misclassified_count": 10,
            "attack_seconds": 2.0 + i if i < 4 else 50.0 + 3 * i, "training_seconds_per_sample": 0.02 + 0.001 * i,
            "depth": (18, 34, 50, 101)[i % 4],
        }
        for i in range(8)
    ]  # fmt: skip


def reported(afrctl: Any, *words: str | Path) -> dict[str, Any]:
    ended = afrctl("report", "--outcomes", *words, "--format", "json", "--output", "made", seconds=200)
    assert ended.returncode == 0, ended.stderr
    report: dict[str, Any] = json.loads(ended.stdout)
    assert json.loads((afrctl.folder / "made" / "report.json").read_text()) == report
    assert "<html" in (afrctl.folder / "made" / "report.html").read_text()
    return report


def test_a_file_of_samples_gives_the_report_of_its_job(afrctl: Any, survival_server: str) -> None:
    path = write_rows(afrctl.folder / "outcomes.csv", outcome_rows())
    report = reported(
        afrctl, path, "--training-seconds", "60", "--training-samples", "1000", "--epochs", "3", "--model", "resnet18",
        "--survival-address", survival_server,
    )  # fmt: skip
    assert [int(report[f"{name}Count"]) for name in ("failed", "survived", "misclassified")] == [24, 12, 4]
    queries, seconds = report["clockReports"]
    passes = sum(2 * (i % 6 + 1) for i in range(24)) + 12 * 12
    assert queries["attackCost"] == passes
    assert queries["costNormalizedFailureRate"]["value"] == pytest.approx(6 / (passes / 24))
    assert seconds["costNormalizedFailureRate"]["value"] == pytest.approx(0.06 / (0.005 * passes / 24), rel=1e-6)
    assert {fit["status"] for fit in queries["fits"]} == {"STATUS_OK"}
    (job,) = report["jobs"]
    assert (job["attackJobId"], job["model"]) == ("outcomes.csv", "resnet18")
    assert not any("not known" in sentence or "without" in sentence for sentence in report["limitations"])


@pytest.mark.parametrize(("shards", "accuracy_known"), [(1, True), (2, False)])
def test_samples_whose_attack_was_cut_off_did_not_outlive_it(
    afrctl: Any, survival_server: str, shards: int, accuracy_known: bool
) -> None:
    """Misclassified samples come first in each part, so all are known as soon as a sample of it was attacked."""
    of_job = {"job_state": "canceled", "job_sample_count": 100, "job_shard_count": shards}
    path = write_rows(afrctl.folder / "outcomes.csv", [row | of_job for row in outcome_rows()])
    report = reported(afrctl, path, "--survival-address", survival_server)
    assert report["partial"]
    assert "value" not in report["adversarialAccuracy"]
    assert ("value" in report["cleanAccuracy"]) is accuracy_known
    if accuracy_known:
        assert report["cleanAccuracy"]["value"] == pytest.approx(0.96)
    assert "Job outcomes.csv was canceled after 40 of 100 samples" in " ".join(report["limitations"])


def test_a_state_that_no_job_has_is_named(tmp_path: Path) -> None:
    of_job = {"job_state": "done", "job_sample_count": 100, "job_shard_count": 1}
    file = open_data(write_rows(tmp_path / "outcomes.csv", [outcome_rows()[0] | of_job]))
    with pytest.raises(Problem, match=r"outcomes\.csv, line 2: job_state is 'done'; known: succeeded, queued, running"):
        unfinished_job(file)


def test_what_is_not_in_the_file_is_stated_as_unknown(afrctl: Any) -> None:
    """Without an address a survival server is started for the command alone."""
    path = write_rows(afrctl.folder / "outcomes.csv", outcome_rows())
    report = reported(afrctl, path, "--price-usd-per-hour", "3.6")
    for clock in report["clockReports"]:
        assert "value" not in clock.get("costNormalizedFailureRate", {})
        assert clock["conclusion"] == "CONCLUSION_UNDECIDED"
        assert clock["costPerFailure"]["value"] > 0
    assert report["costs"]["costPerFailureUsd"] > 0
    assert "trainingCostUsd" not in report["costs"]
    stated = " ".join(report["limitations"])
    assert "pass --training-seconds and --training-samples" in stated
    assert "pass --epochs" in stated
    assert list((afrctl.folder / "tmp").glob("afr-*")) == []


def test_totals_of_experiments_give_rates_by_group(afrctl: Any, survival_server: str) -> None:
    rows = experiment_rows()
    path = write_rows(afrctl.folder / "published.csv", rows)
    words = (path, "--column", "sample_count=n", "--column", "group=attack", "--covariate", "depth",
             "--covariate", "attack", "--survival-address", survival_server)  # fmt: skip
    report = reported(afrctl, *words)
    fgm, pgd = report["experimentGroups"]
    assert (fgm["group"], pgd["group"], fgm["experimentCount"]) == ("fgm", "pgd", "4")
    for group, of in ((fgm, rows[:4]), (pgd, rows[4:])):
        seconds, failed = sum(row["attack_seconds"] for row in of), sum(row["failure_count"] for row in of)
        own = sorted(row["training_seconds_per_sample"] * row["failure_count"] / row["attack_seconds"] for row in of)
        assert group["costPerFailure"]["value"] == pytest.approx(seconds / failed)
        assert group["medianRate"] == pytest.approx((own[1] + own[2]) / 2)
    (clock,) = report["clockReports"]
    best, *others = clock["fits"]
    assert best["distribution"] == "DISTRIBUTION_EXPONENTIAL"
    assert [c["covariate"] for c in best["coefficients"]] == ["intercept", "depth", "attack=pgd (against fgm)"]
    assert {fit["status"] for fit in others} == {"STATUS_SINGLE_CHECK"}
    page, shown = (afrctl.folder / "made" / "report.html").read_text(), afrctl("report", "--outcomes", *words).stdout
    for text in (page, shown):
        assert "8 experiments" in text
        assert "median C" in text
        assert "totals of experiments" in " ".join(text.split())


def test_clean_errors_count_as_failures_if_asked() -> None:
    """n (1 - adversarial accuracy), as arXiv 2401.13751 counts, against n (accuracy - adversarial accuracy)."""
    path = Path(__file__).parent / "no.csv"
    cells = ("attack.attack_size", "adv_fit_time", "accuracy", "adv_accuracy", "train_time_per_sample", "atk_gen")
    from cli.data_files import DataFile

    file = DataFile(path, cells, "line", lambda: iter([(2, ("100", "50", "0.6", "0.2", "0.01", "FGM"))]))
    (ours,), _ = experiment_batches(file, ExperimentReading({}))
    (theirs,), _ = experiment_batches(file, ExperimentReading({}, count_clean_errors=True))
    assert (ours.failure_count[0], ours.misclassified_count[0]) == pytest.approx((40, 40))
    assert (theirs.failure_count[0], theirs.misclassified_count[0]) == pytest.approx((80, 0))
    for batch in (ours, theirs):
        assert list(batch.group) == ["FGM"]
        assert (batch.sample_count[0], batch.attack_seconds[0], batch.training_seconds_per_sample[0]) == (100, 50, 0.01)


def test_a_model_that_got_better_under_attack_has_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("sample_count,attack_seconds,accuracy,adversarial_accuracy\n100,5,0.01,0.03\n")
    (batch,), _ = experiment_batches(open_data(path), ExperimentReading({}))
    assert batch.failure_count[0] == 0
    assert batch.group[0] == "all experiments"
    assert math.isclose(batch.misclassified_count[0], 99)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published experiments are not here")
def test_the_published_figures_come_out(afrctl: Any, survival_server: str) -> None:
    """The concordance .59 without the leaked covariate, and the median C of every attack."""
    report = reported(
        afrctl, PUBLISHED, "--count-clean-errors", "--skip-incomplete", "--covariate", "model_layers",
        "--covariate", "epochs", "--covariate", "atk_value", "--survival-address", survival_server,
    )  # fmt: skip
    (clock,) = report["clockReports"]
    assert clock["fits"][0]["concordance"] == pytest.approx(0.59, abs=0.005)
    medians = {group["group"]: group["medianRate"] for group in report["experimentGroups"]}
    assert medians.keys() == PUBLISHED_MEDIANS.keys()
    for attack, published in PUBLISHED_MEDIANS.items():
        assert medians[attack] == pytest.approx(published, rel=0.1)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published experiments are not here")
def test_most_of_what_depth_adds_to_an_attack_is_latency(afrctl: Any, survival_server: str) -> None:
    """docs/reanalysis.md: seconds of attack are inferences times seconds of inference, so the effects add up."""
    root = Path(__file__).parents[2]
    script = root / "examples" / "published_times.py"
    subprocess.run([sys.executable, script, PUBLISHED], cwd=afrctl.folder, check=True)
    effect = {}
    for name in ("attack", "inference", "inferences"):
        words = ("--distribution", "log-normal", "--format", "json", "--survival-address", survival_server)
        ended = afrctl("fit", f"{name}.csv", *words)
        assert ended.returncode == 0, ended.stderr
        (fit,) = json.loads(ended.stdout)["fits"]
        effect[name] = next(c for c in fit["coefficients"] if c["covariate"] == "layers")
        stated = f"+{effect[name]['estimate']:.5f} ({effect[name]['standard_error']:.5f})"
        assert stated in (root / "docs" / "reanalysis.md").read_text()
    assert effect["attack"]["estimate"] == pytest.approx(
        effect["inference"]["estimate"] + effect["inferences"]["estimate"], rel=1e-6
    )


GOOD = outcome_rows()[0]
WRONG_OUTCOMES = [
    ({"verdict": "lost"}, "line 2: verdict is 'lost'; known: survived, failed, misclassified, rejected"),
    ({"query_count_upper": ""}, "line 2: query_count_upper is empty, but the sample failed"),
    ({"seconds_lower": "soon"}, "line 2: seconds_lower is 'soon', which is no finite number"),
    ({"check_count": "1.5"}, "line 2: check_count is '1.5', which is no whole number"),
    ({"label": "-1"}, "line 2: label is '-1'; it is not negative"),
    ({"distance_l2": ""}, "line 2: distance_l2 is empty, which is no finite number"),
    ({"query_count_lower": "9"}, "line 2: query_count_lower 9 is above query_count_upper 1; exchange them"),
    ({"seconds_upper": "0"}, "line 2: seconds_upper is 0, but the sample failed; write what it cost up to then"),
    ({"seconds_upper": "1e300"}, "line 2: seconds_upper is '1e300', more than any attack takes"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), WRONG_OUTCOMES, ids=[row[1] for row in WRONG_OUTCOMES])
def test_a_bad_outcome_is_named_with_its_line(tmp_path: Path, change: dict[str, str], said: str) -> None:
    path = write_rows(tmp_path / "outcomes.csv", [GOOD | change])
    with pytest.raises(Problem, match=r"outcomes\.csv") as problem:
        list(outcome_batches(open_data(path)))
    assert said in str(problem.value)


def test_a_sample_has_one_outcome(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "outcomes.csv", [GOOD, GOOD])
    with pytest.raises(Problem, match="line 3: sample 0 stands there twice"):
        list(outcome_batches(open_data(path)))


HEAD = "sample_count,attack_seconds,failure_count,x\n"
WRONG_EXPERIMENTS = {
    "n,attack_seconds,failure_count\n1,1,1\n": "no column is sample_count; name one with --column sample_count=COLUMN",
    "sample_count,attack_seconds\n1,1\n": "no column is adversarial_accuracy (or failure_count)",
    "sample_count,attack_seconds,adv_accuracy\n1,1,0\n": "no column is accuracy (or failure_count)",
    HEAD: "has no rows below its header",
    f"{HEAD}100,5,10,1\n0,5,0,1\n": "line 3: sample_count is '0'; it must be above 0",
    f"{HEAD}100,0,10,1\n": "line 2: attack_seconds is '0'; it must be above 0",
    f"{HEAD}100,1e300,10,1\n": "line 2: attack_seconds is '1e300', more than any attack takes; write seconds",
    "duration_lower,duration_upper\n1,1\n": "holds times to failure and no outcomes; `afrctl fit",
    f"{HEAD}100,5,-1,1\n": "line 2: failure_count is '-1'; it is not negative",
    f"{HEAD}100,5,many,1\n": "line 2: failure_count is 'many', which is no finite number",
    f"{HEAD}100,5,101,1\n": "line 2: 101 failed and 0 misclassified samples are more than 100",
    f"{HEAD}100,5,10,1\n100,5,10,\n": "line 3: x is empty; fill it in, or leave such rows out with --skip-incomplete",
    f"{HEAD}100,5,10,1\n100,5,10,a\n": "line 3: covariate x is 'a', which is no finite number",
    "sample_count,attack_seconds,accuracy,adversarial_accuracy,x\n100,5,60,20,1\n": "line 2: accuracy is '60'; a",
}  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG_EXPERIMENTS.items(), ids=WRONG_EXPERIMENTS.values())
def test_a_bad_experiment_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "published.csv"
    path.write_text(text)
    with pytest.raises(Problem, match=r"published\.csv") as problem:
        experiment_batches(open_data(path), ExperimentReading({}, covariates=("x",) if ",x\n" in text else ()))
    assert said in str(problem.value)


def test_an_unknown_quantity_is_a_misuse() -> None:
    with pytest.raises(Misuse, match="--column samples: there is no such quantity; known: sample_count"):
        ExperimentReading({"samples": "n"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("report",), "name a JOB or more, or give --outcomes FILE"),
        (("report", "x", "--outcomes", "outcomes.csv"), "cannot go together"),
        (("report", "x", "--training-seconds", "5", "--training-samples", "5"), "--training-seconds has no effect on"),
        (("report", "--outcomes", "no.csv"), "no.csv does not exist"),
        (("report", "--outcomes", "outcomes.csv", "--training-seconds", "5"), "belong together"),
        (("report", "--outcomes", "outcomes.csv", "--covariate", "label"), "--covariate has no effect on outcomes.csv"),
        (("report", "--outcomes", "published.csv", "--epochs", "5"), "--epochs has no effect on published.csv"),
        (("report", "--outcomes", "published.csv", "--column", "n"), "no NAME=COLUMN"),
        (("report", "--outcomes", "published.csv", "--training-seconds", "5", "--training-samples", "5",
          "--column", "sample_count=n"),
         "the file says what training cost"),
        (("report", "--outcomes", "outcomes.csv", "--training-seconds", "1e308", "--training-samples", "5"),
         "1e308 is no duration"),
        (("fit", "outcomes.csv"), "report on it with `afrctl report --outcomes outcomes.csv`"),
    ],
)  # fmt: skip
def test_a_misuse_is_one_line(afrctl: Any, arguments: tuple[str, ...], said: str) -> None:
    write_rows(afrctl.folder / "outcomes.csv", outcome_rows())
    write_rows(afrctl.folder / "published.csv", experiment_rows())
    ended = afrctl(*arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert said in ended.stderr
    assert not (afrctl.folder / "afr-report").exists()
