"""Pictures of `influence`: how far back the model and each of its mixers depend on their input."""

from __future__ import annotations

from braidlm.report import units
from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.heat import Square, heat
from braidlm.report.analysis.picture import Look, Picture, Row, by_place
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import number

MODEL = "model"


def figures(look: Look) -> list[Markup]:
    """Shares by distance, and half distances."""
    return [figure for figure in (_shares(look), _halves(look)) if figure]


def _name(look: Look, row: Row) -> str:
    return "whole model" if row.get("place") == MODEL else look.label(row)


def _bin(row: Row) -> str:
    """The distances of a bin: "0", "1", "2–3"."""
    start, last = int(row["start"]), int(row["end"]) - 1
    return f"{start}" if start == last else f"{start}–{last}"


def _shares(look: Look) -> Markup:
    rows = look.rows("by_distance", "share", "start", "end", "n")
    cells = [(_name(look, own[0]), [_square(look, row) for row in own]) for own in by_place(rows)]
    longest = max(by_place(rows), key=len, default=[])
    columns = [units.plain(row["start"]) for row in longest]
    title = "Influence by distance"
    figure = heat(cells, columns, "Tokens back: first of each bin, up to the next", title=title)
    caption = (
        "What share of a last token's dependence on the input comes from how far back: squared "
        "derivatives of what a mixer gives by what it reads (of the whole model: of its last "
        "hidden state by the embedded tokens), summed over a bin. Full colour is all of it; a "
        "row sums to 1. The number of documents and intervals are in the table."
    )
    heads = ("Layer", "Tokens back", "Share of the squares", "Derivative", "By a nudge", "n")
    table = [
        (
            _name(look, row),
            _bin(row),
            *(said(row, name) for name in ("share", "influence", "nudged")),
            row["n"],
        )
        for row in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name=title))
    return drawn(figure, "How far back outputs depend on inputs", caption, numbers)


def _square(look: Look, row: Row) -> Square:
    tip = f"{_name(look, row)}, {_bin(row)} tokens back: {said(row, 'share')} of the squares"
    return Square(row["share"], tip)


def _halves(look: Look) -> Markup:
    rows = look.rows("by_place", "half_distance", "n")
    figure = strips(
        [Strip(_name(look, row), _colour(row), (_half(look, row),)) for row in rows],
        "Half distance (tokens back, log scale)",
        title="Half distance of every mixer",
        marks=[(look.context, "context")] if look.context else [],
    )
    caption = (
        "The distance within which half of the dependence on earlier tokens lies, the token "
        "itself left out. Lines are 95 % intervals over documents."
    )
    return drawn(figure, "Half distance of every mixer", caption)


def _half(look: Look, row: Row) -> Dot:
    return Dot.of(row, "half_distance", _name(look, row), " tokens")


def _colour(row: Row) -> int:
    kinds = ("mamba2", "attention", "mamba1", "gated_deltanet", "kda", "mla", MODEL)
    kind = str(row.get("kind"))
    return kinds.index(kind) if kind in kinds else len(kinds)


def findings(look: Look) -> list[str]:
    """The model's half distance, and how the longest of its mixers stands to the shortest."""
    rows = look.rows("by_place", "half_distance", "half_distance_stderr", "n")
    return [*_whole(look), *_reach(look, [r for r in rows if r.get("place") != MODEL])]


def _whole(look: Look) -> list[str]:
    found = look.metric("half_distance")
    if found is None or not look.context or not is_clear(*found, null=look.context / 2):
        return []
    return [
        f"Half of the last output's dependence on earlier tokens lies within "
        f"{told(*found, ' tokens')} of the {look.context:,} read."
    ]


def _reach(look: Look, rows: list[Row]) -> list[str]:
    if len(rows) < 2:
        return []
    far, near = (choose(rows, key=lambda r: r["half_distance"]) for choose in (max, min))
    gap = far["half_distance"] - near["half_distance"]
    errors = [number(row["half_distance_stderr"]) or 0.0 for row in (far, near)]
    if not is_clear(gap, (errors[0] ** 2 + errors[1] ** 2) ** 0.5, far["n"], 0.0):
        return []
    return [
        f"Of all mixers {look.where(far)} depends on what is farthest back, with a half distance "
        f"of {said(far, 'half_distance', ' tokens')}, and {look.where(near)} on what is nearest, "
        f"with {said(near, 'half_distance', ' tokens')}."
    ]


PICTURE = Picture("influence", figures, findings)
