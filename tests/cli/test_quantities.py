"""Numbers read as a person would write them."""

from __future__ import annotations

import math

import pytest
from afr.survival.v1.survival_service_pb2 import CLOCK_QUERIES, CLOCK_SECONDS, Estimate

from cli.quantities import duration, exceedance, interval, money, number, on_clock, remaining, share, share_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1.5849, "1.58"), (0.999, "0.999"), (0.9996, "1.00"), (12.34, "12.3"), (123.4, "123"),
        (999.6, "1\u202f000"),
        (12345.6, "12\u202f346"), (-0.5, "−0.500"), (0.00012, "0.000120"), (1e-9, "1.00e−9"), (2.5e12, "2.50e12"),
        (math.inf, "∞"), (-math.inf, "−∞"), (math.nan, "–"),
    ],
)  # fmt: skip
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50.0 %"), (0.9999, "> 99.9 %"), (0.0001, "< 0.1 %"), (0.07, "7.0 %")],
)
def test_a_share_is_certain_only_if_it_is(value: float, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0004, "400 µs"), (0.0123, "12.3 ms"), (1.5, "1.50 s"), (100, "100 s"), (150, "2.50 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (89, "89 s"), (90, "1 min 30 s"), (7260, "2 h 01 min")])
def test_remaining(seconds: float, text: str) -> None:
    assert remaining(seconds) == text


def test_a_narrow_interval_reads_as_one() -> None:
    """A layer of the published networks: 0.00114 with a standard error of 0.00043 is not the factor 1 for certain."""
    assert interval(Estimate(value=1.001145, lower=1.000294, upper=1.001997)) == "1.001 [1.000, 1.002]"
    assert interval(Estimate(value=0.99991, lower=0.9989, upper=1.0009)) == "0.9999 [0.9989, 1.001]"
    assert interval(Estimate(value=1.88, lower=1.87999999, upper=1.88000001)) == "1.88 [1.88, 1.88]"
    assert interval(Estimate(value=0.0, lower=0.0, upper=2.0)) == "0 [0, 2.00]"


def test_a_value_and_its_interval_share_a_unit() -> None:
    assert on_clock(Estimate(value=0.9, lower=0.5, upper=1.4), CLOCK_SECONDS) == "900 [500, 1\u202f400] ms"
    assert on_clock(Estimate(value=9, lower=5, upper=14), CLOCK_QUERIES) == "9.00 [5.00, 14.0]"


def test_what_is_absent_is_a_dash_and_what_is_infinite_says_so() -> None:
    assert interval(Estimate()) == "–"
    assert share_interval(Estimate()) == "–"
    assert interval(Estimate(value=2.0)) == "2.00"
    assert on_clock(Estimate(value=math.inf), CLOCK_SECONDS) == "∞"
    assert interval(Estimate(value=2, lower=1, upper=math.inf)) == "2.00 [1.00, ∞]"


def test_a_confidence_is_never_certainty() -> None:
    assert (exceedance(1.0), exceedance(0.0), exceedance(0.974)) == ("> 99.9 %", "< 0.1 %", "97.4 %")


def test_money() -> None:
    assert (money(12.345), money(0.000194)) == ("$12.35", "$0.000194")
