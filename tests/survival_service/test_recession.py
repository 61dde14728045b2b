"""Whether a likelihood has a maximum: directions of recession against what the likelihood does along them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from survival_service.design import Design
from survival_service.distributions import Distribution
from survival_service.fits import Status
from survival_service.fitting import fit, prepared
from survival_service.likelihood import Likelihood
from survival_service.log_gamma import shape_family
from survival_service.observations import Observations
from survival_service.profiling import at_effect
from survival_service.recession import recession, spread_collapses

inf = math.inf
CHECKS = ([0, 1, 2, 3, 4], [1, 2, 3, 4, inf], [9, 9, 9, 9, 9])


def with_groups(**groups: list[tuple[float, float]]) -> Observations:
    """Five cells of the reference, and for each name its own cells (lower, upper], thirty samples each."""
    lower, upper, weight = (list(column) for column in CHECKS)
    members: list[str] = [""] * 5
    for name, cells in groups.items():
        for low, high in cells:
            lower.append(low)
            upper.append(high)
            weight.append(30)
            members.append(name)
    covariates = {name: [float(member == name) for member in members] for name in groups}
    return Observations.of(lower, upper, weight, covariates)


def test_where_every_group_fails_late_and_survives_there_is_a_maximum() -> None:
    data = with_groups(a=[(1, 2), (4, inf)], b=[(0, 1), (2, 3)])
    assert recession(Design.of(data), data.lower.size) is None
    assert prepared(data).limit is None


def test_a_group_without_failures_recedes_and_nothing_else() -> None:
    data = with_groups(easy=[(1, 2), (4, inf)], hard=[(4, inf), (2, inf)])
    found = recession(Design.of(data), data.lower.size)
    assert found is not None
    assert np.flatnonzero(found.receding).tolist() == [7, 8]
    assert (found.least.tolist(), found.greatest.tolist(), found.at_zero) == ([0, 0, 0], [0, 0, 1], False)
    assert recession(Design.of(data), data.lower.size, held=1) is None


def test_a_group_that_fails_and_survives_at_once_is_held_from_both_sides() -> None:
    data = with_groups(both=[(0, 1), (4, inf)])
    assert recession(Design.of(data), data.lower.size) is None


def test_a_reference_without_failures_lets_every_other_effect_fall() -> None:
    lower, upper, _ = CHECKS
    groups = {"a": [0] + [1] * 5 + [0] * 5, "b": [0] * 6 + [1] * 5}
    data = Observations.of([4, *lower, *lower], [inf, *upper, *upper], [30] * 6 + [9, 8, 7, 6, 5], covariates=groups)
    found = recession(Design.of(data), 11)
    assert found is not None
    assert (found.least.tolist(), found.greatest.tolist()) == ([0, -1, -1], [1, 0, 0])
    limit = prepared(data).limit
    assert limit is not None
    assert limit.affected == ("a", "b")
    assert limit.renamed == {"a": "a, against b"}
    lone = fit(data, Distribution.WEIBULL)
    assert [c.covariate for c in lone.coefficients] == ["intercept", "a, against b"]
    assert all(bound.lower is None and bound.upper is not None and bound.upper < 1 for bound in lone.effect_bounds)


def test_a_covariate_that_varies_only_where_nothing_failed_has_no_bound() -> None:
    lower, upper, weight = CHECKS
    columns = {"hard": [0] * 5 + [1, 1], "x": [0] * 6 + [1]}
    data = Observations.of([*lower, 4, 4], [*upper, inf, inf], [*weight, 9, 9], columns)
    found = fit(data, Distribution.WEIBULL)
    assert found.status is Status.GROUP_WITHOUT_FAILURE
    bounds = {bound.covariate: bound for bound in found.effect_bounds}
    assert (bounds["x"].lower, bounds["x"].upper) == (None, None)
    assert "do not bound" in bounds["x"].message


def test_the_limit_is_what_the_likelihood_climbs_to() -> None:
    """Along the direction the log-likelihood rises, ever more slowly, to that of the fit of the other rows."""
    data = with_groups(easy=[(1, 2), (4, inf)], hard=[(4, inf)])
    found = fit(data, Distribution.LOG_LOGISTIC)
    likelihood = Likelihood(data, Distribution.LOG_LOGISTIC.family)
    beta = np.array([*(c.estimate for c in found.coefficients), 0.0])
    heights = []
    for effect in (1.0, 3.0, 6.0, 20.0):
        beta[2] = effect
        heights.append(likelihood(likelihood.standardised(beta, found.scale))[0])
    assert heights == sorted(heights)
    assert found.log_likelihood > heights[-2]
    assert heights[-1] == pytest.approx(found.log_likelihood, abs=1e-9)


@pytest.mark.parametrize("distribution", [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.EXPONENTIAL])
def test_at_its_bound_an_effect_costs_the_likelihood_what_it_may(distribution: Distribution) -> None:
    """By brute force over everything else: there the best likelihood is a twentieth of its supremum."""
    from scipy.optimize import minimize

    data = with_groups(a=[(4, inf)], b=[(4, inf), (2, inf)])
    found = fit(data, distribution)
    likelihood = Likelihood(data, distribution.family, scale_fixed=distribution.scale_fixed)
    for j, bound in enumerate(found.effect_bounds):
        assert bound.lower is not None

        def short(p: np.ndarray, j: int = j, effect: float = math.log(bound.lower)) -> float:
            slopes = np.full(2, 25.0)  # the other group may go where it wants: far away
            slopes[j] = effect
            sigma = 1.0 if distribution.scale_fixed else math.exp(p[1])
            return -likelihood(likelihood.standardised(np.append(p[0], slopes), sigma))[0]

        best = minimize(short, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
        assert found.log_likelihood + best.fun == pytest.approx(math.log(20), abs=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
def test_at_its_bound_a_group_goes_without_failure_as_seldom_as_the_level_says(level: float) -> None:
    """Beside a reference of known rate, one failure a unit of time: the probability is exp(-exposure / ratio)."""
    exposure = 40.0
    data = Observations.of([0.5, 1.5, 8], [0.5, 1.5, inf], [1e5, 1e5, exposure / 8], {"hard": [0, 0, 1]})
    bound = fit(data, Distribution.EXPONENTIAL, level=level).effect_bounds[0].lower
    assert bound is not None
    assert math.exp(-exposure / bound) == pytest.approx(1 - level, rel=1e-3)


def test_the_bound_of_a_fit_with_a_shape_lets_the_shape_go() -> None:
    """By brute force over shapes: at the bound the best of all likelihoods with a shape held is a twentieth."""
    times = 3 * np.random.default_rng(3).weibull(1.3, size=200)
    check = np.ceil(times)
    lower, upper = np.where(check <= 8, check - 1, 8), np.where(check <= 8, check, inf)
    hard = [0.0] * 200 + [1.0]
    data = Observations.of([*lower, 8], [*upper, inf], [1] * 200 + [3], {"hard": hard}).merged()
    found = fit(data, Distribution.GENERALIZED_GAMMA)
    bound = found.effect_bounds[0].lower
    assert bound is not None
    heights = []
    for shape in np.linspace(0.3, 2.4, 43):
        likelihood = Likelihood(data, shape_family(shape))
        start = np.delete(likelihood.start(), 1)
        heights.append(at_effect(likelihood, 0, math.log(bound)).maximum(start)[0])
    assert 0 < int(np.argmax(heights)) < 42
    assert found.log_likelihood - max(heights) == pytest.approx(math.log(20), abs=5e-3)
    # Gamma times: the same for every sigma, with the shape that is it.
    gamma = fit(data, Distribution.GAMMA)
    bound, heights = gamma.effect_bounds[0].lower, []
    assert bound is not None
    for sigma in np.linspace(0.5, 1.2, 71):
        likelihood = Likelihood(data, shape_family(sigma), scale_fixed=True, fixed_scale=sigma)
        start = np.delete(likelihood.start(), 1)
        heights.append(at_effect(likelihood, 0, math.log(bound)).maximum(start)[0])
    assert gamma.log_likelihood - max(heights) == pytest.approx(math.log(20), abs=5e-3)


def test_a_group_that_fails_wholly_at_its_first_check_is_not_identified() -> None:
    data = with_groups(soft=[(0, 1)])
    found = fit(data, Distribution.WEIBULL)
    assert found.status is Status.NOT_IDENTIFIED
    assert "soft tells apart" in found.status_message
    assert "first check" in found.status_message


def test_the_spread_of_groups_that_fail_in_one_check_each_collapses() -> None:
    data = Observations.of([1, 3], [2, 5], [50, 50], covariates={"x": [0, 1]})
    assert spread_collapses(Design.of(data))
    for distribution in (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC):
        found = fit(data, distribution)
        assert found.status is Status.NOT_IDENTIFIED
        assert "one moment" in found.status_message
    assert fit(data, Distribution.EXPONENTIAL).status is Status.OK
    times = np.exp(np.arange(8.0))
    on_a_line = Observations.of(times, times, covariates={"x": np.arange(8.0).tolist()})
    assert spread_collapses(Design.of(on_a_line))
    assert fit(on_a_line, Distribution.LOG_NORMAL).status is Status.NOT_IDENTIFIED


def test_with_a_row_that_disagrees_the_spread_does_not_collapse() -> None:
    data = Observations.of([1, 3, 3], [2, 5, 4], [50, 50, 1], covariates={"x": [0, 1, 0]})
    assert not spread_collapses(Design.of(data))
    assert fit(data, Distribution.WEIBULL).status is Status.OK


def test_clusters_and_weights_change_nothing_about_whether_there_is_a_maximum() -> None:
    data = with_groups(hard=[(4, inf)])
    long = [np.repeat(column, data.weight.astype(int)) for column in (data.lower, data.upper, data.covariates[:, 0])]
    cluster = [str(i % 25) for i in range(long[0].size)]
    rows = Observations.of(long[0], long[1], covariates={"hard": long[2].tolist()}, cluster=cluster)
    weighted, clustered = fit(data, Distribution.WEIBULL), fit(rows, Distribution.WEIBULL)
    assert weighted.status is clustered.status is Status.GROUP_WITHOUT_FAILURE
    assert clustered.effect_bounds[0].lower == pytest.approx(weighted.effect_bounds[0].lower, rel=1e-4)
    assert clustered.degrees_of_freedom == 24
    assert "independent" in clustered.effect_bounds[0].message
    assert clustered.aic == pytest.approx(weighted.aic)
    assert clustered.aicc == pytest.approx(weighted.aicc)


def random_cells(seed: int) -> Observations:
    """A few cells of all kinds of censoring, with groups or numbers for covariates."""
    g = np.random.default_rng(seed)
    n, p, last = int(g.integers(2, 14)), int(g.integers(0, 4)), int(g.integers(2, 8))
    x = g.integers(0, 2, size=(n, p)).astype(float) if g.random() < 0.7 else np.round(g.normal(size=(n, p)), 1)
    lower, kind = g.integers(0, last, size=n).astype(float), g.random(n)
    if p and g.random() < 0.3:
        kind[x[:, 0] == 1] = 0.0  # nothing fails there
    upper = np.where(kind < 0.35, inf, np.where(kind < 0.5, lower, lower + g.integers(1, 3, size=n)))
    lower[np.isinf(upper) & (lower == 0)] = 1
    upper[upper == 0] = 1
    return Observations(lower, upper, g.integers(1, 25, size=n).astype(float), x, tuple(f"x{j}" for j in range(p)))


def test_a_fit_is_ok_just_where_no_direction_of_recession_is() -> None:
    """The search knows of no direction, and the program of no search: they agree, whatever the distribution."""
    known = {Status.OK, Status.GROUP_WITHOUT_FAILURE, Status.NOT_IDENTIFIED}
    seen = dict.fromkeys(known, 0)
    for seed in range(50):
        rows = prepared(random_cells(seed))
        found = {
            fit(rows, d).status for d in (Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC)
        }
        assert len(found) == 1
        status = found.pop()
        if status in known and rows.design is not None:
            seen[status] += 1
            maximum = rows.limit is None and not spread_collapses(rows.design)
            assert (status is Status.OK) == maximum, seed
    assert min(seen.values()) >= 2
