"""`afrctl evaluate`, `report` and `jobs` against scripted servers: what the real ones do only on bad days."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as attack
from afr.attack.v1.attack_service_pb2_grpc import AttackServiceServicer, add_AttackServiceServicer_to_server
from afr.outcome.v1.outcome_pb2 import OutcomeBatch
from afr.survival.v1 import survival_service_pb2 as survival
from afr.survival.v1.survival_service_pb2_grpc import SurvivalServiceServicer, add_SurvivalServiceServicer_to_server

from cli.errors import Problem
from cli.publishing import publish

Stream = Iterator[attack.StreamOutcomesResponse]
Reports = Iterator[survival.CreateReportResponse]


def one_failure(index: int, sequence: int) -> attack.StreamOutcomesResponse:
    """A batch of one sample that failed at its third query."""
    batch = OutcomeBatch(
        sample_index=[index], verdict=[2], label=[1], clean_prediction=[1], adversarial_prediction=[7],  # type: ignore[list-item]
        query_count_lower=[2], query_count_upper=[3], gradient_count_lower=[1], gradient_count_upper=[2],
        seconds_lower=[0.1], seconds_upper=[0.2], distance_l2=[1], distance_linf=[0.05], distance_l0=[64],
        check_count=[2], clean_seconds=[0.01], sequence=sequence,
    )  # fmt: skip
    return attack.StreamOutcomesResponse(outcome_batch=batch, resume_token=f"after-{sequence}")


def end(
    indices: list[int], state: int = attack.AttackJob.STATE_SUCCEEDED, why: str = ""
) -> attack.StreamOutcomesResponse:
    digests = [hashlib.sha256(f"{index}:2:2:3".encode()).digest() for index in indices]
    checksum = sum(int.from_bytes(digest[:8], "big") for digest in digests) % 2**64
    job = attack.AttackJob(attack_job_id="job-1", state=state, failure_message=why)  # type: ignore[arg-type]
    return attack.StreamOutcomesResponse(
        end=attack.End(attack_job=job, outcome_count=len(indices), failed_count=len(indices), checksum=checksum)
    )


class ScriptedAttack(AttackServiceServicer):
    """An attack server whose stream is what the test says; it notes what it was asked."""

    def __init__(self, stream: Callable[[str, Any], Stream]) -> None:
        self.stream = stream
        self.tokens: list[str] = []
        self.created: list[attack.CreateAttackJobRequest] = []
        self.canceled = threading.Event()

    def CreateAttackJob(self, request: attack.CreateAttackJobRequest, context: Any) -> attack.CreateAttackJobResponse:  # noqa: N802
        self.created.append(request)
        return attack.CreateAttackJobResponse(
            attack_job=attack.AttackJob(attack_job_id="job-1", spec=request.spec, state=attack.AttackJob.STATE_QUEUED)
        )

    def StreamOutcomes(self, request: attack.StreamOutcomesRequest, context: Any) -> Stream:  # noqa: N802
        self.tokens.append(request.resume_token)
        yield from self.stream(request.resume_token, context)

    def CancelAttackJob(self, request: attack.CancelAttackJobRequest, context: Any) -> attack.CancelAttackJobResponse:  # noqa: N802
        self.canceled.set()
        return attack.CancelAttackJobResponse(attack_job=attack.AttackJob(attack_job_id=request.attack_job_id))


class ScriptedSurvival(SurvivalServiceServicer):
    """A survival server that answers with one report, after some progress."""

    def __init__(self, report: survival.Report, failure: tuple[grpc.StatusCode, str] | None = None) -> None:
        self.report, self.failure = report, failure
        self.requests: list[survival.CreateReportRequest] = []
        self.stopping: survival.Stopping | None = None

    def ListReports(self, request: survival.ListReportsRequest, context: Any) -> survival.ListReportsResponse:  # noqa: N802
        return survival.ListReportsResponse()

    def CreateReport(self, request: survival.CreateReportRequest, context: Any) -> Reports:  # noqa: N802
        self.requests.append(request)
        fits = [fit for fit in self.report.clock_reports[0].fits if fit.status == survival.Fit.STATUS_OK]
        yield survival.CreateReportResponse(
            progress=survival.ReportProgress(
                outcome_count=1, failed_count=34, in_flight_count=12, provisional_fits=fits, stopping=self.stopping
            )
        )
        if self.stopping is not None:
            self.report.partial = True
            self.report.stopping.CopyFrom(self.stopping)
        if self.failure is not None:
            context.abort(*self.failure)
        yield survival.CreateReportResponse(report=self.report)


@pytest.fixture
def scripted(serve: Any, reports: Any) -> Callable[..., tuple[list[str], ScriptedAttack, ScriptedSurvival]]:
    """Starts both scripted servers; returns the options that point at them, and the servicers."""

    def start(
        stream: Callable[[str, Any], Stream], failure: tuple[grpc.StatusCode, str] | None = None
    ) -> tuple[list[str], ScriptedAttack, ScriptedSurvival]:
        attacker, survivor = ScriptedAttack(stream), ScriptedSurvival(reports["good"](), failure)
        address = serve(
            (add_AttackServiceServicer_to_server, attacker), (add_SurvivalServiceServicer_to_server, survivor)
        )
        return ["--attack-address", address, "--survival-address", address], attacker, survivor

    return start


EVALUATE = ("evaluate", "--model", "resnet18", "--attack", "pgd")


def two_samples(token: str, context: Any) -> Stream:
    yield one_failure(4, 0)
    yield one_failure(2, 1)
    yield end([4, 2])


def test_an_evaluation_writes_its_files_and_nothing_else(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    options, _, _ = scripted(two_samples)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "report.json").write_text("old")
    ended = afrctl(*EVALUATE, *options, "--output", folder)
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "report.json", "report.html", "outcomes.csv"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "report.json").read_text())["reportId"] == "4f6a0c11"
    assert [line.split(",")[0] for line in (folder / "outcomes.csv").read_text().splitlines()[1:]] == ["2", "4"]
    assert ended.stdout.startswith("BROKEN  resnet50 on digits under pgd\n")
    assert "median time to failure" in ended.stdout


def test_the_options_become_the_specification(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    options, attacker, survivor = scripted(two_samples)
    ended = afrctl(
        *EVALUATE, *options, "--epsilon", "8/255", "--norm", "2", "--step-size", "0.02", "--max-iterations", "7",
        "--attack-parameter", "random-start=1", "--defence", "gaussian-noise", "--defence-parameter", "deviation=1/4",
        "--defence-parameter", "repeats=5",
        "--samples", "50", "--epochs", "3", "--seed", "9", "--engine", "art", "--dataset", "imagefolder:pictures",
        "--price-usd-per-hour", "2.5", "--clock", "seconds",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (request,) = attacker.created
    spec = request.spec
    assert dict(spec.attack_parameters) == {
        "epsilon": 8 / 255, "step_size": 0.02, "max_iterations": 7, "random_start": 1
    }  # fmt: skip
    assert (spec.defence, dict(spec.defence_parameters)) == ("gaussian-noise", {"deviation": 0.25, "repeats": 5})
    assert (spec.norm, spec.sample_count, spec.epoch_count, spec.seed, spec.engine) == ("2", 50, 3, 9, "art")
    assert spec.dataset == f"imagefolder:{tmp_path / 'pictures'}"
    assert len(request.request_id) == 36
    made_with = survivor.requests[0].options
    assert made_with.clock == survival.CLOCK_SECONDS
    assert (made_with.defender_price_usd_per_hour, made_with.attacker_price_usd_per_hour) == (2.5, 2.5)
    assert list(survivor.requests[0].attack_job_ids) == ["job-1"]


def test_json_alone_is_on_standard_output(afrctl: Any, scripted: Any) -> None:
    options, _, _ = scripted(two_samples)
    ended = afrctl(*EVALUATE, *options, "--format", "json")
    assert json.loads(ended.stdout)["failedCount"] == "150"
    assert "job job-1" in ended.stderr


def test_quiet_says_nothing_but_the_report(afrctl: Any, scripted: Any) -> None:
    options, _, _ = scripted(two_samples)
    ended = afrctl(*EVALUATE, *options, "--quiet")
    assert ended.stderr == ""
    assert ended.stdout.startswith("BROKEN")


def test_a_stream_that_breaks_off_is_resumed_by_its_token(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    def breaks(token: str, context: Any) -> Stream:
        if not token:
            yield one_failure(4, 0)
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")
        yield one_failure(2, 1)
        yield end([4, 2])

    options, attacker, _ = scripted(breaks)
    ended = afrctl(*EVALUATE, *options)
    assert ended.returncode == 0, ended.stderr
    assert attacker.tokens == ["", "after-0"]
    assert "the attack server cannot be reached; trying again" in ended.stderr
    assert len((tmp_path / "afr-report" / "outcomes.csv").read_text().splitlines()) == 3


def test_a_job_that_fails_says_why_and_keeps_its_outcomes(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    def fails(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        yield end([4], attack.AttackJob.STATE_FAILED, "training diverged; lower the learning rate")

    options, _, _ = scripted(fails, (grpc.StatusCode.FAILED_PRECONDITION, "the job failed"))
    ended = afrctl(*EVALUATE, *options, "--quiet")
    assert ended.returncode == 1
    path = Path("afr-report") / "outcomes.csv"
    assert ended.stderr == (
        f"error: training diverged; lower the learning rate (the outcomes of 1 sample are in {path})\n"
    )
    assert (tmp_path / path).exists()


def test_missing_outcomes_are_noticed(afrctl: Any, scripted: Any) -> None:
    def leaves_out(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        yield end([4, 2])

    options, _, _ = scripted(leaves_out)
    ended = afrctl(*EVALUATE, *options, "--quiet")
    assert ended.returncode == 1
    assert "error: the outcomes received (1) are not those that the server recorded (2)" in ended.stderr


def test_an_error_of_the_report_is_one_line(afrctl: Any, scripted: Any) -> None:
    options, _, _ = scripted(
        two_samples, (grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
    )
    ended = afrctl(*EVALUATE, *options, "--quiet")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "survival server" in ended.stderr
    assert "internal error; the server's log has the details" in ended.stderr


def test_a_canceled_job_still_gets_its_partial_report(afrctl: Any, scripted: Any) -> None:
    def canceled(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        yield end([4], attack.AttackJob.STATE_CANCELED)

    options, _, _ = scripted(canceled)
    ended = afrctl(*EVALUATE, *options, "--quiet")
    assert ended.returncode == 1
    assert ended.stdout.startswith("BROKEN")
    assert "canceled by someone else" in ended.stderr


def test_a_job_that_is_precise_enough_is_stopped_as_planned(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    def stream(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        assert attacker.canceled.wait(60)
        yield end([4], attack.AttackJob.STATE_CANCELED)

    options, attacker, survivor = scripted(stream)
    look = survival.Look(failure_count=34, sample_count=60, critical_value=2.0, interval_factor=1.19)
    survivor.stopping = survival.Stopping(
        quantity=survival.QUANTITY_MEDIAN, interval_factor=1.2, met=True, looks=[look]
    )
    ended = afrctl(*EVALUATE, *options, "--until-precision", "1.2")
    assert ended.returncode == 0, ended.stderr
    assert "the median is known to ×/÷ 1.19: stopping the job as planned" in ended.stderr
    assert "Stopped as planned" in ended.stdout
    assert (tmp_path / "afr-report" / "report.html").exists()
    (request,) = survivor.requests
    assert request.precision == survival.Precision(interval_factor=1.2, quantity=survival.QUANTITY_MEDIAN)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--until-precision", "1"), "1 is not above 1"),
        (("--until-quantity", "median"), "no effect without --until-precision"),
    ],
)
def test_a_precision_that_says_nothing_is_refused(afrctl: Any, options: tuple[str, ...], said: str) -> None:
    ended = afrctl(*EVALUATE, *options)
    assert ended.returncode == 2
    assert said in ended.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_cancels_the_job_and_keeps_its_outcomes(
    afrctl: Any, scripted: Any, tmp_path: Path, wait_until: Any, number: signal.Signals, code: int
) -> None:
    def hangs(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        attacker.canceled.wait(90)
        yield one_failure(2, 1)
        yield end([4, 2], attack.AttackJob.STATE_CANCELED)

    options, attacker, _ = scripted(hangs)
    running = afrctl.start(*EVALUATE, *options)
    wait_until(lambda: "job job-1" in afrctl.errors and attacker.tokens)
    running.send_signal(number)
    assert running.wait(90) == code
    assert attacker.canceled.is_set()
    last = afrctl.errors.splitlines()[-1]
    assert last.startswith("interrupted: job job-1 is canceled; `afrctl report job-1` reports on the samples attacked")
    assert "Traceback" not in afrctl.errors
    assert len((tmp_path / "afr-report" / "outcomes.csv").read_text().splitlines()) == 3


def test_a_closed_terminal_cancels_the_job_and_keeps_its_outcomes(
    afrctl: Any, scripted: Any, tmp_path: Path, wait_until: Any
) -> None:
    """Nothing can be said any more, and all is done that would have been said."""

    def hangs(token: str, context: Any) -> Stream:
        yield one_failure(4, 0)
        attacker.canceled.wait(90)
        yield end([4], attack.AttackJob.STATE_CANCELED)

    options, attacker, _ = scripted(hangs)
    terminal, theirs = pty.openpty()
    running = afrctl.start(*EVALUATE, *options, stream=theirs)
    os.close(theirs)
    wait_until(lambda: attacker.tokens)
    os.close(terminal)
    running.send_signal(signal.SIGHUP)
    assert running.wait(90) == 129
    assert attacker.canceled.is_set()
    assert (tmp_path / "afr-report" / "outcomes.csv").exists()


def test_a_report_that_cannot_be_printed_is_in_its_files(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    options, _, _ = scripted(two_samples)
    with open("/dev/full", "w") as full:
        running = afrctl.start(*EVALUATE, *options, "--quiet", output=full.fileno())
    assert running.wait(90) == 1
    assert afrctl.errors == "error: cannot print the report (No space left on device); it is in afr-report\n"
    assert (tmp_path / "afr-report" / "report.html").exists()


def test_a_report_whose_files_cannot_be_written_is_printed(
    reports: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder was there at the start: hours later it is not."""
    with pytest.raises(Problem, match=r"cannot write the report's files into .*gone .*--output"):
        publish(reports["good"](), tmp_path / "gone", output_format="table")
    assert capsys.readouterr().out.startswith("BROKEN")


