"""Data that carry little are spoken of by what their times are: who fits a hospital's data is told of no attack."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

from survival_service import diagnostics
from survival_service.advice import advice_on
from survival_service.assumptions import AssumptionCheck
from survival_service.covariates import in_words, job_covariates
from survival_service.cure import cure_fits
from survival_service.diagnostics import diagnose
from survival_service.distributions import Distribution
from survival_service.fitted_rows import FittedRows
from survival_service.fitting import Fit, Status, fit, prepared, ranked
from survival_service.observations import Clock, Observations

inf = math.inf
ATTACKING = re.compile(r"attack|epsilon|step.size|pgd|image|sample|the number of iterations|misclassified|model", re.I)


def grouped(first: Observations, second: Observations) -> Observations:
    """Two groups that the covariate `defence=jpeg (against none)` tells apart."""
    return Observations(
        np.concatenate([first.lower, second.lower]),
        np.concatenate([first.upper, second.upper]),
        np.concatenate([first.weight, second.weight]),
        np.repeat([[0.0], [1.0]], [first.lower.size, second.lower.size], axis=0),
        ("defence=jpeg (against none)",),
    )


def spread(count: int, seed: int, clusters: int | None = None) -> Observations:
    """Failures found at whole times, about a quarter censored."""
    generator = np.random.default_rng(seed)
    time = np.ceil(6 * generator.weibull(1.4, count))
    lower = np.minimum(time - 1, 9)
    cluster = None if clusters is None else np.arange(count) % clusters
    return Observations(lower, np.where(time > 9, inf, time), np.ones(count), np.empty((count, 0)), cluster=cluster)


CASES = {
    "nothing": Observations.of([], []),
    "nothing failed": Observations.of([3.0], [inf], [9.0]),
    "all at the first check": Observations.of([0.0] * 9, [3.0] * 9),
    "looked at once": Observations.of([0.0, 3.0], [3.0, inf], [9.0, 9.0]),
    "between two checks": Observations.of([2.0, 3.0, 1.0], [3.0, inf, inf], [9.0, 5.0, 1.0]),
    "two checks": Observations.of([0.0, 1.0, 2.0], [1.0, 2.0, inf], [30.0, 20.0, 10.0]),
    "few failures": Observations.of([0.0, 1.0, 9.0], [1.0, 2.0, inf], [1.0, 1.0, 70.0]),
    "few failures for a share that never fails": Observations.of([0, 1, 2, 3], [1, 2, 3, inf], [2, 2, 1, 50]),
    "followed up briefly": Observations.of([0, 1, 2, 3], [1, 2, 3, inf], [20, 19, 17, 90]),
    "few rows": spread(9, 1),
    "few clusters": spread(40, 2, clusters=3),
    "hardly enough clusters": spread(60, 3, clusters=12),
    "many rows": spread(90, 4),
    "a group without failures": grouped(spread(60, 5), Observations.of([9.0], [inf], [20.0])),
    "a group at its first check": grouped(spread(60, 6), Observations.of([0.0], [1.0], [20.0])),
    "groups that fail at once": grouped(
        Observations.of([1, 2], [2, inf], [20, 20]), Observations.of([3, 4], [4, inf], [20, 20])
    ),
    "two groups": grouped(spread(60, 7), spread(60, 8)),
    "two small groups": grouped(spread(8, 9), spread(8, 10)),
}
DISTRIBUTIONS = (Distribution.WEIBULL, Distribution.EXPONENTIAL)


def sentences(data: Observations, clock: Clock | None) -> Iterator[str]:
    """Everything that is said of data, but for what nobody sees of these times."""
    rows = prepared(data)
    fits: tuple[Fit, ...] = ranked(tuple(fit(rows, one, clock=clock) for one in DISTRIBUTIONS))
    for one in fits:
        yield one.status_message
        yield from (bound.message for bound in one.effect_bounds)
    for cured in cure_fits(rows, fits):
        yield cured.status_message
        yield cured.follow_up_message
    found = diagnose(fits, rows)
    if found is None:
        return
    yield from (found.fit_finding, found.assumption_finding, *found.notes)
    yield from (one.finding for one in found.distributions)
    yield from (check.finding for check in found.assumption_checks)
    yield from (test.finding for test in found.nesting_tests)
    if found.cross_validation is not None:
        yield found.cross_validation.finding
        yield from (result.finding for result in found.cross_validation.results)


# What only the statistician's sense of the words can mean.
_ALLOWED = re.compile(r"Akaike|[Tt]he model|With fewer than 100 samples|All samples have the same prediction")


@pytest.mark.parametrize("case", CASES)
def test_times_of_any_origin_are_never_attacked(case: str) -> None:
    said = [_ALLOWED.sub("", sentence) for sentence in sentences(CASES[case], None)]
    assert said
    assert [sentence for sentence in said if ATTACKING.search(sentence)] == []


@pytest.mark.parametrize("case", CASES)
def test_distances_need_other_epsilons_and_no_other_steps(case: str) -> None:
    said = list(sentences(CASES[case], Clock.DISTANCE))
    assert [one for one in said if re.search(r"step size|gently|iterations;|the number of iterations|pgd", one)] == []


def test_the_cases_reach_every_status_that_data_have() -> None:
    """Or the tests above would prove little; `NOT_CONVERGED` takes data that nobody has found."""
    reached = {fit(data, one).status for data in CASES.values() for one in DISTRIBUTIONS}
    assert reached == set(Status) - {Status.NOT_CONVERGED}


def test_what_was_not_tested_is_not_found_to_be_in_order() -> None:
    rows = prepared(CASES["two groups"])
    fitted = FittedRows.of(fit(rows, Distribution.WEIBULL, clock=Clock.QUERIES), rows)
    names = ("attack=fgm (against pgd)", "log_epsilon")
    quiet, loud = (AssumptionCheck(names[0], adjusted_p_value=p) for p in (0.5, 0.01))
    untested = AssumptionCheck(names[1])
    all_tested, one_tested, one_broken = (
        diagnostics._assumption_finding(checks, fitted, names, fitted)
        for checks in ((quiet,), (quiet, untested), (loud, untested))
    )
    assert all_tested.startswith("Nothing speaks against it: no covariate changes")
    assert one_tested.startswith("Nothing speaks against it: no covariate that was tested changes")
    assert one_broken.startswith("Not for 'attack fgm instead of pgd'")
    assert [one.endswith("For epsilon it could not be tested.") for one in (all_tested, one_tested, one_broken)] == [
        False,
        True,
        True,
    ]


def test_attacks_are_told_to_attack() -> None:
    said = " ".join(sentence for data in CASES.values() for sentence in sentences(data, Clock.QUERIES))
    for words in (
        "attack more samples",
        "raise epsilon",
        "attack more gently",
        "attack that group harder or longer",
        "raise the number of iterations",
        "3 images",
        "'defence jpeg instead of none' tells apart",
    ):
        assert words in said
    assert "=" not in said


def test_a_column_of_any_origin_keeps_its_name() -> None:
    assert advice_on(None).setting("log_income") == "log_income"
    assert advice_on(None).tells_apart(("age", "sex=f (against m)")) == "age and sex=f (against m) tell apart"
    assert advice_on(Clock.QUERIES).setting("log_epsilon") == "epsilon"
    assert advice_on(Clock.SECONDS).tells_apart(("max_iterations",)) == "'max iterations' tells apart"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log_epsilon", "epsilon"),
        ("log_step_size", "step size"),
        ("model_depth", "model depth"),
        ("epoch_count", "training epochs"),
        ("attack=pgd (against bim)", "attack pgd instead of bim"),
        ("jpeg quality (0 is 10, 1 is 90)", "jpeg quality 90 instead of 10"),
        # The only job with fgm has left with its samples, so that pgd is against the one that remains.
        ("attack=pgd (against fgm), against attack=bim (against fgm)", "attack pgd instead of bim"),
        ("attack=pgd (against fgm), against log_epsilon", "attack pgd instead of fgm"),
    ],
)
def test_a_covariate_of_jobs_in_words(name: str, words: str) -> None:
    assert in_words(name) == words


def test_no_covariate_of_jobs_is_left_without_words(facts) -> None:  # type: ignore[no-untyped-def]
    jobs = [
        facts(attack="pgd", attack_parameters={"epsilon": 0.1, "max_iterations": 10.0}),
        facts(attack="fgm", attack_parameters={"epsilon": 0.2}, model="resnet34", epoch_count=3, norm="2"),
        facts(attack="pgd", defence="jpeg", defence_parameters={"quality": 50.0}, attack_parameters={"epsilon": 0.1}),
        facts(attack="pgd", defence="jpeg", defence_parameters={"quality": 90.0}, attack_parameters={"epsilon": 0.1}),
    ]
    _, names = job_covariates(jobs)
    assert len(names) > 5
    assert [name for name in names if re.search(r"[=_()]|^log", in_words(name))] == []
