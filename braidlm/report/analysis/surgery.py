"""Pictures of `surgery`: what moves an answer, by kind of memory, by layer and by distance."""

from __future__ import annotations

from typing import Any

from braidlm.report import units
from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.legend import legend
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.analysis.strips import Dot, Strip, strips
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import number

EFFECTS = {
    "kv": "KV caches",
    "recurrent": "recurrent states",
    "interaction": "both must agree",
    "total": "all memories",
}
SAME = {
    "kv_same_answer": "caches, same answer",
    "recurrent_same_answer": "states, same answer",
    "both_same_answer": "all, same answer",
}
"""Controls: the memories of a prompt that differs elsewhere."""
MEMORIES = {"kv": "cache", "recurrent": "state"}
ANSWERS = ("answer of A", "answer of B")
ALONE = {"alone": "alone from B", "without": "all but this one from B: what is lost"}
KINDS = ("kv", "recurrent", "total")
"""What is drawn by distance."""


def figures(look: Look) -> list[Markup]:
    """Cells, effects, memories one by one, and effects by distance."""
    shown = [_cells(look), _effects(look), _nats(look), _memories(look), _by_distance(look)]
    return [figure for figure in shown if figure]


def _cells(look: Look) -> Markup:
    rows = look.rows("by_cell", "p_a", "p_b", "n")
    figure = strips(
        [Strip(_cell(row), 0, tuple(_answer(row, i) for i in range(2))) for row in rows],
        "Probability of the answer",
        title="Answers of every mixture of two memories",
        is_log=False,
        bounds=(0.0, 1.0),
    )
    caption = (
        "Two prompts, A and B, differ in one fact. The question is asked of a state that has the "
        "KV caches of one and the recurrent states of one. Lines are 95 % intervals over pairs of "
        "prompts."
    )
    heads = ("Memories", "P(answer of A)", "P(answer of B)", "n")
    table = [(_cell(row), said(row, "p_a"), said(row, "p_b"), row["n"]) for row in rows]
    numbers = details("Numbers", plain_table(heads, table, name="Answers of every mixture"))
    words = legend(list(enumerate(ANSWERS)))
    return drawn(figure, "Whose memory answers", caption, words, numbers)


def _cell(row: Row) -> str:
    return f"KV of {row.get('kv')}, states of {row.get('recurrent')}"


def _answer(row: Row, i: int) -> Dot:
    return Dot.of(row, ("p_a", "p_b")[i], f"{_cell(row)}: {ANSWERS[i]}", colour=i)


def _effects(look: Look) -> Markup:
    figure = strips(
        [*_effect_rows(look, EFFECTS), *_effect_rows(look, SAME)],
        "What moves, as a share of probability",
        title="Effects of exchanging memories",
        is_log=False,
        limits=(0.0, 1.0),
        marks=[(0.0, "none")],
    )
    caption = (
        "How much of the probability moves from A's answer to B's with the caches, with the "
        "recurrent states, and with both; 1 is all. Above 0, “both must agree” says that neither "
        "is enough by itself; below 0, that either is. “Same answer” are controls: the memories "
        "of a prompt that differs as much, but elsewhere. Lines are 95 % intervals over pairs."
    )
    return drawn(figure, "What moves the answer", caption)


def _nats(look: Look) -> Markup:
    figure = strips(
        _effect_rows(look, EFFECTS, "_nats"),
        "Change of the log odds of B (nats)",
        title="Effects on the log odds",
        is_log=False,
        limits=(0.0,),
        marks=[(0.0, "none")],
    )
    caption = (
        "The same on the log odds, log P(answer of B) − log P(answer of A), which move even where "
        "neither answer is the first choice."
    )
    return drawn(figure, "What moves the odds", caption)


def _effect_rows(look: Look, names: dict[str, str], suffix: str = "") -> list[Strip]:
    found = []
    for i, (name, words) in enumerate(names.items()):
        if (metric := look.metric(name + suffix)) is not None:
            unit = " nats" if suffix else ""
            dot = Dot.with_interval(metric[0], f"{words}: {told(*metric, unit)}", *metric[1:])
            found.append(Strip(words, i, (dot,)))
    return found


