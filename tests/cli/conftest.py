"""`afrctl` as a user runs it, scripted servers, and reports made by hand from closed forms."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from afr.survival.v1 import survival_service_pb2 as pb

SHAPE = {pb.DISTRIBUTION_WEIBULL: 1.4, pb.DISTRIBUTION_LOG_LOGISTIC: 1.9}


def estimate(value: float, spread: float = 0.1) -> pb.Estimate:
    return pb.Estimate(
        value=value,
        lower=value * math.exp(-1.96 * spread),
        upper=value * math.exp(1.96 * spread),
        log_standard_error=spread,
    )


def survival(distribution: int, median: float, time: float) -> float:
    if distribution == pb.DISTRIBUTION_WEIBULL:
        return math.exp(-math.log(2) * (time / median) ** SHAPE[distribution])
    if distribution == pb.DISTRIBUTION_LOG_LOGISTIC:
        return 1 / (1 + (time / median) ** SHAPE[distribution])
    return 0.5 * math.erfc(math.log(max(time, 1e-12) / median) / 0.9 / math.sqrt(2))


def fit(distribution: int, clock: int, median: float, end: float, aic: float) -> pb.Fit:
    times = [end * i / 100 for i in range(101)]
    return pb.Fit(
        distribution=distribution,
        clock=clock,
        status=pb.Fit.STATUS_OK,
        observation_count=240,
        failure_count=150,
        log_likelihood=-aic / 2 + 2,
        aic=aic,
        bic=aic + 7,
        parameter_count=2,
        scale=0.7,
        median=estimate(median),
        restricted_mean=estimate(median * 0.9, 0.05),
        restriction_time=end,
        expected=estimate(median * 1.3, 0.12),
        extrapolated_share=0.22,
        curve=pb.Curve(time=times, survival=[survival(distribution, median, time) for time in times]),
    )


def clock_report(clock: int, median: float, end: float) -> pb.ClockReport:
    checks = [end * (i + 1) / 10 for i in range(10)]
    observed = [survival(pb.DISTRIBUTION_WEIBULL, median, time) for time in checks]
    lost = [round(240 * (before - after)) for before, after in zip([1.0, *observed], observed, strict=False)]
    return pb.ClockReport(
        clock=clock,
        fits=[
            fit(pb.DISTRIBUTION_WEIBULL, clock, median, end, 612.3),
            fit(pb.DISTRIBUTION_LOG_LOGISTIC, clock, median * 0.97, end, 618.9),
            fit(pb.DISTRIBUTION_LOG_NORMAL, clock, median * 1.04, end, 624.1),
        ],
        kaplan_meier=pb.Curve(
            time=[0, *checks],
            survival=[1, *observed],
            survival_lower=[1, *(max(0.0, value - 0.06) for value in observed)],
            survival_upper=[1, *(min(1.0, value + 0.06) for value in observed)],
        ),
        histogram=pb.Histogram(edge=[0, *checks], failure_count=lost),
        cost_per_failure=estimate(median * 2.6, 0.08),
        training_cost_per_sample=median * 4.1,
        attack_cost=median * 2.6 * 150,
        cost_normalized_failure_rate=estimate(1.58, 0.08),
        confidence_above_one=0.99999,
        conclusion=pb.CONCLUSION_BROKEN,
        paper_rate=estimate(3.2, 0.12),
    )


def good_report() -> pb.Report:
    """ResNet-50 on digits under PGD: 240 at risk, 150 failed, fits on both clocks, cheaper to break than to train."""
    report = pb.Report(
        report_id="4f6a0c11",
        attack_job_ids=["0b9f4c1e"],
        sample_count=256,
        failed_count=150,
        survived_count=90,
        misclassified_count=16,
        clean_accuracy=pb.Estimate(value=0.9375, lower=0.90, upper=0.96),
        adversarial_accuracy=pb.Estimate(value=0.3516, lower=0.295, upper=0.412),
        failure_share=pb.Estimate(value=0.625, lower=0.562, upper=0.684),
        clock_reports=[
            clock_report(pb.CLOCK_QUERIES, 7.6, 11.0),
            clock_report(pb.CLOCK_SECONDS, 0.412, 0.62),
        ],
        summary="A failure costs the attacker 1.58 times less than training a sample cost the defender "
        "(95 % interval 1.35 to 1.85): on the queries clock the model is broken.",
        conclusion=pb.CONCLUSION_BROKEN,
        limitations=[
            "37.5 % of the samples at risk survived the whole attack; what they would have cost is extrapolated.",
            "One trained model: the intervals say nothing about other seeds.",
        ],
        jobs=[
            pb.ReportedJob(
                attack_job_id="0b9f4c1e",
                model="resnet50",
                dataset="digits",
                attack="pgd",
                engine="native",
                norm="inf",
                attack_parameters={"epsilon": 0.1, "step_size": 0.025, "max_iterations": 10, "random_start": 0},
                weights_digest="5f2c" * 16,
                clean_accuracy=0.964,
                attack_device_name="AMD EPYC 9654 (2 cores)",
                training_device_name="AMD EPYC 9654 (2 cores)",
                failed_count=150,
                survived_count=90,
                misclassified_count=16,
            )
        ],
        confidence_level=0.95,
    )
    report.create_time.FromJsonString("2026-11-22T16:20:00Z")
    report.clock_reports[1].benign_rate.CopyFrom(estimate(0.021, 0.3))
    costs = report.costs
    costs.training_duration.FromMilliseconds(126_400)
    costs.attack_duration.FromMilliseconds(41_900)
    costs.clean_duration.FromMilliseconds(900)
    costs.defender_price_usd_per_hour = costs.attacker_price_usd_per_hour = 2.5
    costs.training_cost_usd, costs.attack_cost_usd, costs.cost_per_failure_usd = 0.0878, 0.0291, 0.000194
    costs.training_sample_count = 1437
    return report


def without_numbers(report: pb.Report, status: int, message: str) -> None:
    for clock in report.clock_reports:
        for one in clock.fits:
            kept = pb.Fit(
                distribution=one.distribution, clock=one.clock, status=status, status_message=message, failure_count=0
            )
            one.CopyFrom(kept)


def no_failure_report() -> pb.Report:
    """An attack too weak to fool anything."""
    report = good_report()
    report.failed_count, report.survived_count = 0, 240
    report.summary = "undecided: no sample failed in 240; with 95 % confidence the failure rate is below 1.2 %"
    report.conclusion = pb.CONCLUSION_UNDECIDED
    report.failure_share.CopyFrom(pb.Estimate(value=0, lower=0, upper=0.012))
    without_numbers(report, pb.Fit.STATUS_NO_FAILURE, "no sample failed, so there is nothing to fit; raise --epsilon")
    for clock in report.clock_reports:
        clock.conclusion = pb.CONCLUSION_UNDECIDED
        for field in ("cost_per_failure", "cost_normalized_failure_rate", "paper_rate", "benign_rate",
                      "confidence_above_one", "histogram"):  # fmt: skip
            clock.ClearField(field)
        clock.kaplan_meier.CopyFrom(pb.Curve(time=[0, clock.kaplan_meier.time[-1]], survival=[1, 1]))
    return report


def single_check_report() -> pb.Report:
    """A one-shot attack: a failure share and costs, but no shape."""
    report = good_report()
    report.jobs[0].attack = "fgm"
    without_numbers(
        report, pb.Fit.STATUS_SINGLE_CHECK, "every sample was checked once; use an iterative attack such as pgd"
    )
    return report


def infinite_mean_report() -> pb.Report:
    """The best fit is a log-logistic with a shape of at most 1, which has no mean."""
    report = good_report()
    for clock in report.clock_reports:
        best = clock.fits[1]
        best.expected.CopyFrom(pb.Estimate(value=math.inf))
        best.extrapolated_share = 1.0
        clock.fits.remove(clock.fits[0])
        clock.paper_rate.CopyFrom(pb.Estimate(value=0.0))
    return report


REPORTS: dict[str, Callable[[], pb.Report]] = {
    "good": good_report,
    "no-failure": no_failure_report,
    "single-check": single_check_report,
    "infinite-mean": infinite_mean_report,
}


@pytest.fixture(params=REPORTS)
def any_report(request: pytest.FixtureRequest) -> pb.Report:
    """A report of every kind, one after the other."""
    return REPORTS[request.param]()


@pytest.fixture
def reports() -> dict[str, Callable[[], pb.Report]]:
    """What makes a report of each kind, by name."""
    return REPORTS


AFRCTL = (sys.executable, "-c", "from cli.main import main; main()")


@dataclass(frozen=True)
class Afrctl:
    """Runs `afrctl` in a process of its own, with folders of its own."""

    folder: Path
    environment: dict[str, str]

    def __call__(
        self, *arguments: str | Path, seconds: float = 150, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. `environment` adds to the variables."""
        return subprocess.run(
            [*AFRCTL, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def start(
        self, *arguments: str | Path, stream: int | None = None, output: int | None = None
    ) -> subprocess.Popen[str]:
        """Start and return at once. Its output goes to `folder`/afrctl.out and .err, or both to the file `stream`.

        Standard output alone goes to the file `output`, if that is given.
        """
        with (self.folder / "afrctl.out").open("w") as out, (self.folder / "afrctl.err").open("w") as err:
            return subprocess.Popen(
                [*AFRCTL, *map(str, arguments)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream or output or out,
                stderr=stream or err,
                text=True,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        return (self.folder / "afrctl.err").read_text()

    def processes(self) -> list[str]:
        """The command lines of all living processes that belong to a stack started by this object."""
        mark = f"AFRCTL_STACK={self.folder}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found

    def assert_no_process(self) -> None:
        """None is left of a stack started by this object, but one that was killed may take a moment to end."""
        deadline = time.monotonic() + 60
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


@pytest.fixture
def afrctl(tmp_path: Path) -> Iterator[Afrctl]:
    """`afrctl` with a home, a state and temporary files of the test's own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AFR_", "AFRCTL_"))}
    for name, folder in (("TMPDIR", "tmp"), ("XDG_STATE_HOME", "state"), ("XDG_DATA_HOME", "data"), ("HOME", "home")):
        (tmp_path / folder).mkdir()
        environment[name] = str(tmp_path / folder)
    environment |= {"OMP_NUM_THREADS": "1", "TERM": "dumb"}
    afrctl = Afrctl(tmp_path, environment)
    yield afrctl
    if (tmp_path / "state" / "afr" / "stack" / "stack.json").exists():
        afrctl("down")


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """`serve((add_to_server, servicer), …)` answers for scripted servicers and returns the address."""
    servers: list[grpc.Server] = []

    def start(*servicers: tuple[Any, Any]) -> str:
        server = grpc.server(ThreadPoolExecutor(8))
        for add_to_server, servicer in servicers:
            add_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()
