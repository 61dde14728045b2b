"""Ids of jobs may be shortened, as far as they are still one job's."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from afr.attack.v1 import attack_service_pb2 as attack
from afr.attack.v1.attack_service_pb2_grpc import AttackServiceServicer, add_AttackServiceServicer_to_server

from cli.connecting import attack_server
from cli.job_ids import newest

IDS = [f"{start}-0000-4000-8000-000000000000" for start in ("0b9f4c1e", "0b9f77aa", "77d2a90c")]


class Jobs(AttackServiceServicer):
    """Knows three jobs and lists two of them a page."""

    def ListAttackJobs(self, request: attack.ListAttackJobsRequest, context: Any) -> attack.ListAttackJobsResponse:  # noqa: N802
        first = int(request.page_token or 0)
        page = IDS[first : first + min(2, request.page_size)]
        more = str(first + len(page)) if first + len(page) < len(IDS) else ""
        jobs = [attack.AttackJob(attack_job_id=job_id) for job_id in page]
        return attack.ListAttackJobsResponse(attack_jobs=jobs, next_page_token=more)

    def GetAttackJob(self, request: attack.GetAttackJobRequest, context: Any) -> attack.GetAttackJobResponse:  # noqa: N802
        if request.attack_job_id not in IDS:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no attack job {request.attack_job_id!r}")
        return attack.GetAttackJobResponse(attack_job=attack.AttackJob(attack_job_id=request.attack_job_id))


@pytest.fixture
def address(serve: Any) -> str:
    started: str = serve((add_AttackServiceServicer_to_server, Jobs()))
    return started


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (3, 3), (2, 2), (1, 1)])
def test_the_list_is_read_to_its_end_or_limit(address: str, limit: int | None, count: int) -> None:
    with attack_server(address) as server:
        assert [job.attack_job_id for job in newest(server, limit)] == IDS[:count]


@pytest.mark.parametrize(("given", "found"), [("77d2", IDS[2]), ("0b9f4c1e", IDS[0]), (IDS[1], IDS[1])])
def test_a_beginning_that_only_one_job_has_is_enough(afrctl: Any, address: str, given: str, found: str) -> None:
    shown = afrctl("jobs", "show", given, "--attack-address", address)
    assert json.loads(shown.stdout)["attackJobId"] == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0b9f", f"error: 2 jobs begin with '0b9f' ({IDS[0]}, {IDS[1]}): give more of the id\n"),
        ("ffff", "there is no attack job 'ffff'\n"),
        ("7", "there is no attack job '7'\n"),
    ],
)
def test_any_other_beginning_is_refused(afrctl: Any, address: str, given: str, said: str) -> None:
    refused = afrctl("jobs", "show", given, "--attack-address", address)
    assert refused.returncode == 1
    assert refused.stderr.endswith(said)
    assert len(refused.stderr.splitlines()) == 1


def test_a_report_takes_shortened_ids_too(afrctl: Any, address: str) -> None:
    addresses = ("--attack-address", address, "--survival-address", address)
    refused = afrctl("report", "0b9f", *addresses)
    assert refused.stderr.startswith("error: 2 jobs begin with '0b9f'")
