"""What a person sees of the diagnostics of a report: two questions, answered in words, with tables and drawings."""

from __future__ import annotations

from afr.survival.v1 import survival_service_pb2 as pb

from cli.fit_diagnostics import diagnostics_blocks, diagnostics_object
from cli.sections.assumptions import assumptions
from cli.sections.goodness import goodness


def diagnostics() -> pb.Diagnostics:
    weibull, normal = pb.DISTRIBUTION_WEIBULL, pb.DISTRIBUTION_LOG_NORMAL
    return pb.Diagnostics(
        distributions=[
            pb.DistributionDiagnostics(
                distribution=weibull, ici=0.0123, e50=0.01, e90=0.02, emax=0.03, integrated_brier_score=0.1234,
                brier_gain=-0.051, residual_distance=0.02, residual_statistic=9.0, residual_degrees_of_freedom=4,
                residual_p_value=0.0004, residual_curve=pb.ResidualCurve(expected=[0, 0.5, 1], observed=[0, 0.4, 1]),
                calibration_curve=pb.CalibrationCurve(predicted=[0.1, 0.9], observed=[0.2, 0.8]), finding="it speaks",
            ),
            pb.DistributionDiagnostics(distribution=normal, finding="the residuals are not tested"),
        ],
        calibration_time=7,
        brier_horizon=20,
        nesting_tests=[
            pb.NestingTest(narrow=weibull, wide=pb.DISTRIBUTION_GENERALIZED_GAMMA, statistic=9.5, p_value=0.002,
                           degrees_of_freedom=1, finding="the Weibull is ruled out"),
            pb.NestingTest(narrow=normal, wide=pb.DISTRIBUTION_GENERALIZED_GAMMA, finding="not tested: no time"),
        ],
        assumption_distribution=weibull,
        assumption_checks=[
            pb.AssumptionCheck(
                covariate="attack=pgd (against bim)", statistic=5.5, p_value=0.019,
                adjusted_p_value=0.038, finding="not one factor",
                quantiles=pb.GroupQuantiles(reference=[1, 2, 4], treated=[2, 4, 8], slope=1),
            ),
            pb.AssumptionCheck(covariate="log_epsilon", finding="epsilon is not tested"),
        ],
        cross_validation=pb.CrossValidation(
            fold_count=5,
            finding="5 folds of images",
            results=[
                pb.ValidationResult(distribution=weibull, log_likelihood_per_failure=-2.5, concordance=0.61),
                pb.ValidationResult(distribution=normal, finding="not cross-validated: without fold 2, nothing failed"),
            ],
        ),
        fit_finding="The Weibull does not fit.",
        assumption_finding="Not for attack=pgd.",
        notes=["All samples have the same prediction."],
    )  # fmt: skip


def fits() -> list[pb.Fit]:
    return [
        pb.Fit(distribution=pb.DISTRIBUTION_WEIBULL, status=pb.Fit.STATUS_OK, aic=12.34, bic=23.45, akaike_weight=0.9),
        pb.Fit(distribution=pb.DISTRIBUTION_LOG_NORMAL, status=pb.Fit.STATUS_OK, aic=14.3, bic=25.4, concordance=0.6),
    ]


def report(*clocks: pb.Clock.ValueType) -> pb.Report:
    return pb.Report(
        clock_reports=[pb.ClockReport(clock=clock, fits=fits(), diagnostics=diagnostics()) for clock in clocks]
    )


def test_the_distributions_stand_side_by_side() -> None:
    section = goodness(report(pb.CLOCK_QUERIES))
    assert section is not None
    assert section.answer == "The Weibull does not fit."
    criteria, predictions, nested, validated = section.tables
    assert criteria.rows[0] == ("Weibull", "12.3", "23.4", "90.0 %", "–", "< 0.001")
    assert criteria.rows[1] == ("log-normal", "14.3", "25.4", "–", "0.600", "–")
    assert predictions.caption == "Shares predicted at 7 queries, and Brier scores, queries"
    assert predictions.rows[0] == ("Weibull", "0.012", "0.010", "0.020", "0.030", "0.1234", "−5.1 %")
    assert predictions.rows[1] == ("log-normal", *["–"] * 6)
    assert nested.rows == (("Weibull in generalised gamma", "9.50", "0.002", "no"),)
    assert validated.rows == (("Weibull", "−2.5000", "0.610", "–"),)


