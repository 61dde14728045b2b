"""The split of effects on seconds: closed forms, invariance, simulations with a known truth, and few trained models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from survival_service.distributions import Distribution
from survival_service.effects import Effect, EffectReport, EffectStatus, Setting, holm, split_effects
from survival_service.estimates import Estimate
from survival_service.fitting import fit
from survival_service.observations import FloatArray, IntArray, Observations

CONCAVE = [Distribution.WEIBULL, Distribution.LOG_NORMAL, Distribution.LOG_LOGISTIC, Distribution.EXPONENTIAL]
PARTS = ("total", "queries", "seconds_per_query", "free", "gap")


def split(
    queries: Observations,
    per_query: FloatArray,
    models: IntArray | None = None,
    distribution: Distribution = Distribution.WEIBULL,
    **options: object,
) -> EffectReport:
    """The split of these times, in queries, of samples that pay so much for each."""
    seconds = replace(queries, lower=queries.lower * per_query, upper=queries.upper * per_query)
    one_model = np.zeros(queries.lower.size, dtype=np.int64)
    return split_effects(
        queries,
        seconds,
        one_model if models is None else models,
        0.95,
        on_queries=fit(queries, distribution),
        on_seconds=fit(seconds, distribution),
        **options,  # type: ignore[arg-type]
    )


def paired(n: int, effect: float, seed: int = 0, *, budget: float = np.inf, deviation: float = 0.7) -> Observations:
    """n images attacked in two jobs, of which the second takes e^effect times as many queries."""
    generator = np.random.default_rng(seed)
    image, job = np.repeat(np.arange(n), 2), np.tile([0.0, 1.0], n)
    hardness = generator.normal(size=n)[image]
    time = np.exp(3.0 + effect * job + deviation * (hardness + generator.normal(size=2 * n)))
    upper = np.where(time > budget, np.inf, time)
    return Observations(np.minimum(time, budget), upper, np.ones(2 * n), job[:, None], ("job",), image)


def ends(ratio: Estimate) -> tuple[float, float, float]:
    assert ratio.value is not None
    assert ratio.lower is not None
    assert ratio.upper is not None
    return ratio.value, ratio.lower, ratio.upper


def numbers(effect: Effect) -> FloatArray:
    return np.array([ends(getattr(effect, part)) for part in PARTS])


@pytest.mark.parametrize("distribution", CONCAVE)
def test_where_a_query_costs_the_same_within_a_group_the_free_fit_is_the_sum(distribution: Distribution) -> None:
    """Seconds are then queries stretched by a constant a group, and every such model moves with its times."""
    rows = paired(60, 0.5, budget=60.0)
    (effect,) = split(rows, np.where(rows.covariates[:, 0] > 0, 0.03, 0.01), distribution=distribution).effects
    assert ends(effect.seconds_per_query) == pytest.approx((3.0, 3.0, 3.0), rel=1e-12)
    assert ends(effect.free) == pytest.approx(ends(effect.total), rel=1e-9)
    assert ends(effect.gap) == pytest.approx((1.0, 1.0, 1.0), rel=1e-9)
    assert effect.total.value == pytest.approx(3.0 * ends(effect.queries)[0], rel=1e-12)


def test_exact_log_normal_times_split_to_machine_precision_whatever_a_query_costs() -> None:
    """Least squares is linear in what it explains, so there is no gap, nor any doubt of it."""
    rows = paired(80, 0.5)
    per_query = np.exp(np.random.default_rng(5).normal(size=160))
    (effect,) = split(rows, per_query, distribution=Distribution.LOG_NORMAL).effects
    assert ends(effect.gap) == pytest.approx((1.0, 1.0, 1.0), rel=1e-8)
    first = rows.covariates[:, 0] == 0
    difference = np.log(rows.lower * per_query)
    assert np.log(effect.total.value or 0) == pytest.approx(difference[~first].mean() - difference[first].mean())


def test_the_joint_error_is_that_of_paired_differences() -> None:
    """Two exact log-normal jobs on the same images: the error of a mean of n differences, with n - 1 degrees."""
    rows, n = paired(80, 0.5), 80
    per_query = np.exp(np.random.default_rng(5).normal(size=2 * n))
    (effect,) = split(rows, per_query, distribution=Distribution.LOG_NORMAL).effects
    difference = np.diff(np.log(rows.lower * per_query).reshape(n, 2)).ravel()
    assert effect.total.log_standard_error == pytest.approx(difference.std(ddof=1) / np.sqrt(n), rel=1e-8)
    assert (effect.degrees_of_freedom, effect.cluster_count) == (n - 1, n)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_time_does_not_matter(unit: float) -> None:
    rows = paired(50, 0.5, budget=60.0)
    per_query = np.exp(np.random.default_rng(5).normal(size=100))
    one, other = (split(rows, scale * per_query).effects[0] for scale in (1.0, unit))
    np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-8)


def test_the_order_of_rows_does_not_matter_and_a_weight_is_a_repetition() -> None:
    rows = paired(50, 0.5, budget=60.0)
    per_query = np.exp(np.random.default_rng(5).normal(size=100))
    assert rows.cluster is not None
    models, weight = rows.cluster % 6, (1 + np.arange(100) % 3).astype(np.float64)
    again = np.random.default_rng(6).permutation(np.repeat(np.arange(100), weight.astype(int)))
    repeated = Observations(
        rows.lower[again], rows.upper[again], np.ones(again.size), rows.covariates[again], rows.names,
        rows.cluster[again],
    )  # fmt: skip
    one = split(replace(rows, weight=weight), per_query, models).effects[0]
    other = split(repeated, per_query[again], models[again]).effects[0]
    np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-6)


def test_a_step_of_many_units_is_the_power_of_one() -> None:
    rows, per_query = paired(50, 0.5), np.exp(np.random.default_rng(5).normal(size=100))
    (one,) = split(rows, per_query).effects
    (many,) = split(rows, per_query, settings={"job": Setting("both", 3.0)}).effects
    np.testing.assert_allclose(numbers(many), numbers(one) ** 3, rtol=1e-10)
    assert many.contrast == "both"


@pytest.mark.parametrize(("robust", "latency"), [(0.5, 0.0), (0.0, 0.5)])
def test_a_gain_of_one_kind_is_found_to_be_of_that_kind(robust: float, latency: float) -> None:
    rows = paired(150, robust, seed=3, budget=70.0)
    generator = np.random.default_rng(4)
    per_query = 0.01 * np.exp(latency * rows.covariates[:, 0] + 0.2 * generator.normal(size=300))
    (effect,) = split(rows, per_query).effects
    for part, truth in ((effect.queries, robust), (effect.seconds_per_query, latency), (effect.total, 0.5)):
        _, lower, upper = ends(part)
        assert lower < np.exp(truth) < upper
        assert (lower > 1) == (truth > 0)
    assert ends(effect.gap)[1] < 1 < ends(effect.gap)[2]


def by_model(seeds: int, rows_each: int, *, between: float, effect: float, seed: int) -> tuple[Observations, IntArray]:
    """Two depths of so many seeds, each attacked on images of its own; what training again changes is normal."""
    generator = np.random.default_rng(seed)
    model = np.repeat(np.arange(2 * seeds), rows_each)
    deep = (model >= seeds).astype(float)
    of_model = between * generator.normal(size=2 * seeds)
    time = np.exp(3.0 + effect * deep + of_model[model] + 0.7 * np.log(generator.exponential(size=model.size)))
    rows = Observations(
        np.minimum(time, 60.0), np.where(time > 60.0, np.inf, time), np.ones(time.size), deep[:, None], ("depth",),
        np.arange(time.size),
    )  # fmt: skip
    return rows, model


def test_one_seed_a_level_has_too_few_models_and_a_conditional_interval() -> None:
    rows, model = by_model(1, 100, between=0.3, effect=0.2, seed=1)
    (effect,) = split(rows, np.ones(200), model).effects
    assert effect.status is EffectStatus.TOO_FEW_MODELS
    assert "at least 2 seeds a level" in effect.status_message
    assert effect.model_level
    assert effect.cluster_count == 200
    assert ends(effect.queries)[1] < ends(effect.queries)[0] < ends(effect.queries)[2]


def test_several_seeds_a_level_are_the_clusters_and_make_the_interval_honest() -> None:
    rows, model = by_model(3, 100, between=0.4, effect=0.2, seed=1)
    (among,) = split(rows, np.ones(600), model).effects
    (within,) = split(rows, np.ones(600)).effects
    assert (among.status, among.cluster_count) == (EffectStatus.OK, 6)
    # Four if all models had the same information.
    assert 3 < (among.degrees_of_freedom or 0) <= 4
    assert not within.model_level
    assert among.queries.value == pytest.approx(ends(within.queries)[0], rel=1e-12)
    assert (among.queries.log_standard_error or 0) > 2 * (within.queries.log_standard_error or 0)


def test_two_seeds_a_level_say_on_what_their_interval_rests() -> None:
    rows, model = by_model(2, 100, between=0.4, effect=0.2, seed=1)
    (effect,) = split(rows, np.ones(400), model).effects
    assert effect.status is EffectStatus.OK
    assert "2.0 degrees of freedom" in effect.status_message


def test_a_free_fit_that_disagrees_is_named() -> None:
    """Samples that take many queries pay more for each, in one of the jobs alone."""
    rows = paired(150, 0.5, budget=60.0)
    per_query = np.where(rows.covariates[:, 0] > 0, rows.lower**0.5, 1.0)
    found = split(rows, per_query)
    assert found.effects[0].gap.value != pytest.approx(1, abs=0.05)
    assert any("free fit differs from the product beyond chance (job plus 1)" in note for note in found.notes)
    assert not split(rows, np.ones(300)).notes


def test_without_a_fit_on_queries_seconds_per_query_remain() -> None:
    rows = paired(50, 0.5)
    split_ = split_effects(rows, rows, np.arange(100), 0.95, on_queries=None, on_seconds=None)
    (effect,) = split_.effects
    assert ends(effect.seconds_per_query) == pytest.approx((1.0, 1.0, 1.0))
    assert effect.total == effect.queries == effect.free == effect.gap == Estimate()
    assert "only that on seconds per query" in split_.notes[0]


def test_samples_that_were_never_timed_leave_the_queries() -> None:
    rows = paired(50, 0.5)
    (effect,) = split_effects(
        rows, replace(rows, lower=np.zeros(100), upper=np.full(100, np.inf)), np.arange(100), 0.95,
        on_queries=fit(rows, Distribution.WEIBULL), on_seconds=None,
    ).effects  # fmt: skip
    assert ends(effect.queries)[0] > 1
    assert effect.total == effect.seconds_per_query == Estimate()


def test_few_images_give_no_interval() -> None:
    rows = paired(4, 0.5)
    (effect,) = split(rows, np.ones(8)).effects
    assert effect.status is EffectStatus.NO_INTERVAL
    assert effect.queries.lower is None
    assert effect.queries.value is not None
    assert effect.cluster_count == 0


def test_p_values_are_corrected_as_holm_did() -> None:
    """Holm (1979): the smallest times their number, the next times one less, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@pytest.mark.slow
