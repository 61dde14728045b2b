"""Stopped as precise as asked: the looks at the running job, and what stopping it saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.quantities import count, duration, number, on_clock, quantity_word, share, share_interval, with_unit
from cli.sections.section import Section, SectionTable

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Estimate, Report, Stopping

    from cli.html.markup import Markup

_SHARE = 3  # Quantity.QUANTITY_FAILURE_SHARE
_COLUMNS = ("look", "failures", "samples at risk", "information", "level spent", "standard errors", "estimate", "×/÷")
_HOLDS = (
    "Looked at again and again, an interval holds less than it promises. These are made wider so that all of them hold "
    "together with the level of the report: each look spends a part of the error (after Lan and DeMets, as O'Brien and "
    "Fleming would), and information is the share of what is surely enough."
)
_OTHERS = (
    "The other intervals of this report are for a number of samples fixed beforehand. A report that is made later of "
    "the same job knows of no looks."
)
_ORDER = (
    "Samples were attacked in the order of the dataset, one of each class in turn. What was not attacked is taken to "
    "be like what was; a dataset that is sorted by difficulty breaks that."
)


def stopping(report: Report) -> Section | None:
    """What was decided about stopping early; None if no precision was asked for."""
    if not report.HasField("stopping"):
        return None
    decided = report.stopping
    return Section(
        title="stopped as precise as asked" if decided.met and report.partial else "was it as precise as asked?",
        answer=" ".join(_answer(report)),
        tables=_tables(report),
        notes=(_HOLDS, _ORDER, _OTHERS) if decided.looks else (),
        drawings=lambda: _drawings(decided),
    )


def _answer(report: Report) -> Iterator[str]:
    decided = report.stopping
    yield f"{decided.message[:1].upper()}{decided.message[1:].rstrip('.')}."
    if decided.met and decided.saved_sample_count:
        yield (
            f"Attacking the other {count(decided.saved_sample_count)} samples would have taken about "
            f"{count(decided.saved_query_count)} more queries and {duration(decided.saved_seconds)} of device time, if "
            "they are like those attacked."
        )


def _tables(report: Report) -> tuple[SectionTable, ...]:
    decided = report.stopping
    clock = report.clock_reports[0].clock if report.clock_reports else 0
    rows = tuple(
        (
            str(i), count(look.failure_count), count(look.sample_count), share(look.information_fraction),
            share(look.spent_error), f"{look.critical_value:.3f}", _estimate(look.estimate, decided.quantity, clock),
            number(look.interval_factor),
        )
        for i, look in enumerate(decided.looks, start=1)
    )  # fmt: skip
    if not rows:
        return ()
    caption = f"Looks at the {quantity_word(decided.quantity)}; ×/÷ {number(decided.interval_factor)} was wanted"
    return (SectionTable(caption, _COLUMNS, rows),)


def _estimate(estimate: Estimate, quantity: int, clock: int) -> str:
    if quantity == _SHARE:
        return share_interval(estimate)
    return with_unit(on_clock(estimate, clock), clock)


def _drawings(decided: Stopping) -> list[Markup]:
    from cli.html.looks import looks_figure

    drawn = looks_figure(decided)
    return [drawn] if drawn else []
