"""The cost of a failure, the cost-normalised failure rate, and what is concluded from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from survival_service.estimates import Estimate
from survival_service.jobs import JobFacts
from survival_service.observations import Clock
from survival_service.outcome_table import OutcomeTable
from survival_service.scoring import Conclusion, Spending, benign_rate, conclude, paper_rate, score, spending

Job = Callable[..., tuple[JobFacts, OutcomeTable]]


def spent(attack: list[float], failed: list[bool], *, training: float = 1.0) -> Spending:
    cost = np.array(attack, dtype=float)
    return Spending(cost, cost, np.full(cost.size, training), np.array(failed), np.arange(cost.size))


def test_the_cost_of_a_failure_is_everything_spent_over_the_failures(job: Job) -> None:
    """Checks 2, 4 and two survivors of 10: gradients 2 + 4 + 20, queries 3 + 5 + 22; seconds as gradients."""
    facts, table = job([2, 4, None, None, 0], budget=10, seconds_per_check=0.5)
    outcomes = [(facts, table.columns())]
    queries = spending(outcomes, Clock.QUERIES)
    assert queries.attack_cost == 26 + 30
    assert score(queries, 0.95).cost_per_failure.value == 28
    assert queries.training_cost_per_sample == 12
    assert score(queries, 0.95).cost_normalized_failure_rate.value == pytest.approx(12 / 28)
    seconds = spending(outcomes, Clock.SECONDS)
    assert seconds.attack_cost == 13
    assert seconds.training_cost_per_sample == pytest.approx(120 / 1437)
    assert score(seconds, 0.95).cost_normalized_failure_rate.value == pytest.approx(120 / 1437 / 6.5)


def test_the_rate_in_seconds_is_training_time_times_failures_over_attack_time_as_the_paper_has_it(job: Job) -> None:
    facts, table = job([3] * 20 + [None] * 10)
    rate = score(spending([(facts, table.columns())], Clock.SECONDS), 0.95).cost_normalized_failure_rate
    attack_seconds = 20 * 0.03 + 10 * 0.2
    assert rate.value == pytest.approx(120 / 1437 * 20 / attack_seconds)


@pytest.mark.parametrize("factor", [1e-3, 2.0, 1e4])
def test_doubling_all_durations_leaves_a_rate_and_doubles_a_cost(job: Job, factor: float) -> None:
    checks = [1, 2, 3, 4, 5, 6, None, None]
    one, other = (
        job(checks, seconds_per_check=0.01 * f, clean_seconds=0.002 * f, training_seconds=120.0 * f)
        for f in (1.0, factor)
    )
    scores = [score(spending([(f, table.columns())], Clock.SECONDS), 0.95) for f, table in (one, other)]
    assert scores[1].cost_per_failure.value == pytest.approx(factor * scores[0].cost_per_failure.value)
    assert scores[1].cost_normalized_failure_rate.value == pytest.approx(scores[0].cost_normalized_failure_rate.value)
    assert scores[1].confidence_above_one == pytest.approx(scores[0].confidence_above_one)


def test_doubling_the_training_time_alone_doubles_the_rate(job: Job) -> None:
    one, other = job([1, 2, 3, None]), job([1, 2, 3, None], training_seconds=240.0)
    rates = [score(spending([(f, table.columns())], Clock.SECONDS), 0.95) for f, table in (one, other)]
    assert rates[1].cost_normalized_failure_rate.value == pytest.approx(2 * rates[0].cost_normalized_failure_rate.value)


def test_a_dearer_defender_raises_the_rate_and_not_the_cost_of_a_failure() -> None:
    data = spent([1, 2, 3, 4], [True, True, True, False])
    cheap, dear = score(data, 0.95), score(data, 0.95, price_ratio=3.0)
    assert dear.cost_normalized_failure_rate.value == pytest.approx(3 * cheap.cost_normalized_failure_rate.value)
    assert dear.cost_per_failure == cheap.cost_per_failure


def test_the_interval_covers_the_true_rate_95_times_in_100() -> None:
    """Exponential costs cut off at a budget: the true cost of a failure is E[min(T, c)] / P(T <= c) = 1, any c."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        times = generator.exponential(size=100)
        found = score(spent(np.minimum(times, 1.2).tolist(), (times <= 1.2).tolist()), 0.95).cost_per_failure
        assert found.lower is not None
        assert found.upper is not None
        hits += found.lower <= 1 <= found.upper
    assert 0.93 <= hits / 1000 <= 0.97


