"""Pictures of `retrieval-heads`: heads that look at the answer, and recall without them."""

from __future__ import annotations

from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.heat import Square, heat
from braidlm.report.analysis.legend import legend
from braidlm.report.analysis.picture import Look, Picture, Row, by_place
from braidlm.report.html import Markup, details, drawn, plain_table

CUTS = {"top": "the best heads", "random": "as many heads at random"}


def figures(look: Look) -> list[Markup]:
    """Copy scores, and accuracy over the number of heads that are cut."""
    return [figure for figure in (_scores(look), _cuts(look)) if figure]


def _scores(look: Look) -> Markup:
    rows = look.rows("heads", "copy", "head", "n")
    places = [sorted(own, key=lambda row: row["head"]) for own in by_place(rows)]
    places.sort(key=lambda own: (own[0].get("layer", 0), str(own[0].get("place"))))
    cells = [(look.label(own[0]), [_square(look, row) for row in own]) for own in places]
    n_heads = max((len(own) for own in places), default=0)
    title = "Copy score of every head"
    figure = heat(cells, [str(i) for i in range(n_heads)], "Head", title=title)
    caption = (
        "On which share of the answers' tokens a head's largest weight lies, in the prompt, and "
        "the model says them: full colour is 1. Scored on every second prompt."
    )
    heads = ("Rank", "Layer", "Head", "Copy score", "Weight on the answer", "n")
    table = [
        (r.get("rank"), look.label(r), r["head"], said(r, "copy"), said(r, "mass"), r["n"])
        for r in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name=title))
    return drawn(figure, "Heads that look at the answer", caption, numbers)


def _square(look: Look, row: Row) -> Square:
    tip = f"{look.where(row)}: copy score {said(row, 'copy')}, weight {said(row, 'mass')}"
    return Square(row["copy"], tip)


def _cuts(look: Look) -> Markup:
    rows = look.rows("cuts", "accuracy", "k", "n")
    lines = [
        Curve(i, tuple(_mark(row) for row in rows if row.get("cut") == name))
        for i, name in enumerate(CUTS)
    ]
    whole = [(row["accuracy"], "nothing cut") for row in rows if row.get("cut") == "none"]
    figure = curves(
        [line for line in lines if line.marks],
        "Heads that are cut (log scale)",
        "Answers that are right (share)",
        title="Recall without heads",
        bounds=(0.0, 1.0),
        levels=whole,
    )
    caption = (
        "Recall on the other half of the prompts with the best heads cut, and with as many drawn "
        "from the rest. Bars are 95 % intervals over prompts."
    )
    heads = ("Cut", "Heads", "Draws", "Accuracy", "Loss (nats per answer)", "n")
    table = [
        (
            CUTS.get(str(r.get("cut")), "nothing"),
            *(r["k"], r.get("n_draws")),
            *(said(r, name) for name in ("accuracy", "nll")),
            r["n"],
        )
        for r in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Recall without heads"))
    return drawn(figure, "Recall without them", caption, legend(_shown(lines)), numbers)


def _shown(lines: list[Curve]) -> list[tuple[int, str]]:
    return [(i, CUTS[name]) for i, name in enumerate(CUTS) if lines[i].marks]


def _mark(row: Row) -> Mark:
    noun = "head" if row["k"] == 1 else "heads"
    return Mark.of(row, row["k"], "accuracy", f"{row['k']} {noun} cut, {CUTS[row['cut']]}")


def findings(look: Look) -> list[str]:
    """The head that copies best, and what cutting such heads costs beyond others."""
    return [*_best(look), *_drop(look)]


def _best(look: Look) -> list[str]:
    rows = look.rows("heads", "copy", "copy_stderr", "n")
    if not rows:
        return []
    row = max(rows, key=lambda r: r["copy"])
    if not is_clear(row["copy"], row["copy_stderr"], row["n"], 0.0):
        return []
    return [
        f"Answers are looked at most by {look.where(row)}: on {said(row, 'copy')} of their tokens "
        "its largest weight lies and the model says them."
    ]


def _drop(look: Look) -> list[str]:
    drop, before = look.metric("drop"), look.metric("before")
    if drop is None or before is None or not is_clear(*drop, null=0.0):
        return []
    k = max((row["k"] for row in look.rows("cuts", "k")), default=0)
    noun = "head" if k == 1 else f"{k} heads"
    more = "more" if drop[0] > 0 else "less"
    return [
        f"Cutting the best {noun} costs {told(abs(drop[0]), *drop[1:])} {more} of the recall than "
        f"cutting as many at random, of {told(*before)} without any cut."
    ]


PICTURE = Picture("retrieval-heads", figures, findings)
