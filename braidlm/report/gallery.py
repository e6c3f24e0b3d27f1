"""The figures of the page with their captions: plots, layer diagrams and the legends of both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from braidlm.errors import InputError
from braidlm.report import books, diagram, plots, questions, units
from braidlm.report.html import Markup, details, drawn, join, plain_table, tag
from braidlm.report.stats import Estimate

Data = dict[str, Any]


def legend(data: Data) -> Markup:
    """One legend for every figure: a button per arm that dims the others."""
    entries = [
        tag(
            "li",
            tag(
                "button",
                Markup(plots.swatch(index)),
                tag("b", arm["label"]),
                type="button",
                data_pick=str(index),
                aria_pressed="false",
                title=arm["label"],
            ),
        )
        for index, arm in enumerate(data["arms"])
    ]
    hint = tag("li", "press an arm to dim the others", cls="hint")
    return tag("ul", *entries, hint, cls="legend pinned", aria_label="Arms")


def figures(data: Data) -> Markup:
    """Every plot that has data."""
    labels = {arm["name"]: arm["label"] for arm in data["arms"]}
    shown = [
        *(_sweep(name, data) for name in dict.fromkeys(e["sweep"] for e in data["sweeps"])),
        _loss(data, labels),
        *(_position(task, rows, labels, data) for task, rows in data["by_position"].items()),
        *(figure for task in data["by_pairs"] for figure in _pairs(task, labels, data)),
        *books.figures(data["lookups"], labels, _bars(data)),
        *questions.figures(data["questions"], labels, _bars(data)),
        *(_frontier(task, rows, labels, data) for task, rows in data["frontier"].items()),
    ]
    shown = [figure for figure in shown if figure]
    if not shown:
        return tag("p", "No run has logged a step or a result yet.", cls="soft")
    return join([legend(data), tag("div", *shown, cls="figures")])


def _loss(data: Data, labels: dict[str, str]) -> Markup:
    whole = plots.loss(data["curves"]["whole"], is_log=True)
    if whole is None:
        return Markup("")
    tail = plots.loss(data["curves"]["tail"], is_log=False)
    views = tag(
        "fieldset",
        tag("legend", "Show"),
        Markup(
            '<label><input type="radio" name="view" value="whole" checked> the whole run</label>'
        ),
        Markup('<label><input type="radio" name="view" value="tail"> the second half</label>'),
        cls="views",
    )
    several = any(r["n_seeds"] > 1 for rows in data["curves"]["whole"].values() for r in rows)
    drawn_as = (
        "a line is the mean over seeds, the band reaches from the lowest to the highest seed"
        if several
        else "a line is one seed"
    )
    caption = (
        "Training loss in nats per token by optimizer step; nearby logged steps are averaged, "
        f"{drawn_as}."
    )
    boxes = [tag("div", Markup(whole), cls="whole"), tag("div", Markup(tail or ""), cls="tail")]
    ends = [
        (labels[arm], f"{rows[-1]['step']:.0f}", units.plain(rows[-1]["mean"]), rows[-1]["n_seeds"])
        for arm, rows in data["curves"]["tail"].items()
        if rows
    ]
    numbers = plain_table(("Arm", "Step", "Loss (nats)", "Seeds"), ends, name="Last training loss")
    return tag(
        "figure",
        tag("div", tag("h3", "Training loss"), views, cls="topped"),
        *boxes,
        tag("figcaption", caption),
        details("Last values", numbers),
        cls="two",
    )


def _sweep(name: str, data: Data) -> Markup:
    """Loss against learning rate, one line per width, and which rates diverged."""
    entries = [entry for entry in data["sweeps"] if entry["sweep"] == name]
    several = any(row["n_seeds"] > 1 for entry in entries for row in entry["rows"])
    bars = "bars are ± 1 standard error over seeds" if several else "one seed: no error is known"
    caption = (
        f"{entries[0]['measure'].capitalize()} in nats per token by the peak learning rate, one "
        f"line per width; {bars}. × at the top: a seed diverged at that rate, which has no point. "
        + " ".join(f"Width {entry['width']}: {entry['verdict']}" for entry in entries)
    )
    rows = [
        (entry["width"], f"{row['lr']:.3g}", _swept(row), row["n_seeds"], row["n_diverged"])
        for entry in entries
        for row in entry["rows"]
    ]
    heads = ("Width", "Rate", "Loss (nats)", "Seeds", "Diverged")
    numbers = details("Numbers", plain_table(heads, rows, name="Loss by learning rate"))
    widths = [
        tag("li", tag("span", Markup(plots.swatch(index)), f"width {entry['width']}"))
        for index, entry in enumerate(entries)
    ]
    keys = tag("ul", *widths, cls="legend")
    return drawn(plots.sweep(entries), f"Learning rate ({name})", caption, keys, numbers)


def _swept(row: Data) -> str:
    return plots.told(Estimate(**row["loss"])) if row["loss"] else units.MISSING


def _bars(data: Data) -> str:
    """What an error bar is, in words that fit the number of seeds."""
    several = any(
        entry and entry["n_seeds"] > 1 for arm in data["arms"] for entry in arm["metrics"].values()
    )
    if several:
        return "bars are ± 1 standard error, seeds and items in quadrature"
    return "bars are ± 1 standard error over items (1 seed: item error only)"


def _named(title: str, task: str, tasks: Data) -> str:
    return f"{title} ({task.split('-', 1)[-1]})" if len(tasks) > 1 else title


def _position(task: str, rows: Data, labels: dict[str, str], data: Data) -> Markup:
    trained = data["trained_lengths"].get(task, [])
    caption = (
        "Loss on held-out documents in nats per token by the context before it, drawn at the "
        f"middle of each bin; {_bars(data)}, and arms are set slightly apart sideways."
    )
    caption += " The upright line is the trained length." if len(trained) == 1 else ""
    has_bits = any("bits_per_byte" in row for found in rows.values() for row in found)
    columns = {"nll": "Loss (nats)"} | ({"bits_per_byte": "Bits per byte"} if has_bits else {})
    lines = [
        (labels[arm], f"{row['start']:.0f} to {row['end']:.0f}", *_estimates(row, columns))
        for arm, found in rows.items()
        for row in found
    ]
    heads = ("Arm", "Context (tokens)", *columns.values())
    numbers = details("Numbers", plain_table(heads, lines, name="Loss by position"))
    title = _named("Loss by position", task, data["by_position"])
    return drawn(plots.by_position(rows, labels, trained), title, caption, numbers)


def _estimates(row: Data, columns: Iterable[str]) -> list[str]:
    return [plots.told(Estimate(**row[name])) if name in row else units.MISSING for name in columns]


def _pairs(task: str, labels: dict[str, str], data: Data) -> list[Markup]:
    rows, chance = data["by_pairs"][task], data["chance"][task]
    guesses = data["in_context_chance"][task]
    line = "; the dashed line is chance" if chance is not None else ""
    line += ", the dotted line a guess among the pairs in context" if len(guesses) > 1 else ""
    captions = {
        "accuracy": (
            "Recall by number of pairs",
            "Share of MQAR queries answered right by the number of key–value pairs in "
            f"context{line}; {_bars(data)}.",
        ),
        "graded": (
            "Graded recall by number of pairs",
            "Loss of the answer with a counterfactual pair in context minus its loss with the true "
            f"pair, in nats; {_bars(data)}, the dashed line is no recall.",
        ),
    }
    return [
        drawn(
            plots.by_pairs(rows, labels, metric, chance, guesses),
            _named(title, task, data["by_pairs"]),
            caption,
            details("Numbers", _pair_numbers(rows, labels, metric)),
        )
        for metric, (title, caption) in captions.items()
    ]


def _pair_numbers(rows: Data, labels: dict[str, str], metric: str) -> Markup:
    found = [
        (labels[arm], units.plain(row["n_pairs"]), plots.told(Estimate(**row[metric])))
        for arm, arm_rows in rows.items()
        for row in arm_rows
        if row.get(metric)
    ]
    return plain_table(("Arm", "Pairs", metric.capitalize()), found, name=f"{metric} by pairs")


def _frontier(task: str, rows: list[Data], labels: dict[str, str], data: Data) -> Markup:
    order = [arm["name"] for arm in data["arms"]]
    caption = (
        f"MQAR accuracy against the cache bytes of one sequence at {data['context']} tokens (KV + "
        f"fixed state): higher and further left is better; {_bars(data)}."
    )
    if len(plots.labelled(rows)) < len(rows):
        caption += " Labels: the arms that no other beats on both axes."
    title = _named("Recall against cache", task, data["frontier"])
    return drawn(plots.frontier(rows, order, labels), title, caption)


def diagrams(data: Data) -> Markup:
    """The layers of every arm, and what the colours mean."""
    drawings, kinds = [], {}
    for arm in data["arms"]:
        body, found = _diagram(arm, data["reproduce"]["configs"][arm["name"]])
        kinds |= dict.fromkeys(found)
        drawings.append(tag("figure", tag("h3", arm["label"]), body))
    chips = [
        tag(
            "li",
            tag(
                "span",
                tag("i", cls=f"chip {diagram.kind_class(kind)}"),
                tag("b", diagram.label(kind)),
            ),
        )
        for kind in kinds
    ]
    return join([tag("ul", *chips, cls="legend"), tag("div", *drawings, cls="diagrams")])


def _diagram(arm: Data, config: Data) -> tuple[Markup, list[str]]:
    try:
        items = diagram.cells(config)
    except InputError as error:
        return tag("p", f"No diagram: {error}", cls="soft"), []
    caption = tag("figcaption", f"{len(items)} sublayers, read from top to bottom.")
    found = [kind for cell in items for kind in cell.kinds]
    return join([Markup(diagram.draw(items, arm["label"])), caption]), found
