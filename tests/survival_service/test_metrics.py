"""Concordances against every pair counted, against R's survival and against lifelines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from survival_service.metrics import Concordance, concordance, harrell, interval_pair, uno
from survival_service.observations import FloatArray, IntArray, Observations

Flags = NDArray[np.bool_]
METRICS: dict[str, Callable[[Observations, FloatArray], Concordance | None]] = {
    "harrell": harrell,
    "uno": uno,
    "interval_pair": interval_pair,
}


def rows(
    lower: FloatArray, upper: FloatArray, weight: FloatArray | None = None, cluster: IntArray | None = None
) -> Observations:
    n = lower.size
    return Observations(lower, upper, np.ones(n) if weight is None else weight, np.empty((n, 0)), cluster=cluster)


def right_censored(time: FloatArray, failed: Flags, weight: FloatArray | None = None) -> Observations:
    return rows(time, np.where(failed, time, np.inf), weight)


def staying(time: FloatArray, failed: Flags, t: float) -> float:
    """Kaplan and Meier's probability of not being censored before t; at one time failures leave first."""
    product = 1.0
    for u in np.unique(time[~failed & (time < t)]):
        watched = (time > u).sum() + (~failed & (time == u)).sum()
        product *= 1 - (~failed & (time == u)).sum() / watched
    return float(product)


def by_every_pair(metric: str, data: Observations, predicted: FloatArray, horizon: float = np.inf) -> float | None:
    known = agreeing = 0.0
    failed = np.isfinite(data.upper)
    time = np.where(failed, data.upper, data.lower)
    for i in np.flatnonzero(failed & (time <= horizon)):
        counts = 1 / staying(time, failed, time[i]) ** 2 if metric == "uno" else 1.0
        for j in range(time.size):
            if metric == "interval_pair":
                later = data.upper[i] < data.lower[j] or (data.upper[i] == data.lower[j] < data.upper[j])
            else:
                later = time[j] > time[i] or (time[j] == time[i] and not failed[j])
            if later:
                known += counts
                agreeing += counts * ((predicted[j] > predicted[i]) + 0.5 * (predicted[j] == predicted[i]))
    return agreeing / known if known else None


# Lower end, width, whether it failed, prediction, count.
ROW = st.tuples(st.integers(0, 6), st.integers(0, 3), st.booleans(), st.integers(0, 5), st.integers(1, 3))


def drawn(table: list[tuple[int, int, bool, int, int]]) -> tuple[Observations, FloatArray, IntArray]:
    lower, width, failed, predicted, count = (np.array([row[k] for row in table]) for k in range(5))
    width = np.where(lower + width > 0, width, 1)  # nothing fails at 0
    data = rows(lower.astype(float), np.where(failed, lower + width, np.inf), count.astype(float))
    return data, predicted.astype(float), count


