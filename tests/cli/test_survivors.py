"""What a person reads of the samples that never fail: the share, whether it can be told, the mean over all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from afr.survival.v1 import survival_service_pb2 as pb

from cli.html.page import report_page
from cli.rendering import render
from cli.sections.section import Section
from cli.sections.survivors import survivors

Reports = dict[str, Callable[[], pb.Report]]


def cure_fit(**changes: object) -> pb.CureFit:
    fit = pb.CureFit(
        distribution=pb.DISTRIBUTION_WEIBULL,
        status=pb.CureFit.STATUS_OK,
        status_message="the fit can be used",
        cured_share=pb.Estimate(value=0.3, lower=0.24, upper=0.36),
        follow_up=pb.CureFit.FOLLOW_UP_SUFFICIENT,
        unfailed_share=0.012,
        median=pb.Estimate(value=4.2, lower=3.6, upper=4.9),
        restricted_mean=pb.Estimate(value=6.1, lower=5.6, upper=6.6),
        restriction_time=11.0,
        aic=580.2,
        p_value=1e-7,
        curve=pb.Curve(time=[0, 5, 11], survival=[1, 0.6, 0.31]),
    )
    fit.MergeFrom(pb.CureFit(**changes))  # type: ignore[arg-type]
    return fit


@pytest.fixture
def report(reports: Reports) -> pb.Report:
    return reports["good"]()


def shown(report: pb.Report, *fits: pb.CureFit) -> Section:
    report.clock_reports[0].cure_fits.extend(fits)
    section = survivors(report)
    assert section is not None
    return section


def test_a_report_without_such_fits_has_no_such_section(report: pb.Report) -> None:
    assert survivors(report) is None
    assert survivors(pb.Report()) is None


def test_the_share_comes_with_its_interval_and_the_median_of_the_others(report: pb.Report) -> None:
    section = shown(report, cure_fit())
    assert section.answer == (
        "An estimated 30.0 % [24.0, 36.0] of the samples at risk never fail, whatever this attack spends (Weibull "
        "fit). Half of the others fail by 4.20 [3.60, 4.90] queries. The attack was long enough to tell."
    )
    ((row,),) = (table.rows for table in section.tables)
    assert row == ("Weibull", "30.0 % [24.0, 36.0]", "1.2 %", "4.20 [3.60, 4.90]", "580.2", "< 0.001")


def test_an_attack_that_was_too_short_says_so(report: pb.Report) -> None:
    message = "by this fit, 22 % of the samples that can fail had not when the attack ended"
    section = shown(report, cure_fit(follow_up=pb.CureFit.FOLLOW_UP_SHORT, follow_up_message=message))
    assert f"The attack was too short to be sure: {message}." in section.answer


def test_where_a_fit_without_it_is_about_as_good_there_is_perhaps_none(report: pb.Report) -> None:
    section = shown(report, cure_fit(aic=609.4))
    assert section.answer.startswith("Perhaps none: the best estimate is 30.0 % [24.0, 36.0]")
    assert (
        "Weibull fit in which every sample fails in the end is not ruled out (AIC 612.3 against 609.4)"
        in section.answer
    )
    assert "long enough" not in section.answer


def test_no_cured_share_has_a_bound(report: pb.Report) -> None:
    fit = cure_fit(status=pb.CureFit.STATUS_NO_CURED_SHARE)
    for name in ("cured_share", "median", "restricted_mean", "curve"):
        fit.ClearField(name)
    fit.cured_share.value, fit.cured_share.lower, fit.cured_share.upper = 0.0, 0.0, 0.07
    section = shown(report, fit)
    assert section.answer.startswith(
        "None need be assumed: the data are likeliest if every sample fails in the end, and"
    )
    assert "at most 7.0 % never do" in section.answer
    assert section.tables[0].rows[0][1:4] == ("0 %, at most 7.0 %", "1.2 %", "–")
    assert section.drawings is not None
    assert list(section.drawings()) == []


def test_a_fit_without_numbers_gives_its_reason_and_no_number(report: pb.Report) -> None:
    message = "no sample failed, so there is no failure rate to fit"
    fit = pb.CureFit(distribution=pb.DISTRIBUTION_WEIBULL, status=pb.CureFit.STATUS_NO_FIT, status_message=message)
    section = shown(report, fit)
    assert section.answer == f"That cannot be told: {message}."
    assert section.tables == ()
    assert section.notes == ()  # it is said once


def test_distributions_that_disagree_are_said_to(report: pb.Report) -> None:
    other = cure_fit(distribution=pb.DISTRIBUTION_LOG_NORMAL, cured_share=pb.Estimate(value=0.12))
    section = shown(report, cure_fit(), other)
    assert "the distributions disagree: from 12.0 % to 30.0 % never fail" in section.notes[0]


def test_the_mean_of_all_samples_counts_those_misclassified_at_0(report: pb.Report) -> None:
    mean = report.clock_reports[0].hurdle_restricted_mean
    mean.value, mean.lower, mean.upper = 5.1, 4.6, 5.7
    section = shown(report, cure_fit())
    assert section.answer.endswith(
        "Over all 256 samples, the 16 misclassified before the attack counted as failed at 0, the mean time up to 11 "
        "queries is 5.10 [4.60, 5.70] queries."
    )
    report.clock_reports[0].fits[0].coefficients.extend([pb.Coefficient(), pb.Coefficient()])
    assert "counted as failed at 0, at the average setting of the jobs, the mean" in shown(report, cure_fit()).answer


def test_terminal_and_page_show_it_with_its_curve(report: pb.Report) -> None:
    shown(report, cure_fit())
    text, page = render(report, width=100, full=True), report_page(report)
    assert "how many never fail?" in text
    assert "An estimated 30.0 %" in text
    assert "How many never fail?" in page
    assert "Survival with a share that never fails." in page
    assert "never fail, with interval" in page
