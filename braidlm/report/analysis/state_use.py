"""Pictures of `state-use`: rank of every head's state, its size on the way, pairs read back."""

from __future__ import annotations

from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.legend import legend
from braidlm.report.analysis.picture import Look, Picture, Row, by_place
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table

READ = {0.125: "after 1/8 of a document", 0.25: "1/4", 0.5: "1/2", 1.0: "all of it"}


def figures(look: Look) -> list[Markup]:
    """Ranks, norms along the documents, and the read-out."""
    return [figure for figure in (_ranks(look), _norms(look), _read_out(look)) if figure]


def _ranks(look: Look) -> Markup:
    rows = look.rows("by_head", "rank", "n")
    figure = strips(
        [
            Strip(look.label(own[0]), 0, tuple(Dot.of(r, "rank", look.where(r)) for r in own))
            for own in by_place(rows)
        ],
        "Effective rank (dimensions)",
        title="Effective rank of every head's state",
        is_log=False,
        limits=(1.0,),
    )
    caption = (
        "How many directions a head's state uses at the end of a document: 1 holds a single one. "
        "One dot per head; lines are 95 % intervals over documents."
    )
    heads = ("Layer", "Head", "Effective rank", "Frobenius norm", "n")
    table = [(look.label(r), r.get("head"), said(r, "rank"), said(r, "norm"), r["n"]) for r in rows]
    numbers = details("Numbers", plain_table(heads, table, name="States of every head"))
    return drawn(figure, "How many directions a state uses", caption, numbers)


def _norms(look: Look) -> Markup:
    rows = look.rows("by_position", "norm", "read", "n")
    figure = strips(
        [
            Strip(look.label(own[0]), 0, tuple(_on_the_way(look, row) for row in own))
            for own in by_place(rows)
        ],
        "Frobenius norm, mean over heads (log scale)",
        title="Size of states along the documents",
    )
    caption = (
        "How large the states are on the way through a document. A size that still grows at the "
        "end, beyond the length that was trained on, is what state collapse looks like. Lines are "
        "95 % intervals over documents."
    )
    seen = [read for read in READ if any(row["read"] == read for row in rows)]
    words = legend([(list(READ).index(read), READ[read]) for read in seen])
    return drawn(figure, "How states grow", caption, words)


def _on_the_way(look: Look, row: Row) -> Dot:
    read = list(READ)
    colour = read.index(row["read"]) if row["read"] in READ else len(READ)
    words = f"{look.where(row)}, after {row['read']:.3g} of a document: norm"
    return Dot.of(row, "norm", words, colour=colour)


def _read_out(look: Look) -> Markup:
    rows = look.rows("read_out", "recovered", "n_keys", "n")
    asked = sorted({int(row["n_keys"]) for row in rows})
    figure = strips(
        [
            Strip(look.label(own[0]), 0, tuple(_recovered(look, row, asked) for row in own))
            for own in by_place(rows)
        ],
        "Pairs that a linear map reads back, beyond chance",
        title="Pairs read back from every state",
        is_log=False,
        limits=(0.0,),
    )
    caption = (
        "Prompts show keys, each with one of a few values at random; ridge regression guesses the "
        "values from the state behind them. A lower bound of what is there. Lines are 95 % "
        "intervals over prompts."
    )
    words = legend([(i, f"of {n} pairs") for i, n in enumerate(asked)])
    heads = ("Layer", "Pairs", "Read back", "Accuracy", "Chance", "Numbers of the state", "n")
    table = [
        (
            look.label(r),
            int(r["n_keys"]),
            *(said(r, name) for name in ("recovered", "accuracy")),
            *(r.get("chance"), r.get("n_floats"), r["n"]),
        )
        for r in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Pairs read back"))
    return drawn(figure, "What can be read back from a state", caption, words, numbers)


def _recovered(look: Look, row: Row, asked: list[int]) -> Dot:
    n_keys = int(row["n_keys"])
    words = f"{look.where(row)}: of {n_keys} pairs"
    return Dot.of(row, "recovered", words, colour=asked.index(n_keys))


def findings(look: Look) -> list[str]:
    """Whether states still grow, and the one that gives most back."""
    return [*_growth(look), *_best(look)]


def _growth(look: Look) -> list[str]:
    found = look.metric("growth")
    if found is None or not is_clear(*found, null=0.0):
        return []
    goes = "still grow" if found[0] > 0 else "shrink"
    return [
        f"Recurrent states {goes} over the second half of the documents: their norm goes with the "
        f"length to the power {told(*found)}."
    ]


def _best(look: Look) -> list[str]:
    rows = look.rows("read_out", "recovered", "recovered_stderr", "n_keys", "n")
    if not rows:
        return []
    row = max(rows, key=lambda r: r["recovered"])
    if not is_clear(row["recovered"], row["recovered_stderr"], row["n"], 0.0):
        return []
    return [
        f"The state of {look.where(row)} gives most back to a linear map: {said(row, 'recovered')} "
        f"of {int(row['n_keys'])} pairs beyond chance."
    ]


PICTURE = Picture("state-use", figures, findings)
