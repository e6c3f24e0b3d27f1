"""Pictures of `in-context`: accuracy by worked examples, loss by position in text."""

from __future__ import annotations

from braidlm.report import units
from braidlm.report.analysis.curves import Curve, Mark, curves
from braidlm.report.analysis.finding import is_clear, said, told
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.html import Markup, details, drawn, plain_table
from braidlm.report.stats import number


def figures(look: Look) -> list[Markup]:
    """One line through either table."""
    shown = [_by_shots(look), _by_position(look)]
    return [figure for figure in shown if figure]


def _by_shots(look: Look) -> Markup:
    rows = look.rows("by_shots", "shots", "accuracy", "n")
    if not rows:
        return Markup("")
    figure = curves(
        [Curve(0, tuple(_after(row) for row in rows))],
        "Worked examples before the question",
        "Accuracy (share of answers)",
        title="Recall after worked examples",
        is_log=False,
        bounds=(0.0, 1.0),
    )
    longest = number(rows[-1].get("tokens"))
    caption = (
        "The same questions after more and more examples; bars are 95 % intervals over prompts."
    )
    if longest is not None:
        caption += f" With {rows[-1]['shots']} of them a prompt has {units.plain(longest)} tokens"
        fewer = rows[-1]["n"] < rows[0]["n"]
        caption += f", and only {rows[-1]['n']} prompts have so many." if fewer else "."
    heads = ("Examples", "Accuracy", "Tokens of a prompt", "n")
    table = [(r["shots"], said(r, "accuracy"), r.get("tokens"), r["n"]) for r in rows]
    numbers = details("Numbers", plain_table(heads, table, name="Recall after worked examples"))
    return drawn(figure, "Recall after worked examples", caption, numbers)


def _after(row: Row) -> Mark:
    noun = "example" if row["shots"] == 1 else "examples"
    return Mark.of(row, row["shots"], "accuracy", f"{row['shots']} {noun}")


def _by_position(look: Look) -> Markup:
    rows = look.rows("by_position", "start", "end", "loss", "n")
    figure = curves(
        [Curve(0, tuple(_behind(row) for row in rows))],
        "Context before the token (tokens: first of each bin)",
        "Loss (nats per token)",
        title="Loss along a document",
        name={_middle(row): units.plain(row["start"]) for row in rows}.__getitem__,
    )
    caption = (
        "Mean loss of tokens by how many stand before them; bars are 95 % intervals over documents."
    )
    heads = ("Context (tokens)", "Loss (nats per token)", "n")
    table = [(_bin(r), said(r, "loss"), r["n"]) for r in rows]
    numbers = details("Numbers", plain_table(heads, table, name="Loss along a document"))
    return drawn(figure, "Loss along a document", caption, numbers)


def _behind(row: Row) -> Mark:
    return Mark.of(row, _middle(row), "loss", f"{_bin(row)} tokens of context", " nats")


def _middle(row: Row) -> float:
    return (row["start"] + row["end"]) / 2


def _bin(row: Row) -> str:
    """The tokens of a bin: "0", "1", "2–3"."""
    first, last = units.plain(row["start"]), units.plain(row["end"] - 1)
    return first if first == last else f"{first}–{last}"


def findings(look: Look) -> list[str]:
    """What examples or a longer context gain, where that is clear."""
    gain = look.metric("gain")
    if gain is None or not is_clear(*gain, null=0.0):
        return []
    shots = look.rows("by_shots", "shots", "accuracy", "n")
    positions = look.rows("by_position", "start", "end", "loss", "n")
    if shots:
        return [_of_shots(gain, shots[-1])]
    return [_of_text(gain, positions[-1])] if positions else []


def _of_shots(gain: tuple[float, float | None, int], last: Row) -> str:
    value, stderr, n = gain
    accuracy = told(last["accuracy"], number(last.get("accuracy_stderr")), last["n"])
    change = "more" if value > 0 else "less"
    noun = "example" if last["shots"] == 1 else "examples"
    return (
        f"Recall after {last['shots']} worked {noun} is {accuracy}, {told(abs(value), stderr, n)} "
        f"{change} than of the same questions without any."
    )


def _of_text(gain: tuple[float, float | None, int], last: Row) -> str:
    value, stderr, n = gain
    more = "lower" if value > 0 else "higher"
    length = last["end"]
    return (
        f"Behind half of {length} tokens of context the loss is {told(abs(value), stderr, n)} nats "
        f"{more} than at tokens {length // 16} to {length // 8}."
    )


PICTURE = Picture("in-context", figures, findings)
