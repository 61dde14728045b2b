"""Finished reports on disk, one binary protocol buffer a file, newest first by name."""

from __future__ import annotations

import logging
import os
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf.message import DecodeError

from survival_service.errors import InvalidRequest, ReportNotFound

DEFAULT_PAGE_SIZE = 50
LARGEST_PAGE_SIZE = 1000

PAGE_BYTES = 2 * 1024 * 1024
"""A page ends early rather than pass this, so that clients with gRPC's 4 MiB limit can read every page."""

_REPORT_ID = re.compile(r"[0-9]{8}t[0-9]{12}-[0-9a-f]{8}")
_SUFFIX = ".binpb"

_log = logging.getLogger(__name__)


def new_report_id(now: datetime) -> str:
    """An identifier that sorts by `now` (with a time zone), to the microsecond; unguessable in its last part."""
    return f"{now.astimezone(UTC):%Y%m%dt%H%M%S%f}-{secrets.token_hex(4)}"


class ReportStore:
    """The reports in one folder. Safe to share among processes: a report appears whole or not at all."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if it is missing. Raises `OSError` if it cannot be made or written to."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass

    def put(self, report: pb.Report) -> None:
        """Keep a report under its `report_id`. Raises `OSError` if the disk does not take it."""
        path = self._folder / f"{report.report_id}{_SUFFIX}"
        descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=".", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(report.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def get(self, report_id: str) -> pb.Report:
        """Raises `ReportNotFound`."""
        # The identifier becomes a file's name: nothing but what `new_report_id` makes may reach the disk.
        report = self._read(report_id) if _REPORT_ID.fullmatch(report_id) else None
        if report is None:
            raise ReportNotFound(f"there is no report {report_id!r}; create one from your attack jobs")
        return report

    def page(self, page_size: int, page_token: str) -> tuple[list[pb.Report], str]:
        """One page of reports, newest first, and the token of the next page, empty on the last.

        The token names the last report of the page, so reports made meanwhile neither shift nor repeat any. Raises
        `InvalidRequest` if `page_size` is above 1000 or the token is none of ours.
        """
        if page_size > LARGEST_PAGE_SIZE:
            raise InvalidRequest("page_size", f"page_size {page_size} is too large; give at most {LARGEST_PAGE_SIZE}")
        if page_token and not _REPORT_ID.fullmatch(page_token):
            raise InvalidRequest(
                "page_token", f"{page_token!r} is no next_page_token; leave it empty for the first page"
            )
        names = sorted((path.stem for path in self._folder.glob(f"*{_SUFFIX}")), reverse=True)
        reports: list[pb.Report] = []
        size = 0
        for name in names:
            if page_token and name >= page_token:
                continue
            report = self._read(name)
            if report is None:
                continue
            size += report.ByteSize()
            if reports and (len(reports) >= (page_size or DEFAULT_PAGE_SIZE) or size > PAGE_BYTES):
                return reports, reports[-1].report_id
            reports.append(report)
        return reports, ""

    def _read(self, report_id: str) -> pb.Report | None:
        try:
            return pb.Report.FromString((self._folder / f"{report_id}{_SUFFIX}").read_bytes())
        except FileNotFoundError:
            return None
        except DecodeError:
            _log.error("report %s on disk is damaged; it is left out", report_id)
            return None
