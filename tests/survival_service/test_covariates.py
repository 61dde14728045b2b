"""What differs between jobs becomes a design; what says the same twice is dropped and named."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from survival_service.covariates import independent_columns, job_covariates
from survival_service.distributions import Distribution
from survival_service.fitting import Status, described, fit
from survival_service.jobs import JobFacts
from survival_service.observations import Clock
from survival_service.outcome_table import OutcomeTable
from survival_service.pooling import pooled

Facts = Callable[..., JobFacts]
Job = Callable[..., tuple[JobFacts, OutcomeTable]]


def test_what_is_the_same_in_all_jobs_is_no_covariate(facts: Facts) -> None:
    matrix, names = job_covariates([facts(), facts(seed=1)])
    assert names == ()
    assert matrix.shape == (2, 0)


def test_categories_are_coded_against_a_stated_reference(facts: Facts) -> None:
    jobs = [facts(attack="pgd"), facts(attack="fgm"), facts(attack="deepfool")]
    matrix, names = job_covariates(jobs)
    assert names == ("attack=fgm (against pgd)", "attack=deepfool (against pgd)")
    assert matrix.tolist() == [[0, 0], [1, 0], [0, 1]]


def test_epsilon_enters_as_its_logarithm_and_depth_as_layers(facts: Facts) -> None:
    jobs = [facts(attack_parameters={"epsilon": e}, model=m) for e, m in ((0.1, "resnet18"), (0.2, "resnet152"))]
    matrix, names = job_covariates(jobs)
    assert names == ("model_depth", "log_epsilon")
    np.testing.assert_allclose(matrix, [[18, math.log(0.1)], [152, math.log(0.2)]])


def test_an_attack_without_a_strength_is_held_against_the_average_of_those_that_have_it(facts: Facts) -> None:
    """Against a step size of 1, which its logarithm is 0 at, no such attack was ever made."""
    steps, one = (0.01, 0.04), {"max_iterations": 10.0}
    jobs = [facts(attack_parameters={"step_size": s, "epsilon": 8 * s, **one}) for s in steps]
    jobs.append(facts(attack="fgm", attack_parameters={"epsilon": 0.1}))
    matrix, names = job_covariates(jobs)
    assert names == ("attack=fgm (against pgd)", "log_epsilon", "log_step_size")
    np.testing.assert_allclose(matrix[:, 2], [math.log(0.01), math.log(0.04), math.log(0.02)])


def test_what_follows_from_epsilon_is_left_out_and_not_epsilon(facts: Facts) -> None:
    jobs = [facts(attack_parameters={"step_size": e / 8, "epsilon": e}) for e in (0.03, 0.06, 0.12)]
    matrix, names = job_covariates(jobs)
    kept, dropped = independent_columns(matrix, names, np.ones(3))
    assert [names[j] for j in kept] == ["log_epsilon"]
    assert dropped == ("log_step_size cannot be told apart from log_epsilon",)


def test_strengths_are_scaled_within_their_defence_and_zero_beside_the_indicator_of_another(facts: Facts) -> None:
    """Two defences have a parameter of one name; only the noise comes in several strengths."""
    jobs = [
        facts(),
        *(facts(defence="gaussian-noise", defence_parameters={"deviation": d, "repeats": 10}) for d in (0.1, 0.2, 0.5)),
        facts(defence="gaussian-augmentation", defence_parameters={"deviation": 1.0}),
    ]
    matrix, names = job_covariates(jobs)
    assert names == (
        "defence=gaussian-noise (against none)",
        "defence=gaussian-augmentation (against none)",
        "gaussian-noise deviation (0 is 0.1, 1 is 0.5)",
    )
    np.testing.assert_allclose(matrix, [[0, 0, 0], [1, 0, 0], [1, 0, 0.25], [1, 0, 1], [0, 1, 0]])


def test_models_without_a_depth_are_categories(facts: Facts) -> None:
    assert job_covariates([facts(), facts(model="vgg")])[1] == ("model=vgg (against resnet50)",)


def test_the_first_of_two_columns_that_say_the_same_stays() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2)) * [1e-5, 4e3]
    matrix = np.column_stack([x[:, 0], np.ones(50), x[:, 1], 2 * x[:, 0] - 1e-9 * x[:, 1] + 3])
    kept, dropped = independent_columns(matrix, ("a", "one", "b", "mix"), np.ones(50))
    assert kept == [0, 2]
    assert dropped == ("one is the same in every observation", "mix cannot be told apart from a and b")


def test_more_columns_than_rows_keep_what_the_rows_can_tell() -> None:
    matrix = np.random.default_rng(0).normal(size=(3, 5))
    kept, dropped = independent_columns(matrix, tuple("abcde"), np.ones(3))
    assert kept == [0, 1]
    assert len(dropped) == 3


@pytest.mark.parametrize("clock", [Clock.QUERIES, Clock.SECONDS], ids=lambda c: c.name.lower())
def test_several_jobs_are_one_fit_with_an_effect_between_them(
    job: Job, simulated_checks: Callable[..., list[int | None]], clock: Clock
) -> None:
    """The second job's samples last twice as long; its epsilon is half."""
    quick = job(simulated_checks(400, scale=5.0), attack_parameters={"epsilon": 0.2})
    slow = job(
        simulated_checks(400, scale=10.0, seed=1), attack_job_id="job-2", attack_parameters={"epsilon": 0.1}, seed=1
    )
    data = pooled([quick, slow], clock)
    assert data.names == ("log_epsilon",)
    assert data.cluster is not None
    assert np.unique(data.cluster).size == 400
    found = fit(data, Distribution.WEIBULL)
    assert found.status is Status.OK
    effect = found.coefficients[1]
    if clock is Clock.SECONDS:
        assert abs(effect.estimate + 1) < 3 * effect.standard_error
    else:  # one evaluation comes before the first step: twice the steps are less than twice the queries
        assert -1 < effect.estimate < -0.6
    ranking = described(found, data).concordance
    assert ranking is not None
    assert 0.5 < ranking < 0.8


def test_the_same_image_in_two_datasets_is_two_images(job: Job) -> None:
    first = job([1, 2, None])
    second = job([1, 2, None], attack_job_id="job-2", dataset_digest="e" * 64)
    cluster = pooled([first, second], Clock.QUERIES).cluster
    assert cluster is not None
    assert np.unique(cluster).size == 6


def test_one_job_is_its_count_table(job: Job) -> None:
    data = pooled([job([3] * 50 + [None] * 50)], Clock.QUERIES)
    assert data.lower.size == 2
    assert data.cluster is None
