"""Cross-validation: how well fits predict samples, or whole configurations, that they have not seen.

Rows are never split at random: rows of one configuration are alike, and one image's rows are alike in every job, so
that a random split would test a fit on what it has seen. Folds are of whole configurations or, where a fit cannot
predict one that it has not seen, of images. The split is the same whenever it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from survival_service.advice import Advice, advice_on
from survival_service.brier import brier_scores
from survival_service.covariates import independent_columns
from survival_service.distributions import Distribution
from survival_service.fits import Fit, Status
from survival_service.fitting import fit
from survival_service.likelihood import Likelihood
from survival_service.metrics import concordance
from survival_service.observations import FloatArray, IntArray, Observations
from survival_service.preparing import Prepared, prepared, some

FOLD_COUNT = 5
SEED = 20_240_113
# With more samples than this, what a fit has seen and what it has not are told from one another no more.
SAMPLE_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """What one distribution predicted of samples that it was not fitted to. Fields are those of the contract.

    `finding` says why there are no numbers.
    """

    distribution: Distribution
    log_likelihood_per_failure: float | None = None
    concordance: float | None = None
    integrated_brier_score: float | None = None
    finding: str = ""


@dataclass(frozen=True, slots=True)
class CrossValidation:
    """Fields are those of the contract's `CrossValidation`; `finding` says what folds are made of, and why."""

    fold_count: int = 0
    results: tuple[ValidationResult, ...] = ()
    finding: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Folds:
    """Observations, one fold a row."""

    data: Observations
    fold: IntArray
    count: int
    finding: str


def cross_validation(fits: Sequence[Fit], rows: Prepared, configuration: IntArray | None = None) -> CrossValidation:
    """Cross-validate these fits of the rows; `configuration` numbers the attack job of each row, if there are several.

    The concordance and the Brier score are those of all predictions together, each made by the fit that had not seen
    its sample.
    """
    if rows.observation_count > SAMPLE_LIMIT:
        return CrossValidation(
            finding=f"no cross-validation with more than {SAMPLE_LIMIT:,} samples: fits hardly depend on any of them"
        )
    advice = advice_on(fits[0].clock if fits else None)
    folds = _folds(rows.observations, configuration, advice)
    if folds is None:
        return CrossValidation(finding=f"there are too few {advice.one}s to set some aside; {advice.for_samples}")
    known = [one for one in fits if one.has_numbers]
    results = tuple(_validated(one, folds) for one in known)
    return CrossValidation(folds.count, results, folds.finding)


def _folds(data: Observations, configuration: IntArray | None, advice: Advice) -> _Folds | None:
    why = ""
    if configuration is not None and np.unique(configuration).size > 1:
        fold, count = _grouped(configuration)
        if all(_predictable(data, fold != k) for k in range(count)):
            return _Folds(data, fold, count, f"{count} folds of whole configurations")
        why = ", for some setting occurs in one fold of configurations only, and a fit cannot predict what it never saw"
    if data.cluster is not None:
        fold, count = _grouped(data.cluster)
        made = _Folds(data, fold, count, f"{count} folds of {advice.cluster}s, all rows of one together{why}")
    else:
        made = _scattered(data)
        why = why or (
            ", for there is one configuration" if configuration is not None else ", for nothing groups the rows"
        )
        made = replace(made, finding=f"{made.count} folds of {advice.one}s{why}")
    return made if made.count > 1 else None


def _grouped(group: IntArray) -> tuple[IntArray, int]:
    """The fold of each row, those of one group together: the groups in random order, dealt out."""
    index = np.unique(group, return_inverse=True)[1].ravel()
    size = int(index.max(initial=-1)) + 1
    count = min(FOLD_COUNT, size)
    dealt = np.empty(size, dtype=np.int64)
    dealt[np.random.default_rng(SEED).permutation(size)] = np.arange(size) % max(count, 1)
    return dealt[index], count


def _scattered(data: Observations) -> _Folds:
    """Samples dealt out one by one; a cell of a count table becomes one a fold. The order of rows decides nothing."""
    order = np.lexsort((*data.covariates.T, data.lower, data.upper))
    counts = np.maximum(1, np.rint(data.weight[order])).astype(np.int64)
    cell = np.repeat(order, counts)
    count = min(FOLD_COUNT, cell.size)
    if count < 2:
        return _Folds(data, np.zeros(data.lower.size, dtype=np.int64), 1, "")
    dealt = np.empty(cell.size, dtype=np.int64)
    dealt[np.random.default_rng(SEED).permutation(cell.size)] = np.arange(cell.size) % count
    pairs, amount = np.unique(np.column_stack([cell, dealt]), axis=0, return_counts=True)
    weight = amount * (data.weight / np.maximum(1, np.rint(data.weight)))[pairs[:, 0]]
    split = replace(some(data, pairs[:, 0]), weight=weight)
    return _Folds(split, pairs[:, 1], count, "")


def _predictable(data: Observations, training: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> bool:
    """Whether every effect can be told from these rows."""
    settings = np.unique(data.covariates[training], axis=0)
    kept, _ = independent_columns(settings, data.names, np.ones(len(settings)))
    return len(kept) == len(data.names)


def _validated(found: Fit, folds: _Folds) -> ValidationResult:
    distribution, data = found.distribution, folds.data
    if distribution.with_shape:
        return ValidationResult(distribution, finding="not cross-validated: fits with a shape take their time")
    mu, sigma, value = np.empty(data.lower.size), np.empty(data.lower.size), 0.0
    for k in range(folds.count):
        held = folds.fold == k
        trained = fit(prepared(some(data, ~held)), distribution, clock=found.clock, start=found)
        if trained.status is not Status.OK:
            return ValidationResult(
                distribution, finding=f"not cross-validated: without fold {k + 1}, {trained.status_message}"
            )
        effects = {c.covariate: c.estimate for c in trained.coefficients}
        beta = np.array([trained.coefficients[0].estimate, *(effects.get(name, 0.0) for name in data.names)])
        tested = some(data, held)
        likelihood = Likelihood(tested, distribution.family, scale_fixed=distribution.scale_fixed)
        if likelihood.design.row_count:
            value += likelihood(likelihood.standardised(beta, trained.scale))[0]
        mu[held], sigma[held] = beta[0] + tested.covariates @ beta[1:], trained.scale

    def survival(time: float) -> FloatArray:
        return distribution.family.survival((np.log(time) - mu) / sigma)

    scores, seen = brier_scores(data, [survival]), np.where(data.failed, data.upper, data.lower)
    return ValidationResult(
        distribution,
        log_likelihood_per_failure=value / data.failure_count,
        concordance=concordance(seen, data.failed, mu, data.weight) if data.names else None,
        integrated_brier_score=None if scores is None else scores.integrated(scores.scores[0]),
    )
