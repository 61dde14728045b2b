"""What a report looks like on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from afr.survival.v1.survival_service_pb2 import (
    CLOCK_DISTANCE,
    CONCLUSION_NOT_REJECTED,
    Coefficient,
    Estimate,
    FitOutcomesResponse,
    Report,
)

from cli.fit import fits_text
from cli.html.page import report_page
from cli.reading import clock_headers, key_figures
from cli.rendering import paragraph, render
from cli.tables import visible_width
from survival_service.adapters.wire.report_messages import from_proto
from survival_service.reports import Report as StoredReport

Reports = dict[str, Callable[[], Report]]


def line_of(text: str, beginning: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(beginning))


def test_the_conclusion_comes_first(reports: Reports) -> None:
    lines = render(reports["good"](), width=110).splitlines()
    assert lines[0] == "BROKEN  resnet50 on digits under pgd"
    assert lines[1].startswith("A failure costs the attacker 1.58 times less")


def test_figures_stand_on_both_clocks_with_their_intervals(reports: Reports) -> None:
    text = render(reports["good"](), width=110)
    assert line_of(text, "95 % intervals").endswith("on the queries clock       on the seconds clock")
    assert "1.58 [1.35, 1.85]" in line_of(text, "cost-normalised failure rate C")
    median = line_of(text, "median time to failure")
    assert "7.60 [6.25, 9.25] queries" in median
    assert "412 [339, 501] ms" in median
    assert "> 99.9 %" in line_of(text, "confidence that C > 1")
    assert "$0.0878" in line_of(text, "training of 1\u202f437 samples")


def test_a_report_of_an_earlier_version_is_still_shown() -> None:
    """Made before there were diagnostics, averages, cures, effects and accuracies with intervals."""
    old = Report.FromString((Path(__file__).parent / "report_without_diagnostics.binpb").read_bytes())
    assert [clock.HasField("diagnostics") or clock.HasField("averaged_median") for clock in old.clock_reports] == [
        False,
        False,
    ]
    assert from_proto(old, StoredReport).failed_count == old.failed_count > 0
    page = report_page(old)
    for shown in (render(old, width=80), page):
        assert "resnet50" in shown
        assert "median time to failure" in shown.lower()
        assert f"{old.failed_count} failed" in shown
    assert "nan" not in render(old, width=80).split()


def test_at_eighty_columns_each_clock_names_its_own_end(reports: Reports) -> None:
    report = reports["good"]()
    # Their ends differ in how they are written, and the third clock's times are distances.
    report.clock_reports.add().CopyFrom(report.clock_reports[0])
    report.clock_reports[2].clock = CLOCK_DISTANCE
    for one in report.clock_reports[2].fits:
        one.clock = CLOCK_DISTANCE
    text = render(report, width=60)
    ends = [line.split(maxsplit=3)[-1] for line in text.splitlines() if line.strip().endswith(("11 queries", "620 ms"))]
    assert ends == ["11 queries", "620 ms"]
    assert "largest distance observed" in text
    by_clock = text[text.index("on the queries clock") :].split("on the ")
    assert ["median distance at failure" in part for part in by_clock[1:4]] == [False, False, True]
    assert ["median time to failure" in part for part in by_clock[1:4]] == [True, True, False]


def test_side_by_side_every_clock_has_its_own_end_and_its_own_word(reports: Reports) -> None:
    """The page always has the clocks side by side; that of distance counts no time."""
    report = reports["good"]()
    figures = {one.name: one.values for one in key_figures(report)}
    assert figures["longest time observed"] == ("11 queries", "620 ms")
    assert "mean up to that time" in figures
    report.clock_reports.add().CopyFrom(report.clock_reports[0])
    report.clock_reports[2].clock, report.distance_norm = CLOCK_DISTANCE, "inf"
    figures = {one.name: one.values for one in key_figures(report)}
    assert figures["longest time or largest distance observed"] == ("11 queries", "620 ms", "11")
    assert {"median time to failure or distance at failure", "mean up to that time or distance"} < figures.keys()
    assert clock_headers(report)[2] == "on the distance clock (norm inf)"
    del report.clock_reports[:2]
    assert {"median distance at failure", "expected distance at failure E[T]"} < {
        one.name for one in key_figures(report)
    }


def test_the_fits_say_what_their_times_are_counted_in(reports: Reports) -> None:
    """A cell in queries has no unit of its own, one in seconds has."""
    text = render(reports["good"](), width=110)
    assert "fits on the queries clock (times in queries)" in text.splitlines()
    assert "fits on the seconds clock" in text.splitlines()


def test_every_figure_is_explained_where_all_is_printed(reports: Reports) -> None:
    report = reports["good"]()
    brief, full = render(report, width=110), " ".join(render(report, width=110, full=True).split())
    for figure in key_figures(report):
        assert f"• {figure.name}: {figure.explanation}" in full
    assert "•" not in brief.split("256 samples")[0]


def test_a_narrow_terminal_gets_one_clock_after_the_other(any_report: Report) -> None:
    text = render(any_report, width=60)
    assert [line for line in text.splitlines() if visible_width(line) > 60] == []
    assert line_of(text, "on the queries clock") == "on the queries clock"


def test_tables_behind_the_answers_are_printed_if_asked_for(reports: Reports) -> None:
    report = reports["good"]()
    report.stopping.message = "the median is known to within a factor 1.2"
    report.stopping.looks.add(failure_count=30, sample_count=60)
    brief, full = render(report, width=110), render(report, width=110, full=True)
    for text in (brief, full):
        assert "The median is known to within a factor 1.2." in text
    assert "level spent" in full
    assert "level spent" not in brief
    assert "report.html, or with --format full." in brief
    assert "--format full" not in full


def test_clocks_that_disagree_are_no_secret(reports: Reports) -> None:
    report = reports["good"]()
    assert "disagree" not in render(report)
    report.clock_reports[1].conclusion = CONCLUSION_NOT_REJECTED
    assert "The clocks disagree: on the seconds clock it is not rejected." in render(report, width=110)


def test_settings_of_several_jobs_stand_with_their_effects(reports: Reports) -> None:
    """A doubling of epsilon at a coefficient of -1 on its logarithm halves the time."""
    report = reports["good"]()
    report.clock_reports[0].fits[0].coefficients.extend(
        [
            Coefficient(covariate="intercept", estimate=2),
            Coefficient(covariate="log_epsilon", estimate=-1, time_ratio=Estimate(value=math.exp(-1))),
            Coefficient(covariate="attack=fgm (against pgd)", time_ratio=Estimate(value=0.5, lower=0.4, upper=0.625)),
        ]
    )
    text = render(report, width=110)
    assert "epsilon doubled            × 0.500" in text
    assert "attack fgm instead of pgd  × 0.500 [0.400, 0.625]" in text
    assert "intercept" not in text


def test_a_defence_stands_with_the_model_that_it_defends(reports: Reports) -> None:
    report = reports["good"]()
    assert "behind" not in render(report)
    report.jobs[0].defence = "gaussian-noise"
    report.jobs[0].defence_parameters.update({"repeats": 10, "deviation": 0.1})
    text = render(report, width=110)
    assert text.splitlines()[0].endswith("resnet50 behind gaussian-noise on digits under pgd")
    assert "resnet50 behind gaussian-noise (deviation 0.1, repeats 10) on digits under pgd: native" in text


def test_samples_that_a_defence_rejected_are_not_mere_survivors(reports: Reports) -> None:
    report = reports["good"]()
    assert "rejected" not in line_of(render(report, width=110), "█ ")
    report.jobs[0].rejected_count = 3
    assert " survived (3 rejected), " in line_of(render(report, width=110), "█ ")


def test_fits_stand_side_by_side(reports: Reports) -> None:
    text = render(reports["good"](), width=110)
    rows = [line.split()[:2] for line in text.splitlines() if line.startswith(("Weibull", "log-"))]
    assert rows == [["Weibull", "612.3"], ["log-logistic", "618.9"], ["log-normal", "624.1"]] * 2


def test_a_fit_without_numbers_says_why_and_invents_none(reports: Reports) -> None:
    text = render(reports["single-check"](), width=110)
    assert "Weibull, log-logistic, log-normal: every sample was checked once; use an iterative attack" in text
    assert "median" not in text
    assert "AIC" not in text
    assert "1.58 [1.35, 1.85]" in line_of(text, "cost-normalised failure rate C")


def test_no_failure_reads_as_undecided(reports: Reports) -> None:
    text = render(reports["no-failure"](), width=110)
    assert text.startswith("UNDECIDED")
    assert "no sample failed in 240; with 95 % confidence the failure rate is below 1.2 %" in text
    assert "cost-normalised failure rate C" not in text


def test_an_infinite_mean_is_infinite(reports: Reports) -> None:
    text = render(reports["infinite-mean"](), width=110)
    assert line_of(text, "expected time to failure E[T]").split()[-3:] == ["∞", "queries", "∞"]
    assert "100 %" in line_of(text, "extrapolated share of E[T]")


def test_a_partial_report_says_so(any_report: Report) -> None:
    assert "Partial:" not in render(any_report, width=110)
    any_report.partial = True
    assert "Partial: samples were in flight" in render(any_report, width=110)


def test_colour_changes_nothing_but_colour(any_report: Report) -> None:
    import re

    plain, coloured = render(any_report, width=110), render(any_report, width=110, colour=True)
    assert "\x1b[" not in plain
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_prose_keeps_to_the_width(any_report: Report) -> None:
    any_report.summary = "word " * 200
    paragraph = [line for line in render(any_report, width=80).splitlines() if line.startswith("word")]
    assert len(paragraph) > 5
    assert all(visible_width(line) <= 80 for line in paragraph)


def test_an_empty_report_is_printed_all_the_same() -> None:
    """An older or a newer server may leave out anything."""
    assert render(Report(), width=110).startswith("UNDECIDED")


def test_a_training_cost_that_is_not_known_is_no_number(reports: Reports) -> None:
    report = reports["good"]()
    for clock in report.clock_reports:
        clock.training_cost_per_sample = 0
        clock.ClearField("cost_normalized_failure_rate")
    report.costs.training_duration.Clear()
    report.costs.ClearField("training_cost_usd")
    text = render(report, width=110)
    assert "training cost per sample" not in text
    assert any(line.split()[-2:] == ["not", "known"] for line in text.splitlines() if line.startswith("training"))


def test_a_group_without_failures_shows_its_bound_beside_the_numbers(reports: Reports) -> None:
    report = reports["good"]()
    for clock in report.clock_reports:
        for fit in clock.fits:
            fit.status = type(fit).STATUS_GROUP_WITHOUT_FAILURE
            fit.effect_bounds.add(covariate="attack=square (against pgd)", lower=9.52, level=0.95)
    text = render(report, width=110)
    assert "612.3" in text
    assert "attack square instead of pgd  × at least 9.52" in text


def test_what_a_fit_without_numbers_leaves_known_is_said(reports: Reports) -> None:
    report = reports["single-check"]()
    for clock in report.clock_reports:
        for fit in clock.fits:
            fit.failure_probability.value, fit.failure_probability.lower, fit.failure_probability.upper = 0.3, 0.22, 0.4
            fit.failure_probability_time = 5
    text = " ".join(render(report, width=110).split())
    assert "(30.0 % [22.0, 40.0] had failed by 5 queries)" in text


def test_averages_over_the_fits_are_key_figures(reports: Reports) -> None:
    report = reports["good"]()
    assert "averaged" not in render(report, width=110)
    report.clock_reports[0].averaged_median.value = 31.5
    report.clock_reports[0].fits[0].akaike_weight = 0.955
    text = render(report, width=110)
    assert "31.5 queries" in line_of(text, "median, averaged over the fits")
    assert "95.5 %" in line_of(text, "Weibull")


def test_a_number_is_not_parted_from_its_sign() -> None:
    assert paragraph("of them 89.8 % failed", 12) == "of them\n89.8 %\nfailed"
    assert paragraph("queries × 1.02", 10) == "queries\n× 1.02"


def test_a_narrow_terminal_gets_the_criteria_of_fits_in_two_tables(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = list(reports["good"]().clock_reports[0].fits)
    for one, weight in zip(fits, (0.9995, 0.0004, 0.0001), strict=True):
        one.aic *= 1000
        one.aicc, one.akaike_weight, one.concordance = one.aic + 1, weight, 0.5
    fitted = FitOutcomesResponse(fits=fits, observation_count=240, failure_count=150)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = fits_text(fitted)
    assert max(visible_width(line) for line in narrow.splitlines()) <= 80
    assert narrow.count("< 0.1 %") == 2
    monkeypatch.setenv("COLUMNS", "110")
    assert sorted(set(narrow.split()) ^ set(fits_text(fitted).split())) == []