def test_why_something_is_missing_is_said() -> None:
    section = goodness(report(pb.CLOCK_QUERIES))
    assert section is not None
    notes = " ".join(section.notes)
    for reason in (
        "Log-normal: the residuals are not tested.",
        "Log-normal in generalised gamma: not tested: no time.",
        "without fold 2, nothing failed.",
        "All samples have the same prediction.",
        "AIC and BIC",
        "Folds are",
        "is enough where",
    ):
        assert reason in notes


def test_two_clocks_are_told_apart() -> None:
    both = report(pb.CLOCK_QUERIES, pb.CLOCK_SECONDS)
    section = goodness(both)
    assert section is not None
    assert section.answer == "The Weibull does not fit."  # on both, and said once
    assert len(section.tables) == 8
    both.clock_reports[1].diagnostics.fit_finding = "The Weibull fits."
    section = goodness(both)
    assert section is not None
    assert section.answer == "On queries: The Weibull does not fit. On seconds: The Weibull fits."
    notes = list(section.notes)
    both.clock_reports[1].diagnostics.distributions[1].finding = "there are few"
    section = goodness(both)
    assert section is not None
    assert set(section.notes) - set(notes) == {
        "On queries: Log-normal: the residuals are not tested.",
        "On seconds: Log-normal: there are few.",
    }


def test_each_setting_is_checked() -> None:
    section = assumptions(report(pb.CLOCK_QUERIES))
    assert section is not None
    assert section.answer == "Not for attack=pgd."
    assert section.tables[0].rows == (
        ("attack pgd instead of bim", "5.50", "0.019", "0.038", "1.00"),
        ("epsilon", "–", "–", "–", "–"),
    )
    assert section.notes[0] == "Epsilon is not tested."
    assert "log_epsilon" in str(diagnostics_blocks(pb.FitOutcomesResponse(fits=fits(), diagnostics=diagnostics())))


def test_a_report_without_diagnostics_has_neither_section() -> None:
    bare = pb.Report(clock_reports=[pb.ClockReport(clock=pb.CLOCK_QUERIES, fits=fits())])
    assert goodness(bare) is None
    assert assumptions(bare) is None


def test_too_many_rows_leave_a_sentence() -> None:
    bare = pb.Diagnostics(fit_finding="It is not looked at.")
    section = goodness(pb.Report(clock_reports=[pb.ClockReport(clock=pb.CLOCK_QUERIES, fits=fits(), diagnostics=bare)]))
    assert section is not None
    assert section.answer == "It is not looked at."
    assert not section.tables
    assert diagnostics_blocks(pb.FitOutcomesResponse(fits=fits(), diagnostics=bare)) == ["It is not looked at."]


def test_the_page_draws_shares_and_quantiles() -> None:
    """The curve of residuals from corner to corner, and three points on the line of factor 2."""
    of = report(pb.CLOCK_QUERIES)
    fit_section, factor_section = goodness(of), assumptions(of)
    assert fit_section is not None
    assert fit_section.drawings is not None
    assert factor_section is not None
    assert factor_section.drawings is not None
    (shares,), (quantiles,) = fit_section.drawings(), factor_section.drawings()
    assert shares.count("curve fit0") == 2 * 2 + 1  # residuals and calibration, wide and narrow, and the legend
    assert "Weibull: off by at most 2.0 %" in shares
    assert quantiles.count("<circle") == 2 * 3
    assert "attack pgd instead of bim: factor 2.00" in quantiles
    assert ">bim, queries<" in quantiles  # across
    assert ">pgd, queries<" in quantiles  # up


def test_afrctl_fit_shows_a_block_and_json() -> None:
    fitted = pb.FitOutcomesResponse(fits=fits(), diagnostics=diagnostics())
    text = "\n\n".join(diagnostics_blocks(fitted))
    assert text.startswith("The Weibull does not fit.\nshares at 7.00")
    assert "Predicted for samples not seen: 5 folds of images" in text
    assert "Log-normal: the residuals are not tested." in text
    assert text.endswith("epsilon is not tested.")
    assert "not tested: no time" not in text
    content = diagnostics_object(fitted)
    assert content is not None
    assert content["distributions"][0]["distribution"] == "weibull"
    assert content["distributions"][0]["ici"] == 0.0123
    assert "ici" not in content["distributions"][1]
    assert diagnostics_object(pb.FitOutcomesResponse(fits=fits())) is None
