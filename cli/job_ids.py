"""The jobs of an attack server by their ids, which people shorten as far as they are still one job's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.errors import Problem

if TYPE_CHECKING:
    from afr.attack.v1.attack_service_pb2 import AttackJob

    from cli.connecting import AttackServer

_BEGINNING = re.compile("[0-9a-f][0-9a-f-]{3,34}")
"""Of an id, which is a UUID; all of it has 36 characters."""
_PAGE = 1000


def newest(server: AttackServer, limit: int | None = None) -> Iterator[AttackJob]:
    """The server's jobs, newest first, at most `limit`."""
    from afr.attack.v1.attack_service_pb2 import ListAttackJobsRequest

    token, left = "", limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        page = server.call(server.stub.ListAttackJobs, ListAttackJobsRequest(page_size=size, page_token=token))
        yield from page.attack_jobs[:left]
        left = None if left is None else left - len(page.attack_jobs)
        token = page.next_page_token
        if not token:
            return


def is_short(job_id: str) -> bool:
    """Whether this can be the beginning of an id and is not all of it."""
    return _BEGINNING.fullmatch(job_id) is not None


def full_id(server: AttackServer, job_id: str) -> str:
    """The id that begins so; one that no job's begins with is returned as it is, for the server to refuse.

    Raises `Problem` if several do.
    """
    if not is_short(job_id):
        return job_id
    found = [job.attack_job_id for job in newest(server) if job.attack_job_id.startswith(job_id)]
    if job_id in found or not found:
        return job_id
    if len(found) > 1:
        raise Problem(f"{len(found)} jobs begin with {job_id!r} ({', '.join(found[:4])}): give more of the id")
    return found[0]
