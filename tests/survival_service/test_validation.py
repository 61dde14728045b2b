"""Cross-validation: folds that keep together what belongs together, and numbers that brute force gives too."""

from __future__ import annotations

import numpy as np
import pytest

from survival_service import validation
from survival_service.distributions import Distribution
from survival_service.fitting import fit, prepared
from survival_service.observations import Clock, IntArray, Observations
from survival_service.validation import CrossValidation, cross_validation


def simulated(n: int = 240, seed: int = 0) -> tuple[Observations, IntArray]:
    """Six configurations of two settings crossed with three strengths; each image attacked in two of them."""
    generator = np.random.default_rng(seed)
    configuration = np.arange(n) % 6
    setting, strength = (configuration % 2).astype(float), (configuration // 2).astype(float)
    time = np.exp(1.5 + 0.7 * setting - 0.3 * strength + 0.6 * generator.normal(size=n))
    covariates = np.column_stack([setting, strength])
    return Observations(
        np.ceil(time) - 1, np.ceil(time), np.ones(n), covariates, ("setting", "strength"), cluster=np.arange(n) // 2
    ), configuration


def validated(data: Observations, configuration: IntArray | None = None) -> CrossValidation:
    rows = prepared(data)
    return cross_validation([fit(rows, Distribution.LOG_NORMAL, clock=Clock.QUERIES)], rows, configuration)


def test_folds_are_of_whole_configurations() -> None:
    data, configuration = simulated()
    fold, count = validation._grouped(configuration)
    assert count == 5
    assert all(np.unique(fold[configuration == k]).size == 1 for k in range(6))
    found = validated(data, configuration)
    assert found.finding == "5 folds of whole configurations"
    assert (found.results[0].concordance or 0) > 0.6


def test_the_likelihood_is_that_of_the_rows_left_out(row_log_likelihoods) -> None:  # type: ignore[no-untyped-def]
    data, configuration = simulated()
    fold, count = validation._grouped(configuration)
    expected = 0.0
    for k in range(count):
        kept, left = (Observations(data.lower[of], data.upper[of], data.weight[of], data.covariates[of], data.names)
                      for of in (fold != k, fold == k))  # fmt: skip
        trained = fit(kept, Distribution.LOG_NORMAL)
        beta = np.array([c.estimate for c in trained.coefficients])
        expected += row_log_likelihoods(left, Distribution.LOG_NORMAL, beta, trained.scale).sum()
    found = validated(data, configuration).results[0]
    assert found.log_likelihood_per_failure == pytest.approx(expected / 240, rel=1e-7)


def test_a_setting_of_one_configuration_only_is_validated_by_images() -> None:
    data, configuration = simulated()
    found = validated(data, configuration % 2)
    assert found.finding.startswith("5 folds of images")
    assert "cannot predict what it never saw" in found.finding


def test_one_configuration_is_validated_by_samples_whether_counted_or_not() -> None:
    """A count table and its rows one by one, in any order, are split alike."""
    time = np.ceil(8 * np.random.default_rng(1).random(90)) + 1
    rows = Observations(time - 1, time, np.ones(90), np.empty((90, 0)))
    counted, one = validated(rows.merged(), np.zeros(1, dtype=np.int64)), validated(rows, np.zeros(1, dtype=np.int64))
    assert counted.finding == "5 folds of samples, for there is one configuration"
    assert counted.results[0].concordance is None
    assert counted.results[0].log_likelihood_per_failure == pytest.approx(one.results[0].log_likelihood_per_failure)
    assert counted.results[0].integrated_brier_score == pytest.approx(one.results[0].integrated_brier_score)


def test_what_was_fitted_predicts_worse_what_it_has_not_seen() -> None:
    data, configuration = simulated(60)
    rows = prepared(data)
    found = fit(rows, Distribution.LOG_NORMAL)
    outside = cross_validation([found], rows, configuration).results[0].log_likelihood_per_failure
    assert outside is not None
    assert outside < found.log_likelihood / 60


def test_a_fold_that_leaves_too_little_is_told() -> None:
    data, _ = simulated(8)
    found = validated(Observations(data.lower, data.upper, data.weight, data.covariates, data.names))
    assert found.results[0].log_likelihood_per_failure is None
    assert "too few" in found.results[0].finding or "failures" in found.results[0].finding
