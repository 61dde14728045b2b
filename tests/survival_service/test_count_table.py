"""The count table: adding and merging in any way, the fits that it gives, and what it refuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.count_table import NEVER, CheckedSamples, CountTable
from survival_service.distributions import Distribution
from survival_service.errors import InvalidObservations, OutcomesCorrupt
from survival_service.fitting import Status, fit
from survival_service.likelihood import Likelihood
from survival_service.observations import Observations

NAMES = ("x", "y")
LEVELS = np.random.default_rng(0).normal(size=(40, 2)).round(2)


def samples(rows: list[tuple[int, int, int, int, int]]) -> CheckedSamples:
    return CheckedSamples(*np.array(rows, dtype=np.int64).reshape(-1, 5).T)


def simulated(each: int, *, checks: int = 12, seed: int = 1, first: int = 0) -> CheckedSamples:
    """Weibull times, spread .6, of `each` samples of every configuration in `LEVELS`, looked at after every query."""
    generator = np.random.default_rng(seed)
    configuration = np.repeat(np.arange(len(LEVELS)), each)
    sample = np.tile(np.arange(first, first + each), len(LEVELS))
    times = np.exp(1.5 + (LEVELS @ [0.4, -0.3])[configuration]) * generator.exponential(size=sample.size) ** 0.6
    check = np.minimum(np.ceil(times), checks + 1).astype(np.int64)
    failed = check <= checks
    return CheckedSamples(configuration, sample, check - 1, np.where(failed, check, NEVER), np.minimum(check, checks))


def same(one: Observations, other: Observations) -> bool:
    names = ("lower", "upper", "weight", "covariates", "cluster", "check", "configuration")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


ROW = st.tuples(
    st.integers(0, 3),
    st.integers(0, 9),
    st.integers(0, 5),
    st.one_of(st.just(NEVER), st.integers(0, 4), st.just(10**12)),
    st.integers(0, 6),
).map(lambda row: (row[0], row[1], row[2], row[3] if row[3] == NEVER else row[2] + row[3], row[4]))


@given(
    rows=st.lists(ROW, max_size=40, unique_by=lambda row: row[:2]), cuts=st.lists(st.integers(0, 40)), data=st.data()
)
@settings(max_examples=40, deadline=None)
def test_tables_of_shards_add_up_to_the_table_of_everything_to_the_bit(
    rows: list[tuple[int, int, int, int, int]], cuts: list[int], data: st.DataObject
) -> None:
    whole = CountTable()
    whole.add(samples(rows))
    assert whole.counts() == Counter((row[0], *row[2:]) for row in rows)
    shuffled = data.draw(st.permutations(rows))
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    tables = []
    for begin, end in pairwise(edges):
        middle = data.draw(st.integers(begin, end))
        table = CountTable()
        table.add(samples(shuffled[begin:middle]))
        table.add(samples(shuffled[middle:end]))
        tables.append(table)
    summed = CountTable()
    for table in data.draw(st.permutations(tables)):
        summed = table.merged(summed) if data.draw(st.booleans()) else summed.merged(table)
    assert summed.counts() == whole.counts()
    assert summed.sample_count == len(rows)
    assert same(summed.observations(LEVELS, NAMES, clustered=True), whole.observations(LEVELS, NAMES, clustered=True))


@given(rows=st.lists(ROW, min_size=1, max_size=30), data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_sample_counts_once_however_often_it_comes(
    rows: list[tuple[int, int, int, int, int]], data: st.DataObject
) -> None:
    """The first row of a sample stands, in one batch or over several."""
    first: dict[tuple[int, int], tuple[int, int, int, int]] = {}
    for row in rows:
        first.setdefault(row[:2], (row[0], *row[2:]))
    table, cut = CountTable(), data.draw(st.integers(0, len(rows)))
    new = table.add(samples(rows[:cut])) + table.add(samples(rows[cut:]))
    assert table.add(samples(data.draw(st.permutations(rows)))) == 0
    assert new == table.sample_count == len(first)
    assert table.counts() == Counter(first.values())


def test_cells_are_the_rows_counted() -> None:
    """Failed in (2, 3] twice, alive at 4, misclassified, and one of another configuration."""
    table = CountTable()
    table.add(samples([(0, 0, 2, 3, 3), (0, 1, 2, 3, 3), (0, 2, 4, NEVER, 4), (0, 3, 0, 0, 0), (1, 0, 2, 3, 3)]))
    data = table.observations(LEVELS, NAMES)
    rows = {
        (*x, low, up): w
        for x, low, up, w in zip(data.covariates.tolist(), data.lower, data.upper, data.weight, strict=True)
    }
    assert rows == {(*LEVELS[0], 4, np.inf): 1, (*LEVELS[0], 2, 3): 2, (*LEVELS[1], 2, 3): 1}
    assert (table.sample_count, table.failed_count, table.misclassified_count) == (5, 3, 1)
    assert data.cluster is None
    assert table.has(np.array([0, 1, 9]), np.array([3, 3, 0])).tolist() == [True, False, False]


def test_a_fit_of_the_counts_is_that_of_the_rows_also_clustered_by_configuration() -> None:
    drawn = simulated(30)
    table = CountTable()
    table.add(drawn)
    upper = np.where(drawn.upper == NEVER, np.inf, drawn.upper)
    rows = Observations(
        drawn.lower.astype(float), upper, np.ones(len(drawn)), LEVELS[drawn.configuration], NAMES, drawn.configuration
    )
    for clustered in (False, True):
        counted = table.observations(LEVELS, NAMES, clustered=clustered)
        assert counted.lower.size < len(drawn) / 2
        for distribution in (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC):
            one = fit(counted, distribution)
            other = fit(
                rows
                if clustered
                else Observations(
                    upper=upper, lower=rows.lower, weight=rows.weight, covariates=rows.covariates, names=NAMES
                ),
                distribution,
            )
            assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-12)
            assert one.covariance is not None
            assert other.covariance is not None
            np.testing.assert_allclose(one.covariance, other.covariance, rtol=1e-7, atol=1e-12)
            for ours, theirs in zip(one.coefficients, other.coefficients, strict=True):
                assert ours.estimate == pytest.approx(theirs.estimate, abs=1e-9)


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC])
def test_sums_by_configuration_are_the_sums_over_rows(distribution: Distribution) -> None:
    table = CountTable()
    table.add(simulated(60))
    observations = table.observations(np.column_stack([LEVELS, 1e3 * LEVELS[:, 0] ** 2]), (*NAMES, "z"))
    assert observations.configuration is not None
    one, other = (
        Likelihood(rows, distribution.family) for rows in (observations, replace(observations, configuration=None))
    )
    parameters = np.array([-0.2, 0.3, -0.4, 0.1, 1.1])
    for found, expected in zip(one(parameters), other(parameters), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(one.design.terms, other.design.terms, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.row_scores(parameters).sum(axis=0), one(parameters)[1], rtol=1e-10, atol=1e-9)


def test_many_configurations_have_the_maximum_of_rows_of_their_own() -> None:
    """So many cells that the search begins in a sample of the configurations."""
    generator = np.random.default_rng(3)
    levels, each = generator.normal(size=(700, 2)), 900
    configuration = np.repeat(np.arange(700), each)
    times = np.exp(3.2 + (levels @ [0.4, -0.3])[configuration]) * generator.exponential(size=configuration.size) ** 0.6
    check = np.minimum(np.ceil(times), 121).astype(np.int64)
    upper = np.where(check <= 120, check, NEVER)
    table = CountTable()
    table.add(CheckedSamples(configuration, np.tile(np.arange(each), 700), check - 1, upper, np.minimum(check, 120)))
    observations = table.observations(levels, NAMES)
    assert observations.lower.size > 30_000
    one, other = (fit(rows, Distribution.WEIBULL) for rows in (observations, replace(observations, configuration=None)))
    for ours, theirs in zip(one.coefficients, other.coefficients, strict=True):
        assert ours.estimate == pytest.approx(theirs.estimate, abs=1e-6 * theirs.standard_error)
        assert ours.standard_error == pytest.approx(theirs.standard_error, rel=1e-6)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-12)


def test_a_group_without_failures_leaves_the_others_their_configurations() -> None:
    held = CheckedSamples(
        np.repeat([40, 41], 30), np.tile(np.arange(30), 2), np.full(60, 12), np.full(60, NEVER), np.full(60, 12)
    )
    table = CountTable()
    table.add(simulated(60).joined(held))
    levels = np.column_stack([np.vstack([LEVELS, LEVELS[:2]]), np.arange(42) >= 40])
    observations = table.observations(levels, (*NAMES, "hard"))
    one, other = (fit(rows, Distribution.WEIBULL) for rows in (observations, replace(observations, configuration=None)))
    assert one.status is other.status is Status.GROUP_WITHOUT_FAILURE
    assert [c.estimate for c in one.coefficients] == pytest.approx([c.estimate for c in other.coefficients], rel=1e-9)
    assert one.effect_bounds[0].lower == pytest.approx(other.effect_bounds[0].lower, rel=1e-6)


def test_a_refit_after_one_percent_more_takes_at_most_two_steps() -> None:
    table = CountTable()
    table.add(simulated(400))
    before = fit(table.observations(LEVELS, NAMES), Distribution.WEIBULL)
    table.add(simulated(4, seed=2, first=400))
    data = table.observations(LEVELS, NAMES)
    warm, cold = fit(data, Distribution.WEIBULL, start=before), fit(data, Distribution.WEIBULL)
    assert warm.iteration_count <= 2 < cold.iteration_count
    assert warm.observation_count == 404 * 40
    for one, other in zip(warm.coefficients, cold.coefficients, strict=True):
        assert abs(one.estimate - other.estimate) < 1e-3 * other.standard_error
        assert one.standard_error == pytest.approx(other.standard_error, rel=1e-3)


def test_samples_in_flight_are_censored_at_the_check_they_were_last_seen_at() -> None:
    table = CountTable()
    table.add(samples([(0, 0, 1, 2, 2)]))
    table.replace_in_flight(samples([(0, 0, 1, NEVER, 1), (0, 1, 3, NEVER, 3)]), shard=0)
    table.replace_in_flight(samples([(0, 1, 5, NEVER, 5), (1, 7, 2, NEVER, 2)]), shard=1)
    # Sample 0 has ended since; sample 1 was seen by both shards, last at 5.
    assert table.in_flight_count == 2
    data = table.observations(LEVELS, NAMES)
    assert sorted(zip(data.lower, data.upper, data.weight, strict=True)) == [(1, 2, 1), (2, np.inf, 1), (5, np.inf, 1)]
    assert table.observations(include_in_flight=False).observation_count == 1
    table.replace_in_flight(None, shard=1)
    assert table.in_flight_count == 1
    table.end()
    assert table.in_flight_count == 0


def test_merged_tables_know_what_is_in_flight_in_either() -> None:
    one, other = CountTable(), CountTable()
    one.add(samples([(0, 0, 1, 2, 2)]))
    one.replace_in_flight(samples([(0, 1, 3, NEVER, 3)]))
    other.replace_in_flight(samples([(0, 0, 1, NEVER, 1), (0, 2, 4, NEVER, 4)]))
    both = one.merged(other)
    assert both.in_flight_count == 2
    assert both.observations().observation_count == 3
    assert (one.in_flight_count, other.in_flight_count) == (1, 2)


def test_a_sample_in_two_tables_is_named() -> None:
    one, other = CountTable(), CountTable()
    one.add(samples([(0, 0, 1, 2, 2), (2, 5, 1, 2, 2)]))
    other.add(samples([(0, 1, 1, 2, 2), (2, 5, 1, 2, 2)]))
    with pytest.raises(OutcomesCorrupt, match="sample 5 of configuration 2 is in both"):
        one.merged(other)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ((-1, 0, 0, 1, 1), "configuration"),
        ((0, -1, 0, 1, 1), "sample_index"),
        ((0, 0, -1, 1, 1), "lower"),
        ((0, 0, 2, 1, 1), "upper"),
        ((0, 0, 2, -2, 1), "upper"),
        ((0, 0, 0, 1, -1), "check"),
    ],
)
def test_rows_that_are_no_samples_are_refused_by_column(row: tuple[int, int, int, int, int], column: str) -> None:
    with pytest.raises(InvalidObservations) as caught:
        samples([row])
    assert caught.value.field == column


def test_what_cannot_be_counted_says_what_to_do() -> None:
    with pytest.raises(InvalidObservations, match="integers"):
        CheckedSamples(*(np.array([0.5]) for _ in range(5)))
    with pytest.raises(InvalidObservations, match="number both from 0"):
        CountTable().add(samples([(10**6, 10**6, 0, 1, 1)]))
    table = CountTable()
    table.add(samples([(3, 0, 0, 1, 1)]))
    with pytest.raises(InvalidObservations, match="configuration 3 has no covariates; there are 2 rows"):
        table.observations(LEVELS[:2], NAMES)
    with pytest.raises(InvalidObservations, match="must be -1"):
        table.replace_in_flight(samples([(0, 0, 1, 2, 2)]))


def test_an_empty_table_says_nothing() -> None:
    table = CountTable()
    assert table.add(samples([])) == 0
    assert table.observations().observation_count == 0
    assert table.merged(CountTable()).counts() == {}
    assert (table.sample_count, table.failed_count, table.in_flight_count) == (0, 0, 0)
