"""Do the fits order the samples? Of two samples, how often the one predicted to live longer does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.quantities import clock_word, distribution_word, share_interval, value_on_clock, with_unit
from cli.sections.section import Section, SectionTable

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import ClockReport, Estimate, FitConcordance, Report

_COLUMNS = ("distribution", "Harrell's C", "Uno's C", "C of intervals")
_NOTES = (
    "Each C here is a concordance, and no rate of costs: the share of pairs of samples in which the one with the "
    "longer predicted time outlives the other; guessing gives 50 %, a perfect order 100 %, and samples with the same "
    "covariates are ties that count half. Harrell's counts all pairs whose order the times tell; Uno's weights them "
    "for those that censoring hid; that of intervals counts only pairs of which one had failed before the other was "
    "last seen alive.",
    "The fits are judged by the samples they were made from, which flatters them a little.",
)


def ranking(report: Report) -> Section | None:
    """The three concordances of every fit with covariates; None where no fit has any."""
    clocks = [clock for clock in report.clock_reports if clock.concordances]
    if not clocks:
        return None
    return Section(
        title="do the fits order the samples?",
        answer=_answer(clocks[0], clocks[0].concordances[0]),
        tables=tuple(_table(clock) for clock in clocks),
        notes=_NOTES,
    )


def _answer(clock: ClockReport, best: FitConcordance) -> str:
    chosen = next((of for of in (best.uno, best.harrell, best.interval_pair) if of.HasField("value")), None)
    if chosen is None:
        return "That cannot be told: there is no pair of samples of which it is known which one failed first."
    end = with_unit(value_on_clock(best.restriction_time, clock.clock), clock.clock)
    name, until = distribution_word(best.distribution), f", up to {end}" if best.uno.HasField("value") else ""
    return (
        f"Of two samples the one to which the {name} fit gives the longer life has it in {share_interval(chosen)} of "
        f"all pairs{until}{_against_guessing(chosen)}."
    )


def _against_guessing(found: Estimate) -> str:
    if not (found.HasField("lower") and found.HasField("upper")):
        return ""
    if found.lower > 0.5:
        return "; guessing would be right in half of them"
    return "; guessing may do as well" if found.upper >= 0.5 else "; guessing would do better"


def _table(clock: ClockReport) -> SectionTable:
    rows = tuple(
        (
            distribution_word(one.distribution),
            share_interval(one.harrell),
            share_interval(one.uno),
            share_interval(one.interval_pair),
        )
        for one in clock.concordances
    )
    return SectionTable(f"Concordance on the {clock_word(clock.clock)} clock, best AIC first", _COLUMNS, rows)
