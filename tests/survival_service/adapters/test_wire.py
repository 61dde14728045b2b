"""What goes over the wire comes back the same, everything the contract has a place for is sent, and no NaN leaves."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import numpy as np
import pytest
from afr.survival.v1 import survival_service_pb2 as pb
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from survival_service.adapters.wire import batch_messages, job_messages, report_messages, request_messages
from survival_service.distributions import Distribution
from survival_service.errors import InvalidObservations, InvalidRequest
from survival_service.estimates import Estimate
from survival_service.observations import Clock
from survival_service.reports import DEFAULT_DISTRIBUTIONS, ReportOptions

NOT_ON_THE_WIRE = {"covariance"}
_START = datetime(2020, 1, 1, tzinfo=UTC)


@functools.cache
def values_of(hint: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Everything a field of this type may hold: the strategy follows the dataclasses, so it misses none."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint)
        names = [f.name for f in dataclasses.fields(hint) if f.name not in NOT_ON_THE_WIRE]
        return st.builds(hint, **{name: values_of(hints[name], name) for name in names})
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in typing.get_args(hint) if argument is not type(None))
        return st.none() | values_of(inner, name)
    if origin is tuple:
        return st.lists(values_of(typing.get_args(hint)[0]), max_size=2).map(tuple)
    if hint in (list, dict) or origin is not None:
        return st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(hint)
    return {
        float: st.integers(0, 2**30).map(lambda i: i / 512)  # whole nanoseconds
        if name.endswith("_seconds")
        else st.floats(allow_nan=False),
        int: st.integers(0, 2**32 - 1),
        str: st.text(max_size=5),
        bool: st.booleans(),
        datetime: st.integers(0, 10**15).map(lambda us: _START + timedelta(microseconds=us)),
    }[hint]


@pytest.mark.parametrize("kind", report_messages.MESSAGES, ids=lambda kind: kind.__name__)
def test_what_is_sent_comes_back_the_same(kind: type[Any]) -> None:
    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(values_of(kind))
    def check(value: Any) -> None:
        message = report_messages.to_proto(value, report_messages.MESSAGES[kind])
        assert report_messages.from_proto(type(message).FromString(message.SerializeToString()), kind) == value

    check()


@pytest.mark.parametrize("kind", report_messages.MESSAGES, ids=lambda kind: kind.__name__)
def test_every_field_of_the_contract_has_its_attribute(kind: type[Any]) -> None:
    fields = {
        report_messages.attribute_of(descriptor) for descriptor in report_messages.MESSAGES[kind].DESCRIPTOR.fields
    }
    assert fields == {field.name for field in dataclasses.fields(kind)} - NOT_ON_THE_WIRE


@pytest.mark.parametrize("names", [(Distribution, pb.Distribution, "DISTRIBUTION_"), (Clock, pb.Clock, "CLOCK_")])
def test_enumerations_have_the_numbers_of_the_contract(names: tuple[Any, Any, str]) -> None:
    kind, contract, prefix = names
    assert all(contract.Value(prefix + member.name) == member.value for member in kind)


def test_an_infinite_time_is_legal_in_json() -> None:
    text = json_format.MessageToJson(report_messages.to_proto(Estimate(value=math.inf), pb.Estimate))
    assert '"Infinity"' in text
    assert json_format.Parse(text, pb.Estimate()).value == math.inf


def test_a_nan_does_not_leave() -> None:
    with pytest.raises(ArithmeticError, match=r"afr\.survival\.v1\.Estimate\.lower is not a number"):
        report_messages.to_proto(Estimate(value=1.0, lower=math.nan), pb.Estimate)


def test_outcomes_become_columns(faults: Any) -> None:
    batch = faults.batch(0, [(4, 2, 1), (0, 3, 0), (9, 1, 10)], in_flight=[(5, 3)])
    columns, in_flight = batch_messages.outcome_columns(batch), batch_messages.in_flight_columns(batch)
    for field in dataclasses.fields(columns):
        np.testing.assert_array_equal(getattr(columns, field.name), list(getattr(batch, field.name)))
    for field in dataclasses.fields(in_flight):
        np.testing.assert_array_equal(getattr(in_flight, field.name), list(getattr(batch.in_flight, field.name)))


def test_a_job_becomes_its_facts(faults: Any) -> None:
    job = faults.job(5, sample_count=200, warnings=["barely better than chance"])
    facts = job_messages.job_facts(job, dataset_digest="d")
    assert facts.canceled
    assert (facts.sample_count, facts.training_seconds, facts.training_sample_count) == (200, 60.0, 1000)
    assert (facts.attack_parameters["epsilon"], facts.dataset_digest, facts.defence) == (0.1, "d", "none")
    assert facts.warnings == ("barely better than chance",)


def test_empty_options_are_the_defaults() -> None:
    assert request_messages.report_options(pb.ReportOptions()) == ReportOptions()


def test_options_keep_what_was_said() -> None:
    said = pb.ReportOptions(clock=1, distributions=[4, 4, 1], confidence_level=0.9, attacker_price_usd_per_hour=2.0)
    assert request_messages.report_options(said) == ReportOptions(
        clock=Clock.SECONDS,
        distributions=(Distribution.EXPONENTIAL, Distribution.WEIBULL),
        confidence_level=0.9,
        attacker_price_usd_per_hour=2.0,
    )
    assert ReportOptions().distributions == DEFAULT_DISTRIBUTIONS


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        ({"clock": 9}, "options.clock", "9 is not supported; known: seconds, queries"),
        ({"distributions": [0]}, "options.distributions", "known: weibull, log-normal"),
        ({"distributions": [77]}, "options.distributions", "77 is not supported"),
        ({"confidence_level": 1.5}, "options.confidence_level", "between 0 and 1"),
        ({"confidence_level": math.nan}, "options.confidence_level", "between 0 and 1"),
        ({"attacker_price_usd_per_hour": -1.0}, "options.attacker_price_usd_per_hour", "above 0"),
        ({"defender_price_usd_per_hour": 0.0}, "options.defender_price_usd_per_hour", "above 0"),
    ],
)
def test_bad_options_name_their_field(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        request_messages.report_options(pb.ReportOptions(**options))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("identifiers", "says"), [([], "at least one"), ([""], "is empty"), (["a", "b", "c"], "at most 2")]
)
def test_jobs_of_a_report_are_checked(identifiers: list[str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        request_messages.attack_job_ids(pb.CreateReportRequest(attack_job_ids=identifiers), 2)


def test_a_job_named_twice_is_read_once() -> None:
    assert request_messages.attack_job_ids(pb.CreateReportRequest(attack_job_ids=["a", "b", "a"]), 2) == ("a", "b")


def test_batches_of_observations_become_one() -> None:
    x = [pb.Covariate(name="x", value=[0.5])]
    batches = [
        pb.ObservationBatch(duration_lower=[i], duration_upper=[math.inf], weight=[2], cluster=["c"], covariates=x)
        for i in (1.0, 2.0)
    ]
    rows = batch_messages.observations(batches)
    assert rows.lower.tolist() == [1.0, 2.0]
    assert rows.weight.tolist() == [2.0, 2.0]
    assert rows.cluster is not None
    assert rows.cluster.tolist() == [0, 0]
    assert (rows.names, rows.covariates.tolist()) == (("x",), [[0.5], [0.5]])


ROW: dict[str, Any] = {"duration_lower": [1.0], "duration_upper": [2.0]}


@pytest.mark.parametrize(
    ("batches", "field"),
    [
        ([ROW, {**ROW, "weight": [1.0]}], "weight"),
        ([ROW, {**ROW, "cluster": ["a"]}], "cluster"),
        ([ROW, {**ROW, "covariates": [pb.Covariate(name="x", value=[1.0])]}], "covariates"),
        ([{**ROW, "covariates": [pb.Covariate(name="x")]}], "covariates"),
        ([{**ROW, "covariates": [pb.Covariate(name="intercept", value=[1.0])]}], "covariates"),
        ([{**ROW, "weight": [1.0, 2.0]}], "weight"),
        ([{**ROW, "weight": [0.0]}], "weight"),
        ([{**ROW, "cluster": ["a", "b"]}], "cluster"),
        ([{"duration_lower": [1.0]}], "duration_upper"),
        ([{"duration_lower": [2.0], "duration_upper": [1.0]}], "duration_upper"),
        ([{"duration_lower": [math.nan], "duration_upper": [1.0]}], "duration_lower"),
        ([{"duration_lower": [0.0], "duration_upper": [math.nan]}], "duration_upper"),
    ],
)
def test_rows_that_are_no_observations_name_their_column(batches: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(InvalidObservations) as caught:
        batch_messages.observations([pb.ObservationBatch(**batch) for batch in batches])
    assert caught.value.field == field
