"""Stopping at a precision: spending, critical values, looks, and whether the intervals keep what they promise."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.nonparametric import kaplan_meier
from survival_service.observations import Observations
from survival_service.sequential import (
    FEWEST_AT_END,
    FEWEST_FAILURES,
    Monitor,
    Quantity,
    critical_values,
    evidence,
    mean_spent,
    spent_error,
)
from tests.survival_service.streaming import Attack, Law, watched

WEIBULL = Law(Distribution.WEIBULL, 0.7, 0.7)
FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)


def test_five_even_looks_have_the_published_critical_values() -> None:
    """The boundary of Lan and DeMets (1983) of the type of O'Brien and Fleming, five looks, two sides, 5 %.

    The values are those of DeMets's and Lan's program (Reboussin, DeMets, Kim and Lan 2000), as exact as its grid.
    """
    values = critical_values(FIFTHS, [spent_error(t) for t in FIFTHS])
    assert values == pytest.approx((4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=2e-4)


def test_spending_as_pocock_would_has_the_published_critical_values() -> None:
    """The other spending function of Lan and DeMets, alpha log(1 + (e - 1) t), by the same program."""
    spent = [0.05 * math.log(1 + (math.e - 1) * t) for t in FIFTHS]
    assert critical_values(FIFTHS, spent) == pytest.approx((2.4380, 2.4268, 2.4101, 2.3966, 2.3859), abs=2e-4)


def test_one_look_is_the_usual_interval() -> None:
    assert critical_values([7.0], [0.05])[0] == pytest.approx(1.959963985)
    assert spent_error(1.0, 0.9) == pytest.approx(0.1)
    # 1 - 0.95 is 0.05 and 4e-17 more.
    assert all(spent_error(1.0, 1 - promised) <= promised for promised in (0.1, 0.05, 0.01))


def test_a_brownian_motion_leaves_the_critical_values_as_often_as_was_spent() -> None:
    """200 000 paths observed at uneven information: the share that has left by each look is what was to be spent."""
    information = np.array([1.0, 1.3, 2.0, 2.2, 4.0])
    spent = [0.004, 0.01, 0.02, 0.03, 0.05]
    generator = np.random.default_rng(3)
    steps = np.sqrt(np.diff(np.append(0.0, information)))
    paths = (generator.normal(size=(200_000, 5)) * steps).cumsum(axis=1) / np.sqrt(information)
    left = np.maximum.accumulate(np.abs(paths) > critical_values(information.tolist(), spent), axis=1).mean(axis=0)
    assert left == pytest.approx(spent, abs=4 * math.sqrt(0.05 * 0.95 / 200_000))


@settings(max_examples=30, deadline=None)
@given(
    growth=st.lists(st.floats(1.02, 2.0), min_size=1, max_size=12),
    unit=st.floats(1e-9, 1e9),
    first=st.floats(0.02, 1.0),
)
def test_only_the_growth_of_the_information_matters(growth: list[float], unit: float, first: float) -> None:
    information = np.cumprod([first, *growth])
    spent = [spent_error(t) for t in information / information[-1]]
    usual, scaled = critical_values(information.tolist(), spent), critical_values((unit * information).tolist(), spent)
    assert scaled == pytest.approx(usual, rel=1e-6)
    assert all(value >= 1.959 for value in usual)


def rows(lower: list[float], upper: list[float], weight: list[float] | None = None) -> Observations:
    return Observations.of(lower, upper, weight)


def binomial(failed: int, of: int) -> Observations:
    return rows([0.0, 5.0], [5.0, math.inf], [float(failed), float(of - failed)])


def test_a_share_without_censoring_has_wilsons_interval() -> None:
    from survival_service.estimates import wilson

    known = evidence(Quantity.FAILURE_SHARE, binomial(60, 200), 5.0)
    assert known is not None
    expected = wilson(60, 200, 0.95)
    assert (known.value, known.information) == (pytest.approx(0.3), pytest.approx(200))
    assert known.interval(1.959963985) == pytest.approx((expected.lower, expected.upper))


def test_a_median_without_censoring_has_the_interval_of_a_binomial_half() -> None:
    """Ten a step fail: half have by the end of step 5, and 50 - 1.96 * 5 to 50 + 1.96 * 5 of a hundred by its ends."""
    data = rows([float(t) for t in range(10)], [float(t) for t in range(1, 11)], [10.0] * 10)
    known = evidence(Quantity.MEDIAN, data, None)
    assert known is not None
    assert known.value == pytest.approx(5.0)
    assert known.interval(1.96) == pytest.approx((5 - 0.98, 5 + 0.98))


def test_a_mean_without_censoring_is_that_of_the_times() -> None:
    data = rows([0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, math.inf], [10.0, 20.0, 30.0, 40.0])
    known = evidence(Quantity.RESTRICTED_MEAN, data, 3.0)
    times = np.repeat([1.0, 2.0, 3.0, 3.0], [10, 20, 30, 40])
    assert known is not None
    assert known.value == pytest.approx(times.mean())
    odds = known.value / (3 - known.value)
    low, high = known.interval(1.0)
    assert math.log(high / (3 - high) / odds) == pytest.approx(times.std() / 10 / (known.value * (1 - known.value / 3)))
    assert math.log(odds / (low / (3 - low))) == pytest.approx(math.log(high / (3 - high) / odds))


def test_a_share_in_mid_run_is_that_of_kaplan_and_meier() -> None:
    data = Attack(WEIBULL.draw(np.random.default_rng(0), 400), 20, 32).seen(60)
    known = evidence(Quantity.FAILURE_SHARE, data, 20.0)
    curve = kaplan_meier(data)
    assert known is not None
    assert known.value == pytest.approx(1 - curve.survival[-1])
    assert mean_spent(data) == pytest.approx(
        float(np.array(curve.survival[:-1]) @ np.diff(curve.time)) + curve.survival[-1] * (20 - curve.time[-1])
    )


@pytest.mark.parametrize("quantity", Quantity)
def test_a_weight_is_a_repetition_and_order_says_nothing(quantity: Quantity) -> None:
    data = Attack(WEIBULL.draw(np.random.default_rng(1), 300), 20, 32).seen(70)
    each = np.repeat(np.arange(data.weight.size), data.weight.astype(int))[::-1]
    repeated = rows(data.lower[each].tolist(), data.upper[each].tolist())
    one, other = evidence(quantity, data, 20.0), evidence(quantity, repeated, 20.0)
    assert one is not None
    assert other is not None
    assert (one.value, one.information, *one.interval(2.0)) == pytest.approx(
        (other.value, other.information, *other.interval(2.0))
    )


def test_time_may_have_any_unit() -> None:
    data = Attack(WEIBULL.draw(np.random.default_rng(1), 300), 20, 32).seen(70)
    for unit in (1e-12, 1e9):
        scaled = rows((unit * data.lower).tolist(), (unit * data.upper).tolist(), data.weight.tolist())
        for quantity in (Quantity.MEDIAN, Quantity.RESTRICTED_MEAN):
            one, other = evidence(quantity, data, 20.0), evidence(quantity, scaled, 20.0 * unit)
            assert one is not None
            assert other is not None
            looks = [Monitor(1.3, quantity).look(known, 100, 200).looks for known in (one, other)]
            assert looks[0][0].interval_factor == pytest.approx(looks[1][0].interval_factor)
            assert unit * looks[0][0].estimate.value == pytest.approx(looks[1][0].estimate.value)  # type: ignore[operator]


def test_what_cannot_be_known_yet_is_absent() -> None:
    early = rows([0.0, 2.0], [1.0, math.inf], [30.0, FEWEST_AT_END - 1])
    assert evidence(Quantity.FAILURE_SHARE, early, None) is None
    assert evidence(Quantity.FAILURE_SHARE, early, 2.0) is None
    assert evidence(Quantity.RESTRICTED_MEAN, early, 2.0) is None
    assert evidence(Quantity.MEDIAN, rows([2.0], [math.inf], [50.0]), 2.0) is None


def test_a_median_that_was_not_reached_has_an_interval_without_end() -> None:
    known = evidence(Quantity.MEDIAN, binomial(60, 200), 5.0)
    assert known is not None
    assert (known.value, known.interval(2.0)[1]) == (math.inf, math.inf)
    assert Monitor(1.2).look(known, 60, 200).looks == ()
    (last,) = Monitor(1.2).look(known, 60, 200, last=True).looks
    assert (last.interval_factor, last.spent_error) == (math.inf, pytest.approx(0.05))


def test_there_is_no_look_before_twenty_failures_and_none_after_the_stop() -> None:
    monitor = Monitor(2.0)
    assert monitor.next_failure_count == FEWEST_FAILURES == 20
    assert not monitor.due(19, last=True)
    assert monitor.due(20)
    known = evidence(
        Quantity.MEDIAN, rows([float(t) for t in range(10)], [t + 1.0 for t in range(10)], [9.0] * 10), None
    )
    assert known is not None
    stopped = monitor.look(known, 90, 90)
    assert stopped.met
    assert not stopped.due(1000)
    assert stopped.next_failure_count == 0


def test_a_look_without_news_spends_nothing() -> None:
    data = Attack(WEIBULL.draw(np.random.default_rng(1), 400), 20, 32).seen(70)
    known = evidence(Quantity.MEDIAN, data, 20.0)
    assert known is not None
    once = Monitor(1.2).look(known, 100, 200)
    assert len(once.looks) == 1
    assert once.look(known, 101, 201) is once


def test_a_monitor_that_is_given_the_looks_so_far_goes_on_as_if_it_had_taken_them() -> None:
    attack, truth = Attack(WEIBULL.draw(np.random.default_rng(5), 900), 20, 32), WEIBULL.truth()[Quantity.MEDIAN]
    whole = watched(attack, Monitor(1.2), truth).monitor
    assert len(whole.looks) > 2
    resumed = watched(attack, Monitor(1.2, looks=whole.looks[:2]), truth).monitor
    assert resumed == whole


def test_each_look_spends_more_and_all_of_them_no_more_than_the_error() -> None:
    looks = watched(
        Attack(WEIBULL.draw(np.random.default_rng(6), 900), 20, 32), Monitor(1.15), WEIBULL.truth()[Quantity.MEDIAN]
    ).monitor.looks
    spent = [look.spent_error for look in looks]
    assert spent == sorted(set(spent))
    assert spent[-1] <= 0.05 + 1e-12
    assert looks[-1].interval_factor <= 1.15 < looks[-2].interval_factor


@pytest.mark.parametrize("factor", [1.0, 0.5, math.inf, math.nan])
def test_a_precision_that_makes_no_sense_names_the_field(factor: float) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Monitor(factor)
    assert caught.value.field == "precision.interval_factor"


LAWS = {
    "Weibull": WEIBULL,
    "Weibull, 10 checks": Law(Distribution.WEIBULL, 0.7, 0.7, checks=10),
    "log-normal": Law(Distribution.LOG_NORMAL, 0.9, 0.7),
    "Weibull, 25 % never fail": Law(Distribution.WEIBULL, 0.7, 0.95, cured=0.25),
    "log-normal, 25 % never fail": Law(Distribution.LOG_NORMAL, 0.7, 0.95, cured=0.25),
}
SEED = 20240131


def errors(law: Law, quantity: Quantity, factor: float, replicates: int) -> dict[str, float]:
    generator = np.random.default_rng(SEED)
    truth = law.truth()[quantity]
    runs = [
        watched(Attack(law.draw(generator, 2000), law.checks, 32), Monitor(factor, quantity), truth)
        for _ in range(replicates)
    ]
    assert all(run.monitor.met for run in runs)
    measured = {
        "at the stop": [run.missed for run in runs],
        "at any look": [run.ever_missed for run in runs],
        "naive, at its stop": [run.naive_missed for run in runs],
        "naive, at any look": [run.naive_ever_missed for run in runs],
        "looks": [len(run.monitor.looks) for run in runs],
        "failures": [run.last.failure_count for run in runs],
        "samples": [run.last.sample_count for run in runs],
    }
    return {name: float(np.mean(values)) for name, values in measured.items()}


def test_a_few_stopped_attacks_keep_their_error() -> None:
    """60 replicates, of which at most 9 may miss: with an error of 5 % more are one in a thousand."""
    assert 60 * errors(WEIBULL, Quantity.MEDIAN, 1.3, 60)["at any look"] <= 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("quantity", "factor"),
    [(Quantity.MEDIAN, 1.5), (Quantity.MEDIAN, 1.2), (Quantity.FAILURE_SHARE, 1.2), (Quantity.RESTRICTED_MEAN, 1.2),
     (Quantity.RESTRICTED_MEAN, 1.05)],
)  # fmt: skip
@pytest.mark.parametrize("law", LAWS)
def test_stopped_attacks_keep_their_error(law: str, quantity: Quantity, factor: float) -> None:
    """2 000 replicates: no more than 5 %, and three Monte-Carlo errors, of the intervals of any look miss."""
    replicates, began = 2000, time.process_time()
    found = errors(LAWS[law], quantity, factor, replicates)
    error = math.sqrt(0.05 * 0.95 / replicates)
    columns = " | ".join(f"{100 * value:.1f}" if value < 1 else f"{value:.1f}" for value in found.values())
    print(f"\n| {law} | {quantity.name} | {factor:g} | {columns} | ({time.process_time() - began:.0f} s CPU)")
    assert found["at the stop"] <= 0.05 + 3 * error
    assert found["at any look"] <= 0.05 + 3 * error
