"""One question of a report and its answer, apart from how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cli.quantities import clock_word

if TYPE_CHECKING:
    from cli.html.markup import Markup


@dataclass(frozen=True, slots=True)
class SectionTable:
    """Rows under a header, all text; the first cell names its row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """What the terminal and the page show of one question.

    `answer` is the finding in a sentence or two, `notes` are sentences to know before quoting it. `drawings` makes the
    figures of the page; the terminal has none.
    """

    title: str
    answer: str
    tables: tuple[SectionTable, ...] = ()
    notes: tuple[str, ...] = ()
    drawings: Callable[[], Sequence[Markup]] | None = None


def on_clocks(said: Iterable[tuple[int, str]]) -> list[str]:
    """Sentences of clocks, each once: those that all clocks share without, the others with the clocks they hold on."""
    of_sentence: dict[str, list[int]] = {}
    clocks: list[int] = []
    for clock, sentence in said:
        clocks += [clock] if clock not in clocks else []
        those = of_sentence.setdefault(sentence, [])
        those += [clock] if clock not in those else []
    return [
        sentence if those == clocks else f"On {' and '.join(map(clock_word, those))}: {sentence}"
        for sentence, those in of_sentence.items()
    ]
