"""Brier scores against the package pec of R, brute force, and a table worked out by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from survival_service import brier
from survival_service.brier import brier_scores
from survival_service.distributions import Distribution
from survival_service.fitted_rows import FittedRows, at_steps, step_curve
from survival_service.fitting import fit, prepared
from survival_service.observations import FloatArray, Observations

HERE = Path(__file__).parent
COVARIATES = {"veteran": ("karno", "age"), "lung": ("age", "sex")}


def data_of(name: str) -> Observations:
    with (HERE / "survreg" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    upper = [float(row["duration_upper"] or "inf") for row in rows]
    covariates = {column: [float(row[column]) for row in rows] for column in COVARIATES[name]}
    return Observations.of([float(row["duration_lower"]) for row in rows], upper, None, covariates)


def test_scores_are_those_of_pec(monkeypatch: pytest.MonkeyPatch) -> None:
    """`diagnostics_r/diagnostics.R`, at times half a day after a failure, where nobody is censored."""
    monkeypatch.setattr(brier, "TIME_LIMIT", 10_000)
    with (HERE / "diagnostics_r" / "diagnostics.csv").open() as file:
        wanted = [(row["name"].split(), float(row["value"])) for row in csv.DictReader(file) if " " in row["name"]]
    assert len(wanted) == 20
    for (kind, name, at), expected in wanted:
        data, time = data_of(name), float(at)
        if name == "lung" and data.lower.size != 228:
            continue
        rows = prepared(data)
        fitted = FittedRows.of(fit(rows, Distribution.WEIBULL), rows)
        # A failure of no weight to speak of makes its time one of those that are looked at.
        probe = Observations(
            np.append(data.lower, time), np.append(data.upper, time), np.append(data.weight, 1e-12),
            np.vstack([data.covariates, data.covariates[:1]]), data.names,
        )  # fmt: skip
        mu = np.append(fitted.mu, fitted.mu[0])
        scores = brier_scores(probe, [lambda t, m=mu, s=fitted.found.scale: np.exp(-np.exp((np.log(t) - m) / s))])
        assert scores is not None
        k = int(np.flatnonzero(scores.times == time)[0])
        found = scores.scores[0, k] if kind == "brier" else scores.reference[k]
        assert found == pytest.approx(expected, abs=1e-8)


def test_without_censoring_the_score_is_a_mean_of_squares() -> None:
    generator = np.random.default_rng(1)
    time, guess = generator.exponential(size=30), generator.random(30)
    scores = brier_scores(Observations(time, time, np.ones(30), np.empty((30, 0))), [lambda _: guess])
    assert scores is not None
    for k, at in enumerate(scores.times):
        assert scores.scores[0, k] == pytest.approx(np.mean(((time > at) - guess) ** 2))
        share = np.mean(time > at)
        assert scores.reference[k] == pytest.approx(share * (1 - share))


def test_a_table_worked_out_by_hand() -> None:
    """Found at 1, censored at 1, found at 2, censored at 3; P(C >= 1) = 1 and P(C >= 2) = 2/3, S by 0.5.

    At 2 the first counts 1, the second nothing, the third 3/2, the fourth 3/2: their sum over 4 times 0.25.
    """
    data = Observations(
        np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, np.inf, 2.0, np.inf]), np.ones(4), np.empty((4, 0))
    )
    scores = brier_scores(data, [lambda _: np.full(4, 0.5)])
    assert scores is not None
    assert scores.times.tolist() == [1.0, 2.0]
    # At 1: the second and all others were followed until 1 and had not failed.
    assert scores.scores[0] == pytest.approx([0.25, 0.25])
    assert scores.integrated(scores.scores[0]) == pytest.approx((0.125 + 0.25) / 2)


def test_a_row_around_a_time_counts_in_both_parts() -> None:
    """Between 0 and 4 the curve falls from 1 to 1/2 at 2, and to 0 at 4: of the row (0, 4] half is gone at 2."""
    data = Observations(np.array([2.0, 0.0]), np.array([2.0, 4.0]), np.ones(2), np.empty((2, 0)))
    scores = brier_scores(data, [lambda _: np.full(2, 0.2)])
    assert scores is not None
    assert scores.times.tolist() == [2.0, 4.0]
    assert scores.scores[0, 0] == pytest.approx((0.04 + 0.5 * 0.04 + 0.5 * 0.64) / 2)


def test_a_weight_is_a_repetition_and_the_unit_of_time_does_not_matter() -> None:
    generator = np.random.default_rng(2)
    time = np.ceil(6 * generator.random(40))
    upper = np.where(generator.random(40) < 0.3, np.inf, time)
    lower = np.where(np.isinf(upper), time, time - 1)
    guess, times = generator.random(40), np.arange(40) % 3 + 1

    def integral(data: Observations, s: FloatArray) -> tuple[float, float]:
        scores = brier_scores(data, [lambda _: s])
        assert scores is not None
        return scores.integrated(scores.scores[0]), scores.integrated(scores.reference)

    weighted = integral(Observations(lower, upper, times.astype(float), np.empty((40, 0))), guess)
    wide = [np.repeat(part, times) for part in (lower * 1e6, upper * 1e6, guess)]
    assert integral(Observations(wide[0], wide[1], np.ones(wide[0].size), np.empty((wide[0].size, 0))), wide[2]) == (
        pytest.approx(weighted)
    )


def test_a_step_curve_is_kaplan_and_meiers() -> None:
    """1 - 1/4 at 1 (one censored there stays at risk), times 1 - 1/2 at 2."""
    steps, curve = step_curve(np.array([1.0, 1.0, 2.0, 3.0]), np.array([True, False, True, False]), np.ones(4))
    assert steps.tolist() == [1.0, 2.0]
    assert curve == pytest.approx([0.75, 0.375])
    at = np.array([0.5, 1.0, 2.0, 9.0])
    assert at_steps(steps, curve, at) == pytest.approx([1.0, 0.75, 0.375, 0.375])
    assert at_steps(steps, curve, at, before=True) == pytest.approx([1.0, 1.0, 0.75, 0.375])
