"""The error table is complete, and its reasons are stable."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
from afr.rpc.errors import status_of
from google.rpc import error_details_pb2

from attack_service.adapters.errors import TABLE, ServerStopping
from attack_service.errors import AttackServiceError, UnknownName


def subclasses(kind: type[Exception]) -> Iterator[type[Exception]]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_error_has_a_status_of_its_own() -> None:
    kinds = set(subclasses(AttackServiceError))
    assert ServerStopping in kinds
    assert kinds == set(TABLE)


def test_reasons_are_unique_and_upper_case() -> None:
    reasons = [reason for _, reason in TABLE.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.isupper() and reason.replace("_", "").isalpha() for reason in reasons)


def test_no_error_that_a_user_can_fix_is_internal() -> None:
    assert not {code for code, _ in TABLE.values()} & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def test_an_error_in_a_request_names_its_field_and_the_known_names() -> None:
    status = status_of(UnknownName("spec.model", "model", "resnet5", ["resnet18", "resnet50"]), TABLE)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (info.reason, info.domain) == ("UNKNOWN_NAME", "afr")
    assert bad.field_violations[0].field == "spec.model"
    assert status.message == "unknown model 'resnet5'; known: resnet18, resnet50"