def test_the_error_of_an_exponential_cost_is_one_over_the_root_of_the_failures() -> None:
    times = np.random.default_rng(1).exponential(size=20_000)
    found = score(spent(np.minimum(times, 0.7).tolist(), (times <= 0.7).tolist()), 0.95)
    failures = (times <= 0.7).sum()
    assert found.cost_per_failure.log_standard_error == pytest.approx(1 / math.sqrt(failures), rel=0.05)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_an_interval_from_a_handful_of_samples_covers_the_true_cost(n: int) -> None:
    """One-shot attacks that succeed half of the time: a failure costs 2. The normal law covered 67 % at n = 2."""
    generator = np.random.default_rng(n)
    hits = drawn = 0
    for _ in range(400):
        failed = generator.random(n) < 0.5
        if not failed.any():
            continue
        found = score(spent([1.0] * n, failed.tolist()), 0.95).cost_per_failure
        assert found.lower is not None
        assert found.upper is not None
        drawn += 1
        hits += found.lower <= 2 <= found.upper
    assert hits / drawn > 0.93


def test_two_samples_conclude_nothing() -> None:
    found = score(spent([3.0, 3.0], [True, True], training=12.0), 0.95)
    assert found.conclusion is Conclusion.UNDECIDED
    assert found.confidence_above_one is not None
    assert found.confidence_above_one < 0.975


def test_a_single_failure_among_many_concludes_nothing() -> None:
    """If one sample in 2 000 fails, one job of 200 in ten has a failure, and shows a rate ten times too high."""
    found = score(spent([1.0] * 200, [True] + [False] * 199, training=4000.0), 0.95)
    assert found.cost_normalized_failure_rate.value == 20
    assert found.conclusion is Conclusion.UNDECIDED
    several = score(spent([1.0] * 200, [True] * 10 + [False] * 190, training=400.0), 0.95)
    assert several.cost_normalized_failure_rate.value == 20
    assert several.conclusion is Conclusion.BROKEN


def test_the_confidence_is_that_of_students_law_of_the_logarithm() -> None:
    found = score(spent([1, 2, 3, 4, 2, 2], [True] * 5 + [False], training=3.2), 0.9)
    rate = found.cost_normalized_failure_rate
    assert rate.value is not None
    assert rate.log_standard_error is not None
    assert found.confidence_above_one == pytest.approx(t.cdf(math.log(rate.value) / rate.log_standard_error, 5))
    assert rate.lower == pytest.approx(rate.value * math.exp(-t.ppf(0.95, 5) * rate.log_standard_error))


def test_samples_that_all_fail_alike_still_leave_a_doubt() -> None:
    two, many = (score(spent([2.0] * n, [True] * n), 0.95).cost_per_failure for n in (2, 200))
    assert two.log_standard_error is not None
    assert many.log_standard_error is not None
    assert two.log_standard_error > 0.3
    assert 0 < many.log_standard_error < 0.01


def test_one_image_in_many_jobs_is_one_image(job: Job) -> None:
    checks: list[int | None] = [*range(1, 20), None]
    once = job(checks)
    copies = [(replace(once[0], attack_job_id=str(i)), once[1].columns()) for i in range(4)]
    single = score(spending(copies[:1], Clock.QUERIES), 0.95).cost_per_failure
    fourfold = score(spending(copies, Clock.QUERIES), 0.95).cost_per_failure
    assert fourfold.value == single.value
    assert fourfold.log_standard_error == pytest.approx(single.log_standard_error)


@pytest.mark.parametrize(
    ("interval", "conclusion"),
    [
        (Estimate(3, 1.01, 9), Conclusion.BROKEN),
        (Estimate(0.3, 0.1, 0.99), Conclusion.NOT_REJECTED),
        (Estimate(1.5, 0.9, 2), Conclusion.UNDECIDED),
        (Estimate(3, 1, 9), Conclusion.UNDECIDED),
        (Estimate(3), Conclusion.UNDECIDED),
        (Estimate(), Conclusion.UNDECIDED),
    ],
)
def test_the_conclusion_is_where_the_interval_lies(interval: Estimate, conclusion: Conclusion) -> None:
    assert conclude(interval) is conclusion


