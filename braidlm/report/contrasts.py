"""The section on what arms did to the models that they began with, and against each other."""

from __future__ import annotations

from typing import Any

from braidlm.report import plots, units
from braidlm.report.findings import count, interval, measure, sentence, signed, verdict
from braidlm.report.forest import forest
from braidlm.report.html import Markup, details, drawn, join, plain_table, tag
from braidlm.report.stats import Estimate

Data = dict[str, Any]

_SURE = {"held": "yes", "alone": "without the correction", "open": "no", "none": units.MISSING}


_TWO_SEEDS = (
    " With two seeds the interval can be too narrow by luck, where the two agree: it then misses "
    "up to 13 times in 100, not 5."
)
"""Simulated: docs/reading_a_report.md."""


def section(data: Data) -> Markup:
    """Findings, forest plots and tables of every study with bases or comparisons; "" of none."""
    return join(_study(study, data) for study in data["treatments"])


def _study(study: Data, data: Data) -> Markup:
    labels = {arm["name"]: arm["label"] for arm in data["arms"]}
    order = list(labels)
    several = len(data["treatments"]) > 1
    plotted = [_forest(task, labels, order) for task in study["tasks"] if task["is_outcome"]]
    side = [_forest(task, labels, order) for task in study["tasks"] if not task["is_outcome"]]
    return join(
        [
            tag("h3", study["study"], cls="part") if several else "",
            _findings(study, labels),
            _figures(plotted),
            *([tag("h3", "Side effects", cls="part"), _figures(side)] if any(side) else []),
            _comparisons(study, labels),
            _changes(study, labels),
            _tokens(study),
            _matching(study, data["context"]),
        ]
    )


def _findings(study: Data, labels: dict[str, str]) -> Markup:
    """What the comparisons say, outcome by outcome."""
    asked = [task for task in study["tasks"] if task["is_outcome"] and task["comparisons"]]
    if not asked:
        return Markup("")
    said = [
        (measure(task), [sentence(task, row, labels) for row in task["comparisons"]])
        for task in asked
    ]
    lists = [
        tag("li", tag("b", what), tag("ul", *(tag("li", words) for words in some)))
        for what, some in said
    ]
    return join([tag("p", count(study)), tag("ul", *lists), tag("p", _note(study), cls="about")])


def _note(study: Data) -> str:
    others = (
        f" The {study['n_others']} comparisons in other tasks are side effects and are corrected "
        "among themselves."
        if study["n_others"]
        else ""
    )
    rows = [row for task in study["tasks"] for row in task["comparisons"]]
    two = any(len(row.get("seeds", ())) == 2 for row in rows)
    return (
        "A difference is the mean over seeds and items of arm minus control, with the same seed "
        "and the same item on either side. Brackets hold its 95 % t interval, in which the errors "
        "over seeds and over items both count; with few seeds it has few degrees of freedom and "
        "is wide. “Better” is said where Holm's correction for the number of declared "
        f"comparisons leaves p below 0.05.{_TWO_SEEDS if two else ''}{others}"
    )


def _figures(shown: list[Markup]) -> Markup:
    there = [figure for figure in shown if figure]
    return tag("div", *there, cls="figures") if there else Markup("")


def _forest(task: Data, labels: dict[str, str], order: list[str]) -> Markup:
    metric = task["metric"].replace("_", " ")
    unit = f" ({task['unit']})" if task["unit"] else ""
    side = "right" if task["better"] == "higher" else "left"
    figure = forest(
        task["comparisons"],
        labels,
        order,
        title=f"Difference in {metric}{unit}",
        ends=f"arm is better on the {side}",
    )
    caption = (
        f"{task['task']}: arm minus control. Mark and bar: mean and 95 % t interval (an arrow "
        "leaves the frame); shade: 95 % bootstrap over seeds and items, too narrow with few "
        "seeds; strokes: single seeds."
    )
    return drawn(figure, f"{task['task']}: {metric}", caption)


def _comparisons(study: Data, labels: dict[str, str]) -> Markup:
    rows = [
        _comparison(task, row, labels) for task in study["tasks"] for row in task["comparisons"]
    ]
    if not rows:
        return Markup("")
    heads = (
        *("Task", "Arm − control", "Difference [95 %]", "Error over seeds", "Error over items"),
        *("Bootstrap", "p", "p (Holm)", "Told apart", "Seeds", "Items", "Note"),
    )
    return details("Numbers of the comparisons", plain_table(heads, rows, name="Comparisons"))


