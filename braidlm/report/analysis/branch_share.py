"""Pictures of `branch-share`: who speaks in each parallel layer, and on which tokens."""

from __future__ import annotations

import math

from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.legend import legend
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.diagram import label
from braidlm.report.html import Markup, details, drawn, plain_table

KINDS = {
    "all": "all tokens",
    "start": "starts of sentences",
    "number": "numbers",
    "continuation": "continuations of words",
    "other": "other tokens",
}


SIGHT = {
    "reach": ("How far fusions look", "Mean distance of a query's weight (tokens back)"),
    "self": ("How much fusions look at the asking token", "Weight on the asking token (share)"),
}


def figures(look: Look) -> list[Markup]:
    """Shares of the branches by kinds of tokens, and how alike the branches are."""
    shown = [_shares(look), _cosines(look), *(_sight(look, name) for name in SIGHT)]
    return [figure for figure in shown if figure]


def _shares(look: Look) -> Markup:
    rows = look.rows("branches", "share", "n")
    figure = strips(
        [
            Strip(look.label(own[0]), 0, tuple(_dot(row, "share") for row in own))
            for own in _by(rows, "place")
        ],
        "Share of what the layer says",
        title="Share of every branch by kinds of tokens",
        is_log=False,
        bounds=(0.0, 1.0),
        marks=[(0.5, "even")],
    )
    caption = (
        "What a parallel layer's output loses without a branch (root mean square), as a share of "
        "what it loses without each: over all tokens, and over tokens of one kind. Lines are 95 % "
        "intervals over documents."
    )
    columns = [n for n in ("share", "rms", "gate", "weight") if any(n in row for row in rows)]
    table = [
        (
            look.label(row),
            KINDS.get(str(row.get("tokens")), row.get("tokens")),
            row.get("n_tokens"),
            *(said(row, name) for name in columns),
        )
        for row in rows
    ]
    heads = ("Branch", "Tokens", "Number", *(_HEADS[name] for name in columns))
    numbers = details("Numbers", plain_table(heads, table, name="Branches by kinds of tokens"))
    return drawn(figure, "Who speaks", caption, _legend(rows), numbers)


_HEADS = {
    "share": "Share",
    "rms": "RMS behind norm and scale",
    "gate": "Gate",
    "weight": "Weight on its keys",
}


def _cosines(look: Look) -> Markup:
    rows = look.rows("pairs", "cosine", "n")
    figure = strips(
        [
            Strip(
                f"{row[0].get('layer')}: branches {str(row[0].get('branches')).replace(',', ', ')}",
                0,
                tuple(_dot(one, "cosine") for one in row),
            )
            for row in _by(rows, "layer", "branches")
        ],
        "Cosine between what two branches say",
        title="Agreement of branches by kinds of tokens",
        is_log=False,
        bounds=(-1.0, 1.0),
        marks=[(0.0, "unrelated")],
    )
    caption = (
        "Cosine, token by token, between what the output loses without the one and without the "
        "other branch: 1 says the same, 0 something unrelated, −1 takes it back."
    )
    return drawn(figure, "How alike branches are", caption, _legend(rows))


def _sight(look: Look, name: str) -> Markup:
    """Of fusions that attend."""
    rows = look.rows("fusions", name, "n")
    words, axis = SIGHT[name]
    figure = strips(
        [
            Strip(look.label(own[0]), 0, tuple(_dot(row, name) for row in own))
            for own in _by(rows, "place")
        ],
        axis,
        title=words,
        is_log=False,
        bounds=(0.0, 1.0 if name == "self" else math.inf),
    )
    caption = (
        "The attention of a fusion, by kinds of the tokens that ask; meta tokens are no token of "
        "the document. Lines are 95 % intervals over documents."
    )
    return drawn(figure, words, caption, _legend(rows))


def _dot(row: Row, name: str) -> Dot:
    kind = str(row.get("tokens"))
    words = f"layer {row.get('place')}, {KINDS.get(kind, kind)}: {name}"
    colour = list(KINDS).index(kind) if kind in KINDS else len(KINDS)
    return Dot.of(row, name, words, colour=colour)


def _legend(rows: list[Row]) -> Markup:
    seen = {str(row.get("tokens")) for row in rows}
    return legend([(i, words) for i, (kind, words) in enumerate(KINDS.items()) if kind in seen])


def _by(rows: list[Row], *keys: str) -> list[list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(str(row.get(key)) for key in keys), []).append(row)
    return list(found.values())


def findings(look: Look) -> list[str]:
    """Where a branch says most of a layer, and on which tokens it says more than elsewhere."""
    return [*_leading(look), *_contrasts(look)]


def _leading(look: Look) -> list[str]:
    rows = [
        row
        for row in look.rows("branches", "share", "share_stderr", "n")
        if row.get("tokens") == "all" and is_clear(row["share"], row["share_stderr"], row["n"], 0.5)
    ]
    if not rows:
        return []
    row = max(rows, key=lambda r: r["share"])
    if row["share"] <= 0.5:
        return []
    return [f"The branch with the largest share is {look.where(row)}: {said(row, 'share')}."]


def _contrasts(look: Look) -> list[str]:
    """One sentence per sort of layer: the largest contrast of its second branch."""
    found = []
    rows = look.rows("contrasts", "contrast", "contrast_stderr", "branch", "n")
    for own in _by([r for r in rows if r["branch"] == 1], "symbol"):
        clear = [r for r in own if is_clear(r["contrast"], r["contrast_stderr"], r["n"], 0.0)]
        if not clear:
            continue
        row = max(clear, key=lambda r: abs(r["contrast"]))
        more = "more" if row["contrast"] > 0 else "less"
        size = told(abs(row["contrast"]), row["contrast_stderr"], row["n"])
        words = KINDS.get(str(row["tokens"]), row["tokens"])
        found.append(
            f"In layers {row.get('symbol')}, {label(str(row.get('kind')))} says {more} on {words} "
            f"than on other tokens: its share differs by {size}."
        )
    return found


PICTURE = Picture("branch-share", figures, findings)
