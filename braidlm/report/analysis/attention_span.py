"""Pictures of `attention-span`: how far every head looks, and how much it rests on sinks."""

from __future__ import annotations

from braidlm.report.analysis.finding import half_width, is_clear, said
from braidlm.report.analysis.heat import Square, heat
from braidlm.report.analysis.picture import Look, Picture, Row, by_place
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import number

N_FIRST, SINK = 4, 0.3
"""A head is told to rest on so many first tokens if they have more than this share of its weight,
and more than an even look would give them."""
_SHARES = (("four", "first four tokens"), ("learned", "learned sink"), ("meta", "meta tokens"))


def figures(look: Look) -> list[Markup]:
    """Distances and spans of every head, entropies, and the weight on sinks."""
    shown = [_distances(look), _entropies(look), *(_shares(look, *x) for x in _SHARES)]
    return [figure for figure in shown if figure]


def _distances(look: Look) -> Markup:
    rows = look.rows("heads", "distance", "span", "n")
    figure = strips(
        [
            Strip(look.label(own[0]), _colour(own[0]), tuple(map(_dot, own)))
            for own in by_place(rows)
        ],
        "Tokens back (log scale)",
        title="How far every head looks",
        marks=[(look.context, "context")] if look.context else [],
    )
    caption = (
        "How far back a head's weight lies on average; its line reaches to the span that holds "
        "90 % of a token's weight. A head that rests on the first tokens looks farther than it "
        "reads: its distance beyond the first four tokens is in the table."
    )
    names = ("distance", "rest", "span", "entropy", "first", "four")
    table = [
        (
            look.label(row),
            row.get("head"),
            *(said(row, name) for name in names),
        )
        for row in rows
    ]
    heads = ("Layer", "Head", "Distance (tokens)", "Beyond the first four", "90 % span")
    heads += ("Entropy (nats)", "On the first token", "On the first four")
    numbers = details("Numbers", plain_table(heads, table, name="Attention of every head"))
    return drawn(figure, "How far every head looks", caption, numbers)


def _dot(row: Row) -> Dot:
    place = f"layer {row.get('place')}, head {row.get('head')}"
    tip = f"{place}: {said(row, 'distance')} tokens back, 90 % within {said(row, 'span')}"
    ends = (number(row["distance"]), number(row["span"]))
    return Dot(row["distance"], tip, *(ends if None not in ends else (None, None)))


def _entropies(look: Look) -> Markup:
    rows = look.rows("heads", "entropy", "n")
    figure = strips(
        [
            Strip(
                look.label(own[0]),
                _colour(own[0]),
                tuple(
                    Dot(
                        row["entropy"],
                        f"layer {row.get('place')}, head {row.get('head')}: "
                        f"{said(row, 'entropy')} nats",
                    )
                    for row in own
                ),
            )
            for own in by_place(rows)
        ],
        "Entropy of a token's weights (nats)",
        title="How evenly every head looks",
        is_log=False,
        limits=(0.0,),
    )
    caption = (
        "0 nats: all weight on one token; ln n: evenly on n tokens. The mean over the tokens that "
        "ask."
    )
    return drawn(figure, "How evenly every head looks", caption)


def _shares(look: Look, name: str, words: str) -> Markup:
    rows = look.rows("heads", name, "n")
    if not any(row[name] for row in rows):
        return Markup("")
    cells = [
        (
            look.label(own[0]),
            [
                Square(
                    row[name],
                    f"layer {row.get('place')}, head {row.get('head')}: {said(row, name)} of the "
                    f"weight on the {words}",
                )
                for row in own
            ],
        )
        for own in by_place(rows)
    ]
    n_heads = max(len(row) for _, row in cells)
    figure = heat(cells, [str(i) for i in range(n_heads)], "Head", title=f"Weight on {words}")
    caption = f"Share of a head's weight that lies on the {words}: full colour is 1, none is 0."
    return drawn(figure, f"Weight on the {words}", caption)


def _colour(row: Row) -> int:
    kinds = ("attention", "mla", "fusion", "bmojo_f")
    kind = str(row.get("kind"))
    return 1 + (kinds.index(kind) if kind in kinds else len(kinds))


def findings(look: Look) -> list[str]:
    """The head that looks farthest beyond the sinks, and the heads that rest on first tokens."""
    rows = look.rows("heads", "rest", "rest_stderr", "four", "four_stderr", "n")
    return [*_farthest(look, rows), *_resting(look, rows)]


def _farthest(look: Look, rows: list[Row]) -> list[str]:
    if len(rows) < 2:
        return []
    far, near = max(rows, key=lambda r: r["rest"]), min(rows, key=lambda r: r["rest"])
    gap = far["rest"] - near["rest"]
    error = (far["rest_stderr"] ** 2 + near["rest_stderr"] ** 2) ** 0.5
    if not is_clear(gap, error, far["n"], 0.0):
        return []
    return [
        f"Attention looks farthest back in {look.where(far)}, {said(far, 'rest')} tokens on "
        "average, the first four tokens left aside, and least far in "
        f"{look.where(near)}, {said(near, 'rest')} tokens."
    ]


def _resting(look: Look, rows: list[Row]) -> list[str]:
    if not look.context:
        return []
    even = sum(min(t, N_FIRST) / t for t in range(1, look.context + 1)) / look.context
    least = max(SINK, even)
    found = [r for r in rows if r["four"] - half_width(r["four_stderr"], r["n"]) > least]
    if not found:
        return []
    most = max(found, key=lambda r: r["four"])
    return [
        f"{len(found)} of {len(rows)} heads rest on the first four tokens with more than "
        f"{least:.0%} of their weight, most in {look.where(most)}: {said(most, 'four')} of it, "
        f"where an even look would give {even:.2f}."
    ]


PICTURE = Picture("attention-span", figures, findings)
