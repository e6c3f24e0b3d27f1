"""Pictures of `in-context`: accuracy by worked examples, loss by position in text."""

from __future__ import annotations

from braidlm.report import plots, svg, units
from braidlm.report.analysis.finding import is_clear, told
from braidlm.report.analysis.picture import Look, Picture, Row
from braidlm.report.html import Markup, drawn
from braidlm.report.stats import Estimate, number


def figures(look: Look) -> list[Markup]:
    """One line through either table."""
    shown = [_by_shots(look), _by_position(look)]
    return [figure for figure in shown if figure]


def _by_shots(look: Look) -> Markup:
    rows = look.rows("by_shots", "shots", "accuracy", "n")
    if not rows:
        return Markup("")
    ticks = [row["shots"] for row in rows]
    figure = plots.estimates(
        {"": [(row["shots"], _estimate(row, "accuracy")) for row in rows]},
        {"": "accuracy"},
        svg.scale(ticks, plots.LEFT, plots.RIGHT),
        titles=("Worked examples before the question", "Accuracy (share of answers)"),
        name=lambda at: f"{at:.0f} examples",
        x_ticks=ticks,
        limits=(0.0, 1.0),
        group=lambda _, body: body,
    )
    longest = number(rows[-1].get("tokens"))
    caption = "The same questions after more and more examples; bars are standard errors."
    if longest is not None:
        caption += f" With {ticks[-1]} of them a prompt has {units.plain(longest)} tokens"
        fewer = rows[-1]["n"] < rows[0]["n"]
        caption += f", and only {rows[-1]['n']} prompts have so many." if fewer else "."
    return drawn(figure, "Recall after worked examples", caption)


def _by_position(look: Look) -> Markup:
    rows = look.rows("by_position", "start", "end", "loss", "n")
    if not rows:
        return Markup("")
    middles = [(row["start"] + row["end"]) / 2 for row in rows]
    pairs = zip(middles, rows, strict=True)
    figure = plots.estimates(
        {"": [(middle, _estimate(row, "loss")) for middle, row in pairs]},
        {"": "loss"},
        svg.scale(middles, plots.LEFT, plots.RIGHT, is_log=True),
        titles=("Context before the token (tokens, log scale)", "Loss (nats per token)"),
        name=lambda at: f"{units.plain(at)} tokens of context",
        group=lambda _, body: body,
    )
    caption = "Mean loss of tokens by how many stand before them; bars are standard errors."
    return drawn(figure, "Loss along a document", caption)


def _estimate(row: Row, name: str) -> Estimate:
    stderr = number(row.get(f"{name}_stderr"))
    return Estimate(row[name], None, stderr, 1, int(row["n"]), (row[name],))


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
