"""The questions of a report that are answered in a section each: written once, shown on the terminal and on the page.

A module here reads one part of the report and makes its `Section`, or None where the report has no such part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.sections.assumptions import assumptions
from cli.sections.effects import effects
from cli.sections.goodness import goodness
from cli.sections.ranking import ranking
from cli.sections.section import Section
from cli.sections.stopping import stopping
from cli.sections.survivors import survivors

if TYPE_CHECKING:
    from afr.survival.v1.survival_service_pb2 import Report

# In the order in which they are shown.
_MAKERS: tuple[Callable[[Report], Section | None], ...] = (stopping, survivors, effects, ranking, goodness, assumptions)


def sections(report: Report) -> tuple[Section, ...]:
    """The sections that this report has something to say in, in the order to show them."""
    made = (make(report) for make in _MAKERS)
    return tuple(section for section in made if section is not None)
