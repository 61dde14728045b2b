"""What a person reads of how well fits order samples."""

from __future__ import annotations

from afr.survival.v1 import survival_service_pb2 as pb

from cli.reading import key_figures
from cli.sections.ranking import ranking


def report(*found: pb.FitConcordance) -> pb.Report:
    return pb.Report(clock_reports=[pb.ClockReport(clock=pb.CLOCK_QUERIES, concordances=found)])


def found(value: float, lower: float, upper: float) -> pb.FitConcordance:
    return pb.FitConcordance(
        distribution=pb.DISTRIBUTION_WEIBULL,
        harrell=pb.Estimate(value=value - 0.01, lower=lower, upper=upper),
        uno=pb.Estimate(value=value, lower=lower, upper=upper),
        restriction_time=41,
    )


def test_without_covariates_nothing_is_said() -> None:
    assert ranking(report()) is None
    assert ranking(pb.Report()) is None


def test_the_share_of_pairs_is_held_against_guessing() -> None:
    section = ranking(report(found(0.72, 0.69, 0.75)))
    assert section is not None
    assert section.answer == (
        "Of two samples the one to which the Weibull fit gives the longer life has it in 72.0 % [69.0, 75.0] of all "
        "pairs, up to 41 queries; guessing would be right in half of them."
    )
    assert section.tables[0].rows == (("Weibull", "71.0 % [69.0, 75.0]", "72.0 % [69.0, 75.0]", "–"),)
    for lower, upper, words in ((0.45, 0.6, "guessing may do as well."), (0.3, 0.4, "guessing would do better.")):
        section = ranking(report(found((lower + upper) / 2, lower, upper)))
        assert section is not None
        assert section.answer.endswith(words)


def test_without_a_known_pair_the_answer_says_so() -> None:
    section = ranking(report(pb.FitConcordance(distribution=pb.DISTRIBUTION_WEIBULL)))
    assert section is not None
    assert "cannot be told" in section.answer


def test_the_key_figure_is_that_of_the_best_fit_with_its_interval() -> None:
    made = report(found(0.72, 0.69, 0.75))
    fits = made.clock_reports[0].fits
    fits.add(distribution=pb.DISTRIBUTION_LOG_NORMAL, status=pb.Fit.STATUS_NO_FAILURE)
    fits.add(distribution=pb.DISTRIBUTION_WEIBULL, status=pb.Fit.STATUS_OK)
    figures = {figure.name: figure.values for figure in key_figures(made)}
    assert figures["concordance of the best fit"] == ("0.710 [0.690, 0.750]",)