def test_the_joint_error_is_that_of_resampled_images() -> None:
    rows = paired(120, 0.5, seed=9, budget=70.0)
    per_query = 0.01 * np.exp(0.3 * rows.covariates[:, 0] + 0.4 * np.random.default_rng(4).normal(size=240))
    (effect,) = split(rows, per_query).effects
    generator, found = np.random.default_rng(11), []
    for _ in range(400):
        chosen = (2 * generator.integers(0, 120, 120)[:, None] + [0, 1]).ravel()
        again = Observations(
            rows.lower[chosen], rows.upper[chosen], rows.weight, rows.covariates[chosen], rows.names,
            np.repeat(np.arange(120), 2),
        )  # fmt: skip
        found.append([np.log(getattr(split(again, per_query[chosen]).effects[0], part).value) for part in PARTS])
    # 400 replicates know a deviation to within 3.5 %.
    deviation = np.std(found, axis=0)
    claimed = [getattr(effect, part).log_standard_error for part in PARTS]
    np.testing.assert_allclose(claimed, deviation, rtol=0.12)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_over_few_models_cover_as_often_as_they_say(seeds: int) -> None:
    """400 replicates: the Monte-Carlo error of 95 % is 1.1 points. Clustered by image they cover far too rarely."""
    covered = {"models": 0, "images": 0}
    for replicate in range(400):
        rows, model = by_model(seeds, 60, between=0.4, effect=0.2, seed=1000 * seeds + replicate)
        for name, of_row in (("models", model), ("images", None)):
            (effect,) = split(rows, np.ones(rows.lower.size), of_row).effects
            _, lower, upper = ends(effect.queries)
            covered[name] += lower < np.exp(0.2) < upper
    assert 0.92 <= covered["models"] / 400 <= 0.98, covered
    assert covered["images"] / 400 < 0.80, covered


@pytest.mark.slow
def test_models_attacked_on_the_same_images_cover_what_differs_from_image_to_image() -> None:
    """300 replicates of 4 seeds a level on 25 images that differ in hardness and in what depth does to them."""
    covered, sd = 0, {"hardness": 0.7, "depth": 0.6, "model": 0.2}
    for replicate in range(300):
        generator = np.random.default_rng(replicate)
        model, image = np.repeat(np.arange(8), 25), np.tile(np.arange(25), 8)
        deep = (model >= 4).astype(float)
        hard, own, trained = (s * generator.normal(size=n) for s, n in zip(sd.values(), (25, 25, 8), strict=True))
        log_time = 3.0 + hard[image] + deep * (0.2 + own[image]) + trained[model] + 0.3 * generator.normal(size=200)
        rows = Observations(np.exp(log_time), np.exp(log_time), np.ones(200), deep[:, None], ("depth",), image)
        (effect,) = split(rows, np.ones(200), model, Distribution.LOG_NORMAL).effects
        covered += ends(effect.queries)[1] < np.exp(0.2) < ends(effect.queries)[2]
    assert 0.92 <= covered / 300 <= 0.99, covered
