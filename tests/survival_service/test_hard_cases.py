"""Data that are hard to fit: each gets the right status, and never a false "ok", a NaN or a standard error of 1e6."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.estimates import share_upper_bound, wilson
from survival_service.fits import Fit, Status
from survival_service.fitting import described, fit
from survival_service.observations import Observations

inf = math.inf
GENERALIZED = Distribution.GENERALIZED_GAMMA
TWO_PARAMETERS = [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC]
of_two_parameters = pytest.mark.parametrize("distribution", TWO_PARAMETERS, ids=lambda d: d.name.lower())
of_each = pytest.mark.parametrize("distribution", Distribution, ids=lambda d: d.name.lower())


def checked(times: np.ndarray, budget: float, every: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of times that are looked at `every` so often, up to the budget."""
    check = np.ceil(times / every)
    seen = check * every <= budget
    return np.where(seen, (check - 1) * every, budget), np.where(seen, check * every, inf)


def assert_sound(found: Fit) -> None:
    """Numbers that a person can use, or none and a sentence that says what to do."""
    if not found.has_numbers:
        assert found.coefficients == ()
        assert found.median.value is None
        assert found.akaike_weight is None
        assert any(word in found.status_message for word in ("attack", "look", "observe", "train", "pool", "fit"))
        return
    errors = [c.standard_error for c in found.coefficients if c.covariate == "intercept"]
    errors.append(found.log_scale_standard_error)
    assert all(math.isfinite(error) and error < 50 for error in errors)
    assert found.log_scale_standard_error < 3
    assert found.median.lower is not None
    assert found.median.upper is not None
    assert 0 <= found.median.lower <= (found.median.value or 0) <= found.median.upper
    assert found.restricted_mean.value is not None
    assert found.bic_events <= found.bic + 1e-9  # there are no more failures than samples


@of_each
def test_success_at_the_first_check_is_left_censored_and_fitted(distribution: Distribution) -> None:
    """A third fails at once; lower bounds of 0 are what other packages raise on."""
    lower, upper = checked(2.2 * np.random.default_rng(1).weibull(0.9, size=300), budget=9)
    assert 0.25 < (lower == 0).mean() < 0.5
    found = fit(Observations.of(lower, upper), distribution)
    assert found.status is Status.OK
    assert_sound(found)
    assert found.median.lower is not None
    assert found.median.upper is not None
    assert found.median.lower < 2.2 * math.log(2) ** (1 / 0.9) < found.median.upper


@of_two_parameters
def test_one_failure_in_a_thousand_of_20_000_gives_wide_numbers(distribution: Distribution) -> None:
    times = np.sort(20 * np.random.default_rng(2).exponential(size=20_000))
    budget = 0.5 * (times[19] + times[20])
    data = Observations.of(np.minimum(times, budget), np.where(times <= budget, times, inf))
    found = described(fit(data, distribution), data)
    assert (found.status, found.failure_count) == (Status.OK, 20)
    assert_sound(found)
    assert found.extrapolated_share > 0.98
    assert found.median.log_standard_error is not None
    assert 0.5 < found.median.log_standard_error < 10
    # The restricted mean needs no extrapolation, and is all but the budget.
    assert found.restricted_mean.value == pytest.approx(budget, rel=1e-3)


@of_each
def test_without_any_failure_a_bound_is_left(distribution: Distribution) -> None:
    found = fit(Observations.of([3, 5], [inf, inf], [10, 20]), distribution)
    assert found.status is Status.NO_FAILURE
    assert_sound(found)
    assert found.failure_probability is not None
    assert found.failure_probability.upper == pytest.approx(share_upper_bound(0, 20, 0.95))
    assert (found.failure_probability.value, found.failure_probability_time) == (0.0, 5.0)


