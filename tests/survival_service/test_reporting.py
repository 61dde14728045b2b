"""Reports: their invariants, their sentences, and what they say when there is little to say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from survival_service.distributions import Distribution
from survival_service.errors import InvalidRequest
from survival_service.estimates import NO_ESTIMATE
from survival_service.fitting import Status
from survival_service.jobs import JobFacts
from survival_service.observations import Clock, Observations
from survival_service.outcome_table import OutcomeTable
from survival_service.reporting import fit_observations, make_progress, make_report
from survival_service.reports import ReportOptions
from survival_service.scoring import Conclusion

Job = Callable[..., tuple[JobFacts, OutcomeTable]]
Checks = Callable[..., list[int | None]]


def assert_no_nan(value: object) -> None:
    if is_dataclass(value):
        for field in fields(value):
            if field.name != "covariance":
                assert_no_nan(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for item in value:
            assert_no_nan(item)
    elif isinstance(value, float):
        assert not math.isnan(value)


@given(checks=st.lists(st.none() | st.integers(0, 6), max_size=60), budget=st.sampled_from([1, 6]))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_report_adds_up(job: Job, checks: list[int | None], budget: int) -> None:
    checks = [None if c is None else min(c, budget) for c in checks]
    report = make_report([job(checks, budget=budget)], ReportOptions())
    assert (
        report.failed_count + report.survived_count + report.misclassified_count == report.sample_count == len(checks)
    )
    assert_no_nan(report)
    assert report.summary.endswith(".")
    assert report.summary.startswith(("Broken", "Not rejected", "Undecided"))
    assert report.conclusion is report.clock_reports[0].conclusion
    assert all(sentence.endswith(".") and not sentence[0].islower() for sentence in report.limitations)
    assert len(set(report.limitations)) == len(report.limitations)
    for share in (report.clean_accuracy, report.adversarial_accuracy, report.failure_share):
        if share.value is not None and share.lower is not None and share.upper is not None:
            assert 0 <= share.lower <= share.value <= share.upper <= 1
    for clock_report in report.clock_reports:
        assert sum(clock_report.histogram.failure_count) == report.failed_count
        assert len(clock_report.fits) == 3
        for fit in clock_report.fits:
            assert fit.clock is clock_report.clock
            assert fit.failure_count == report.failed_count
            assert (fit.median.value is not None) == (fit.status is Status.OK)
    if report.failed_count == 0:
        assert report.conclusion is Conclusion.UNDECIDED


def test_a_finished_pgd_job_makes_a_whole_report(job: Job, simulated_checks: Checks) -> None:
    report = make_report([job([*simulated_checks(250), 0, 0, 0])], ReportOptions())
    assert [r.clock for r in report.clock_reports] == [Clock.QUERIES, Clock.SECONDS]
    for clock_report in report.clock_reports:
        assert all(fit.status is Status.OK for fit in clock_report.fits)
        assert [fit.aic for fit in clock_report.fits] == sorted(fit.aic for fit in clock_report.fits)
        assert clock_report.paper_rate is not None
        assert clock_report.paper_rate.value is not None
        assert clock_report.cost_normalized_failure_rate.value == pytest.approx(
            clock_report.training_cost_per_sample / clock_report.cost_per_failure.value
        )
    assert report.clock_reports[0].benign_rate is None
    assert report.clock_reports[1].benign_rate is not None
    assert report.clean_accuracy.value == pytest.approx(250 / 253)
    assert not report.partial
    assert report.summary.startswith("Not rejected: counted in forward and backward passes, a failure costs")
    assert "the median time to failure is" in report.summary
    assert "per training sample" in report.summary
    assert "no proof of robustness" in report.summary


def test_the_clock_asked_for_comes_first_and_concludes(job: Job) -> None:
    checks: list[int | None] = [1, 2, 3, 4] * 10
    report = make_report([job(checks, training_seconds=1e6)], ReportOptions(clock=Clock.SECONDS))
    assert report.clock_reports[0].clock is Clock.SECONDS
    assert report.conclusion is Conclusion.BROKEN
    assert report.summary.startswith("Broken: counted in seconds, training cost ")


def test_a_model_whose_training_cost_is_not_known_gets_no_rate_but_a_sentence_that_says_what_to_pass(job: Job) -> None:
    checks: list[int | None] = [1, 2, 3, 4] * 10
    unknown = {"training_seconds": 0.0, "training_sample_count": 0, "epoch_count": 0, "training_device_name": ""}
    report = make_report(
        [job(checks, **unknown)], ReportOptions(defender_price_usd_per_hour=2.0, attacker_price_usd_per_hour=2.0)
    )
    for clock in report.clock_reports:
        assert clock.cost_normalized_failure_rate == NO_ESTIMATE
        assert clock.cost_per_failure.value is not None
        assert (clock.paper_rate, clock.benign_rate, clock.conclusion) == (None, None, Conclusion.UNDECIDED)
    assert report.costs.training_cost_usd is None
    assert report.summary.startswith("Undecided: what training cost, counted in forward and backward passes, is not")
    assert "pass --epochs" in report.summary
    (passes, seconds) = (one for one in report.limitations if "not known" in one)
    assert "pass --epochs" in passes
    assert "pass --training-seconds and --training-samples" in seconds
    in_seconds = make_report([job(checks, **unknown)], ReportOptions(clock=Clock.SECONDS))
    assert "pass --training-seconds and --training-samples" in in_seconds.summary


def test_what_the_owner_of_a_model_says_of_its_training_gives_a_rate(job: Job) -> None:
    checks: list[int | None] = [1, 2, 3, 4] * 10
    report = make_report([job(checks, training_device_name="")], ReportOptions())
    assert all(clock.cost_normalized_failure_rate.value for clock in report.clock_reports)
    (said,) = (one for one in report.limitations if "was given, not measured" in one)
    assert "may compare unlike devices" in said


def test_a_pool_with_one_model_of_unknown_cost_has_no_rate(job: Job) -> None:
    """The mean over the others would be the rate of another pool."""
    checks: list[int | None] = [1, 2, 3, 4] * 10
    jobs = [
        job(checks),
        job(checks, attack_job_id="job-2", weights_digest="b" * 64, training_seconds=0.0, training_sample_count=0),
    ]
    report = make_report(jobs, ReportOptions(clock=Clock.SECONDS))
    seconds, queries = report.clock_reports
    assert seconds.cost_normalized_failure_rate == NO_ESTIMATE
    assert queries.cost_normalized_failure_rate.value is not None


def test_no_failure_is_undecided_with_a_bound_and_no_fit(job: Job) -> None:
    report = make_report([job([None] * 200)], ReportOptions())
    assert report.summary == (
        "Undecided: no sample failed in 200; with 95 % confidence the failure rate is below 1.5 %."
    )
    assert report.conclusion is Conclusion.UNDECIDED
    assert report.failure_share.value == 0
    assert report.failure_share.upper == pytest.approx(1 - 0.05 ** (1 / 200))
    for clock_report in report.clock_reports:
        assert all(fit.status is Status.NO_FAILURE for fit in clock_report.fits)
        assert clock_report.cost_per_failure.value is None
        assert clock_report.confidence_above_one is None
        assert clock_report.paper_rate is None


def test_the_bound_is_at_the_level_asked_for(job: Job) -> None:
    report = make_report([job([None] * 100)], ReportOptions(confidence_level=0.99))
    assert "with 99 % confidence the failure rate is below 4.5 %" in report.summary


def test_samples_that_were_all_misclassified_say_nothing_about_attacks(job: Job) -> None:
    report = make_report([job([0] * 30)], ReportOptions())
    assert report.summary == ("Undecided: no sample was at risk; the model misclassified all 30 before the attack.")
    assert report.clean_accuracy.value == 0
    assert report.failure_share.value is None


def test_a_one_shot_attack_gets_a_failure_share_a_rate_and_no_curve(job: Job) -> None:
    report = make_report([job([1] * 50 + [None] * 100, budget=1, attack="fgm")], ReportOptions())
    assert report.failure_share.value == pytest.approx(1 / 3)
    assert report.clock_reports[0].cost_normalized_failure_rate.value is not None
    assert {fit.status for r in report.clock_reports for fit in r.fits} == {Status.SINGLE_CHECK}
    assert any("checked once" in sentence for sentence in report.limitations)
    assert sum("checked once" in sentence for sentence in report.limitations) == 1
    text = " ".join(report.limitations)
    assert "No fit: every sample was checked once" in text
    assert "the fits assume" not in text.lower()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"canceled": True, "sample_count": 500}, "was canceled after 250 of 500 samples"),
        ({"sample_count": 400}, "reported 250 of 400 samples, so the report is partial"),
        ({"attempt_count": 2}, "took 2 attempts because a worker stopped"),
        ({"clean_accuracy": 0.14}, "hardly better than chance (14 % correct with 10 classes)"),
        ({"attack_device_name": "NVIDIA H200"}, "training was measured on cpu and the attack on NVIDIA H200"),
        ({"warnings": ("the attack started from noise",)}, "the attack started from noise"),
        ({}, "one trained model was attacked"),
        ({}, "of the samples at risk outlived the attack's budget"),
    ],
)
def test_a_report_says_what_limits_it(
    job: Job, simulated_checks: Checks, overrides: dict[str, object], sentence: str
) -> None:
    report = make_report([job(simulated_checks(250), **overrides)], ReportOptions())
    assert any(sentence.lower() in found.lower() for found in report.limitations)


def test_what_a_defence_does_to_clean_and_attacked_samples_limits_a_report(job: Job, simulated_checks: Checks) -> None:
    facts, columns = job(
        simulated_checks(90), defence="high-confidence", defence_parameters={"cutoff": 0.9}, randomized=True,
        clean_rejection_share=0.25, defended_accuracy=0.7,
    )  # fmt: skip
    text = " ".join(make_report([(facts, columns)], ReportOptions()).limitations)
    assert "rejects 25 % of clean test samples and leaves 70 % answered correctly, of 97 % without it" in text
    assert "high-confidence of job job-1 answers by chance" in text
    reported = make_report([(facts, columns)], ReportOptions()).jobs[0]
    assert (reported.defence, reported.defence_parameters, reported.randomized) == (
        "high-confidence", {"cutoff": 0.9}, True
    )  # fmt: skip
    assert (reported.defended_accuracy, reported.clean_rejection_share, reported.rejected_count) == (0.7, 0.25, 0)


def test_what_a_defence_rejects_is_not_counted_as_correct(job: Job, outcome_columns: Checks) -> None:
    facts, _ = job([], defence="high-confidence", clean_rejection_share=0.25)
    columns = replace(outcome_columns([1, None, None, 0], budget=5), verdict=np.array([2, 1, 4, 3]))
    table = OutcomeTable()
    table.add(columns)
    report = make_report([(facts, table)], ReportOptions())
    # Of the sample that was rejected at last nobody knows whether it was answered at first.
    assert report.clean_accuracy is NO_ESTIMATE
    assert report.adversarial_accuracy.value == 1 / 4
    assert report.failure_share.value == 1 / 3
    kept = make_report([(replace(facts, clean_rejection_share=0.0), table)], ReportOptions())
    assert kept.clean_accuracy.value == 3 / 4


def test_what_is_in_order_is_no_limitation(job: Job, simulated_checks: Checks) -> None:
    report = make_report([job(simulated_checks(250))], ReportOptions())
    text = " ".join(report.limitations)
    for word in ("canceled", "attempts", "chance", "devices", "misclassified", "no fit"):
        assert word not in text


def test_samples_of_a_canceled_job_did_not_outlive_their_budget(job: Job, simulated_checks: Checks) -> None:
    """In-flight samples are recorded as surviving so far: that is no budget outlived, and no bound on failures."""
    text = " ".join(make_report([job(simulated_checks(90), canceled=True)], ReportOptions()).limitations)
    assert "outlived" not in text
    assert "had not failed when their attack ended or was canceled" in text
    assert "at least the reported share fails" in text
    early = make_report([job([None] * 40, canceled=True, sample_count=200)], ReportOptions())
    assert "bounds no failure rate" in early.summary
    assert "is below" not in early.summary


def test_more_than_half_censored_early_does_not_put_the_median_beyond_what_was_seen(job: Job) -> None:
    """Canceled: 60 of 100 were censored at check 1, and of those that went on all had failed by check 5."""
    facts, late = job([2, 3, 4, 5] * 10, canceled=True)
    early = job([None] * 60, budget=1)[1].columns()
    late.add(replace(early, sample_index=early.sample_index + 40))
    report = make_report([(replace(facts, sample_count=100), late)], ReportOptions())
    assert min(report.clock_reports[0].kaplan_meier.survival) == 0
    assert not any("half of them" in sentence for sentence in report.limitations)


def test_an_image_attacked_twice_counts_once_in_every_interval(job: Job, simulated_checks: Checks) -> None:
    checks = [*simulated_checks(90), *[0] * 10]
    once = make_report([job(checks)], ReportOptions())
    twice = make_report([job(checks), job(checks, attack_job_id="job-2")], ReportOptions())
    for name in ("clean_accuracy", "adversarial_accuracy", "failure_share"):
        one, two = getattr(once, name), getattr(twice, name)
        assert two.value == pytest.approx(one.value)
        assert two.upper - two.lower == pytest.approx(one.upper - one.lower, rel=0.01)
    one, two = (report.clock_reports[1].benign_rate for report in (once, twice))
    assert one is not None
    assert two is not None
    assert two.log_standard_error == pytest.approx(one.log_standard_error, rel=0.01)
    assert any("attacked in several jobs" in sentence for sentence in twice.limitations)
    assert not any("attacked in several jobs" in sentence for sentence in once.limitations)


def test_images_that_survive_twice_bound_the_failure_rate_once(job: Job) -> None:
    report = make_report([job([None] * 100), job([None] * 100, attack_job_id="job-2")], ReportOptions())
    assert report.failure_share.upper == pytest.approx(1 - 0.05 ** (1 / 100))
    assert "the failure rate is below 3 %" in report.summary
    benign = report.clock_reports[1].benign_rate
    assert benign is not None
    assert benign.upper == pytest.approx(120 / 1437 / 0.002 * (1 - 0.05 ** (1 / 100)))


def test_a_median_of_pooled_jobs_is_said_to_be_at_their_average(job: Job, simulated_checks: Checks) -> None:
    other = job(simulated_checks(60, scale=3), attack_job_id="job-2", attack_parameters={"epsilon": 0.3})
    report = make_report([job(simulated_checks(60)), other], ReportOptions())
    assert "at the average setting of the jobs the median time to failure is" in report.summary
    assert any("2 jobs are pooled" in sentence for sentence in report.limitations)


def test_too_few_images_for_clustered_errors_are_named(job: Job, simulated_checks: Checks) -> None:
    jobs = [
        job(simulated_checks(4, scale=8 - 2 * i, seed=i), attack_job_id=f"job-{i}", attack_parameters={"epsilon": e})
        for i, e in enumerate((0.1, 0.2, 0.3))
    ]
    report = make_report(jobs, ReportOptions())
    assert any("4 images" in sentence and "too few" in sentence for sentence in report.limitations)


def test_attacks_on_unlike_devices_are_named(job: Job, simulated_checks: Checks) -> None:
    other = job(simulated_checks(60), attack_job_id="job-2", training_device_name="gpu", attack_device_name="gpu")
    limitations = make_report([job(simulated_checks(60)), other], ReportOptions()).limitations
    assert any("unlike devices (cpu, gpu)" in sentence for sentence in limitations)


def test_clocks_that_conclude_differently_are_named(job: Job) -> None:
    checks: list[int | None] = [1, 2, 3, 4] * 10
    limitations = make_report([job(checks, training_seconds=1.0)], ReportOptions()).limitations
    assert limitations[0] == (
        "The conclusion depends on what costs are counted in: broken in forward and backward passes, not rejected in "
        "seconds."
    )
    agreed = make_report([job(checks, training_seconds=1e6)], ReportOptions()).limitations
    assert not any("depends on" in sentence for sentence in agreed)


def test_unlike_prices_are_said_to_be_in_the_rate(job: Job, simulated_checks: Checks) -> None:
    options = ReportOptions(clock=Clock.SECONDS, defender_price_usd_per_hour=4.0, attacker_price_usd_per_hour=1.0)
    assert "counted in seconds at the prices given" in make_report([job(simulated_checks(60))], options).summary


def test_a_canceled_job_is_partial(job: Job, simulated_checks: Checks) -> None:
    assert make_report([job(simulated_checks(90), canceled=True)], ReportOptions()).partial
    assert make_report([job(simulated_checks(90), sample_count=100)], ReportOptions()).partial


def test_few_failures_and_long_extrapolation_are_flagged(job: Job) -> None:
    report = make_report([job([2, 5, 9, 11, 15, 18, 20] + [None] * 93)], ReportOptions())
    text = " ".join(report.limitations)
    assert "nly 7 failures were seen among 100 samples at risk" in text
    assert "half of them were never seen to fail, so every median is that of a fit" in text
    assert "quote the share of failures within it, the restricted mean together with the time that it is up to" in text
    assert "lies beyond the longest time observed" in text or "has no finite expected time" in text
    assert "longer than any was observed" in report.summary


def test_only_what_a_larger_budget_leaves_alone_is_to_be_quoted(job: Job) -> None:
    """Of 100 samples 40 never fail: a budget 100 times as large moves the median of the fits, so it is not to quote."""
    quick = list(np.random.default_rng(3).geometric(0.5, 60))
    small, large = (make_report([job([*quick, *[None] * 40], budget=budget)], ReportOptions()) for budget in (20, 2000))
    ratio = (large.clock_reports[0].fits[0].median.value or 0.0) / (small.clock_reports[0].fits[0].median.value or 1.0)
    assert ratio > 1.2 or ratio < 1 / 1.2
    assert small.failure_share == large.failure_share
    for report in (small, large):
        (advice,) = (sentence for sentence in report.limitations if "every sample fails in the end" in sentence)
        assert "their median and their expected time" in advice
        assert "see 'How many never fail?'" in advice
        assert "a share of the others seems never to; the mean time to failure up to" in report.summary
        assert "median" not in report.summary


def test_times_of_some_samples_are_not_said_to_be_those_of_all(job: Job, simulated_checks: Checks) -> None:
    """Where a group had no failure the fits have the times of the others, less than those of all."""
    several = [job(simulated_checks(60)), job([None] * 60, attack_job_id="job-2", attack="fgm")]
    report = make_report(several, ReportOptions())
    assert "without the group in which nothing failed, the median time to failure is" in report.summary
    clock = report.clock_reports[0]
    assert clock.fits[0].status is Status.GROUP_WITHOUT_FAILURE
    assert clock.paper_rate is None
    assert clock.hurdle_restricted_mean is None
    assert clock.diagnostics is not None
    assert "its effect has no estimate to check" in clock.diagnostics.assumption_finding


def test_an_attack_on_nothing_blames_no_model(job: Job) -> None:
    report = make_report([job([])], ReportOptions())
    assert "there is none, or only such as the model misclassified" in report.clock_reports[0].fits[0].status_message
    assert not any("misclassified before" in sentence for sentence in report.limitations)
    missed = make_report([job([0] * 10)], ReportOptions())
    assert "10 of 10 samples were misclassified before the attack." in missed.limitations


def test_money_is_counted_where_prices_are_known(job: Job) -> None:
    outcomes = [job([10] * 60, seconds_per_check=1.0)]
    costs = make_report(
        outcomes, ReportOptions(defender_price_usd_per_hour=36.0, attacker_price_usd_per_hour=3.6)
    ).costs
    assert costs.training_cost_usd == pytest.approx(1.2)
    assert costs.attack_cost_usd == pytest.approx(0.6)
    assert costs.cost_per_failure_usd == pytest.approx(0.01)
    unpriced = make_report(outcomes, ReportOptions()).costs
    assert unpriced.training_cost_usd is None
    assert (unpriced.training_seconds, unpriced.attack_seconds) == (120, 600)


def test_prices_move_the_rate_in_seconds_and_not_that_in_queries(job: Job, simulated_checks: Checks) -> None:
    outcomes = [job(simulated_checks(100))]
    plain = make_report(outcomes, ReportOptions())
    priced = make_report(outcomes, ReportOptions(defender_price_usd_per_hour=4.0, attacker_price_usd_per_hour=1.0))
    ratios = [
        after.cost_normalized_failure_rate.value / before.cost_normalized_failure_rate.value
        for before, after in zip(plain.clock_reports, priced.clock_reports, strict=True)
        if after.cost_normalized_failure_rate.value and before.cost_normalized_failure_rate.value
    ]
    assert ratios == pytest.approx([1, 4])


def test_one_price_is_for_both(job: Job, simulated_checks: Checks) -> None:
    outcomes = [job(simulated_checks(100))]
    one = make_report(outcomes, ReportOptions(defender_price_usd_per_hour=4.0))
    none = make_report(outcomes, ReportOptions())
    assert one.clock_reports[1].cost_normalized_failure_rate == none.clock_reports[1].cost_normalized_failure_rate


def test_a_model_attacked_twice_was_trained_once(job: Job, simulated_checks: Checks) -> None:
    outcomes = [job(simulated_checks(50)), job(simulated_checks(50, seed=1), attack_job_id="job-2")]
    report = make_report(outcomes, ReportOptions())
    assert report.costs.training_seconds == 120
    assert report.attack_job_ids == ("job-1", "job-2")
    assert [reported.attack_job_id for reported in report.jobs] == ["job-1", "job-2"]


def test_progress_counts_and_fits_what_has_arrived_and_starts_from_the_last_fit(
    job: Job, simulated_checks: Checks
) -> None:
    checks = simulated_checks(300)
    early = make_progress([job(checks[:200])], ReportOptions())
    late = make_progress([job(checks)], ReportOptions(), early)
    cold = make_progress([job(checks)], ReportOptions())
    assert (late.outcome_count, late.in_flight_count) == (300, 0)
    assert {fit.clock for fit in late.provisional_fits} == {Clock.QUERIES}
    for warm, own in zip(late.provisional_fits, cold.provisional_fits, strict=True):
        assert warm.iteration_count < own.iteration_count
        assert warm.median.value == pytest.approx(own.median.value, rel=1e-6)


def test_progress_before_the_first_outcome_has_statuses(job: Job) -> None:
    progress = make_progress([job([])], ReportOptions())
    assert {fit.status for fit in progress.provisional_fits} == {Status.NO_SAMPLE}


def test_progress_of_jobs_that_differ_has_statuses_before_the_first_outcome(job: Job) -> None:
    strong = job([], attack_job_id="job-2", attack_parameters={"epsilon": 0.2})
    progress = make_progress([job([]), strong], ReportOptions())
    assert {fit.status for fit in progress.provisional_fits} == {Status.NO_SAMPLE}


def test_observations_of_any_origin_are_fitted() -> None:
    data = Observations.of([0, 1, 2, 3, 4], [1, 2, 3, 4, math.inf], [9, 9, 9, 9, 9])
    found = fit_observations(data, ReportOptions(distributions=tuple(Distribution)), misclassified_count=3)
    assert (found.observation_count, found.failure_count, found.misclassified_count) == (45, 36, 3)
    assert len(found.fits) == len(Distribution)
    assert found.fits[0].clock is None
    assert found.kaplan_meier.survival[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"confidence_level": 1.0}, "options.confidence_level"),
        ({"confidence_level": math.nan}, "options.confidence_level"),
        ({"distributions": ()}, "options.distributions"),
        ({"attacker_price_usd_per_hour": 0.0}, "options.attacker_price_usd_per_hour"),
        ({"defender_price_usd_per_hour": math.inf}, "options.defender_price_usd_per_hour"),
    ],
)
def test_options_out_of_range_name_their_field(options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ReportOptions(**options)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_report_needs_a_job() -> None:
    with pytest.raises(InvalidRequest):
        make_report([], ReportOptions())


def test_a_job_in_which_nothing_failed_has_a_bound_and_leaves_the_others_their_numbers(
    job: Job, simulated_checks: Checks
) -> None:
    """Three jobs; nothing fails under the third attack. Every number of the fit is that of the other two."""
    weak = job(simulated_checks(120), attack="pgd", attack_job_id="pgd")
    strong = job(simulated_checks(120, seed=1), attack="mim", attack_job_id="mim", seed=2)
    nothing = job([None] * 120, attack="square", attack_job_id="square", seed=3)
    report, others = (make_report(jobs, ReportOptions()) for jobs in ([weak, strong, nothing], [weak, strong]))
    assert_no_nan(report)
    for clock_report, known in zip(report.clock_reports[:2], others.clock_reports[:2], strict=True):
        for found, alone in zip(clock_report.fits, known.fits, strict=True):
            assert found.status is Status.GROUP_WITHOUT_FAILURE
            assert found.median.value == pytest.approx(alone.median.value)
            assert [bound.covariate for bound in found.effect_bounds] == ["attack=square (against pgd)"]
            assert (found.effect_bounds[0].lower or 0) > 1
        assert sum(found.akaike_weight or 0 for found in clock_report.fits) == pytest.approx(1)
        assert clock_report.averaged_median is not None
        # E[T] of the other two jobs' samples would be too short for all three.
        assert clock_report.paper_rate is None
    assert any("nothing failed in a group" in sentence for sentence in report.limitations)


def test_distributions_with_a_shape_are_reported_like_the_others(job: Job, simulated_checks: Checks) -> None:
    options = ReportOptions(distributions=tuple(Distribution))
    report = make_report([job(simulated_checks(250))], options)
    assert_no_nan(report)
    for clock_report in report.clock_reports:
        fits = {one.distribution: one for one in clock_report.fits}
        assert set(fits) == set(Distribution)
        assert fits[Distribution.GENERALIZED_GAMMA].status is Status.OK
        assert (fits[Distribution.GENERALIZED_GAMMA].shape_standard_error or 0) > 0
        assert fits[Distribution.GAMMA].shape == fits[Distribution.GAMMA].scale
        whole = fits[Distribution.GENERALIZED_GAMMA].log_likelihood
        assert all(whole >= fits[one].log_likelihood - 1e-7 for one in (Distribution.WEIBULL, Distribution.GAMMA))
    best = make_report([job(simulated_checks(250))], ReportOptions(distributions=(Distribution.GENERALIZED_GAMMA,)))
    assert "generalised gamma fit" in best.summary
    assert best.clock_reports[0].averaged_median is None
