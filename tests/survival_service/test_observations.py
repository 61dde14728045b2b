"""From outcomes to observations: the count table, samples in flight, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.errors import InvalidObservations, OutcomesCorrupt
from survival_service.fitting import fit
from survival_service.observations import Clock, InFlightColumns, Observations, OutcomeColumns
from survival_service.outcome_table import OutcomeTable

Build = Callable[..., OutcomeColumns]


def in_flight(samples: Sequence[int], checks: Sequence[int], seconds: float = 0.01) -> InFlightColumns:
    check = np.array(checks, dtype=np.int64)
    query = np.where(check > 0, check + 1, 0)
    return InFlightColumns(np.array(samples, dtype=np.int64), check, query, check, check * seconds)


def cells(data: Observations) -> dict[tuple[float, float], float]:
    return {(low, high): w for low, high, w in zip(data.lower, data.upper, data.weight, strict=True)}


def test_each_verdict_becomes_the_observation_it_is(outcome_columns: Build) -> None:
    table = OutcomeTable()
    table.add(outcome_columns([1, 3, 3, None, 0], budget=20))
    assert cells(table.observations(Clock.QUERIES)) == {(0, 2): 1, (3, 4): 2, (21, np.inf): 1}
    seconds = table.observations(Clock.SECONDS)
    np.testing.assert_allclose(seconds.lower, [0, 0.02, 0.2])
    np.testing.assert_allclose(seconds.upper, [0.01, 0.03, np.inf])
    assert seconds.weight.tolist() == [1, 2, 1]
    assert (table.failed_count, table.survived_count, table.misclassified_count) == (3, 1, 1)
    assert table.outcome_count == 5


def test_a_rejected_sample_is_censored_like_a_survivor(outcome_columns: Build) -> None:
    columns = outcome_columns([None, None], budget=5)
    table = OutcomeTable()
    table.add(replace(columns, verdict=np.array([1, 4])))
    assert cells(table.observations(Clock.QUERIES)) == {(6, np.inf): 2}
    assert table.survived_count == 2


def test_a_sample_in_flight_is_censored_at_its_last_check(outcome_columns: Build) -> None:
    table = OutcomeTable()
    table.add(outcome_columns([2, 2], budget=20), in_flight([2, 3, 4], [5, 7, 5]))
    assert table.in_flight_count == 3
    assert cells(table.observations(Clock.QUERIES)) == {(2, 3): 2, (6, np.inf): 2, (8, np.inf): 1}
    assert table.observations(Clock.SECONDS).weight.sum() == 5
    assert cells(table.observations(Clock.QUERIES, include_in_flight=False)) == {(2, 3): 2}


def test_a_snapshot_replaces_that_of_its_shard_only(outcome_columns: Build) -> None:
    table = OutcomeTable()
    table.add(outcome_columns([2], budget=9), in_flight([10], [1]), shard_index=0)
    table.add(outcome_columns([2], budget=9, first_sample=1), in_flight([20, 21], [1, 1]), shard_index=1)
    table.add(outcome_columns([2], budget=9, first_sample=2), in_flight([11], [1]), shard_index=0)
    assert table.in_flight_count == 3
    table.end()
    assert table.in_flight_count == 0


def test_a_sample_that_has_its_outcome_is_not_in_flight(outcome_columns: Build) -> None:
    table = OutcomeTable()
    table.replace_in_flight(in_flight([0, 1], [3, 3]), shard_index=1)
    table.add(outcome_columns([5], budget=9), shard_index=0)
    assert table.in_flight_count == 1
    assert table.observations(Clock.SECONDS).observation_count == 2
    assert table.observations(Clock.QUERIES).observation_count == 2


def test_a_sample_that_comes_twice_is_refused_and_changes_nothing(outcome_columns: Build) -> None:
    table = OutcomeTable()
    table.add(outcome_columns([1, 2], budget=9))
    with pytest.raises(OutcomesCorrupt, match="sample 1 came twice"):
        table.add(outcome_columns([3, 4], budget=9, first_sample=1))
    assert table.outcome_count == 2
    columns = outcome_columns([3, 4], budget=9, first_sample=5)
    with pytest.raises(OutcomesCorrupt, match="sample 5 came twice"):
        table.add(replace(columns, sample_index=np.array([5, 5])))


@given(checks=st.lists(st.none() | st.integers(0, 9), max_size=40), cut=st.integers(0, 40))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batches_add_up_whatever_way_they_were_cut(outcome_columns: Build, checks: list[int | None], cut: int) -> None:
    whole, parts = OutcomeTable(), OutcomeTable()
    whole.add(outcome_columns(checks, budget=9))
    parts.add(outcome_columns(checks[cut:], budget=9, first_sample=len(checks[:cut])))
    parts.add(outcome_columns(checks[:cut], budget=9))
    for clock in (Clock.QUERIES, Clock.SECONDS):
        one, other = whole.observations(clock), parts.observations(clock)
        for name in ("lower", "upper", "weight", "check"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
    assert len(parts.columns()) == len(checks)


def test_a_fit_in_mid_run_is_not_biased_towards_quick_failures(outcome_columns: Build) -> None:
    """Continuous batching: 64 slots, half of the samples fail, on average after 4 of 20 checks.

    Stopped in mid-run, quick failures have come and slow survivors have not: the completed rows alone say .62 where
    the truth is .50. With those in flight censored at their last check the fit agrees with that of the finished job.
    """
    generator = np.random.default_rng(11)
    n, budget, slots = 400, 20, 64
    survives = generator.uniform(size=n) < 0.5
    fails_at = np.minimum(budget, generator.geometric(0.25, size=n))
    length = np.where(survives, budget, fails_at)
    begin, free = np.zeros(n, dtype=int), np.zeros(slots, dtype=int)
    for i in range(n):
        slot = int(free.argmin())
        begin[i], free[slot] = free[slot], free[slot] + length[i]
    now = 2 * budget - 1
    done, running = begin + length <= now, (begin <= now) & (begin + length > now)
    order = [*np.flatnonzero(done), *np.flatnonzero(running)]
    checks = [None if survives[i] else int(fails_at[i]) for i in order]

    table = OutcomeTable()
    finished = int(done.sum())
    table.add(
        outcome_columns(checks[:finished], budget=budget),
        in_flight(range(finished, len(order)), [int(now - begin[i]) for i in order[finished:]]),
    )
    whole = OutcomeTable()
    whole.add(outcome_columns([None if s else int(c) for s, c in zip(survives, fails_at, strict=True)], budget=budget))

    naive_share = table.failed_count / finished
    assert naive_share > 0.6
    truth = fit(whole.observations(Clock.QUERIES), Distribution.WEIBULL).median
    fair = fit(table.observations(Clock.QUERIES), Distribution.WEIBULL).median
    naive = fit(table.observations(Clock.QUERIES, include_in_flight=False), Distribution.WEIBULL).median
    assert truth.value is not None
    assert fair.lower is not None
    assert fair.upper is not None
    assert naive.upper is not None
    assert fair.lower < truth.value < fair.upper
    assert naive.upper < truth.value


def test_merged_rows_are_counts_of_the_rows() -> None:
    data = Observations.of([1, 1, 2, 1], [2, 2, np.inf, 2], [1, 2, 1, 1], covariates={"x": [0, 0, 1, 1]})
    merged = data.merged()
    assert merged.lower.tolist() == [1, 1, 2]
    assert merged.covariates[:, 0].tolist() == [0, 1, 1]
    assert merged.weight.tolist() == [3, 1, 1]
    assert merged.names == ("x",)


@pytest.mark.parametrize(
    ("lower", "upper", "weight", "field"),
    [
        ([2], [1], [1], "duration_upper"),
        ([float("nan")], [1], [1], "duration_lower"),
        ([1], [float("nan")], [1], "duration_upper"),
        ([-1], [1], [1], "duration_lower"),
        ([0], [0], [1], "duration_upper"),
        ([float("inf")], [float("inf")], [1], "duration_lower"),
        ([1], [2], [0], "weight"),
        ([1], [2], [float("nan")], "weight"),
        ([1, 2], [2], [1], "duration_upper"),
    ],
)
def test_rows_that_are_no_observations_are_refused_by_field(
    lower: list[float], upper: list[float], weight: list[float], field: str
) -> None:
    with pytest.raises(InvalidObservations) as caught:
        Observations.of(lower, upper, weight)
    assert caught.value.field == field


@pytest.mark.parametrize("weight", [1e300, 1e308])
def test_more_samples_than_can_be_counted_are_refused(weight: float) -> None:
    with pytest.raises(InvalidObservations, match="a weight is how often a row occurred"):
        Observations.of([1, 2], [1, 2], [weight, weight])


@pytest.mark.parametrize("size", [1e155, 1e-160])
def test_covariates_whose_squares_are_no_numbers_are_refused(size: float) -> None:
    """They were dropped as collinear with nothing, or ended as an internal error."""
    with pytest.raises(InvalidObservations, match="give them another unit"):
        Observations.of([1, 2, 3], [1, 2, 3], covariates={"x": [0, size, -size]})


def test_covariates_and_clusters_must_fit_the_rows() -> None:
    with pytest.raises(InvalidObservations, match="'x' has 1 values for 2 rows"):
        Observations.of([1, 2], [2, 3], covariates={"x": [1.0]})
    with pytest.raises(InvalidObservations, match="cluster has 1"):
        Observations.of([1, 2], [2, 3], cluster=["a"])
    with pytest.raises(InvalidObservations, match="finite"):
        Observations.of([1, 2], [2, 3], covariates={"x": [1.0, np.inf]})


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": np.array([0, 1])},
        {"verdict": np.array([2])},
        {"query_count_upper": np.array([-1, -1])},
        {"seconds_upper": np.array([np.inf, np.inf])},
        {"seconds_lower": np.array([np.nan, 0.1])},
        {"gradient_count_lower": np.array([-1, 3])},
        {"clean_seconds": np.array([np.nan, 0.1])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_columns_that_contradict_themselves_are_refused(outcome_columns: Build, change: dict[str, np.ndarray]) -> None:
    columns = outcome_columns([2, None], budget=5)
    with pytest.raises(InvalidObservations):
        replace(columns, **change)  # type: ignore[arg-type]
