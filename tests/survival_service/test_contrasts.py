"""What the effects of a report compare, and the sentence that says what they come from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from survival_service.contrasts import setting
from survival_service.effects import EffectReport, EffectStatus
from survival_service.jobs import JobFacts
from survival_service.observations import Clock
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import make_report
from survival_service.reports import ReportOptions

Facts = Callable[..., JobFacts]
Job = Callable[..., tuple[JobFacts, OutcomeTable]]
Checks = Callable[..., list[int | None]]


def effects_of(jobs: list[tuple[JobFacts, OutcomeTable]]) -> EffectReport:
    found = make_report(jobs, ReportOptions()).effect_report
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "contrast", "step"),
    [
        ("model_depth", "34 layers instead of 18", 16.0),
        ("log_epsilon", "epsilon doubled", math.log(2)),
        ("max_iterations", "max iterations 40 instead of 10", 30.0),
        ("epoch_count", "training epochs 6 instead of 2", 4.0),
        ("attack=fgm (against pgd)", "attack fgm instead of pgd", 1.0),
        ("jpeg quality (0 is 10, 1 is 90)", "jpeg quality 90 instead of 10", 1.0),
    ],
)
def test_a_setting_is_compared_over_its_range(facts: Facts, name: str, contrast: str, step: float) -> None:
    jobs = [
        facts(model="resnet18", attack_parameters={"max_iterations": 10.0}, epoch_count=2),
        facts(model="resnet34", attack_parameters={"max_iterations": 40.0}),
        facts(model="resnet18", attack="deepfool", attack_parameters={}),
    ]
    found = setting(name, jobs)
    assert (found.contrast, found.step) == (contrast, pytest.approx(step))


def test_a_deeper_model_that_is_only_slower_is_said_to_gain_in_latency(job: Job, simulated_checks: Checks) -> None:
    """The same checks in both jobs; a check of the deeper model takes three times as long."""
    checks = simulated_checks(200)
    jobs = [
        job(checks, model="resnet18", weights_digest="a", seconds_per_check=0.01),
        job(checks, model="resnet152", weights_digest="b", seconds_per_check=0.03, attack_job_id="job-2"),
    ]
    found = effects_of(jobs)
    (effect,) = found.effects
    assert effect.contrast == "152 layers instead of 18"
    assert effect.queries.value == pytest.approx(1.0)
    assert effect.seconds_per_query.value == pytest.approx(3.0)
    assert effect.total.value == pytest.approx(3.0)
    assert effect.free.value == pytest.approx(3.0)
    assert effect.status is EffectStatus.TOO_FEW_MODELS
    assert (found.image_count, found.model_count) == (200, 2)
    assert found.finding == (
        "152 layers instead of 18: seconds to failure × 3 (3 to 3), made of queries (robustness) × 1 (1 to 1) and "
        "seconds per query (latency) × 3 (3 to 3), for these models; only latency is shown to change."
    )


def test_defences_are_held_against_the_undefended_model_wherever_it_comes(job: Job, simulated_checks: Checks) -> None:
    """One defence triples the checks to failure, one does nothing; both share the model's weights."""
    jobs = [
        job(simulated_checks(150, scale=scale, seed=i), attack_job_id=f"job-{i}", defence=defence)
        for i, (defence, scale) in enumerate((("jpeg", 9.0), ("feature-squeezing", 3.0), ("none", 3.0)))
    ]
    found = effects_of(jobs)
    assert [effect.covariate for effect in found.effects] == [
        "defence=jpeg (against none)",
        "defence=feature-squeezing (against none)",
    ]
    first, second = found.effects
    assert first.adjusted_p_value == pytest.approx(2 * (first.p_value or 0))
    assert second.adjusted_p_value == second.p_value
    assert not first.model_level
    assert found.finding == "Of 2 defences, by Holm's correction: jpeg needs more queries than no defence."


def test_a_single_check_leaves_latency_only(job: Job) -> None:
    """An attack of one check has no curve, so nothing is known of queries; what they cost is."""
    checks: list[int | None] = [1, None] * 30
    jobs = [
        job(checks, budget=1, model=model, attack_job_id=model, weights_digest=model, seconds_per_check=seconds)
        for model, seconds in (("resnet18", 0.01), ("resnet50", 0.02))
    ]
    found = effects_of(jobs)
    assert found.distribution is None
    assert found.effects[0].total.value is None
    assert found.finding == "50 layers instead of 18: seconds per query × 2 (2 to 2), for these models."


def test_a_defence_that_changes_nothing_is_not_found_to(job: Job, simulated_checks: Checks) -> None:
    """Its effect is 0 but for rounding, and so is the error of that: their ratio says nothing."""
    several = [
        job(simulated_checks(60), attack_job_id=f"job-{defence}", defence=defence) for defence in ("none", "jpeg")
    ]
    found = effects_of(several)
    assert found.effects[0].p_value == 1.0
    assert "No difference in queries between jpeg and no defence is shown" in found.finding


def test_a_group_without_failures_is_left_out_and_named(job: Job, simulated_checks: Checks) -> None:
    """The other jobs split as they would without it."""
    unbroken: list[int | None] = [None] * 120
    several = [
        job(checks, attack_job_id=f"job-{i}", defence=defence)
        for i, (defence, checks) in enumerate(
            (
                ("none", simulated_checks(120)),
                ("jpeg", simulated_checks(120, scale=12.0, seed=1)),
                ("high-confidence", unbroken),
            )
        )
    ]
    found, without = effects_of(several), effects_of(several[:2])
    assert [effect.covariate for effect in found.effects] == ["defence=jpeg (against none)"]
    assert "Nothing failed in a group" in found.notes[0]
    assert "high-confidence" in found.notes[0]
    for part in ("total", "queries", "seconds_per_query", "free", "gap"):
        one, other = getattr(found.effects[0], part), getattr(without.effects[0], part)
        assert (one.value, one.lower, one.upper) == pytest.approx((other.value, other.lower, other.upper), rel=1e-6)


def test_several_seeds_a_depth_are_clusters(job: Job, simulated_checks: Checks) -> None:
    jobs = [
        job(simulated_checks(60, seed=i), model=f"resnet{depth}", weights_digest=str(i), attack_job_id=str(i))
        for i, depth in enumerate((18, 18, 18, 34, 34, 34))
    ]
    (effect,) = effects_of(jobs).effects
    assert (effect.status, effect.cluster_count) == (EffectStatus.OK, 6)


def test_one_job_has_no_effects_nor_have_jobs_that_differ_in_nothing(job: Job, simulated_checks: Checks) -> None:
    one = job(simulated_checks(50))
    assert make_report([one], ReportOptions()).effect_report is None
    assert make_report([one, job(simulated_checks(50), attack_job_id="again")], ReportOptions()).effect_report is None


def test_rows_and_models_of_pooled_jobs_belong_together(job: Job) -> None:
    from survival_service.pooling import models_of_rows, pooled

    jobs = [job([1, 0, None], weights_digest="a"), job([2, 3], weights_digest="b"), job([0, 4], weights_digest="a")]
    np.testing.assert_array_equal(models_of_rows(jobs), [0, 0, 1, 1, 0])
    assert pooled(jobs, Clock.QUERIES).lower.size == 5
