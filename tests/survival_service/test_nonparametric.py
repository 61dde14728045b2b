"""The Kaplan-Meier curve and the histogram of failures."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from survival_service.nonparametric import CURVE_POINT_LIMIT, histogram, kaplan_meier
from survival_service.observations import Observations

inf = math.inf


def test_kaplan_meier_steps_down_at_the_check_that_found_the_failure() -> None:
    """Four at risk: one fails by 2 (3/4), one is censored at 2, one of two fails by 5 (3/8); the last is censored."""
    curve = kaplan_meier(Observations.of([1, 2, 4, 6], [2, inf, 5, inf]))
    assert curve.time == (0, 2, 5, 6)
    assert curve.survival == pytest.approx((1, 0.75, 0.375, 0.375))


def test_its_interval_is_exponential_greenwood() -> None:
    """Two checks, 100 samples: at 1, S = .8 and the variance of log(-log S) is .2 / (.8 * 100) / log(.8)^2."""
    curve = kaplan_meier(Observations.of([0, 1, 2], [1, 2, inf], [20, 30, 50]), 0.95)
    error = math.sqrt(0.2 / 80) / abs(math.log(0.8))
    assert curve.survival_lower[1] == pytest.approx(0.8 ** math.exp(1.959964 * error), rel=1e-5)
    assert curve.survival_upper[1] == pytest.approx(0.8 ** math.exp(-1.959964 * error), rel=1e-5)


def test_the_last_of_a_few_to_fail_does_not_prove_that_nobody_survives() -> None:
    curve = kaplan_meier(Observations.of([0, 1, 2], [1, 2, 3], [5, 5, 5]))
    assert curve.survival[-1] == 0
    assert curve.survival_upper[-1] == curve.survival_upper[-2] > 0.5


def test_weights_are_repeated_rows() -> None:
    counted = kaplan_meier(Observations.of([0, 1, 3], [1, 3, inf], [3, 2, 4]))
    repeated = kaplan_meier(Observations.of([0] * 3 + [1] * 2 + [3] * 4, [1] * 3 + [3] * 2 + [inf] * 4))
    assert counted.survival == pytest.approx(repeated.survival)
    assert counted.survival_lower == pytest.approx(repeated.survival_lower)


@pytest.mark.parametrize("upper", [[inf] * 5, [1, 2, 3, 4, 5]], ids=["none failed", "all failed"])
def test_the_curve_is_never_nan_and_never_rises(upper: list[float]) -> None:
    curve = kaplan_meier(Observations.of([0.5] * 5, upper))
    for column in (curve.survival, curve.survival_lower, curve.survival_upper):
        assert all(0 <= value <= 1 for value in column)
        assert all(np.diff(column) <= 1e-12)


def test_a_curve_of_very_many_steps_is_thinned_and_keeps_its_ends() -> None:
    times = np.arange(1.0, 5001.0)
    curve = kaplan_meier(Observations.of(times, times))
    assert len(curve.time) == CURVE_POINT_LIMIT
    assert (curve.time[0], curve.time[-1]) == (0, 5000)


def test_without_observations_there_is_nothing_to_draw() -> None:
    assert kaplan_meier(Observations.of([], [])).time == ()
    assert histogram(Observations.of([], [])).edge == ()


def test_counts_get_bins_of_whole_counts_and_a_failure_belongs_to_the_bin_that_ends_with_it() -> None:
    found = histogram(Observations.of([0, 2, 3, 10], [2, 3, 4, inf], [5, 4, 3, 9]))
    assert found.edge == tuple(range(11))
    assert found.failure_count == (0, 5, 4, 3, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("longest", [31, 100, 1001, 12.5, 1e-6])
def test_every_failure_is_in_one_bin(longest: float) -> None:
    upper = np.linspace(0.01, 1, 50) * longest
    found = histogram(Observations.of(upper * 0.9, upper, np.arange(1.0, 51.0)))
    assert sum(found.failure_count) == sum(range(1, 51))
    assert len(found.edge) == len(found.failure_count) + 1
    assert len(found.failure_count) <= 31
    assert all(np.diff(found.edge) > 0)


def test_serving_imports_neither_lifelines_nor_scipy_stats_until_it_draws() -> None:
    program = (
        "import sys, survival_service.adapters.servicer, survival_service.hazards, survival_service.turnbull;"
        "print([m for m in ('lifelines', 'pandas', 'scipy.stats', 'matplotlib', 'torch') if m in sys.modules]);"
        "from survival_service.nonparametric import load; load();"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "False"]
