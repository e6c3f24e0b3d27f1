"""HTML parts. Every string is escaped here, unless its maker wrapped it in `Markup`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def esc(value: object) -> Markup:
    """HTML of a value: markup as it is, anything else escaped."""
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def tag(name: str, *inner: object, cls: str = "", **attributes: str | None) -> Markup:
    """An element. An attribute's underscore becomes a dash; one that is None is left out."""
    pairs = {"class": cls or None} | {
        k.strip("_").replace("_", "-"): v for k, v in attributes.items()
    }
    shown = "".join(f' {k}="{escape(v)}"' for k, v in pairs.items() if v is not None)
    return Markup(f"<{name}{shown}>{''.join(esc(part) for part in inner)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Parts one after another."""
    return Markup("".join(esc(part) for part in parts))


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown and what it is sorted by (None: always last)."""

    shown: object
    value: float | str | None = None
    cls: str = ""


@dataclass(frozen=True)
class Head:
    """A column's head. `first` is the order of the first click; empty: it cannot be sorted."""

    title: object
    cls: str = ""
    first: str = ""


def table(
    heads: Sequence[Head], rows: Iterable[Sequence[Cell]], *, name: str, cls: str = ""
) -> Markup:
    """A table in a box that scrolls and takes the focus; a row's first cell is its head."""
    top = tag("thead", tag("tr", *map(_head, heads)))
    body = tag(
        "tbody",
        *(tag("tr", _cell("th", row[0]), *(_cell("td", c) for c in row[1:])) for row in rows),
    )
    inner = tag("table", top, body, cls=cls)
    return tag("div", inner, cls="scroll", tabindex="0", role="region", aria_label=name)


def _head(head: Head) -> Markup:
    if not head.first:
        return tag("th", head.title, cls=head.cls, scope="col")
    button = tag("button", head.title, type="button")
    return tag("th", button, cls=head.cls, scope="col", data_first=head.first)


def _cell(name: str, cell: Cell) -> Markup:
    scope = "row" if name == "th" else None
    value = "" if cell.value is None else str(cell.value)
    return tag(name, cell.shown, cls=cell.cls, scope=scope, data_value=value)


def plain_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, name: str) -> Markup:
    """A table without sorting."""
    return table(
        [Head(head) for head in heads], [[Cell(c) for c in row] for row in rows], name=name
    )


def details(summary: object, *inner: object) -> Markup:
    """A part that is folded away."""
    return tag("details", tag("summary", summary), *inner)


def drawn(figure: str | None, title: str, caption: str, *after: object) -> Markup:
    """A figure with its heading and caption; a figure that has no data is left out."""
    if figure is None:
        return Markup("")
    return tag("figure", tag("h3", title), Markup(figure), tag("figcaption", caption), *after)
