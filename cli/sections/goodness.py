"""Does the model fit? The distributions side by side, what their residuals say, and which of them is enough."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from cli.quantities import NOTHING, clock_word, distribution_word, has_numbers, share, value_on_clock, with_unit
from cli.sections.section import Section, SectionTable, on_clocks

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import (
        ClockReport,
        Diagnostics,
        DistributionDiagnostics,
        Fit,
        NestingTest,
        Report,
    )

    from cli.html.markup import Markup

COLUMNS = ("distribution", "AIC", "BIC", "weight", "concordance", "residuals p")
PREDICTION_COLUMNS = ("distribution", "ICI", "E50", "E90", "Emax", "Brier", "gain")
NESTING_COLUMNS = ("simpler in wider", "statistic", "p", "is it enough?")
VALIDATION_COLUMNS = ("distribution", "log L a failure", "concordance", "Brier")
_CRITERIA = (
    "AIC and BIC set how likely a fit makes the data (its log L) against how many parameters it takes for that; less "
    "is better, and fits whose AIC differs by less than 2 are about as good as each other. Weights share out belief by "
    "AIC. Concordance is the share of pairs of samples that a fit orders as they failed; 0.5 is chance."
)
_NESTING = (
    "A wider distribution contains the simpler ones. The simpler is enough where the likelihood-ratio test finds no "
    "evidence for the wider: p of 0.05 or more."
)
_VALIDATION = (
    "Folds are parts of the data, each predicted by fits to all other parts. The log L a failure, the mean logarithm "
    "of how likely those make what they had not seen, compares distributions: the higher, the better."
)
_NOTES = (
    "ICI, E50, E90 and Emax are the mean, the median, the 90th percentile and the maximum of the difference between "
    "the predicted and the observed share failed by one time, the same for every distribution (Austin, Harrell and van "
    "Klaveren 2020). Brier is the integrated Brier score, its gain the share by which it is below that of the "
    "Kaplan–Meier curve of all samples.",
    "The p of residuals is that of Neyman's smooth test of the Cox–Snell residuals; below 0.05 it speaks against the "
    "fit. With very many samples it finds what does not matter: look at how far shares are off as well.",
)


def goodness(report: Report) -> Section | None:
    """Whether the fits of each clock fit; None where no fit has numbers."""
    clocks = [clock for clock in report.clock_reports if clock.HasField("diagnostics")]
    if not clocks:
        return None
    answers = on_clocks((clock.clock, clock.diagnostics.fit_finding) for clock in clocks)
    notes = list(dict.fromkeys(note for clock in clocks for note in clock.diagnostics.notes))
    tables = [table for clock in clocks for table in _tables(clock)]
    headers = {table.header for table in tables}
    explained = [
        *([_CRITERIA] if COLUMNS in headers else []),
        *([_NESTING] if NESTING_COLUMNS in headers else []),
        *([_VALIDATION] if VALIDATION_COLUMNS in headers else []),
        *(_NOTES if tables else []),
    ]
    return Section(
        title="does the model fit?",
        answer=" ".join(answers),
        tables=tuple(tables),
        notes=(*_findings(clocks), *notes, *explained),
        drawings=lambda: _drawings(clocks),
    )


def _drawings(clocks: list[ClockReport]) -> list[Markup]:
    from cli.html.diagnostic_charts import fit_figure

    return [drawing for drawing in map(fit_figure, clocks) if drawing]


def _tables(clock: ClockReport) -> list[SectionTable]:
    of, word = clock.diagnostics, clock_word(clock.clock)
    if not of.distributions:
        return []
    time = with_unit(value_on_clock(of.calibration_time, clock.clock), clock.clock)
    when = f" at {time}" if of.HasField("calibration_time") else ""
    tables = [
        SectionTable(f"The distributions, {word}", COLUMNS, rows(of, list(clock.fits))),
        SectionTable(f"Shares predicted{when}, and Brier scores, {word}", PREDICTION_COLUMNS, prediction_rows(of)),
    ]
    if nested := nesting_rows(of):
        tables.append(SectionTable(f"Simpler distributions within wider ones, {word}", NESTING_COLUMNS, nested))
    if validated := validation_rows(of):
        caption = f"Predicted for samples that a fit had not seen, {word}; {of.cross_validation.finding}"
        tables.append(SectionTable(caption, VALIDATION_COLUMNS, validated))
    return tables


def _findings(clocks: list[ClockReport]) -> list[str]:
    """What each clock's diagnostics say beside their numbers, or why there are none."""
    return on_clocks((clock.clock, finding) for clock in clocks for finding in _untested(clock.diagnostics))


