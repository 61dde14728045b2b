"""A report that was made earlier, from its file or from the survival server that kept it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import Problem

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

    from cli.connecting import SurvivalServer


def earlier_report(name: str, server: SurvivalServer) -> Report:
    """The report in a file, in a folder's report.json, or of this id on the server.

    Raises `Problem` if there is none, or the file holds something else.
    """
    from afr.survival.v1.survival_service_pb2 import GetReportRequest, Report
    from google.protobuf.json_format import Parse, ParseError

    from cli.publishing import REPORT_JSON

    path = Path(name)
    path = path / REPORT_JSON if path.is_dir() else path
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise Problem(f"there is no report {path}; give a report.json, the folder of one, or the id of a report")
        found: Report = server.call(server.stub.GetReport, GetReportRequest(report_id=name)).report
        return found
    try:
        return Parse(path.read_text(encoding="utf-8"), Report(), ignore_unknown_fields=True)
    except (ParseError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        raise Problem(f"{path} is no report ({why}); give a report.json that afrctl wrote") from error
    except OSError as error:
        raise Problem(f"{path} cannot be read ({error.strerror}); give another file") from error
