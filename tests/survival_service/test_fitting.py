"""Fits: closed forms, invariances, recovery of a known truth, and a status where the data carry no number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.fitting import Fit, Status, described, fit, ranked
from survival_service.observations import Clock, Observations, OutcomeColumns

WITHOUT_SHAPE = [one for one in Distribution if not one.with_shape]
TWO_PARAMETERS = [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC]
inf = math.inf


def drawn(distribution: Distribution, n: int, *, mu: float, sigma: float, seed: int) -> np.ndarray:
    """Times T = exp(mu + sigma epsilon) by inversion."""
    u = np.random.default_rng(seed).uniform(size=n)
    return np.exp(mu + sigma * np.array([distribution.family.quantile(p) for p in u]))


def inspected(times: np.ndarray, *, every: float, budget: int) -> Observations:
    """Checked `budget` times, at even moments: what an iterative attack tells."""
    checks = np.ceil(times / every)
    seen = checks <= budget
    lower = np.where(seen, checks - 1, budget) * every
    return Observations.of(lower, np.where(seen, checks * every, inf)).merged()


def assert_no_nan(value: object) -> None:
    if is_dataclass(value):
        for field in fields(value):
            if field.name != "covariance":
                assert_no_nan(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            assert_no_nan(item)
    elif isinstance(value, float):
        assert not math.isnan(value)


def test_an_exponential_rate_is_failures_over_exposure() -> None:
    """Exact and right-censored times: lambda = exposure / failures, Var(log lambda) = 1 / failures."""
    times = [0.3, 1.1, 2.2, 0.7, 5.0, 0.2, 3.0, 3.0]
    upper = [0.3, 1.1, 2.2, 0.7, 5.0, 0.2, inf, inf]
    found = fit(Observations.of(times, upper), Distribution.EXPONENTIAL)
    mean = sum(times) / 6
    assert found.coefficients[0].estimate == pytest.approx(math.log(mean), rel=1e-12)
    assert found.coefficients[0].standard_error == pytest.approx(1 / math.sqrt(6), rel=1e-9)
    assert found.expected.value == pytest.approx(mean)
    assert found.median.value == pytest.approx(mean * math.log(2))
    assert found.restricted_mean.value == pytest.approx(mean * (1 - math.exp(-5 / mean)))
    assert found.extrapolated_share == pytest.approx(math.exp(-5 / mean))
    assert found.log_likelihood == pytest.approx(-6 * math.log(mean) - 6)
    assert found.parameter_count == 1


def test_a_log_normal_fit_of_exact_times_is_mean_and_deviation_of_their_logarithms() -> None:
    logs = np.log([0.5, 1.0, 1.7, 3.1, 4.0])
    found = fit(Observations.of(np.exp(logs), np.exp(logs)), Distribution.LOG_NORMAL)
    assert found.coefficients[0].estimate == pytest.approx(logs.mean(), rel=1e-10)
    assert found.scale == pytest.approx(logs.std(), rel=1e-10)
    assert found.median.log_standard_error == pytest.approx(logs.std() / math.sqrt(5), rel=1e-8)


def test_two_checks_fit_the_observed_shares_exactly() -> None:
    """Two parameters, three cells: the fitted survival at both checks is the share that survived them."""
    data = Observations.of([0, 1, 2], [1, 2, inf], [20, 30, 50])
    for distribution in TWO_PARAMETERS:
        found = fit(data, distribution)
        z = (np.log([1.0, 2.0]) - found.coefficients[0].estimate) / found.scale
        np.testing.assert_allclose(distribution.family.survival(z), [0.8, 0.5], rtol=1e-7)


@pytest.mark.parametrize("distribution", TWO_PARAMETERS, ids=lambda d: d.name.lower())
def test_a_known_truth_is_recovered(distribution: Distribution) -> None:
    data = inspected(drawn(distribution, 20_000, mu=1.5, sigma=0.6, seed=5), every=1.0, budget=12)
    found = fit(data, distribution)
    assert abs(found.coefficients[0].estimate - 1.5) < 3.5 * found.coefficients[0].standard_error
    assert abs(math.log(found.scale / 0.6)) < 3.5 * found.log_scale_standard_error
    truth = math.exp(1.5 + distribution.family.log_mean(0.6))
    assert found.expected.lower is not None
    assert found.expected.upper is not None
    assert found.expected.lower * 0.97 < truth < found.expected.upper * 1.03


@pytest.mark.parametrize("distribution", TWO_PARAMETERS, ids=lambda d: d.name.lower())
def test_a_95_percent_interval_of_the_median_covers_it_95_times_in_100(distribution: Distribution) -> None:
    """400 replicates of 80 samples, 10 checks: a true coverage of .95 gives .928 to .972 but once in 20 times."""
    truth = math.exp(1.0 + 0.7 * distribution.family.quantile(0.5))
    hits = 0
    for seed in range(400):
        found = fit(
            inspected(drawn(distribution, 80, mu=1.0, sigma=0.7, seed=seed), every=0.8, budget=10), distribution
        )
        assert found.median.lower is not None
        assert found.median.upper is not None
        hits += found.median.lower <= truth <= found.median.upper
    assert 0.92 <= hits / 400 <= 0.98


@given(exponent=st.integers(-6, 6), distribution=st.sampled_from(WITHOUT_SHAPE))
@settings(max_examples=40, deadline=None)
def test_the_unit_of_time_moves_the_intercept_and_nothing_else(exponent: int, distribution: Distribution) -> None:
    unit = 10.0**exponent
    x = np.tile([0.0, 1.0], 60)
    times = drawn(Distribution.WEIBULL, 120, mu=1.0, sigma=0.8, seed=9) * np.exp(0.4 * x)
    lower, upper = np.floor(times), np.where(times < 9, np.ceil(times), inf)
    lower = np.minimum(lower, 9)
    one, other = (
        described(fit(data, distribution), data)
        for data in (
            Observations.of(lower * scale, upper * scale, covariates={"x": x.tolist()}) for scale in (1.0, unit)
        )
    )
    assert other.scale == pytest.approx(one.scale, rel=1e-7)
    assert other.coefficients[1].estimate == pytest.approx(one.coefficients[1].estimate, rel=1e-7)
    assert other.coefficients[1].standard_error == pytest.approx(one.coefficients[1].standard_error, rel=1e-6)
    assert other.coefficients[0].estimate == pytest.approx(one.coefficients[0].estimate + math.log(unit), abs=1e-7)
    # Interval and right-censored rows have probabilities, and those have no unit.
    assert other.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-9)
    assert other.median.value == pytest.approx(one.median.value * unit, rel=1e-7)
    assert other.restricted_mean.value == pytest.approx(one.restricted_mean.value * unit, rel=1e-7)
    assert other.concordance == pytest.approx(one.concordance)


@given(seed=st.integers(0, 10_000), distribution=st.sampled_from(WITHOUT_SHAPE))
@settings(max_examples=25, deadline=None)
def test_order_and_repetition_of_rows_do_not_matter(seed: int, distribution: Distribution) -> None:
    generator = np.random.default_rng(seed)
    checks = generator.integers(1, 9, size=40)
    repeat = generator.integers(1, 5, size=40)
    x = generator.integers(0, 3, size=40).astype(float)
    upper = np.where(checks < 8, checks, inf)
    lower = checks - 1
    counted = Observations.of(lower, upper, repeat, covariates={"x": x.tolist()})
    weighted = described(fit(counted, distribution), counted)
    order = generator.permutation(int(repeat.sum()))
    long = [np.repeat(column, repeat)[order] for column in (lower, upper, x)]
    repeated = Observations.of(long[0], long[1], covariates={"x": long[2].tolist()})
    for rows in (repeated, repeated.merged()):
        other = described(fit(rows, distribution), rows)
        assert other.status is weighted.status
        assert other.aic == pytest.approx(weighted.aic, rel=1e-9)
        assert other.bic == pytest.approx(weighted.bic, rel=1e-9)
        assert other.scale == pytest.approx(weighted.scale, rel=1e-5)
        assert other.concordance == pytest.approx(weighted.concordance, rel=1e-12)


def test_a_warm_start_saves_iterations_and_changes_nothing() -> None:
    times = drawn(Distribution.WEIBULL, 400, mu=1.5, sigma=0.7, seed=1)
    for distribution in WITHOUT_SHAPE:
        before = fit(inspected(times[:380], every=1.0, budget=10), distribution)
        cold = fit(inspected(times, every=1.0, budget=10), distribution)
        warm = fit(inspected(times, every=1.0, budget=10), distribution, start=before)
        assert warm.iteration_count < cold.iteration_count
        assert warm.iteration_count <= 3
        assert warm.median.value == pytest.approx(cold.median.value, rel=1e-6)


def test_a_start_with_other_covariates_is_not_used() -> None:
    times = drawn(Distribution.WEIBULL, 60, mu=1.0, sigma=0.7, seed=1)
    plain = fit(Observations.of(times, times), Distribution.WEIBULL)
    x = np.arange(60.0).tolist()
    warm = fit(Observations.of(times, times, covariates={"x": x}), Distribution.WEIBULL, start=plain)
    assert [c.covariate for c in warm.coefficients] == ["intercept", "x"]


def test_a_finer_wish_for_confidence_gives_a_wider_interval() -> None:
    data = inspected(drawn(Distribution.WEIBULL, 200, mu=1.5, sigma=0.7, seed=1), every=1.0, budget=10)
    narrow, wide = (fit(data, Distribution.WEIBULL, level=level).median for level in (0.8, 0.99))
    assert narrow.lower is not None
    assert narrow.upper is not None
    assert wide.lower is not None
    assert wide.upper is not None
    assert wide.lower < narrow.lower < narrow.upper < wide.upper


def test_correlated_copies_of_rows_do_not_narrow_a_clustered_interval() -> None:
    times = drawn(Distribution.WEIBULL, 200, mu=1.5, sigma=0.7, seed=4)
    x = np.random.default_rng(4).normal(size=200)
    once = Observations.of(times, times, covariates={"x": x.tolist()}, cluster=[str(i) for i in range(200)])
    copies = np.tile(np.arange(200), 5)
    five = Observations.of(
        times[copies], times[copies], covariates={"x": x[copies].tolist()}, cluster=[str(i) for i in copies]
    )
    single, many = fit(once, Distribution.WEIBULL), fit(five, Distribution.WEIBULL)
    assert many.coefficients[1].standard_error == pytest.approx(single.coefficients[1].standard_error, rel=1e-6)
    naive = fit(
        Observations.of(times[copies], times[copies], covariates={"x": x[copies].tolist()}), Distribution.WEIBULL
    )
    assert naive.coefficients[1].standard_error < 0.55 * many.coefficients[1].standard_error


@pytest.mark.parametrize(("clusters", "words"), [(1, "1 cluster,"), (4, "4 clusters"), (6, "6 clusters"), (12, "12")])
def test_clusters_too_few_for_their_errors_are_said_to_be(clusters: int, words: str) -> None:
    times = drawn(Distribution.WEIBULL, 120, mu=1.5, sigma=0.7, seed=4)
    x = np.random.default_rng(4).normal(size=120).tolist()
    cluster = [str(i % clusters) for i in range(120)]
    found = fit(Observations.of(times, times, covariates={"x": x}, cluster=cluster), Distribution.WEIBULL)
    assert found.status is Status.OK
    assert words in found.status_message
    assert ("too narrow" if clusters > 6 else "take the rows as independent") in found.status_message
    independent = fit(Observations.of(times, times, covariates={"x": x}), Distribution.WEIBULL)
    assert independent.status_message == "the fit can be used"
    if clusters <= 6:
        assert found.coefficients[1].standard_error == independent.coefficients[1].standard_error


def test_a_cluster_a_row_is_no_reason_for_doubt() -> None:
    data = Observations.of([1, 2, 3, 5], [1, 2, 3, 5], cluster=["a", "b", "c", "d"])
    assert fit(data, Distribution.LOG_NORMAL).status_message == "the fit can be used"


@pytest.mark.parametrize("distribution", WITHOUT_SHAPE, ids=lambda d: d.name.lower())
def test_failures_all_at_the_first_check_have_no_time(distribution: Distribution) -> None:
    """The sooner, the likelier: there is no maximum, and pooling groups would not help."""
    for data in (Observations.of([0], [2], [40]), Observations.of([0, 0], [2, inf], [40, 5])):
        found = fit(data, distribution)
        assert found.status in (Status.SINGLE_CHECK, Status.ONE_INTERVAL)
        assert "nothing tells how soon" in found.status_message


def test_one_failure_is_too_few_for_one_parameter() -> None:
    found = fit(Observations.of([3, 5], [4, inf], [1, 20]), Distribution.EXPONENTIAL)
    assert found.status is Status.TOO_FEW_FAILURES
    assert "1 failure is too few for 1 parameter (2 are needed)" in found.status_message


def test_constant_and_collinear_covariates_are_dropped_and_named() -> None:
    times = drawn(Distribution.WEIBULL, 90, mu=1.0, sigma=0.7, seed=8)
    group = np.tile([0.0, 1.0, 2.0], 30)
    covariates = {
        "one": [3.0] * 90,
        "a": (group == 0).astype(float).tolist(),
        "b": (group == 1).astype(float).tolist(),
        "c": (group == 2).astype(float).tolist(),
    }
    found = fit(Observations.of(times, times, covariates=covariates), Distribution.WEIBULL)
    assert found.status is Status.OK
    assert [c.covariate for c in found.coefficients] == ["intercept", "a", "b"]
    assert found.dropped_covariates == (
        "one is the same in every observation",
        "c cannot be told apart from a and b",
    )


NO_NUMBERS = {
    Status.NO_SAMPLE: Observations.of([], []),
    Status.NO_FAILURE: Observations.of([3, 5], [inf, inf], [10, 20]),
    Status.SINGLE_CHECK: Observations.of([0, 2], [2, inf], [30, 70]),
    Status.ONE_INTERVAL: Observations.of([2, 9], [3, inf], [30, 70]),
    Status.TOO_FEW_FAILURES: Observations.of([1, 2, 9], [2, 3, inf], [1, 2, 70]),
}


@pytest.mark.parametrize("status", NO_NUMBERS, ids=lambda s: s.name.lower())
@pytest.mark.parametrize("distribution", TWO_PARAMETERS, ids=lambda d: d.name.lower())
def test_data_that_cannot_carry_a_number_have_a_status_and_a_sentence(
    distribution: Distribution, status: Status
) -> None:
    found = fit(NO_NUMBERS[status], distribution, clock=Clock.QUERIES)
    assert found.status is status
    assert len(found.status_message) > 30
    assert found.median.value is None
    assert found.expected.value is None
    assert found.coefficients == ()
    assert found.curve.time == ()
    assert_no_nan(found)


def test_a_single_check_identifies_an_exponential_rate() -> None:
    found = fit(NO_NUMBERS[Status.SINGLE_CHECK], Distribution.EXPONENTIAL)
    assert found.status is Status.OK
    assert found.expected.value == pytest.approx(-2 / math.log(0.7))


def test_one_check_is_one_check_on_the_clock_of_seconds_too(outcome_columns: Callable[..., OutcomeColumns]) -> None:
    """No two samples take the same time, so only the number of checks tells that there was a single one."""
    from survival_service.outcome_table import OutcomeTable

    seconds = np.random.default_rng(0).uniform(0.9, 1.1, 60)
    for checks, status in (
        ([1] * 30 + [None] * 30, Status.SINGLE_CHECK),
        ([4] * 30 + [None] * 30, Status.ONE_INTERVAL),
    ):
        table = OutcomeTable()
        table.add(outcome_columns(checks, budget=1 if status is Status.SINGLE_CHECK else 9, seconds_per_check=seconds))
        for clock in (Clock.QUERIES, Clock.SECONDS):
            assert fit(table.observations(clock), Distribution.WEIBULL).status is status


def test_failures_that_one_moment_explains_have_no_spread() -> None:
    """Overlapping intervals with a common point: the likelihood has its supremum, 1, at sigma = 0."""
    data = Observations.of([0, 1, 1.5, 1.2], [2, 3, 4, inf], [10, 10, 10, 10])
    assert fit(data, Distribution.WEIBULL).status is Status.ONE_INTERVAL


@given(
    cells=st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 6) | st.just(0), st.integers(1, 40)), min_size=1, max_size=8
    ),
    exponent=st.floats(-9, 9),
)
@settings(max_examples=150, deadline=None)
def test_no_data_make_a_fit_raise_or_give_nan(cells: list[tuple[int, int, int]], exponent: float) -> None:
    unit = 10.0**exponent
    lower = [unit * a for a, _, _ in cells]
    upper = [unit * (a + b) if b else inf for a, b, _ in cells]
    data = Observations.of(lower, upper, [float(w) for _, _, w in cells])
    for distribution in WITHOUT_SHAPE:
        found = described(fit(data, distribution), data)
        assert_no_nan(found)
        if found.status is Status.OK:
            assert found.curve.time[-1] == found.restriction_time
            assert found.log_likelihood <= 1e-9 or any(a == b for a, b in zip(lower, upper, strict=True))
            assert all(np.diff(found.curve.survival) <= 0)
            assert all(np.diff(found.curve.survival_lower) <= 0)
            assert all(np.diff(found.curve.survival_upper) <= 0)
            assert all(
                low <= s <= high
                for low, s, high in zip(
                    found.curve.survival_lower, found.curve.survival, found.curve.survival_upper, strict=True
                )
            )
            assert found.restricted_mean.value is None or found.restricted_mean.value <= found.restriction_time
            assert 0 <= found.extrapolated_share <= 1
            assert found.log_scale_standard_error < 3


def test_a_heavy_tail_has_an_infinite_expected_time_and_says_so() -> None:
    data = Observations.of([0, 1, 2, 4, 8], [1, 2, 4, 8, inf], [30, 8, 7, 6, 60])
    found = fit(data, Distribution.LOG_LOGISTIC)
    assert found.status is Status.OK
    assert found.scale > 1
    assert found.expected.value == inf
    assert found.expected.lower is None
    assert found.extrapolated_share == 1
    assert found.restricted_mean.value is not None
    assert found.restricted_mean.value < 8


def test_fits_are_ranked_by_aic_and_those_without_numbers_come_last() -> None:
    data = inspected(drawn(Distribution.LOG_NORMAL, 2000, mu=1.5, sigma=0.6, seed=1), every=0.5, budget=30)
    fits: list[Fit] = [fit(data, d) for d in TWO_PARAMETERS]
    empty = fit(NO_NUMBERS[Status.NO_FAILURE], Distribution.WEIBULL)
    order = ranked((empty, *fits))
    assert order[0].distribution is Distribution.LOG_NORMAL
    assert order[-1] is empty
    assert order[0].aic <= order[1].aic <= order[2].aic


def test_a_higher_failure_rate_at_equal_attack_time_shortens_the_expected_time() -> None:
    """An event column that is always true never lets success move E[T]; ours must."""
    expected = []
    for failures in (20, 50, 80):
        spread = [failures // 5] * 5
        data = Observations.of([0, 2, 4, 6, 8, 10], [2, 4, 6, 8, 10, inf], [*spread, 100 - sum(spread)])
        value = fit(data, Distribution.WEIBULL).expected.value
        assert value is not None
        expected.append(value)
    assert expected[0] > 2 * expected[1] > 2 * expected[2]


def hard_data(seed: int) -> Observations:
    """All kinds of rows, units from 1e-12 to 1e12, covariates of scales 1e-5 to 1e4, weights 1e-6 to 1e8, clusters."""
    g = np.random.default_rng(seed)
    n, p = int(g.integers(1, 60)), int(g.integers(0, 4))
    x = g.normal(size=(n, p)) if g.random() < 0.5 else g.integers(0, 2, size=(n, p)).astype(float)
    x *= 10.0 ** g.integers(-5, 5, size=p)
    at, kind = np.floor(8 * g.exponential(size=n)), g.random(n)
    lower = np.where(kind < 0.5, at + (kind > 0.3), at)
    upper = np.select([kind < 0.3, kind < 0.5, kind < 0.6], [at + 1 + g.integers(0, 3, size=n), inf, at + 1], at)
    upper = np.where(upper <= 0, 1.0, upper)
    unit = 10.0 ** g.integers(-12, 13)
    lower, upper = lower * unit, np.maximum(upper * unit, lower * unit)
    if g.random() < 0.3:
        upper = np.where(np.isfinite(upper) & (lower > 0), np.nextafter(lower, inf), upper)
    weight = 10.0 ** g.uniform(-6, 8, size=n) if g.random() < 0.2 else np.ones(n)
    cluster = [str(i) for i in g.integers(0, 20, size=n)] if g.random() < 0.3 else None
    return Observations.of(lower, upper, weight, {f"x{j}": x[:, j].tolist() for j in range(p)}, cluster)


@pytest.mark.parametrize("distribution", WITHOUT_SHAPE, ids=lambda d: d.name.lower())
def test_hard_data_get_numbers_or_a_status_and_never_raise(distribution: Distribution) -> None:
    statuses = []
    for seed in range(150):
        found = fit(hard_data(seed), distribution)
        assert_no_nan(found)
        statuses.append(found.status)
        if found.status is Status.OK:
            assert found.median.lower is not None
            assert found.restricted_mean.value is not None
    assert statuses.count(Status.OK) > 100


def test_groups_that_each_fail_in_one_check_have_no_spread() -> None:
    """Two groups, each wholly within one interval: sigma = 0 explains everything, and no number is given."""
    data = Observations.of([0, 4], [1, 5], [50, 50], covariates={"x": [0, 1]})
    for distribution in WITHOUT_SHAPE:
        found = fit(data, distribution)
        assert found.status is Status.NOT_IDENTIFIED
        assert "x tells apart" in found.status_message
