"""`afrctl plan`: what is assumed, what is printed, and what an earlier report tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from afr.survival.v1 import survival_service_pb2 as pb
from afr.survival.v1.survival_service_pb2_grpc import SurvivalServiceServicer, add_SurvivalServiceServicer_to_server

from cli.errors import Misuse, Problem
from cli.plan import Assumptions, like, plan_json, plan_text
from cli.publishing import report_json


class Planner(SurvivalServiceServicer):
    """Answers with numbers that tell which width was asked for."""

    def __init__(self) -> None:
        self.requests: list[pb.PlanSamplesRequest] = []

    def PlanSamples(self, request: pb.PlanSamplesRequest, context: Any) -> pb.PlanSamplesResponse:  # noqa: N802
        self.requests.append(request)
        return answer(round(100 * request.interval_factor), compared=request.HasField("comparison"))


def answer(median: int, *, compared: bool = False) -> pb.PlanSamplesResponse:
    plan = pb.PlanSamplesResponse(
        median_sample_count=median, failure_share_sample_count=70, continuous_median_sample_count=median - 2
    )
    if compared:
        plan.comparison.CopyFrom(
            pb.ComparisonPlan(first_sample_count=66, second_sample_count=33, second_failure_share=0.458)
        )
    return plan


@pytest.fixture
def made(reports: Any) -> pb.Report:
    """A report of which plans can be made."""
    report: pb.Report = reports["good"]()
    for job in report.jobs:
        job.attack_parameters["max_iterations"] = 10
    return report


def test_the_options_become_requests_one_for_each_width(afrctl: Any, serve: Any) -> None:
    planner = Planner()
    address = serve((add_SurvivalServiceServicer_to_server, planner))
    ended = afrctl(
        "plan", "--failure-share", ".5", "--checks", "20", "--scale", "1.1", "--distribution", "log-normal",
        "--precision", "1.3", "--precision", "1.1", "--time-ratio", "1.5", "--power", ".9", "--accuracy", "0.5",
        "--survival-address", address, "--format", "json",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert [request.interval_factor for request in planner.requests] == [1.1, 1.3]
    first = planner.requests[0]
    assert (first.distribution, first.scale, first.failure_share, first.check_count) == (2, 1.1, 0.5, 20)
    assert (first.comparison.time_ratio, first.comparison.power) == (1.5, 0.9)
    content = json.loads(ended.stdout)
    assert [one["median_samples_to_attack"] for one in content["precisions"]] == [220, 260]
    assert content["precisions"][0]["expected_sample_count"] is None
    assert content["comparison"]["first_failure_share_sample_count"] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--power", "0.9"), "no effect without --time-ratio"), (("--time-ratio", "1"), "no difference"),
     (("--distribution", "exponential", "--scale", "2"), "no effect on exponential times"),
     (("--checks", "1"), "give 2 or more"), (("--accuracy", "95"), "95 % is 0.95"),
     (("--precision", "0.9"), "not above 1"), (("--failure-share", "1"), "between 0 and 1")],
)  # fmt: skip
def test_a_plan_that_makes_no_sense_is_refused_before_anything_starts(
    afrctl: Any, options: tuple[str, ...], said: str
) -> None:
    ended = afrctl("plan", *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_the_table_states_what_it_assumes_and_what_it_leaves_out() -> None:
    assumed = Assumptions(accuracy=0.8, seconds_per_sample=0.5, source="report r")
    text = plan_text(assumed, [(1.2, answer(62, compared=True))], 0.95, 1.5, 0.8)
    joined = " ".join(text.split())
    assert "Assumed (from report r): Weibull times with σ = 0.600, 70.0 % of the samples at risk fail" in joined
    row = next(line for line in text.splitlines() if line.startswith("×/÷ 1.20"))
    assert row.split("  ")[-1].strip() == "31.0 s"
    assert row.split()[2:5] == ["62", "–", "70"]
    assert "78" in row  # 62 / 0.8, rounded up
    assert "20.0 % of samples are misclassified" in joined
    assert "3.3 % more samples" in joined
    assert "with a probability of 80 %" in joined
    assert json.loads(plan_json(assumed, [(1.2, answer(62))], 0.95, None, 0.8, 1.0))["comparison"] is None


def test_an_earlier_report_tells_what_to_assume(made: pb.Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report_json(made))
    for name in (tmp_path, tmp_path / "report.json"):
        found = like(str(name), None, {})
        best = made.clock_reports[0].fits[0]
        assert (found.scale, found.failure_share) == (best.scale, made.failure_share.value)
        assert found.check_count == 10
        assert found.accuracy == (made.failed_count + made.survived_count) / made.sample_count
        assert found.seconds_per_sample is not None


def test_where_a_share_never_fails_a_plan_says_that_it_assumes_none(made: pb.Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    best = made.clock_reports[0].fits[0].aic
    del made.clock_reports[0].cure_fits[:]
    cured = made.clock_reports[0].cure_fits.add(status=pb.CureFit.STATUS_OK, aic=best - 4.5)
    cured.cured_share.value = 0.6
    path.write_text(report_json(made))
    assumed = like(str(path), None, {})
    assert assumed.cured_share == 0.6
    text = " ".join(plan_text(assumed, [(1.2, answer(62))], 0.95, None, 0.8).split())
    assert "That report finds that 60.0 % never fail." in text
    assert "go by the failure share alone" in text
    cured.aic = best - 3.5
    path.write_text(report_json(made))
    assert like(str(path), None, {}).cured_share is None


def test_a_report_that_says_too_little_asks_for_the_rest(made: pb.Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    for job in made.jobs:
        del job.attack_parameters["max_iterations"]
    path.write_text(report_json(made))
    with pytest.raises(Misuse, match="give --checks too"):
        like(str(path), None, {})
    assert like(str(path), None, {"check_count": 7}).failure_share == made.failure_share.value
    path.write_text("{")
    with pytest.raises(Problem, match="is no report"):
        like(str(path), None, {})
    with pytest.raises(Problem, match="there is no report"):
        like(str(tmp_path / "nothing.json"), None, {})
