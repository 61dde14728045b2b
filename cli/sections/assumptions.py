"""Is it an accelerated failure time? Whether each setting stretches early and late failures by the same factor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.covariates import covariate_word
from cli.quantities import NOTHING, clock_word, distribution_word, number
from cli.sections.goodness import probability
from cli.sections.section import Section, SectionTable, on_clocks

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import AssumptionCheck, ClockReport, Diagnostics, Report

    from cli.html.markup import Markup

COLUMNS = ("setting", "statistic", "p", "corrected p", "slope of quantiles")
_NOTES = (
    "An accelerated failure model says that a setting multiplies every time to failure by one factor. If a setting "
    "also changes the spread of log times, it stretches early failures by another factor than late ones. The test is "
    "the score test of that, p values corrected by Holm's method for the number of settings.",
    "The slope is the ratio of the spreads of the logarithms of two groups' quantiles: 1 if one factor is enough.",
)


def assumptions(report: Report) -> Section | None:
    """The check of every setting on each clock; None where nothing differs between samples."""
    clocks = [clock for clock in report.clock_reports if clock.diagnostics.assumption_checks]
    if not clocks:
        return None
    answers = on_clocks((clock.clock, clock.diagnostics.assumption_finding) for clock in clocks)
    untested = [
        f"{check.finding[:1].upper()}{check.finding[1:]}."
        for clock in clocks
        for check in clock.diagnostics.assumption_checks
        if not check.HasField("p_value")
    ]
    return Section(
        title="is it an accelerated failure time?",
        answer=" ".join(answers),
        tables=tuple(_table(clock) for clock in clocks),
        notes=(*dict.fromkeys(untested), *_NOTES),
        drawings=lambda: _drawings(clocks),
    )


def _drawings(clocks: list[ClockReport]) -> list[Markup]:
    from cli.html.diagnostic_charts import factor_figure

    made = (factor_figure(clock, clock.diagnostics.assumption_checks) for clock in clocks)
    return [drawing for drawing in made if drawing]


def _table(clock: ClockReport) -> SectionTable:
    of = clock.diagnostics
    caption = (
        f"One factor or not, in the {distribution_word(of.assumption_distribution)} fit on {clock_word(clock.clock)}"
    )
    return SectionTable(caption, COLUMNS, rows(of, covariate_word))


def rows(of: Diagnostics, word: Callable[[str], str] = str) -> tuple[tuple[str, ...], ...]:
    """A row a covariate under what `word` makes of its name, as `COLUMNS` names the cells."""
    return tuple(_row(check, word(check.covariate)) for check in of.assumption_checks)


def _row(check: AssumptionCheck, name: str) -> tuple[str, ...]:
    return (
        name,
        f"{check.statistic:.2f}" if check.HasField("statistic") else NOTHING,
        probability(check.p_value) if check.HasField("p_value") else NOTHING,
        probability(check.adjusted_p_value) if check.HasField("adjusted_p_value") else NOTHING,
        number(check.quantiles.slope) if check.quantiles.HasField("slope") else NOTHING,
    )