def _comparison(task: Data, row: Data, labels: dict[str, str]) -> list[object]:
    start = [task["task"], f"{labels[row['arm']]} − {labels[row['control']]}"]
    if "value" not in row:
        return [*start, *[units.MISSING] * 9, row["note"]]
    places = units.decimals(row["half_width"])
    return [
        *start,
        interval(row),
        units.fixed(row["seed_stderr"], places + 1),
        units.fixed(row["item_stderr"], places + 1),
        f"{units.fixed(row['low'], places)} to {units.fixed(row['high'], places)}",
        chance(row["p"]),
        chance(row["p_holm"]),
        _SURE[verdict(row)],
        len(row["seeds"]),
        row["n_items"],
        row["note"],
    ]


def chance(p: float) -> str:
    """A p-value: three decimals, or that it is below what these show."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _changes(study: Data, labels: dict[str, str]) -> Markup:
    """What each task gave before and after, one row for each arm."""
    tasks = [task for task in study["tasks"] if any(row["before"] for row in task["arms"].values())]
    if not tasks:
        return Markup("")
    rows = [
        [labels[name], *(_change(task["arms"][name]) for task in tasks)]
        for name in (arm["name"] for arm in study["arms"])
    ]
    heads = ["Arm", *(f"{task['task']}: {task['metric'].replace('_', ' ')}" for task in tasks)]
    about = tag(
        "p",
        "Before: the base that the arm began with, asked the same; after: the arm. The change is "
        "paired by seed and item like the differences above. Arms without a base have no before.",
        cls="about",
    )
    return join(
        [
            tag("h3", "Before and after", cls="part"),
            plain_table(heads, rows, name="Before and after"),
            about,
        ]
    )


def _change(cell: Data) -> Markup | str:
    after = cell["after"] and Estimate(**cell["after"])
    if after is None:
        return units.MISSING
    if cell["before"] is None:
        return plots.told(after)
    before, change = Estimate(**cell["before"]), cell["change"]
    places = units.decimals(change["half_width"] if change else after.stderr)
    ends = f"{units.fixed(before.mean, places)} → {units.fixed(after.mean, places)}"
    if change is None:
        return join([ends])
    half = units.fixed(change["half_width"], places)
    return join([ends, tag("small", f"{signed(change['value'], places)} ± {half}")])


def _tokens(study: Data) -> Markup:
    """What each arm read, learnt and saw once."""
    rows = [
        [arm["label"], *(_count(arm["tokens"][key]) for key in ("base", *_COUNTED))]
        for arm in study["arms"]
    ]
    if not any(arm["tokens"]["input"] for arm in study["arms"]):
        return Markup("")
    heads = ("Arm", "Training of its base", *_COUNTED.values())
    return join(
        [
            tag("h3", "Tokens of each arm", cls="part"),
            plain_table(heads, rows, name="Tokens"),
            tag("p", _TOKENS_NOTE, cls="about"),
        ]
    )


_COUNTED = {"input": "Input", "loss": "Learnt", "unique": "Different"}
_TOKENS_NOTE = (
    "Of one run, the mean over seeds. Input: tokens read, without padding. Learnt: those with a "
    "loss. Different: tokens of text that were read at least once. What was spent on a base that "
    "was given is not known."
)


def _count(value: float | None) -> str:
    return units.MISSING if value is None else f"{value:,.0f}"


def _matching(study: Data, context: int) -> Markup:
    """What the architectures have in common, and how far they are apart in the rest."""
    if not study["matching"]:
        return Markup("")
    words = {"params": "parameters", "cache": "cache bytes", "flops": "training FLOPs"}
    rows = [
        [
            row["label"],
            words.get(row["on"], row["on"] or "nothing"),
            f"{row['n_params']:,}" if row["n_params"] else units.MISSING,
            _off(row["off_n_params"]),
            units.size(row["cache_bytes"]),
            _off(row["off_cache_bytes"]),
        ]
        for row in study["matching"]
    ]
    heads = ("Architecture", "Matched in", "Parameters", "off by", "Cache", "off by")
    return join(
        [
            tag("h3", "Architectures", cls="part"),
            plain_table(heads, rows, name="Architectures"),
            tag("p", f"Cache of one sequence of {context:,} tokens.", cls="about"),
        ]
    )


def _off(share: float | None) -> str:
    if share is None:
        return units.MISSING
    places = 0 if abs(share) >= 0.1 else 2
    return f"{signed(100 * share, places)} %"