def test_without_a_failure_nothing_is_concluded() -> None:
    found = score(spent([5.0] * 20, [False] * 20), 0.95)
    assert found.cost_per_failure.value is None
    assert found.cost_normalized_failure_rate.value is None
    assert found.confidence_above_one is None
    assert found.conclusion is Conclusion.UNDECIDED


def test_without_a_training_cost_a_failure_has_a_cost_and_no_rate() -> None:
    found = score(spent([5.0] * 20, [True] * 20, training=0.0), 0.95)
    assert found.cost_per_failure.value == 5
    assert found.cost_normalized_failure_rate.value is None
    assert found.conclusion is Conclusion.UNDECIDED


def test_a_training_cost_below_every_float_gives_no_rate() -> None:
    assert score(spent([1.0, 1.0], [True, False], training=5e-324), 0.95).cost_normalized_failure_rate.value is None


def test_the_papers_rate_is_training_over_expected_time_and_turns_its_interval_round() -> None:
    data = spent([2.0, 2.0], [True, True], training=6.0)
    found = paper_rate(Estimate(3.0, 2.0, 4.0, 0.1), data)
    assert found == Estimate(2.0, 1.5, 3.0, 0.1)


def test_the_papers_rate_counts_gradients_where_the_clock_counts_queries(job: Job) -> None:
    facts, table = job([3] * 10)
    data = spending([(facts, table.columns())], Clock.QUERIES)
    # 4 queries and 3 gradients a sample: 8 expected queries are 14 evaluations, training was 12.
    found = paper_rate(Estimate(8.0), data)
    assert found is not None
    assert found.value == pytest.approx(12 / 14)


def test_an_infinite_expected_time_makes_the_papers_rate_zero() -> None:
    assert paper_rate(Estimate(math.inf), spent([1.0], [True])) == Estimate(0.0)
    assert paper_rate(Estimate(), spent([1.0], [True])) is None


def test_the_benign_rate_is_training_time_times_clean_errors_over_clean_time(job: Job) -> None:
    facts, table = job([0, 0, 1, 2, None], clean_seconds=0.004)
    found = benign_rate([(facts, table.columns())], 0.95, price_ratio=2.0)
    assert found is not None
    assert found.value == pytest.approx(2 * 120 / 1437 * 2 / (5 * 0.004))


def test_without_a_clean_error_the_benign_rate_is_zero_with_a_bound(job: Job) -> None:
    facts, table = job([1] * 50, clean_seconds=0.004)
    found = benign_rate([(facts, table.columns())], 0.95)
    assert found is not None
    assert found.value == 0
    assert found.upper == pytest.approx(120 / 1437 / 0.004 * (1 - 0.05 ** (1 / 50)))


@given(
    rows=st.lists(st.tuples(st.floats(1e-6, 1e6), st.booleans()), min_size=1, max_size=30),
    training=st.floats(0, 1e6),
)
@settings(max_examples=200, deadline=None)
def test_no_spending_makes_a_score_nan(rows: list[tuple[float, bool]], training: float) -> None:
    found = score(spent([r[0] for r in rows], [r[1] for r in rows], training=training), 0.95)
    for estimate in (found.cost_per_failure, found.cost_normalized_failure_rate):
        if estimate.value is not None and estimate.lower is not None and estimate.upper is not None:
            assert estimate.lower <= estimate.value <= estimate.upper
    assert found.confidence_above_one is None or 0 <= found.confidence_above_one <= 1


def test_a_training_that_attacked_its_samples_has_paid_for_it(facts) -> None:
    """Six epochs of training on the iterates of PGD in 7 steps: 8 forward and 8 backward evaluations a sample each."""
    assert facts(epoch_count=6).training_passes_per_sample == 12
    counted = facts(epoch_count=6, training_sample_count=100, training_evaluation_count=100 * 6 * 16)
    assert counted.training_passes_per_sample == 96
