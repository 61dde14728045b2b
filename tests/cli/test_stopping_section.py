"""What people see of the looks at a job: in the report, and while it runs."""

from __future__ import annotations

import math
import queue
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import grpc
import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from cli.following import ReportArrived, ReportFeed
from cli.html.looks import looks_figure
from cli.html.page import report_page
from cli.progress import precision
from cli.rendering import render
from cli.sections.stopping import stopping


def look(failures: int, low: float, high: float, spent: float = 0.01, value: float = 10.0) -> pb.Look:
    return pb.Look(
        failure_count=failures, sample_count=2 * failures, information_fraction=0.5, spent_error=spent,
        critical_value=2.4, estimate=pb.Estimate(value=value, lower=low, upper=high),
        interval_factor=math.sqrt(high / low), information=float(failures),
    )  # fmt: skip


@pytest.fixture
def stopped(reports: Any) -> pb.Report:
    """A report of a job that stopped at its second look."""
    report: pb.Report = reports["good"]()
    report.partial = True
    report.stopping.CopyFrom(
        pb.Stopping(
            quantity=pb.QUANTITY_MEDIAN, interval_factor=1.3, met=True, saved_sample_count=400,
            saved_query_count=5200.0, saved_seconds=61.0, message="stopped as planned after 2 looks",
            looks=[look(30, 6.0, 16.0), look(70, 8.2, 12.4, spent=0.05)],
        )
    )  # fmt: skip
    return report


def test_a_report_without_a_precision_has_no_such_section(reports: Any) -> None:
    assert stopping(reports["good"]()) is None


def test_the_section_says_what_was_saved_and_lists_the_looks(stopped: pb.Report) -> None:
    section = stopping(stopped)
    assert section is not None
    assert section.title == "stopped as precise as asked"
    assert "400 samples would have taken about 5\u202f200 more queries and 61.0 s" in section.answer
    (table,) = section.tables
    assert [row[1] for row in table.rows] == ["30", "70"]
    assert table.rows[1][4] == "5.0 %"
    assert table.rows[1][-2:] == ("10.0 [8.20, 12.4] queries", "1.23")


def test_terminal_and_page_say_that_it_stopped_as_planned(stopped: pb.Report) -> None:
    for shown in (" ".join(render(stopped, width=100, full=True).split()), report_page(stopped)):
        assert "Stopped as planned: what was asked for" in shown
        assert "Partial: samples were in flight" not in shown
    stopped.stopping.met = False
    assert "Partial: samples were in flight" in report_page(stopped)


def test_the_drawing_has_a_mark_a_look_and_the_wanted_band(stopped: pb.Report) -> None:
    drawing = ElementTree.fromstring(str(looks_figure(stopped.stopping)))
    wide = next(part for part in drawing if part.get("class") == "wide")
    assert len([part for part in wide if part.tag == "circle"]) == 2
    band = next(part for part in wide if part.get("class") == "band")
    last = [part for part in wide if "whisker" in (part.get("class") or "")][-1]
    # 8.2 to 12.4 about 10 lies inside 10/1.3 to 13, and is drawn so.
    top, bottom = float(band.get("y", 0)), float(band.get("y", 0)) + float(band.get("height", 0))
    assert top < float(last.get("y2", 0)) < float(last.get("y1", 0)) < bottom


def test_looks_without_two_ends_are_not_drawn(stopped: pb.Report) -> None:
    endless = pb.Stopping(interval_factor=1.3, looks=[look(30, 6.0, math.inf)])
    assert not looks_figure(endless)
    stopped.stopping.CopyFrom(endless)
    assert "∞" in render(stopped, width=100, full=True)


def test_the_live_line_holds_the_width_against_the_wanted_one() -> None:
    assert precision(pb.ReportProgress()) == ""
    progress = pb.ReportProgress(failed_count=12, stopping=pb.Stopping(quantity=1, interval_factor=1.2))
    assert precision(progress) == "median: ×/÷ 1.20 wanted, no look yet (12 failed)"
    progress.stopping.looks.extend([look(30, 6.0, 16.0), look(45, 7.5, 13.5)])
    assert precision(progress) == "median known to ×/÷ 1.34, ×/÷ 1.20 wanted (2 looks)"


def test_a_call_that_goes_on_after_another_passes_its_looks_on() -> None:
    """A server that restarts knows nothing of the looks that its predecessor spent error on."""

    class Gone(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNAVAILABLE

    asked: list[pb.CreateReportRequest] = []

    def create_report(request: pb.CreateReportRequest) -> Any:
        asked.append(pb.CreateReportRequest.FromString(request.SerializeToString()))
        if len(asked) > 1:
            yield pb.CreateReportResponse(report=pb.Report())
            return
        for looks in ([look(30, 6.0, 16.0)], [look(30, 6.0, 16.0), look(45, 7.5, 13.5)]):
            yield pb.CreateReportResponse(progress=pb.ReportProgress(stopping=pb.Stopping(looks=looks)))
        raise Gone

    server: Any = SimpleNamespace(name="survival server", stub=SimpleNamespace(CreateReport=create_report))
    request = pb.CreateReportRequest(attack_job_ids=["job"], precision=pb.Precision(interval_factor=1.2))
    events = list(ReportFeed(server, request, queue.SimpleQueue()).read())
    assert isinstance(events[-1], ReportArrived)
    assert [[found.failure_count for found in one.precision.earlier_looks] for one in asked] == [[], [30, 45]]
