"""Distances as times to failure: which jobs have them, and what each sample's outcomes say."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from survival_service.distances import distances, no_distance
from survival_service.errors import InvalidRequest
from survival_service.fitting import Status
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, OutcomeColumns
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import make_progress, make_report
from survival_service.reports import ReportOptions
from survival_service.scoring import Conclusion

Facts = Callable[..., JobFacts]
Job = Callable[..., tuple[JobFacts, OutcomeTable]]
Rows = list[tuple[float, float]]


def rows_of(jobs: Sequence[tuple[JobFacts, OutcomeTable]]) -> Rows:
    """The intervals, each as often as it weighs."""
    found = distances(jobs)
    pairs = list(zip(found.lower.tolist(), found.upper.tolist(), strict=True))
    return sorted(pair for pair, weight in zip(pairs, found.weight, strict=True) for _ in range(int(weight)))


@pytest.fixture
def at(job: Job) -> Callable[..., tuple[JobFacts, OutcomeTable]]:
    """A PGD job at one epsilon, from whether each sample failed, survived (None) or was misclassified (0)."""

    def build(epsilon: float, checks: Sequence[int | None], **overrides: object) -> tuple[JobFacts, OutcomeTable]:
        parameters = {"epsilon": epsilon, "step_size": epsilon / 8, "max_iterations": 10.0}
        return job(checks, **({"attack_parameters": parameters, "attack_job_id": f"at-{epsilon}"} | overrides))

    return build


@pytest.fixture
def deepfool(
    outcome_columns: Callable[..., OutcomeColumns], facts: Facts
) -> Callable[..., tuple[JobFacts, OutcomeTable]]:
    """A job that goes outwards: each sample's length in the norm 2 where it ended, and whether it was fooled there."""

    def build(
        lengths: Sequence[float], fooled: Sequence[bool], epsilon: float = 1.0, **overrides: object
    ) -> tuple[JobFacts, OutcomeTable]:
        within = [f and length <= epsilon for f, length in zip(fooled, lengths, strict=True)]
        columns = outcome_columns([3 if ended else None for ended in within], budget=20)
        table = OutcomeTable()
        table.add(
            replace(
                columns,
                distance_l2=np.array(lengths, dtype=np.float64),
                adversarial_prediction=np.array(fooled, dtype=np.int64),
            )
        )
        table.end()
        values = {"attack": "deepfool", "norm": "2", "attack_parameters": {"epsilon": epsilon}}
        return facts(**(values | {"sample_count": len(lengths)} | overrides)), table

    return build


def test_a_sweep_lies_between_the_largest_epsilon_held_and_the_smallest_that_failed(at: Job) -> None:
    jobs = [at(0.1, [None, 1, None, None]), at(0.3, [None, 2, 4, None]), at(0.2, [None, 2, None, 0])]
    assert no_distance([facts for facts, _ in jobs]) == ""
    # The last sample was misclassified in one of the jobs, so it was never at risk.
    assert rows_of(jobs) == [(0.0, 0.1), (0.2, 0.3), (0.3, math.inf)]


def test_a_sample_that_failed_has_failed_at_every_larger_epsilon(at: Job) -> None:
    """The attack at 0.3 did not find what the one at 0.2 had found."""
    jobs = [at(0.1, [None]), at(0.2, [3]), at(0.3, [None])]
    assert rows_of(jobs) == [(0.1, 0.2)]


def test_what_a_canceled_job_did_not_fool_says_nothing(at: Job) -> None:
    jobs = [at(0.1, [None, None]), at(0.2, [3, None], canceled=True)]
    assert rows_of(jobs) == [(0.1, 0.2), (0.1, math.inf)]


def test_a_change_that_goes_outwards_fails_where_it_crosses(deepfool: Job) -> None:
    """Beyond epsilon, too; one that never crosses has held as far as it went, and within epsilon."""
    jobs = [deepfool([0.3, 0.9, 1.7, 0.6, 2.0], [True, True, True, False, False])]
    assert rows_of(jobs) == [(0.3, 0.3), (0.6, math.inf), (0.9, 0.9), (1.0, math.inf), (1.7, 1.7)]


def test_what_another_engine_found_beyond_epsilon_is_an_upper_bound(deepfool: Job) -> None:
    for other in ({"engine": "art"}, {"attack": "cw"}):
        assert rows_of([deepfool([0.3, 1.7], [True, True], **other)]) == [(0.3, 0.3), (1.0, 1.7)]


def test_a_failure_without_a_change_is_known_to_lie_within_epsilon(deepfool: Job) -> None:
    assert rows_of([deepfool([0.0, 0.4], [True, True])]) == [(0.0, 1.0), (0.4, 0.4)]


