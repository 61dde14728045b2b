"""Numbers in words that a person would write."""

from __future__ import annotations

import pytest

from survival_service.wording import number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (3.14159, "3.14"), (123.4, "123"), (1234.5, "1,234"), (999999, "999,999"),
     (1234567, "1.23e+06"), (0.00001234, "1.23e-05"), (float("inf"), "inf")],
)  # fmt: skip
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.5, "50 %"), (0.1234, "12.3 %"), (0.00001, "under 0.1 %"), (0.99999, "over 99.9 %")],
)
def test_a_percentage_is_0_or_100_only_if_it_is(share: float, text: str) -> None:
    assert percent(share) == text
