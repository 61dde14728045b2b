"""Reports on disk: whole or not at all, newest first, there after a restart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from survival_service.adapters.report_store import ReportStore, new_report_id
from survival_service.errors import InvalidRequest, ReportNotFound

NOW = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)


def fill(store: ReportStore, count: int, summary: str = "") -> list[str]:
    """Put reports a second apart; their identifiers, newest first."""
    reports = [
        pb.Report(report_id=new_report_id(NOW + timedelta(seconds=i)), sample_count=i, summary=summary)
        for i in range(count)
    ]
    for report in reports:
        store.put(report)
    return [report.report_id for report in reversed(reports)]


def test_a_report_survives_a_restart(tmp_path: Path) -> None:
    (report_id,) = fill(ReportStore(tmp_path / "reports"), 1, "broken")
    assert ReportStore(tmp_path / "reports").get(report_id).summary == "broken"


def test_identifiers_sort_by_time_and_never_repeat() -> None:
    times = [NOW + timedelta(microseconds=i) for i in range(5)]
    identifiers = [new_report_id(time) for time in times]
    assert identifiers == sorted(identifiers)
    assert new_report_id(NOW) != new_report_id(NOW)


def test_pages_are_newest_first_and_complete(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    wanted = fill(store, 7)
    seen: list[str] = []
    sizes, token = [], ""
    while True:
        reports, token = store.page(3, token)
        sizes.append(len(reports))
        seen += [report.report_id for report in reports]
        if not token:
            break
    assert (seen, sizes) == (wanted, [3, 3, 1])


def test_the_last_page_has_no_token_even_when_full(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    fill(store, 3)
    assert store.page(3, "")[1] == ""


def test_a_report_made_meanwhile_does_not_shift_the_pages(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    wanted = fill(store, 4)
    first, token = store.page(2, "")
    store.put(pb.Report(report_id=new_report_id(NOW + timedelta(days=1))))
    second, _ = store.page(2, token)
    assert [report.report_id for report in (*first, *second)] == wanted


def test_a_page_of_large_reports_ends_before_a_message_is_too_large(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    fill(store, 5, "x" * 1_000_000)
    reports, token = store.page(0, "")
    assert len(reports) == 2
    assert len(store.page(0, token)[0]) == 2


@pytest.mark.parametrize("report_id", ["", "unknown", "../../etc/passwd", "20260301t120000000005-0000000g", "a\0b"])
def test_nothing_but_an_identifier_reaches_the_disk(tmp_path: Path, report_id: str) -> None:
    with pytest.raises(ReportNotFound, match="there is no report"):
        ReportStore(tmp_path).get(report_id)


@pytest.mark.parametrize(("size", "token", "field"), [(1001, "", "page_size"), (1, "../x", "page_token")])
def test_bad_paging_names_its_field(tmp_path: Path, size: int, token: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ReportStore(tmp_path).page(size, token)
    assert caught.value.field == field


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    newest, oldest = fill(store, 2)
    (tmp_path / f"{newest}.binpb").write_bytes(b"\xff\xff\xff")
    assert [report.report_id for report in store.page(0, "")[0]] == [oldest]
    with pytest.raises(ReportNotFound):
        store.get(newest)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = ReportStore(tmp_path)
    report = pb.Report(report_id=new_report_id(NOW))
    (tmp_path / f"{report.report_id}.binpb").mkdir()
    with pytest.raises(OSError, match="directory"):
        store.put(report)
    assert [path.name for path in tmp_path.iterdir()] == [f"{report.report_id}.binpb"]


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ReportStore(tmp_path / "file" / "reports")