def test_a_warning_of_the_job_is_said_once(afrctl: Any, scripted: Any) -> None:
    def warns(token: str, context: Any) -> Stream:
        job = attack.AttackJob(
            attack_job_id="job-1", state=attack.AttackJob.STATE_QUEUED, warnings=["no worker is running"]
        )
        for _ in range(3):
            yield attack.StreamOutcomesResponse(heartbeat=attack.Heartbeat(attack_job=job))
        yield from two_samples(token, context)

    options, _, _ = scripted(warns)
    ended = afrctl(*EVALUATE, *options)
    assert ended.returncode == 0
    assert ended.stderr.count("note: no worker is running") == 1


def test_jobs_follow_writes_the_outcomes(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    options, _, _ = scripted(two_samples)
    ended = afrctl("jobs", "follow", "job-1", *options[:2], "--csv", "all.csv", "--quiet")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "job job-1 succeeded: 2 failed, 0 survived, 0 misclassified before the attack\n"
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 3


def test_a_report_over_several_jobs(afrctl: Any, scripted: Any, tmp_path: Path) -> None:
    options, _, survivor = scripted(two_samples)
    ended = afrctl("report", "a", "b", *options[2:], "--distribution", "weibull", "--output", "both")
    assert ended.returncode == 0, ended.stderr
    assert list(survivor.requests[0].attack_job_ids) == ["a", "b"]
    assert list(survivor.requests[0].options.distributions) == [survival.DISTRIBUTION_WEIBULL]
    assert "provisional median 7.60 [6.25, 9.25] queries (Weibull, 12 in flight)" in ended.stderr
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"report.json", "report.html"}
