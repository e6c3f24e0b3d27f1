"""Pictures of `memory-length`: half-lives of every head, and how delta rules write."""

from __future__ import annotations

from braidlm.report import units
from braidlm.report.analysis.finding import half_width, is_clear, told
from braidlm.report.analysis.picture import Look, Picture, Row, by_place
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import number


def figures(look: Look) -> list[Markup]:
    """Half-lives; and where there are delta rules, their strengths."""
    return [figure for figure in (_half_lives(look), _strengths(look)) if figure]


def _half_lives(look: Look) -> Markup:
    rows = look.rows("heads", "half_life", "n")
    marks = [(look.context, "context")] if look.context else []
    figure = strips(
        [
            Strip(look.label(own[0]), _colour(own[0]), tuple(_dot(row) for row in own))
            for own in by_place(rows)
        ],
        "Half-life (tokens, log scale)",
        title="Half-life of every head",
        marks=marks,
    )
    caption = (
        "After how many tokens half of what a head's state held is left: ln 2 over the mean of "
        "−ln decay. One dot per head; its line reaches from the 10 % to the 90 % quantile over "
        "tokens, or over the channels of heads that have a decay for each. The dashed line is the "
        "length of the documents that were read."
    )
    heads = ("Layer", "Head", "Half-life (tokens)", "10 % to 90 %", "over")
    table = [
        (
            look.label(row),
            row.get("head"),
            told(row["half_life"], number(row.get("half_life_stderr")), row["n"]),
            f"{units.plain(number(row.get('low')))} to {units.plain(number(row.get('high')))}",
            row.get("over"),
        )
        for row in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Half-lives"))
    return drawn(figure, "Half-life of every head", caption, numbers)


def _dot(row: Row) -> Dot:
    said = told(row["half_life"], number(row.get("half_life_stderr")), row["n"], " tokens")
    return Dot(
        row["half_life"],
        f"layer {row.get('place')}, head {row.get('head')}: half-life {said}",
        number(row.get("low")),
        number(row.get("high")),
    )


def _strengths(look: Look) -> Markup:
    rows = look.rows("heads", "beta", "eigenvalue", "n")
    figure = strips(
        [
            Strip(look.label(own[0]), _colour(own[0]), tuple(_written(row) for row in own))
            for own in by_place(rows)
        ],
        "Eigenvalue along the key that is written: decay (1 − β)",
        title="What a delta rule leaves of what it writes over",
        is_log=False,
        limits=(0.0, 1.0),
        marks=[(0.0, "erased")],
    )
    caption = (
        "What a delta rule leaves at the key that it writes to, the mean over tokens: 1 leaves all "
        "that was there, 0 erases it, below 0 it is turned around (negative eigenvalues)."
    )
    heads = ("Layer", "Head", "β", "decay (1 − β)", "Tokens with β > 1")
    table = [
        (
            look.label(row),
            row.get("head"),
            told(row["beta"], number(row.get("beta_stderr")), row["n"]),
            told(row["eigenvalue"], number(row.get("eigenvalue_stderr")), row["n"]),
            units.plain(number(row.get("negative"))),
        )
        for row in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Strengths of delta rules"))
    return drawn(figure, "Erasure by delta rules", caption, numbers)


def _written(row: Row) -> Dot:
    eigenvalue = told(row["eigenvalue"], number(row.get("eigenvalue_stderr")), row["n"])
    beta = told(row["beta"], number(row.get("beta_stderr")), row["n"])
    place = f"layer {row.get('place')}, head {row.get('head')}"
    return Dot(row["eigenvalue"], f"{place}: decay (1 − β) {eigenvalue}, β {beta}")


def _colour(row: Row) -> int:
    kinds = ("mamba2", "mamba1", "gated_deltanet", "kda")
    kind = str(row.get("kind"))
    return kinds.index(kind) if kind in kinds else len(kinds)


def findings(look: Look) -> list[str]:
    """The longest memory, heads that outlast the context, and heads that turn around."""
    rows = look.rows("heads", "half_life", "half_life_stderr", "n")
    return [*_longest(look, rows), *_outlasting(look, rows), *_turning(look)]


def _longest(look: Look, rows: list[Row]) -> list[str]:
    if not rows or not look.context:
        return []
    row = max(rows, key=lambda r: r["half_life"])
    value, stderr, n = row["half_life"], row["half_life_stderr"], row["n"]
    if not is_clear(value, stderr, n, look.context):
        return []
    side = "shorter" if value < look.context else "longer"
    return [
        f"The longest memory of a recurrence is in {look.where(row)}: a half-life of "
        f"{told(value, stderr, n, ' tokens')}, {side} than the {look.context:,} tokens read."
    ]


def _outlasting(look: Look, rows: list[Row]) -> list[str]:
    if not look.context or len(rows) < 2:
        return []
    short = [r for r in rows if r["half_life"] + half_width(r["half_life_stderr"], r["n"]) < 16]
    if not short:
        return []
    slowest = max(short, key=lambda r: r["half_life"])
    said = told(slowest["half_life"], slowest["half_life_stderr"], slowest["n"], " tokens")
    return [
        f"{len(short)} of {len(rows)} heads forget half within 16 tokens (the slowest of them in "
        f"{said})."
    ]


def _turning(look: Look) -> list[str]:
    rows = look.rows("heads", "eigenvalue", "eigenvalue_stderr", "n")
    below = [
        r
        for r in rows
        if r["eigenvalue"] < 0 and is_clear(r["eigenvalue"], r["eigenvalue_stderr"], r["n"], 0.0)
    ]
    if not below:
        return []
    row = min(below, key=lambda r: r["eigenvalue"])
    said = told(row["eigenvalue"], row["eigenvalue_stderr"], row["n"])
    return [
        f"{len(below)} of {len(rows)} heads of delta rules turn around what they write over: the "
        f"mean eigenvalue is {said} in {look.where(row)}."
    ]


PICTURE = Picture("memory-length", figures, findings)
