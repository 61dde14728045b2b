"""Concordance against every pair counted, and against lifelines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.metrics import concordance


def by_every_pair(time: np.ndarray, failed: np.ndarray, predicted: np.ndarray) -> float | None:
    known = agreeing = 0.0
    for i in np.flatnonzero(failed):
        for j in range(time.size):
            if time[j] > time[i] or (time[j] == time[i] and not failed[j]):
                known += 1
                agreeing += (predicted[j] > predicted[i]) + 0.5 * (predicted[j] == predicted[i])
    return agreeing / known if known else None


@given(
    rows=st.lists(
        st.tuples(st.integers(1, 8), st.booleans(), st.integers(0, 5), st.integers(1, 3)), min_size=1, max_size=14
    )
)
@settings(max_examples=100, deadline=None)
def test_concordance_is_the_share_of_known_pairs_ordered_alike(rows: list[tuple[int, bool, int, int]]) -> None:
    """Exactly, row by row and as a count table: numbers of pairs are whole, and their halves exact."""
    time, failed, predicted, count = (np.array([row[k] for row in rows]) for k in range(4))
    time, failed, predicted = time.astype(float), failed.astype(bool), predicted.astype(float)
    long = [np.repeat(column, count) for column in (time, failed, predicted)]
    truth = by_every_pair(*long)
    assert concordance(*long) == truth
    assert concordance(time, failed, predicted, count.astype(float)) == truth


def test_concordance_is_that_of_lifelines() -> None:
    from lifelines.utils import concordance_index

    generator = np.random.default_rng(0)
    predicted = generator.normal(size=500).round(1)
    time = np.ceil(3 * np.exp(predicted + generator.normal(size=500)))
    failed = generator.uniform(size=500) < 0.7
    assert concordance(time, failed, predicted) == pytest.approx(concordance_index(time, predicted, failed))


def test_concordance_of_a_large_table_is_that_of_its_samples() -> None:
    """4e4 samples in some hundred cells: the count table knows everything that the rows know."""
    generator = np.random.default_rng(1)
    predicted = generator.integers(0, 30, size=40_000).astype(float)
    time = np.minimum(np.ceil(np.exp(predicted / 20 + generator.normal(size=predicted.size))), 12.0)
    failed = time < 12
    cells, inverse = np.unique(np.column_stack([time, failed, predicted]), axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel()).astype(float)
    table = concordance(cells[:, 0], cells[:, 1].astype(bool), cells[:, 2], counts)
    assert table == concordance(time, failed, predicted)


def test_a_weight_is_that_many_samples() -> None:
    time, failed = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    predicted, weight = np.array([2.0, 1.0, 3.0]), np.array([2.0, 1.0, 3.0])
    # Known pairs: 2 x 1 wrong, 2 x 3 right, 1 x 3 right.
    assert concordance(time, failed, predicted, weight) == pytest.approx(9 / 11)


def test_without_a_failure_no_order_is_known() -> None:
    assert concordance(np.ones(3), np.zeros(3, dtype=bool), np.arange(3.0)) is None
