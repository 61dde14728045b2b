"""What must not change a fit: the unit of time, the order of rows, shards, weights for copies, codings and scales.

Every distribution on every kind of censoring, with a covariate of three levels and a continuous one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.estimates import Estimate
from survival_service.fitting import Fit, Status, described, fit
from survival_service.observations import FloatArray, Observations

inf = math.inf
DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL)
KINDS = ("exact", "right", "left", "interval", "mixed")
LEVEL = np.arange(90) % 3


def rows(kind: str, seed: int = 0) -> Observations:
    """90 Weibull times about 3, known as `kind` says; levels b and c against a, and a continuous x."""
    generator = np.random.default_rng((7, seed))
    n = LEVEL.size
    x = np.round(generator.normal(size=n), 2)
    time = np.exp(1 + 0.4 * x + 0.5 * LEVEL + 0.7 * np.log(generator.exponential(size=n)))
    early, late = time * generator.uniform(0.3, 1, n), time * generator.uniform(1, 2, n)
    check = np.ceil(2 * time)
    pick = generator.integers(4, size=n)
    bounds = {
        "exact": (time, time),
        "right": (np.minimum(time, 6), np.where(time < 6, time, inf)),
        "left": (np.where(pick == 0, 0, time), np.where(pick == 0, late, time)),
        "interval": (np.where(check > 16, 16, check - 1) / 2, np.where(check > 16, inf, check / 2)),
        "mixed": (np.choose(pick, [time, early, 0 * time, early]), np.choose(pick, [time, inf + time, late, late])),
    }
    lower, upper = bounds[kind]
    dummies = {"b": (LEVEL == 1).astype(float).tolist(), "c": (LEVEL == 2).astype(float).tolist()}
    return Observations.of(lower, upper, covariates=dummies | {"x": x.tolist()})


def found(data: Observations, distribution: Distribution) -> Fit:
    result = described(fit(data, distribution), data)
    assert result.coefficients
    return result


def estimates(one: Fit) -> list[float]:
    return [c.estimate for c in one.coefficients]


def errors(one: Fit) -> list[float]:
    return [*(c.standard_error for c in one.coefficients), one.log_scale_standard_error]


def assert_same_time(one: Estimate, other: Estimate, unit: float) -> None:
    for name in ("value", "lower", "upper"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        # The ends of profile intervals are found to a precision of their own.
        assert left is None or right == pytest.approx(left * unit, rel=1e-7 if name == "value" else 1e-4)
    assert (one.log_standard_error or 0.0) == pytest.approx(other.log_standard_error or 0.0, rel=1e-6)


def assert_same(one: Fit, other: Fit, *, unit: float = 1.0) -> None:
    """The other fit is this one, with times `unit` times as large."""
    moved = [estimates(one)[0] + math.log(unit), *estimates(one)[1:]]
    assert np.max(np.abs(np.subtract(estimates(other), moved)) / errors(one)[:-1]) < 1e-7
    np.testing.assert_allclose(errors(other), errors(one), rtol=1e-7)
    assert other.scale == pytest.approx(one.scale, rel=1e-8)
    assert other.concordance == pytest.approx(one.concordance, rel=1e-12)
    for name in ("median", "restricted_mean", "expected"):
        assert_same_time(getattr(one, name), getattr(other, name), unit)
    assert other.restriction_time == pytest.approx(one.restriction_time * unit, rel=1e-12)
    assert other.extrapolated_share == pytest.approx(one.extrapolated_share, abs=1e-8)
    np.testing.assert_allclose(other.curve.time, np.multiply(one.curve.time, unit), rtol=1e-9)
    np.testing.assert_allclose(other.curve.survival, one.curve.survival, atol=1e-9)
    np.testing.assert_allclose(other.curve.survival_upper, one.curve.survival_upper, atol=1e-7)
    assert (other.status, other.observation_count, other.failure_count, other.parameter_count) == (
        one.status,
        one.observation_count,
        one.failure_count,
        one.parameter_count,
    )


def assert_same_criteria(one: Fit, other: Fit) -> None:
    for name in ("log_likelihood", "aic", "bic"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-10)


def with_time(data: Observations, unit: float) -> Observations:
    return replace(data, lower=data.lower * unit, upper=data.upper * unit)


def taken(data: Observations, order: np.ndarray) -> Observations:
    """Rows by position, repeated ones too."""
    return Observations(
        data.lower[order],
        data.upper[order],
        data.weight[order],
        data.covariates[order],
        data.names,
        None if data.cluster is None else data.cluster[order],
    )


def joined(parts: list[Observations]) -> Observations:
    columns = [np.concatenate([getattr(p, name) for p in parts]) for name in ("lower", "upper", "weight", "covariates")]
    return Observations(*columns, parts[0].names)


every = pytest.mark.parametrize("kind", KINDS)
of_each = pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=lambda d: d.name.lower())


@given(exponent=st.floats(-12, 12), kind=st.sampled_from(KINDS), distribution=st.sampled_from(DISTRIBUTIONS))
@example(-12.0, "exact", Distribution.WEIBULL)
@example(12.0, "right", Distribution.LOG_NORMAL)
@example(-12.0, "left", Distribution.LOG_LOGISTIC)
@example(12.0, "interval", Distribution.EXPONENTIAL)
@example(-12.0, "mixed", Distribution.LOG_NORMAL)
@settings(max_examples=30, deadline=None)
def test_the_unit_of_time_moves_the_intercept_by_its_logarithm_and_nothing_else(
    exponent: float, kind: str, distribution: Distribution
) -> None:
    """The log-likelihood moves by -log(unit) for each exact time, which are densities: criteria differ as before."""
    unit, data = 10.0**exponent, rows(kind)
    one, other = found(data, distribution), found(with_time(data, unit), distribution)
    assert_same(one, other, unit=unit)
    exact = int((data.lower == data.upper).sum())
    assert other.log_likelihood == pytest.approx(one.log_likelihood - exact * math.log(unit), rel=1e-10, abs=1e-8)
    rival = Distribution.LOG_NORMAL if distribution is Distribution.WEIBULL else Distribution.WEIBULL
    gap, again = (result.aic - found(d, rival).aic for result, d in ((one, data), (other, with_time(data, unit))))
    assert again == pytest.approx(gap, abs=1e-8)


CHANGES = pytest.mark.parametrize("change", ["unit", "order", "weight"])


def changed(data: Observations, change: str) -> tuple[Observations, Observations, float]:
    """Data, the same told otherwise, and the unit of time of the latter."""
    if change == "unit":
        return data, with_time(data, 1e-12), 1e-12
    if change == "order":
        return data, taken(data, np.random.default_rng(3).permutation(data.lower.size)), 1.0
    count = np.random.default_rng(7).integers(1, 5, size=data.lower.size)
    return replace(data, weight=count.astype(float)), taken(data, np.repeat(np.arange(count.size), count)), 1.0


@of_each
@CHANGES
def test_profile_intervals_of_few_failures_do_not_change(distribution: Distribution, change: str) -> None:
    """Ten to thirty failures, so that the intervals of the median and of effects are those of the profile."""
    data = rows("right")
    limit = float(np.sort(data.lower)[12])
    data = replace(data, lower=np.minimum(data.lower, limit), upper=np.where(data.lower <= limit, data.upper, inf))
    data = data.with_columns([2])
    before, after, unit = changed(data, change)
    one, other = found(before, distribution), found(after, distribution)
    assert_same(one, other, unit=unit)
    assert_same_time(one.coefficients[1].time_ratio, other.coefficients[1].time_ratio, 1.0)
    median = one.median
    assert median.value is not None
    assert median.lower is not None
    assert median.upper is not None
    if one.failure_count < 30:  # lopsided on the log scale, as an interval of so many standard errors is not
        assert abs(math.log(median.upper * median.lower / median.value**2)) > 0.01


@of_each
@CHANGES
def test_bounds_of_a_group_without_failures_do_not_change(distribution: Distribution, change: str) -> None:
    data = rows("interval")
    spared = LEVEL == 1
    data = replace(data, lower=np.where(spared, 8.0, data.lower), upper=np.where(spared, inf, data.upper))
    before, after, unit = changed(data, change)
    one, other = fit(before, distribution), fit(after, distribution)
    assert one.status is other.status is Status.GROUP_WITHOUT_FAILURE
    (bound,), (again,) = one.effect_bounds, other.effect_bounds
    assert (bound.covariate, bound.upper, again.covariate, again.upper) == ("b", None, "b", None)
    assert bound.lower is not None
    assert bound.lower > 0
    assert again.lower == pytest.approx(bound.lower, rel=1e-4)
    assert_same_time(one.median, other.median, unit)
    assert [c.covariate for c in one.coefficients] == ["intercept", "c", "x"]
    np.testing.assert_allclose(estimates(other)[1:], estimates(one)[1:], rtol=1e-6)


@pytest.mark.parametrize("distribution", [Distribution.GENERALIZED_GAMMA, Distribution.GAMMA], ids=lambda d: d.name)
@CHANGES
def test_a_fit_with_a_shape_does_not_change(distribution: Distribution, change: str) -> None:
    """The derivatives in the shape are differences, so that its maximum is found to fewer digits."""
    before, after, unit = changed(rows("mixed"), change)
    one, other = fit(before, distribution), fit(after, distribution)
    assert one.shape is not None
    assert other.shape == pytest.approx(one.shape, abs=1e-5)
    assert other.scale == pytest.approx(one.scale, rel=1e-5)
    np.testing.assert_allclose(errors(other), errors(one), rtol=1e-4)
    assert estimates(other)[1:] == pytest.approx(estimates(one)[1:], abs=1e-5)
    assert other.median.value == pytest.approx((one.median.value or 0.0) * unit, rel=1e-5)
    assert other.restricted_mean.value == pytest.approx((one.restricted_mean.value or 0.0) * unit, rel=1e-5)


@of_each
@every
def test_doubled_durations_double_every_time_and_leave_the_effects_alone(kind: str, distribution: Distribution) -> None:
    data = rows(kind)
    one, other = found(data, distribution), found(with_time(data, 2.0), distribution)
    assert_same(one, other, unit=2.0)
    assert one.expected.value is not None
    assert other.expected.value == pytest.approx(2 * one.expected.value, rel=1e-9)


@of_each
@every
def test_the_order_of_rows_is_nothing(kind: str, distribution: Distribution) -> None:
    data = rows(kind)
    order = np.random.default_rng(3).permutation(data.lower.size)
    one, other = found(data, distribution), found(taken(data, order), distribution)
    assert_same(one, other)
    assert_same_criteria(one, other)


@of_each
@every
def test_a_weight_is_a_repetition(kind: str, distribution: Distribution) -> None:
    data = rows(kind)
    count = np.random.default_rng(5).integers(1, 5, size=data.lower.size)
    one = found(replace(data, weight=count.astype(float)), distribution)
    other = found(taken(data, np.repeat(np.arange(count.size), count)), distribution)
    assert_same(one, other)
    assert_same_criteria(one, other)


@of_each
@every
def test_a_weight_is_a_repetition_within_its_cluster(kind: str, distribution: Distribution) -> None:
    data = replace(rows(kind), cluster=np.arange(90) // 3)
    count = np.random.default_rng(6).integers(1, 5, size=data.lower.size)
    one = found(replace(data, weight=count.astype(float)), distribution)
    other = found(taken(data, np.repeat(np.arange(count.size), count)), distribution)
    assert_same(one, other)
    naive = found(replace(data, weight=count.astype(float), cluster=None), distribution)
    assert abs(math.log(naive.coefficients[3].standard_error / one.coefficients[3].standard_error)) > 1e-3


@of_each
def test_shards_that_are_counted_apart_and_merged_give_the_same_table_and_the_same_fit(
    distribution: Distribution,
) -> None:
    """To the bit: counts are whole numbers, and a merged table is in one order whatever it was merged from."""
    generator = np.random.default_rng(1)
    data = replace(rows("interval"), weight=generator.integers(1, 9, size=90).astype(float))
    # Coarse enough for cells that several shards share.
    data = replace(data, covariates=np.round(data.covariates))
    shards = np.array_split(generator.permutation(90), 7)
    whole, parts = data.merged(), joined([taken(data, shard).merged() for shard in shards]).merged()
    assert whole.lower.size < 90
    for name in ("lower", "upper", "weight", "covariates"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    one, other = found(whole, distribution), found(parts, distribution)
    assert one == other
    assert_same(found(data, distribution), one)


@of_each
@every
def test_shards_put_together_in_any_order_give_the_same_fit(kind: str, distribution: Distribution) -> None:
    data = rows(kind)
    shards = np.array_split(np.random.default_rng(2).permutation(90), 4)
    parts = joined([taken(data, shard) for shard in reversed(shards)])
    one, other = found(data, distribution), found(parts, distribution)
    assert_same(one, other)
    assert_same_criteria(one, other)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_of_the_estimates_of_shards_is_not_the_fit(seed: int) -> None:
    """Why tables are merged and estimates never averaged: the mean of 60 shards is several standard errors off.

    An estimate from few failures is biased (that of log sigma by about -parameters / (2 failures)); a mean keeps the
    bias while its own error shrinks.
    """
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(1500, 3)).round(1)
    check = np.ceil(4 * np.exp(1 + 0.3 * x.sum(axis=1) + 0.6 * np.log(generator.exponential(size=1500))))
    lower, upper = np.minimum(check - 1, 20), np.where(check <= 20, check, inf)
    data = Observations(lower, upper, np.ones(1500), x, ("a", "b", "c"))
    parts = [taken(data, part) for part in np.array_split(np.arange(1500), 60)]
    shards = [fit(part, Distribution.WEIBULL) for part in parts]
    assert all(shard.coefficients for shard in shards)
    whole = fit(data, Distribution.WEIBULL)
    off = float(np.mean([math.log(shard.scale) for shard in shards])) - math.log(whole.scale)
    assert off < -3 * whole.log_scale_standard_error
    merged = fit(joined([part.merged() for part in parts]), whole.distribution)
    assert merged.scale == pytest.approx(whole.scale, rel=1e-9)


@of_each
@every
def test_another_reference_level_is_another_name_for_the_same_model(kind: str, distribution: Distribution) -> None:
    """b and c against a, or a and b against c: the same likelihood, predictions and contrasts."""
    data = rows(kind)
    b, c, x = data.covariates.T
    recoded = replace(data, covariates=np.column_stack([1 - b - c, b, x]), names=("a", "b", "x"))
    one, other = found(data, distribution), found(recoded, distribution)
    assert_same_criteria(one, other)
    of_a, of_b, of_c = 0.0, estimates(one)[1], estimates(one)[2]
    expected = [estimates(one)[0] + of_c, of_a - of_c, of_b - of_c, estimates(one)[3]]
    np.testing.assert_allclose(estimates(other), expected, rtol=1e-8, atol=1e-9)
    # The contrast of c with a is the coefficient of one coding and, its sign turned, that of the other.
    assert other.coefficients[1].standard_error == pytest.approx(one.coefficients[2].standard_error, rel=1e-8)
    assert one.covariance is not None
    contrast = np.array([0, 1, -1, 0, 0])[: one.covariance.shape[0]]
    assert other.coefficients[2].standard_error == pytest.approx(
        math.sqrt(contrast @ one.covariance @ contrast), rel=1e-8
    )
    assert other.coefficients[3].standard_error == pytest.approx(one.coefficients[3].standard_error, rel=1e-8)
    assert other.scale == pytest.approx(one.scale, rel=1e-9)
    # Medians and means are at the covariates' means, which no coding moves.
    for name in ("median", "restricted_mean", "expected"):
        assert_same_time(getattr(one, name), getattr(other, name), 1.0)
    assert other.concordance == pytest.approx(one.concordance, rel=1e-12)


RESCALINGS: list[Callable[[FloatArray], FloatArray]] = [lambda x: 1e-8 * x, lambda x: 1e8 * x, lambda x: 300 - 20 * x]


@of_each
@every
@pytest.mark.parametrize("rescale", RESCALINGS, ids=["1e-8", "1e8", "affine"])
def test_the_unit_and_the_zero_of_a_covariate_are_nothing(
    kind: str, distribution: Distribution, rescale: Callable[[FloatArray], FloatArray]
) -> None:
    data = rows(kind)
    moved = data.covariates.copy()
    moved[:, 2] = rescale(moved[:, 2])
    origin, unit = float(rescale(np.zeros(1))[0]), float(rescale(np.ones(1))[0] - rescale(np.zeros(1))[0])
    one, other = found(data, distribution), found(replace(data, covariates=moved), distribution)
    assert_same_criteria(one, other)
    slope = estimates(one)[3] / unit
    expected = [estimates(one)[0] - origin * slope, *estimates(one)[1:3], slope]
    np.testing.assert_allclose(estimates(other), expected, rtol=1e-7)
    assert other.coefficients[3].standard_error == pytest.approx(
        one.coefficients[3].standard_error / abs(unit), rel=1e-8
    )
    for i in (1, 2):
        assert other.coefficients[i].standard_error == pytest.approx(one.coefficients[i].standard_error, rel=1e-8)
    assert other.scale == pytest.approx(one.scale, rel=1e-9)
    for name in ("median", "restricted_mean", "expected"):
        assert_same_time(getattr(one, name), getattr(other, name), 1.0)
    assert other.concordance == pytest.approx(one.concordance, rel=1e-12)