@of_each
def test_a_group_without_a_failure_has_a_bound_and_the_others_their_fit(distribution: Distribution) -> None:
    lower, upper = checked(3 * np.random.default_rng(3).weibull(1.3, size=200), budget=8)
    lower, upper = np.append(lower, 8.0), np.append(upper, inf)
    hard = np.append(np.zeros(200), 1.0)
    data = Observations.of(lower, upper, [1] * 200 + [25], covariates={"hard": hard.tolist()})
    found = fit(data, distribution)
    assert found.status is Status.GROUP_WITHOUT_FAILURE
    assert "hard" in found.status_message
    assert_sound(found)
    others = fit(Observations.of(lower[:200], upper[:200]), distribution)
    assert found.log_likelihood == pytest.approx(others.log_likelihood, rel=1e-12)
    assert (found.shape is None) == (others.shape is None)
    for name in ("scale", "log_scale_standard_error", "restriction_time"):
        assert getattr(found, name) == pytest.approx(getattr(others, name), rel=1e-9)
    for name in ("median", "restricted_mean", "expected"):
        assert getattr(found, name).value == pytest.approx(getattr(others, name).value, rel=1e-9)
    assert [c.covariate for c in found.coefficients] == ["intercept"]
    assert (found.observation_count, found.parameter_count) == (225, others.parameter_count + 1)
    bound = found.effect_bounds[0]
    assert (bound.covariate, bound.upper, bound.level) == ("hard", None, 0.95)
    assert bound.lower is not None
    assert bound.lower > 1
    # Predicted to outlive everything, and so it does: concordance sees the group.
    whole = described(found, data)
    assert whole.concordance is not None
    assert whole.concordance > 0.5
    assert whole.curve.time[-1] == found.restriction_time


@of_two_parameters
def test_all_failures_in_one_check_leave_their_share(distribution: Distribution) -> None:
    found = fit(Observations.of([2, 9], [3, inf], [30, 70]), distribution)
    assert found.status is Status.ONE_INTERVAL
    assert_sound(found)
    assert found.failure_probability == wilson(30, 100, 0.95)
    assert found.failure_probability_time == 3.0


@of_each
def test_raw_scales_of_covariates_do_not_matter(distribution: Distribution) -> None:
    """Columns of scale 1e-5 and 4e3 (about 1e4) give the fit that standardised columns give."""
    generator = np.random.default_rng(5)
    z = generator.normal(size=(300, 2))
    times = np.exp(1 + z @ [0.3, 0.8] + 0.5 * np.log(generator.exponential(size=300)))
    upper = np.where(times < 8, times, inf)
    scale, shift = np.array([1e-5, 4e3]), np.array([0.0, 1e4])
    plain, raw = (
        fit(Observations(np.minimum(times, 8), upper, np.ones(300), x, ("a", "b")), distribution)
        for x in (z, z * scale + shift)
    )
    assert plain.status is raw.status is Status.OK
    assert raw.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-9)
    for j in (0, 1):
        theirs, ours = plain.coefficients[j + 1], raw.coefficients[j + 1]
        assert ours.estimate * scale[j] == pytest.approx(theirs.estimate, rel=1e-6)
        assert ours.standard_error * scale[j] == pytest.approx(theirs.standard_error, rel=1e-5)
    assert raw.median.value == pytest.approx(plain.median.value, rel=1e-6)


@of_each
def test_complementary_dummies_a_constant_and_more_columns_than_rows_are_dropped_and_named(
    distribution: Distribution,
) -> None:
    generator = np.random.default_rng(6)
    times = generator.exponential(size=80)
    a = generator.integers(0, 2, size=80).astype(float)
    covariates = {"one": [3.0] * 80, "a": a.tolist(), "not a": (1 - a).tolist()}
    found = fit(Observations.of(times, times, covariates=covariates), distribution)
    assert found.status is Status.OK
    assert [c.covariate for c in found.coefficients] == ["intercept", "a"]
    assert found.dropped_covariates == ("one is the same in every observation", "not a cannot be told apart from a")
    # Six distinct rows, ten columns: no more than five effects can be told, and 40 failures carry them.
    x = np.repeat(generator.normal(size=(6, 10)), 40, axis=0)
    x[:, 9] = 1.0
    times = generator.exponential(size=240)
    data = Observations.of(times, times, covariates={f"x{j}": x[:, j].tolist() for j in range(10)})
    wide = fit(data, distribution)
    assert wide.status is Status.OK
    assert [c.covariate for c in wide.coefficients] == ["intercept", "x0", "x1", "x2", "x3", "x4"]
    assert len(wide.dropped_covariates) == 5


