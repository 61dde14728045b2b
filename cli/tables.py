"""Aligned columns of text."""

from __future__ import annotations

import re
from collections.abc import Sequence

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def visible_width(text: str) -> int:
    """How many columns a text takes on a terminal; styles take none."""
    return len(_STYLE.sub("", text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), indent: str = "") -> str:
    """Rows under a header, each column as wide as its widest cell, the columns in `right` aligned to the right."""
    lines = [header, *rows] if any(header) else list(rows)
    if not lines:
        return ""
    widths = [max(visible_width(line[i]) for line in lines) for i in range(len(header))]

    def padded(cell: str, i: int) -> str:
        space = " " * (widths[i] - visible_width(cell))
        return space + cell if i in right else cell + space

    return "\n".join((indent + "  ".join(padded(cell, i) for i, cell in enumerate(line))).rstrip() for line in lines)
