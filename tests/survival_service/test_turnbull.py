"""Turnbull's curve against Kaplan and Meier's, lifelines' and the conditions of a maximum."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.nonparametric import kaplan_meier
from survival_service.observations import Observations
from survival_service.turnbull import turnbull

inf = np.inf


def overlapping(n: int, seed: int = 0) -> Observations:
    """Seconds: every sample has checks of its own length, up to six of them."""
    generator = np.random.default_rng(seed)
    time, length = 3 * generator.exponential(size=n), generator.uniform(0.5, 1.5, n)
    check = np.minimum(np.floor(time / length), 6)
    return Observations.of(check * length, np.where(check < 6, (check + 1) * length, inf))


@given(
    cells=st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(1, 9)), min_size=1, max_size=20),
)
@settings(max_examples=15, deadline=None)
def test_with_shared_checks_it_is_kaplan_and_meiers_curve(cells: list[tuple[int, bool, int]]) -> None:
    lower = [float(k) for k, _, _ in cells]
    data = Observations.of(lower, [k + 1 if failed else inf for k, failed, _ in cells], [w for *_, w in cells])
    found, curve = turnbull(data), kaplan_meier(data)
    assert found is not None
    assert found.converged
    for time, survival in zip(curve.time, curve.survival, strict=True):
        assert found.survival(time)[1] == pytest.approx(survival, abs=1e-3)


def test_no_cell_could_gain_at_the_maximum() -> None:
    """The conditions of Gentleman and Geyer: the derivative in a cell is at most the number of samples, and that many
    where there is probability."""
    data = overlapping(120)
    found = turnbull(data)
    assert found is not None
    assert found.converged
    assert found.share.sum() == pytest.approx(1.0, rel=1e-12)
    covers = (data.lower[:, None] <= found.begin) & (found.end <= data.upper[:, None])
    probability = covers @ found.share
    slope = (covers / probability[:, None]).sum(axis=0)
    assert slope.max() <= 120 * (1 + 1e-6)
    np.testing.assert_allclose(slope[found.share > 0.01], 120, rtol=1e-3)
    assert found.log_likelihood == pytest.approx(float(np.log(probability).sum()), rel=1e-12)


def test_it_is_that_of_lifelines_where_no_ends_are_shared() -> None:
    """lifelines takes intervals as closed: a lower end is moved by a hair, so that none touches another's upper end."""
    from lifelines import KaplanMeierFitter

    data = overlapping(60, seed=3)
    shared = Observations.of([0, 0, 1, 1, 2], [1, 1, 2, 2, inf])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for rows in (data, shared):
            theirs = KaplanMeierFitter().fit_interval_censoring(rows.lower + 1e-9, rows.upper, tol=1e-10)
            ours = turnbull(rows)
            assert ours is not None
            for end in ours.end[np.isfinite(ours.end)]:
                beside = theirs.survival_function_.loc[: end + 1e-8].iloc[-1]["NPMLE_estimate_lower"]
                assert ours.survival(end + 1e-8)[1] == pytest.approx(beside, abs=2e-3)
        closed = KaplanMeierFitter().fit_interval_censoring(shared.lower, shared.upper)
    # Why it is not used: 2 of 5 failed by 1, and it says that none did.
    assert closed.survival_function_.loc[1.0].iloc[0] > 0.99


def test_an_exact_time_is_a_cell_of_its_own() -> None:
    """Two at 1 exactly, one in (0, 1], one beyond: the one in the interval goes where the exact ones are."""
    found = turnbull(Observations.of([1, 1, 0, 1], [1, 1, 1, inf]))
    assert found is not None
    assert (found.begin.tolist(), found.end.tolist()) == ([1, 1], [1, inf])
    assert found.share == pytest.approx([0.75, 0.25], abs=1e-6)
    assert found.survival(0.5) == pytest.approx((1.0, 1.0))
    assert found.survival(1.0)[1] == pytest.approx(0.25, abs=1e-6)
    assert found.survival(2.0) == pytest.approx((0.0, 0.25), abs=1e-6)


def test_a_weight_is_that_many_samples_and_the_unit_does_not_matter() -> None:
    data = overlapping(40, seed=5)
    weight = np.random.default_rng(0).integers(1, 4, 40)
    one = turnbull(Observations.of(data.lower, data.upper, weight))
    many = turnbull(Observations.of(np.repeat(data.lower, weight) * 1e9, np.repeat(data.upper, weight) * 1e9))
    assert one is not None
    assert many is not None
    np.testing.assert_allclose(one.share, many.share, atol=1e-6)


def test_without_observations_there_is_no_curve() -> None:
    assert turnbull(Observations.of([], [])) is None
