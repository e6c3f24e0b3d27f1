"""Pictures of `ablation`: what fails without a memory, a layer, a branch, or far sight."""

from __future__ import annotations

from collections.abc import Iterable

from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import is_clear, said
from braidlm.report.analysis.legend import legend
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table

HARMS = {"harm": "the cut", "control": "a random change as large"}
MEMORIES = {"kv": "KV caches", "recurrent": "recurrent states", "all": "any memory"}
_NOTE = "No training has made such a model: compare with random changes that are as large."


def figures(look: Look) -> list[Markup]:
    """What is taken out, and what attention may see."""
    return [figure for figure in (_cuts(look), _sight(look)) if figure]


def _cuts(look: Look) -> Markup:
    rows = [row for row in _rows(look) if row.get("cut") != "hide"]
    figure = strips(
        [
            Strip(_name(look, row), 0, tuple(_dot(look, row, name) for name in HARMS))
            for row in rows
        ],
        f"Loss that is added ({_unit(look)})",
        title="Harm of every cut",
        is_log=False,
        limits=(0.0,),
        marks=[(0.0, "none")],
    )
    caption = (
        "What is added to −ln P of what must be said: of the answer, or of the second half of a "
        f"text, whose first half the memories hold. {_NOTE} Lines are 95 % intervals over "
        "documents."
    )
    numbers = details("Numbers", _table(look, rows, "Harm of every cut"))
    words = legend(list(enumerate(HARMS.values())))
    return drawn(figure, "What fails when something is taken out", caption, words, numbers)


def _sight(look: Look) -> Markup:
    rows = look.rows("cuts", "harm", "control", "window", "n")
    figure = curves(
        [
            Curve(i, tuple(Mark.of(row, row["window"], name, _seen(row, name)) for row in rows))
            for i, name in enumerate(HARMS)
        ],
        "Tokens that attention may see (log scale)",
        f"Loss that is added ({_unit(look)})",
        title="Harm of hiding what is far",
        levels=[(0.0, "none")],
    )
    caption = (
        "No attention sees tokens that are so many or more behind; recurrences go on as always. "
        f"{_NOTE} Bars are 95 % intervals over documents."
    )
    numbers = details("Numbers", _table(look, rows, "Harm of hiding what is far"))
    words = legend(list(enumerate(HARMS.values())))
    return drawn(figure, "What fails when attention is short-sighted", caption, words, numbers)


def _rows(look: Look) -> list[Row]:
    return look.rows("cuts", "harm", "control", "n")


def _unit(look: Look) -> str:
    loss = (look.result.get("metrics") or {}).get("loss")
    return str(loss.get("unit") or "nats") if isinstance(loss, dict) else "nats"


def _name(look: Look, row: Row) -> str:
    cut, what = row.get("cut"), str(row.get("what"))
    if cut == "drop":
        return f"without {MEMORIES.get(what, what)}"
    if cut == "hide":
        return f"seeing {what}"
    return f"without {look.label(row)}"


def _dot(look: Look, row: Row, name: str) -> Dot:
    return Dot.of(row, name, f"{_name(look, row)}, {HARMS[name]}", " nats", list(HARMS).index(name))


def _seen(row: Row, name: str) -> str:
    return f"{row.get('what')} seen, {HARMS[name]}"


def _table(look: Look, rows: list[Row], name: str) -> Markup:
    heads = ("Cut", "Harm (nats)", "Of a random change", "Beyond it", "n")
    columns = ("harm", "control", "beyond")
    cells = [(_name(look, row), *(said(row, c) for c in columns), row["n"]) for row in rows]
    return plain_table(heads, cells, name=name)


def findings(look: Look) -> list[str]:
    """The memory and the layer whose loss costs most, where that is clear beyond the control."""
    rows = look.rows("cuts", "harm", "beyond", "beyond_stderr", "n")
    memory = _worst(r for r in rows if r.get("cut") == "drop" and r.get("what") != "all")
    layer = _worst(r for r in rows if r.get("cut") == "skip")
    found = []
    if memory is not None:
        what = MEMORIES.get(str(memory.get("what")), memory.get("what"))
        found.append(f"Without its {what} the model loses {_lost(look, memory)}.")
    if layer is not None:
        found.append(f"Of all layers {look.where(layer)} is missed most: {_lost(look, layer)}.")
    return found


def _worst(rows: Iterable[Row]) -> Row | None:
    clear = [r for r in rows if is_clear(r["beyond"], r["beyond_stderr"], r["n"], 0.0)]
    clear = [r for r in clear if r["beyond"] > 0]
    return max(clear, key=lambda r: r["beyond"], default=None)


def _lost(look: Look, row: Row) -> str:
    return (
        f"{said(row, 'harm')} {_unit(look)}, {said(row, 'beyond')} more than by a random change as "
        "large"
    )


PICTURE = Picture("ablation", figures, findings)
