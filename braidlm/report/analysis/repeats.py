"""Pictures of `repeats`: the loss of tokens that their context has shown before."""

from __future__ import annotations

from braidlm.report import units
from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table

KINDS = {
    "repeat": "repeats of a bigram",
    "latest": "of these: as the last time",
    "other": "all other tokens",
    "all": "all tokens",
}


def figures(look: Look) -> list[Markup]:
    """Loss by kinds of tokens, and of repeats by distance."""
    return [figure for figure in (_by_kind(look), _by_distance(look)) if figure]


def _by_kind(look: Look) -> Markup:
    order = list(KINDS)
    known = [row for row in look.rows("by_kind", "loss", "n") if row.get("tokens") in order]
    rows = sorted(known, key=lambda row: order.index(row["tokens"]))
    figure = strips(
        [
            Strip(_words(row), i, (Dot.of(row, "loss", _words(row), " nats"),))
            for i, row in enumerate(rows)
        ],
        "Loss (nats per token)",
        title="Loss of repeats and of other tokens",
        is_log=False,
    )
    caption = (
        "A token repeats if it and the token before it stood side by side earlier in the document. "
        "“As the last time”: the latest place of the token before was followed by it too. "
        "Lines are 95 % intervals over documents."
    )
    heads = ("Tokens", "Loss (nats per token)", "Number of tokens", "Documents")
    table = [(_words(r), said(r, "loss"), r.get("n_tokens"), r["n"]) for r in rows]
    numbers = details("Numbers", plain_table(heads, table, name="Loss of repeats"))
    return drawn(figure, "What a context is worth", caption, numbers)


def _words(row: Row) -> str:
    return KINDS.get(str(row.get("tokens")), str(row.get("tokens")))


def _by_distance(look: Look) -> Markup:
    rows = [row for row in look.rows("by_distance", "start", "end", "loss", "n") if row["n"]]
    if len(rows) < 2:
        return Markup("")
    others = look.metric("other")
    figure = curves(
        [Curve(0, tuple(_mark(row) for row in rows))],
        "Tokens back to the bigram's last place (log scale)",
        "Loss (nats per token)",
        title="Loss of repeats by distance",
        levels=[] if others is None else [(others[0], "other tokens")],
    )
    caption = (
        "Loss of repeats by how far back the bigram stood last; a place on the axis is the first "
        "distance of a bin, whose end is the next. Bars are 95 % intervals over documents; where "
        "only one document has such tokens there is none."
    )
    heads = ("Tokens back", "Loss (nats per token)", "Number of tokens", "Documents")
    table = [
        (f"{r['start']} to {r['end'] - 1}", said(r, "loss"), r.get("n_tokens"), r["n"])
        for r in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Loss of repeats by distance"))
    return drawn(figure, "How far back a repeat still helps", caption, numbers)


def _mark(row: Row) -> Mark:
    back = f"{units.plain(row['start'])} to {units.plain(row['end'] - 1)} tokens back"
    return Mark.of(row, row["start"], "loss", back, " nats")


def findings(look: Look) -> list[str]:
    """How much less repeats cost than other tokens, and whether far ones cost more than near."""
    repeat, other = look.metric("repeat"), look.metric("other")
    if repeat is None or other is None or repeat[1] is None or other[1] is None:
        return []
    gap, error = other[0] - repeat[0], (repeat[1] ** 2 + other[1] ** 2) ** 0.5
    if not is_clear(gap, error, repeat[2], 0.0):
        return []
    less = "less" if gap > 0 else "more"
    return [
        f"Tokens that repeat a bigram of their context cost {told(*repeat)} nats, "
        f"{told(abs(gap), error, repeat[2])} {less} than all others."
    ]


PICTURE = Picture("repeats", figures, findings)