def test_configurations_are_told_apart_and_share_their_images(at: Job) -> None:
    other = {"weights_digest": "b" * 64, "model": "resnet18"}
    jobs = [at(e, checks, **more) for more in ({}, other) for e, checks in ((0.1, [None, 1]), (0.2, [3, 2]))]
    found = distances(jobs)
    assert found.names == ("model_depth",)
    assert found.cluster is not None
    assert sorted(found.cluster.tolist()) == [0, 0, 1, 1]
    assert found.covariates.ravel().tolist() == [50.0, 50.0, 18.0, 18.0]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ([{}], "ran at one epsilon"),
        ([{"attack": "hopskipjump"}], "use deepfool or cw"),
        ([{"norm": "2", "attack": "cw"}, {"norm": "inf"}], r"different norms \(2, inf\)"),
        ([{"norm": ""}], "norm of the jobs is not known"),
        ([{"attack": "pixel", "attack_parameters": {"pixel_count": 3.0}}], "has no epsilon"),
        ([{"attack_parameters": {"epsilon": e}, "weights_digest": f"{e}"} for e in (0.1, 0.2)], "ran at one epsilon"),
    ],
)
def test_jobs_without_a_distance_say_why(facts: Facts, overrides: list[dict[str, object]], says: str) -> None:
    assert re.search(says, no_distance([facts(**one) for one in overrides]))


def test_a_report_adds_the_clock_by_itself_and_puts_it_first_if_asked(deepfool: Job) -> None:
    """Log-normal distances, all seen: the fit's median is the geometric mean."""
    lengths = np.exp(0.5 * np.random.default_rng(1).normal(size=60) - 1.0)
    jobs = [deepfool(lengths.tolist(), [True] * 60, epsilon=100.0)]
    report = make_report(jobs, ReportOptions())
    assert [one.clock for one in report.clock_reports] == [Clock.QUERIES, Clock.SECONDS, Clock.DISTANCE]
    assert report.distance_norm == "2"
    of = report.clock_reports[-1]
    assert (of.conclusion, of.confidence_above_one, of.cost_per_failure.value) == (None, None, None)
    (normal,) = (one for one in of.fits if one.distribution.name == "LOG_NORMAL")
    assert normal.status is Status.OK
    assert normal.median.value == pytest.approx(math.exp(np.log(lengths).mean()), rel=1e-9)

    first = make_report(jobs, ReportOptions(clock=Clock.DISTANCE))
    assert [one.clock for one in first.clock_reports] == [Clock.DISTANCE, Clock.QUERIES, Clock.SECONDS]
    assert first.conclusion is report.conclusion is Conclusion.BROKEN
    assert first.summary.startswith("Broken: counted in forward and backward passes")
    assert "the median distance at failure is 0.3" in first.summary
    assert make_progress(jobs, ReportOptions(clock=Clock.DISTANCE)).provisional_fits[0].clock is Clock.QUERIES


def test_a_sweep_of_weibull_distances_finds_its_scale(at: Job) -> None:
    """Distances known between nine epsilons only: the fit's interval holds the true median."""
    true = 0.2 * np.random.default_rng(2).weibull(2.0, 400)
    epsilons = np.linspace(0.05, 0.45, 9)
    report = make_report(
        [at(float(e), [2 if distance <= e else None for distance in true]) for e in epsilons], ReportOptions()
    )
    of = next(one for one in report.clock_reports if one.clock is Clock.DISTANCE)
    (weibull,) = (one for one in of.fits if one.distribution.name == "WEIBULL")
    assert weibull.status is Status.OK
    median = 0.2 * math.log(2) ** 0.5
    assert (weibull.median.lower or 1) < median < (weibull.median.upper or 0)
    assert weibull.observation_count == 400


def test_a_distance_is_limited_as_a_distance(at: Job) -> None:
    generator = np.random.default_rng(4)
    true = 0.1 * generator.weibull(2.0, 300)
    jobs = [at(float(e), [2 if distance <= e else None for distance in true]) for e in (0.02, 0.04, 0.08)]
    said = [one for one in make_report(jobs, ReportOptions()).limitations if "expected distance" in one]
    assert said
    assert all(one.endswith("lies beyond the largest distance observed.") for one in said)


def test_a_report_on_distance_is_refused_where_there_is_none(job: Job) -> None:
    with pytest.raises(InvalidRequest, match="no report on the clock of distance: job job-1") as caught:
        make_report([job([1, 2, 3])], ReportOptions(clock=Clock.DISTANCE))
    assert caught.value.field == "options.clock"