@given(table=st.lists(ROW, min_size=1, max_size=12), horizon=st.sampled_from([2.0, 5.0, np.inf]))
@settings(max_examples=80, deadline=None)
def test_a_concordance_is_the_share_of_known_pairs_ordered_alike(
    table: list[tuple[int, int, bool, int, int]], horizon: float
) -> None:
    """Row by row and as a count table. Without weights for censoring the numbers of pairs are whole: then exactly."""
    data, predicted, count = drawn(table)
    long = rows(np.repeat(data.lower, count), np.repeat(data.upper, count))
    for name, metric in METRICS.items():
        truth = by_every_pair(name, long, np.repeat(predicted, count))
        counted, listed = metric(data, predicted), metric(long, np.repeat(predicted, count))
        if truth is None or counted is None or listed is None:
            assert (truth, counted, listed) == (None, None, None)
        else:
            assert counted.value == listed.value == truth or name == "uno"
            assert counted.value == pytest.approx(truth, rel=1e-12)
            assert listed.value == pytest.approx(truth, rel=1e-12)
            assert counted.standard_error == pytest.approx(listed.standard_error, rel=1e-9, abs=1e-12)
    cut = uno(data, predicted, horizon)
    truth = by_every_pair("uno", long, np.repeat(predicted, count), horizon)
    assert (cut is None) == (truth is None)
    assert cut is None or cut.value == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_the_standard_error_is_that_of_derivatives_in_the_weights(name: str) -> None:
    """The infinitesimal jackknife by differences, through the weights for censoring too, and over clusters."""
    generator = np.random.default_rng(4)
    n, metric = 40, METRICS[name]
    lower = generator.integers(0, 8, n).astype(float)
    upper = np.where(generator.uniform(size=n) < 0.6, lower + generator.integers(1, 3, n), np.inf)
    predicted, cluster = generator.integers(0, 6, n).astype(float), generator.integers(0, 15, n)
    weight = generator.integers(1, 4, n).astype(float)
    data, step = rows(lower, upper, weight), 1e-5
    slopes = []
    for i in range(n):
        ends = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[i] += sign * step
            found = metric(replace(data, weight=moved), predicted)
            assert found is not None
            ends.append(found.value)
        slopes.append((ends[0] - ends[1]) / (2 * step))
    one, clustered = metric(data, predicted), metric(replace(data, cluster=cluster), predicted)
    assert one is not None
    assert clustered is not None
    assert one.standard_error == pytest.approx(np.sqrt(weight @ np.square(slopes)), rel=1e-6)
    summed = np.bincount(cluster, weight * slopes)
    assert clustered.standard_error == pytest.approx(np.sqrt(summed @ summed), rel=1e-6)


TIME = np.array([1, 2, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7], dtype=float)
FAILED = np.array([1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0], dtype=bool)
PREDICTED = np.array([3, 1, 2, 2, 5, 1, 4, 4, 3, 6, 7, 5], dtype=float)
CLUSTER = np.array([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6])


def test_concordances_are_those_of_r() -> None:
    """R 4.2.2, survival 3.5-3; `timewt = "n/G2"` is Uno's, of which it takes G as known in its variance:

    time <- c(1,2,2,2,3,3,4,4,5,5,6,7); failed <- c(1,1,0,1,0,1,1,0,1,0,1,0)
    z <- c(3,1,2,2,5,1,4,4,3,6,7,5); cluster <- c(1,1,2,2,3,3,4,4,5,5,6,6)
    for (weighting in c("n", "n/G2")) {
      f <- concordance(Surv(time, failed) ~ z, timewt = weighting)
      print(c(f$concordance, sqrt(f$var)), digits = 15)
    }
    f <- concordance(Surv(time, failed) ~ z, cluster = cluster); print(sqrt(f$var), digits = 15)
    f <- concordance(Surv(time, failed) ~ z, timewt = "n/G2", ymax = 4); print(f$concordance, digits = 15)
    f <- concordance(Surv(time, failed) ~ z, weights = c(1,2,1,3,1,1,2,1,2,1,1,2)); print(f$concordance, digits = 15)
    """
    data = right_censored(TIME, FAILED)
    ours = harrell(data, PREDICTED)
    assert ours is not None
    assert ours.value == pytest.approx(0.8, rel=1e-14)
    assert ours.standard_error == pytest.approx(0.0688530372659096, rel=1e-12)
    whole, cut = uno(data, PREDICTED), uno(data, PREDICTED, 4.0)
    assert whole is not None
    assert cut is not None
    assert whole.value == pytest.approx(0.7501775044237627, rel=1e-14)
    assert cut.value == pytest.approx(0.8045305539211566, rel=1e-14)
    clustered = harrell(replace(data, cluster=CLUSTER), PREDICTED)
    assert clustered is not None
    assert clustered.standard_error == pytest.approx(0.06386714605866628, rel=1e-12)
    weight = np.array([1, 2, 1, 3, 1, 1, 2, 1, 2, 1, 1, 2], dtype=float)
    assert concordance(TIME, FAILED, PREDICTED, weight) == pytest.approx(0.8153153153153153, rel=1e-14)


def test_harrells_is_that_of_lifelines() -> None:
    from lifelines.utils import concordance_index

    generator = np.random.default_rng(0)
    predicted = generator.normal(size=500).round(1)
    time = np.ceil(3 * np.exp(predicted + generator.normal(size=500)))
    failed = generator.uniform(size=500) < 0.7
    assert concordance(time, failed, predicted) == pytest.approx(concordance_index(time, predicted, failed))