def _memories(look: Look) -> Markup:
    rows = look.rows("by_memory", "alone", "without", "n")
    figure = strips(
        [Strip(_memory(look, row), 0, tuple(_alone(look, row, n) for n in ALONE)) for row in rows],
        "What moves, as a share of probability",
        title="Effects of every layer's memory by itself",
        is_log=False,
        limits=(0.0, 1.0),
        marks=[(0.0, "none")],
    )
    caption = (
        "What moves the answer when one memory alone comes from B, and what does not move any more "
        "when it alone stays A's. Lines are 95 % intervals over pairs."
    )
    words = legend(list(enumerate(ALONE.values())))
    return drawn(figure, "Which layer's memory moves it", caption, words)


def _memory(look: Look, row: Row) -> str:
    return f"{look.label(row)}, {MEMORIES.get(str(row.get('memory')), row.get('memory'))}"


def _alone(look: Look, row: Row, name: str) -> Dot:
    words = f"{_memory(look, row)}, {ALONE[name]}"
    return Dot.of(row, name, words, colour=list(ALONE).index(name))


def _by_distance(look: Look) -> Markup:
    rows = look.rows("by_distance", "start", "end", *KINDS, "n")
    if len(rows) < 2:
        return Markup("")
    colours = list(EFFECTS)
    lines = [Curve(colours.index(name), tuple(_at(row, name) for row in rows)) for name in KINDS]
    figure = curves(
        lines,
        "Tokens from the fact to the end of the question (log scale)",
        "Share of probability that moves",
        title="Effects by distance",
        bounds=(-1.0, 1.0),
        holds=(0.0, 1.0),
    )
    caption = "The effects by how far back the fact lies. Bars are 95 % intervals over pairs."
    words = legend([(colours.index(name), EFFECTS[name]) for name in KINDS])
    heads = ("Tokens back", *(EFFECTS[name] for name in KINDS), "n")
    table = [
        (f"{row['start']} to {row['end'] - 1}", *(said(row, n) for n in KINDS), row["n"])
        for row in rows
    ]
    numbers = details("Numbers", plain_table(heads, table, name="Effects by distance"))
    return drawn(figure, "How far back the fact may lie", caption, words, numbers)


def _at(row: Row, name: str) -> Mark:
    back = f"{EFFECTS[name]}, {units.plain(row['start'])} tokens back or more"
    return Mark.of(row, row["start"], name, back)


def findings(look: Look) -> list[str]:
    """Which kind of memory moves the answer; of the odds where the answer does not move."""
    return _moved(look, "", "of the probability") or _moved(look, "_nats", "nats of the log odds")


def _moved(look: Look, suffix: str, unit: str) -> list[str]:
    total = look.metric(f"total{suffix}")
    if total is None or not _is_worth(total, suffix):
        return []
    parts = [(words, look.metric(name + suffix)) for name, words in list(EFFECTS.items())[:2]]
    told_of = [
        f"{told(*found)} with the {words}"
        for words, found in parts
        if found and is_clear(*found, 0)
    ]
    lead = f"Exchanging all memories moves {told(*total)} {unit} from one answer to the other"
    said_of = f": {units.listing(told_of)}" if told_of else ""
    return [f"{lead}{said_of}.", *_strongest(look, suffix)]


def _is_worth(total: tuple[float, float | None, int], suffix: str) -> bool:
    """Whether an answer moves clearly, and by as much as a reader would call a move."""
    return is_clear(*total, null=0.0) and abs(total[0]) > (0.1 if suffix else 0.01)


def _strongest(look: Look, suffix: str) -> list[str]:
    rows: list[dict[str, Any]] = look.rows("by_memory", "alone", "alone_stderr", "n")
    if suffix or len(rows) < 2:
        return []
    row = max(rows, key=lambda r: r["alone"])
    if not is_clear(row["alone"], number(row["alone_stderr"]), row["n"], 0.0):
        return []
    memory = MEMORIES.get(str(row.get("memory")), row.get("memory"))
    return [f"By itself the {memory} of {look.where(row)} moves most: {said(row, 'alone')}."]


PICTURE = Picture("surgery", figures, findings)