def _untested(of: Diagnostics) -> Iterator[str]:
    yield from untested_residuals(of)
    pairs = [
        (test.finding, f"{distribution_word(test.narrow)} in {distribution_word(test.wide)}")
        for test in of.nesting_tests
        if not test.HasField("statistic")
    ]
    yield from _by_reason(pairs)
    yield from _by_reason((one.finding, distribution_word(one.distribution)) for one in of.cross_validation.results)
    if of.HasField("cross_validation") and not of.cross_validation.fold_count:
        yield f"{of.cross_validation.finding[:1].upper()}{of.cross_validation.finding[1:]}."


def untested_residuals(of: Diagnostics) -> Iterator[str]:
    """Why the residuals of fits are not tested, each reason once."""
    without = (one for one in of.distributions if not one.HasField("residual_p_value"))
    return _by_reason((one.finding, distribution_word(one.distribution)) for one in without)


def _by_reason(found: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A sentence a reason, with the names that it holds for; what has no reason is left out."""
    reasons: dict[str, list[str]] = {}
    for reason, name in found:
        if reason:
            reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        listed = ", ".join(names)
        yield f"{listed[:1].upper()}{listed[1:]}: {reason}."


def rows(of: Diagnostics, fits: list[Fit]) -> tuple[tuple[str, ...], ...]:
    """A row a distribution, as `COLUMNS` names the cells."""
    known = {fit.distribution: fit for fit in fits if has_numbers(fit)}
    return tuple(_row(one, known[one.distribution]) for one in of.distributions if one.distribution in known)


def nesting_rows(of: Diagnostics) -> tuple[tuple[str, ...], ...]:
    """A row a nested pair that was tested, as `NESTING_COLUMNS` names the cells."""
    return tuple(
        (
            f"{distribution_word(test.narrow)} in {distribution_word(test.wide)}",
            f"{test.statistic:.2f}",
            probability(test.p_value) if test.HasField("p_value") else NOTHING,
            _enough(test) if test.HasField("p_value") else NOTHING,
        )
        for test in of.nesting_tests
        if test.HasField("statistic")
    )


def _enough(test: NestingTest) -> str:
    return "no" if test.p_value < 0.05 else "yes"


def validation_rows(of: Diagnostics) -> tuple[tuple[str, ...], ...]:
    """A row a distribution that was cross-validated, as `VALIDATION_COLUMNS` names the cells."""
    return tuple(
        (
            distribution_word(one.distribution),
            f"{one.log_likelihood_per_failure:.4f}".replace("-", "−"),
            f"{one.concordance:.3f}" if one.HasField("concordance") else NOTHING,
            f"{one.integrated_brier_score:.4f}" if one.HasField("integrated_brier_score") else NOTHING,
        )
        for one in of.cross_validation.results
        if one.HasField("log_likelihood_per_failure")
    )


def probability(value: float) -> str:
    """A p value, never rounded to 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def prediction_rows(of: Diagnostics) -> tuple[tuple[str, ...], ...]:
    """A row a distribution, as `PREDICTION_COLUMNS` names the cells."""
    return tuple(
        (
            distribution_word(one.distribution),
            *(_decimals(one, name, 3) for name in ("ici", "e50", "e90", "emax")),
            _decimals(one, "integrated_brier_score", 4),
            f"{100 * one.brier_gain:.1f} %".replace("-", "−") if one.HasField("brier_gain") else NOTHING,
        )
        for one in of.distributions
    )


def _row(one: DistributionDiagnostics, fit: Fit) -> tuple[str, ...]:
    return (
        distribution_word(one.distribution),
        f"{fit.aic:.1f}",
        f"{fit.bic:.1f}",
        share(fit.akaike_weight) if fit.HasField("akaike_weight") else NOTHING,
        f"{fit.concordance:.3f}" if fit.HasField("concordance") else NOTHING,
        probability(one.residual_p_value) if one.HasField("residual_p_value") else NOTHING,
    )


def _decimals(one: DistributionDiagnostics, name: str, digits: int) -> str:
    return f"{getattr(one, name):.{digits}f}" if one.HasField(name) else NOTHING  # type: ignore[arg-type]
