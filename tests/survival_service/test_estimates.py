"""Intervals for shares and on the log scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from survival_service.estimates import effective_trials, log_interval, normal_quantile, share_upper_bound, wilson


def test_a_95_percent_interval_has_1_96_standard_errors() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.959964, abs=1e-6)


def test_wilsons_interval_of_3_in_10_is_that_of_the_textbook() -> None:
    """Solve |p - 0.3| = z sqrt(p (1 - p) / 10) for p: both ends, by definition of the score interval."""
    found, z = wilson(3, 10, 0.95), normal_quantile(0.95)
    for end in (found.lower, found.upper):
        assert end is not None
        assert abs(end - 0.3) == pytest.approx(z * math.sqrt(end * (1 - end) / 10))


@given(n=st.integers(1, 500), data=st.data(), level=st.sampled_from([0.5, 0.95, 0.999]))
def test_a_share_lies_in_its_interval_and_that_in_0_to_1(n: int, data: st.DataObject, level: float) -> None:
    k = data.draw(st.integers(0, n))
    found = wilson(k, n, level)
    assert found.lower is not None
    assert found.upper is not None
    assert 0 <= found.lower <= k / n <= found.upper <= 1


def test_without_trials_there_is_no_share() -> None:
    assert wilson(0, 0, 0.95).value is None


def test_trials_that_repeat_each_other_count_once() -> None:
    generator = np.random.default_rng(0)
    events, cluster = generator.random(1000) < 0.3, np.arange(1000)
    assert effective_trials(events, cluster) == 1000
    assert effective_trials(np.tile(events, 4), np.tile(cluster, 4)) == pytest.approx(1000, rel=0.01)
    # Unrelated trials of one cluster are as good as any.
    assert effective_trials(generator.random(4000) < 0.3, np.tile(cluster, 4)) > 3500
    assert effective_trials(np.zeros(4000, dtype=bool), np.tile(cluster, 4)) == 1000
    assert effective_trials(np.ones(3, dtype=bool), np.zeros(3, dtype=int)) == 1


def test_no_failure_in_n_bounds_the_rate_by_the_rule_of_three() -> None:
    assert share_upper_bound(0, 200, 0.95) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert share_upper_bound(0, 200, 0.95) == pytest.approx(3 / 200, rel=0.01)


@pytest.mark.parametrize(("k", "n"), [(1, 20), (7, 50), (19, 20)])
def test_the_upper_bound_is_the_share_that_would_give_so_few_once_in_twenty(k: int, n: int) -> None:
    assert binom.cdf(k, n, share_upper_bound(k, n, 0.95)) == pytest.approx(0.05)


def test_everything_failed_bounds_nothing() -> None:
    assert share_upper_bound(5, 5, 0.95) == 1


def test_a_log_interval_overflows_to_infinity_and_not_to_nan() -> None:
    found = log_interval(700.0, 50.0, 0.95)
    assert found.value is not None
    assert found.upper == math.inf
    assert log_interval(-2000.0, 1.0, 0.95).value == 0
