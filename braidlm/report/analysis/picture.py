"""What a picture is: figures and sentences from one instrument's result file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from braidlm.report import diagram
from braidlm.report.html import Markup
from braidlm.report.stats import number

Row = dict[str, Any]


@dataclass(frozen=True)
class Look:
    """One result of an instrument, and how its places are called."""

    result: Row
    names: list[list[str]]
    """The mixers of each sublayer, in words."""

    def rows(self, table: str, *columns: str) -> list[Row]:
        """Return the rows of a table that have a finite number in each of these columns."""
        rows = (self.result.get("tables") or {}).get(table) or []
        return [row for row in rows if all(number(row.get(c)) is not None for c in columns)]

    def metric(self, name: str) -> tuple[float, float | None, int] | None:
        """Return value, standard error and n of a metric; None if it has no value."""
        entry = (self.result.get("metrics") or {}).get(name) or {}
        value = number(entry.get("value"))
        if value is None:
            return None
        return value, number(entry.get("stderr")), int(number(entry.get("n")) or 0)

    @property
    def context(self) -> int | None:
        """Tokens of the longest document."""
        read = (self.result.get("analysis") or {}).get("inputs") or {}
        longest = number(read.get("longest"))
        return None if longest is None else int(longest)

    def label(self, row: Row) -> str:
        """Return the place of a row in words: "3: attention", "3.1: Mamba-2"."""
        return f"{row.get('place')}: {self._mixers(row)}"

    def where(self, row: Row) -> str:
        """Return it for a sentence: "layer 3.1 (Mamba-2), head 5"."""
        head = "" if row.get("head") is None else f", head {row['head']}"
        return f"layer {row.get('place')} ({self._mixers(row)}){head}"

    def _mixers(self, row: Row) -> str:
        layer, *rest = str(row.get("place")).split(".")
        names = self.names[int(layer)] if layer.isdigit() and int(layer) < len(self.names) else []
        if rest and rest[0].isdigit() and int(rest[0]) < len(names):
            names = [names[int(rest[0])]]
        if not names or (rest and not rest[-1].isdigit()):  # a fusion, or a mixer inside another
            names = [diagram.label(str(row.get("kind")))]
        return " + ".join(names)


@dataclass(frozen=True)
class Picture:
    """How an instrument's results are shown."""

    name: str
    """The instrument's."""
    figures: Callable[[Look], list[Markup]]
    """Figures with captions; [] where nothing can be drawn."""
    findings: Callable[[Look], list[str]]
    """Whole sentences, each with its number and its uncertainty, the surest things first; what the
    errors leave open is not said."""


def by_place(rows: list[Row]) -> list[list[Row]]:
    """Return the rows of one place together, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row.get("place")), []).append(row)
    return list(found.values())
