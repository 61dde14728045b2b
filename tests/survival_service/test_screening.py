"""What is said and known of data that carry no fit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.estimates import effective_trials, share_upper_bound, wilson
from survival_service.fitting import Status, fit
from survival_service.observations import Clock, Observations
from survival_service.screening import failure_probability

inf = math.inf


def test_the_share_is_that_at_the_latest_check_with_a_failure() -> None:
    data = Observations.of([1, 2, 9], [2, 3, inf], [1, 2, 70])
    assert failure_probability(data, 0.9) == (wilson(3, 73, 0.9), 3.0)


def test_who_was_last_seen_before_any_failure_could_happen_says_nothing() -> None:
    data = Observations.of([1, 2, 9, 1, 0.5], [2, 3, inf, inf, inf], [1, 2, 70, 5, 9])
    assert failure_probability(data, 0.95) == (wilson(3, 73, 0.95), 3.0)


def test_no_share_where_samples_were_lost_between_the_failures() -> None:
    assert failure_probability(Observations.of([1, 2, 9, 1.5], [2, 3, inf, inf], [1, 2, 70, 5]), 0.95) is None
    assert failure_probability(Observations.of([], []), 0.95) is None


def test_checks_tell_where_seconds_do_not() -> None:
    """One check each at times that all differ: three of ten failed, whatever the order of the times."""
    seconds = np.linspace(0.9, 1.1, 10)
    failed = np.arange(10) % 3 == 1
    data = Observations.of(np.where(failed, 0.0, seconds), np.where(failed, seconds, inf))
    once = replace(data, check=np.ones(10, dtype=np.int64))
    assert failure_probability(once, 0.95) == (wilson(3, 10, 0.95), seconds[7])
    # All failures at the second check; one sample was never seen there.
    check = np.where(failed, 2, 5)
    check[0] = 1
    later = replace(once, lower=np.where(failed, 0.5 * seconds, seconds), check=check.astype(np.int64))
    assert failure_probability(later, 0.95) == (wilson(3, 9, 0.95), seconds[7])


def test_without_a_failure_the_bound_is_that_of_the_samples_watched_longest() -> None:
    data = Observations.of([1, 5, 7], [inf] * 3, [10, 60, 30])
    found = failure_probability(data, 0.95)
    assert found is not None
    assert found[1] == 5.0
    assert found[0].upper == share_upper_bound(0, 90, 0.95)
    assert (found[0].value, found[0].lower) == (0.0, 0.0)


def test_a_weight_is_a_repetition_for_the_trials_of_a_share_too() -> None:
    generator = np.random.default_rng(1)
    events, cluster = generator.random(12) < 0.4, generator.integers(0, 5, size=12)
    weight = generator.integers(1, 4, size=12)
    repeated = effective_trials(np.repeat(events, weight), np.repeat(cluster, weight))
    assert effective_trials(events, cluster, weight.astype(float)) == pytest.approx(repeated)
    alone = effective_trials(events, np.arange(12), weight.astype(float))
    assert alone == weight.sum()


@pytest.mark.parametrize(
    ("clock", "unfailed", "looked_at_once"),
    [
        (Clock.QUERIES, "raise epsilon or the number of iterations", "checked several times, such as pgd"),
        (Clock.SECONDS, "raise epsilon or the number of iterations", "checked several times, such as pgd"),
        (Clock.DISTANCE, "try larger epsilons", "try several epsilons"),
        (None, "observe for longer", "look more often than once"),
    ],
)
def test_what_to_do_depends_on_what_the_times_are(clock: Clock | None, unfailed: str, looked_at_once: str) -> None:
    none = fit(Observations.of([3.0] * 9, [np.inf] * 9), Distribution.WEIBULL, clock=clock)
    assert none.status is Status.NO_FAILURE
    assert none.status_message.endswith(unfailed)
    once = fit(Observations.of([0.0] * 9 + [3.0] * 9, [3.0] * 9 + [np.inf] * 9), Distribution.WEIBULL, clock=clock)
    assert once.status is Status.SINGLE_CHECK
    assert looked_at_once in once.status_message