@pytest.mark.parametrize("heavy", [False, True])
@of_each
def test_intervals_of_one_bit_tiny_units_and_wild_weights_are_what_exact_times_are(
    distribution: Distribution, heavy: bool
) -> None:
    """An interval of one ulp has the density of its exact time but for its width; weights span 14 decades."""
    generator = np.random.default_rng(7)
    times = 1e-12 * generator.weibull(1.5, size=150)
    weight = 10 ** generator.uniform(-6, 8, size=150) if heavy else np.ones(150)
    exact = fit(Observations(times, times, weight, np.empty((150, 0))), distribution)
    thin = fit(Observations(times, np.nextafter(times, inf), weight, np.empty((150, 0))), distribution)
    assert exact.status is thin.status is Status.OK
    assert_sound(thin)
    assert thin.scale == pytest.approx(exact.scale, rel=1e-6)
    assert thin.median.value == pytest.approx(exact.median.value, rel=1e-6)
    assert thin.median.log_standard_error == pytest.approx(exact.median.log_standard_error, rel=1e-4)


@of_two_parameters
def test_a_single_check_leaves_the_share_that_it_found(distribution: Distribution) -> None:
    data = Observations.of([0, 2, 0, 2], [2, inf, 2, inf], [20, 30, 10, 40])
    found = fit(data, distribution)
    assert found.status is Status.SINGLE_CHECK
    assert_sound(found)
    assert found.failure_probability == wilson(30, 100, 0.95)
    assert found.failure_probability_time == 2.0
    # Ten copies of each image tell no more than one: the interval is that of ten samples.
    ten = np.tile(np.arange(10), 10)
    lower = np.where(ten < 3, 0.0, 2.0)
    copies = replace(Observations.of(lower, np.where(ten < 3, 2.0, inf)), cluster=ten.astype(np.int64))
    clustered = fit(copies, distribution).failure_probability
    assert clustered is not None
    independent = fit(replace(copies, cluster=None), distribution).failure_probability
    assert independent is not None
    assert clustered.value == independent.value == pytest.approx(0.3)
    few = wilson(0.3 * 9, 9, 0.95)  # of ten clusters, one degree of freedom goes to the share
    np.testing.assert_allclose((clustered.lower, clustered.upper), (few.lower, few.upper))


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("distribution", TWO_PARAMETERS[:2], ids=lambda d: d.name.lower())
def test_a_share_that_never_fails_moves_the_expected_time_and_is_flagged(
    share: float, distribution: Distribution
) -> None:
    """E[T] grows a hundredfold with the budget; the restricted mean stays by what was observed; E[T]'s flag is up."""
    generator = np.random.default_rng(9)
    times = np.where(generator.random(600) < share, inf, 0.7 * generator.weibull(1.2, size=600))
    expected = []
    for budget in (1.0, 10.0, 100.0):
        found = fit(Observations.of(np.minimum(times, budget), np.where(times <= budget, times, inf)), distribution)
        assert found.status is Status.OK
        assert_sound(found)
        assert found.restricted_mean.value == pytest.approx(np.minimum(times, budget).mean(), rel=0.15)
        assert found.extrapolated_share > 0.35
        expected.append(found.expected.value or 0.0)
    assert expected[2] > 100 * expected[0]
    assert found.extrapolated_share > 0.85


@of_each
def test_clustered_interval_rows_have_wider_student_intervals(distribution: Distribution) -> None:
    """60 images, four rows each that are much alike: the naive errors are too small by up to a half."""
    generator = np.random.default_rng(10)
    image = np.repeat(np.arange(60), 4)
    log_time = 1 + 0.7 * generator.normal(size=60)[image] + 0.3 * np.log(generator.exponential(size=240))
    lower, upper = checked(np.exp(log_time), budget=12)
    data = Observations.of(lower, upper, cluster=[str(i) for i in image])
    found, naive = fit(data, distribution), fit(replace(data, cluster=None), distribution)
    assert found.status is Status.OK
    assert_sound(found)
    assert (found.degrees_of_freedom, naive.degrees_of_freedom) == (59, None)
    assert found.coefficients[0].standard_error > 1.2 * naive.coefficients[0].standard_error
    # t with 59 degrees of freedom at 97.5 %, in every interval.
    for estimate in (found.median, found.coefficients[0].time_ratio, found.restricted_mean):
        assert estimate.lower is not None
        margin = math.log((estimate.value or 0.0) / estimate.lower)
        assert margin == pytest.approx(2.000995378 * (estimate.log_standard_error or 0.0), rel=1e-7)