def test_concordances_of_a_large_table_are_those_of_its_samples() -> None:
    """4e4 samples in some hundred cells: the count table knows everything that the rows know."""
    generator = np.random.default_rng(1)
    predicted = generator.integers(0, 30, size=40_000).astype(float)
    time = np.minimum(np.ceil(np.exp(predicted / 20 + generator.normal(size=predicted.size))), 12.0)
    failed = time < 12
    data = rows(np.where(failed, time - 1, time), np.where(failed, time, np.inf))
    cells, inverse = np.unique(np.column_stack([data.lower, data.upper, predicted]), axis=0, return_inverse=True)
    table = rows(cells[:, 0].copy(), cells[:, 1].copy(), np.bincount(inverse.ravel()).astype(float))
    for metric in METRICS.values():
        one, other = metric(data, predicted), metric(table, cells[:, 2])
        assert one is not None
        assert other is not None
        assert one.value == other.value
        assert one.standard_error == pytest.approx(other.standard_error, rel=1e-9)


def test_unos_does_not_depend_on_how_long_samples_were_watched() -> None:
    """The prediction orders early failures well and late ones not at all; six in ten samples are soon lost to sight.

    Then few late pairs are seen, and Harrell's C rises with the censoring. Uno's stays that of samples all watched.
    """
    generator = np.random.default_rng(5)
    n, horizon = 8_000, 3.0
    predicted = generator.normal(size=n)
    time = np.exp(np.minimum(predicted, 0.0) + 0.6 * generator.normal(size=n))
    lost = np.where(generator.uniform(size=n) < 0.6, generator.exponential(0.7, n), np.inf)
    whole, cut = right_censored(time, time <= horizon), right_censored(np.minimum(time, lost), time <= lost)
    truth, naive, ours = harrell(whole, predicted), harrell(cut, predicted), uno(cut, predicted, horizon)
    assert truth is not None
    assert naive is not None
    assert ours is not None
    assert abs(ours.value - truth.value) < 2 * ours.standard_error
    assert naive.value - truth.value > 4 * naive.standard_error


def test_pairs_of_one_check_are_unknown_to_intervals_and_known_to_times() -> None:
    """Two failures found by one check, one censored there. Times know that the latter lives longer; so do intervals."""
    data = rows(np.array([1.0, 1.0, 2.0, 1.0]), np.array([2.0, 2.0, np.inf, np.inf]))
    predicted = np.array([1.0, 2.0, 3.0, 0.0])
    ours, times = interval_pair(data, predicted), harrell(data, predicted)
    assert ours is not None
    assert times is not None
    assert (ours.value, times.value) == (1.0, 1.0)
    # One that was censored within another's interval may have been the first to fail.
    assert interval_pair(rows(np.array([1.0, 1.5]), np.array([2.0, np.inf])), np.array([1.0, 2.0])) is None
    # An exact time at the end of an interval may be the same moment.
    assert interval_pair(rows(np.array([1.0, 2.0]), np.array([2.0, 2.0])), np.array([1.0, 2.0])) is None


def test_an_interval_stays_within_its_range_or_is_absent() -> None:
    wide = Concordance(0.9, 0.2).estimate(0.95)
    assert wide.lower is not None
    assert wide.upper is not None
    assert 0 < wide.lower < 0.9 < wide.upper < 1
    assert Concordance(1.0, 0.0).estimate(0.95).lower is None
    assert Concordance(0.5, 1e6).estimate(0.95).upper == 1.0
    assert Concordance(0.5, 0.0).estimate(0.95).upper is None


def test_without_a_failure_no_order_is_known() -> None:
    data = right_censored(np.ones(3), np.zeros(3, dtype=bool))
    assert [metric(data, np.arange(3.0)) for metric in METRICS.values()] == [None] * 3
    assert concordance(np.ones(3), np.zeros(3, dtype=bool), np.arange(3.0)) is None
    nobody = right_censored(np.empty(0), np.empty(0, dtype=bool))
    assert [metric(nobody, np.empty(0)) for metric in METRICS.values()] == [None] * 3
