"""The error table is complete, and what it promises is what a client sees."""

from __future__ import annotations

import importlib
import pkgutil
import re

import grpc
import pytest
from afr.rpc.errors import status_of
from google.rpc import error_details_pb2

import survival_service
from survival_service.adapters.errors import TABLE
from survival_service.errors import InvalidRequest, SurvivalServiceError


def known_errors() -> set[type[Exception]]:
    """Every subclass of the root, wherever in the package it is defined."""
    for module in pkgutil.walk_packages(survival_service.__path__, "survival_service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    return below(SurvivalServiceError) - {SurvivalServiceError}


def test_every_error_has_an_entry_of_its_own() -> None:
    assert set(TABLE) == known_errors()


def test_reasons_are_stable_names_and_unique() -> None:
    reasons = [reason for _, reason in TABLE.values()]
    assert len(set(reasons)) == len(reasons)
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", reason) for reason in reasons)


def test_no_domain_error_looks_like_success_or_a_defect() -> None:
    assert not {code for code, _ in TABLE.values()} & {
        grpc.StatusCode.OK,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.UNIMPLEMENTED,
    }


def test_an_invalid_field_is_named_to_the_client() -> None:
    status = status_of(InvalidRequest("options.clock", "no such clock"), TABLE)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    assert (status.message, info.reason, info.domain) == ("no such clock", "INVALID_REQUEST", "afr")
    assert bad.field_violations[0].field == "options.clock"


@pytest.mark.parametrize("kind", sorted(known_errors(), key=lambda kind: kind.__name__))
def test_every_error_says_what_it_is(kind: type[Exception]) -> None:
    assert kind.__doc__
    assert kind.__doc__.strip().endswith(".")
