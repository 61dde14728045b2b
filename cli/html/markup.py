"""Elements of HTML and SVG as text. Everything that is not itself made here is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_VOID = frozenset({"br", "col", "hr", "line", "rect", "circle", "path"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """A value as it may stand between tags."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element; `class_` stands for `class`, other underscores for hyphens; a child that is no `Markup` is escaped.

    An attribute that is None is left out, one that is a float has at most two decimals.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Children one after the other, without anything between them."""
    return Markup("".join(text(child) for child in children))


def data_table(
    caption: str, header: Sequence[object], rows: Iterable[Sequence[object]], *, numeric_from: int = 1
) -> Markup:
    """A table whose first cells name their rows; columns from `numeric_from` on are figures."""

    def kind(i: int) -> str | None:
        return "figure" if i >= numeric_from else None

    head = element("tr", *(element("th", cell, scope="col", class_=kind(i)) for i, cell in enumerate(header)))
    body = (
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, class_=kind(i)) for i, cell in enumerate(row[1:], start=1)),
        )
        for row in rows
    )
    inner = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    # A table wider than a phone scrolls by itself, and with the keyboard.
    return element("div", inner, class_="scroll", tabindex="0", role="group", aria_label=caption)


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
