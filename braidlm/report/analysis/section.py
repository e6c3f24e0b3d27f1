"""The analyses of an arm as data, as a section of a report, and as a page of their own."""

from __future__ import annotations

from typing import Any

from braidlm.errors import InputError
from braidlm.report import diagram
from braidlm.report.analysis.picture import Look
from braidlm.report.analysis.read import inputs_of, instrument_of, what_was_read
from braidlm.report.analysis.side import side_by_side
from braidlm.report.analysis.table import PICTURES
from braidlm.report.html import Markup, details, join, tag
from braidlm.report.load import Arm

Data = dict[str, Any]

KIND = "analysis"
_SHOWN = ("name", "metric", "metrics", "tables", "analysis", "instrument", "why_not")
_SHOWN += ("checkpoint", "step", "is_extrapolated")
_NOTE = (
    "What `braid analyze` found in the layers of one run; ± is half of a 95 % interval over the "
    "documents that were read. See docs/analysis.md."
)


def analyses(arm: Arm) -> Data:
    """What was found in an arm, from its first run that was analysed.

    Returns:
        `seed`, `n_analysed` (runs that were), `results` (the parts of result files that are drawn,
        in the order of the page) and `findings`, sentences. Without any: {}.
    """
    runs = [(run, found) for run in arm.runs if (found := _of_run(run.results))]
    if not runs:
        return {}
    run, results = runs[0]
    names = _names(arm.config)
    findings = [s for result in results for s in _findings(result, names)]
    return {
        "seed": run.seed,
        "n_analysed": len(runs),
        "results": results,
        "findings": list(dict.fromkeys(findings)),
    }


def _of_run(results: dict[str, Data]) -> list[Data]:
    order = list(PICTURES)

    def place(result: Data) -> tuple[int, str]:
        name = instrument_of(result)
        return (order.index(name) if name in order else len(order), str(result.get("name")))

    found = [result for result in results.values() if result.get("kind") == KIND]
    return [{key: r.get(key) for key in _SHOWN} for r in sorted(found, key=place)]


def _findings(result: Data, names: list[list[str]]) -> list[str]:
    """Sentences that can stand alone: each says what was read, if it was no held-out text."""
    inputs, said = inputs_of(result), _sentences(result, names)
    return [f"{sentence[:-1]} ({inputs})." if inputs else sentence for sentence in said]


def _sentences(result: Data, names: list[list[str]]) -> list[str]:
    picture = PICTURES.get(instrument_of(result))
    if picture is None or result.get("why_not"):
        return []
    return picture.findings(Look(result, names))


def section(data: Data) -> Markup:
    """All arms side by side, then one part per arm that was analysed; empty without any."""
    told = [(arm, data["analyses"].get(arm["name"])) for arm in data["arms"]]
    told = [(arm, found) for arm, found in told if found]
    if not told:
        return Markup("")
    parts = []
    for arm, found in told:
        names = _names(data["reproduce"]["configs"][arm["name"]])
        body = join([_figures(found, names), _paragraph(found, names)])
        seed = f", seed {found['seed']}" if arm["n_runs"] > 1 else ""
        is_only = len(told) == 1
        parts.append(body if is_only else details(f"{arm['label']}{seed}", body))
    beside = side_by_side([(arm["label"], found) for arm, found in told])
    return join([tag("p", _NOTE.replace("`", ""), cls="about"), beside, *parts])


def page(data: Data) -> Markup:
    """The body of a page about one run: its pictures, and below them what they say."""
    (arm,) = data["arms"]
    found = data["analyses"].get(arm["name"])
    about = tag("p", tag("code", arm["pattern"] or ""), cls="lead")
    title = tag("h1", f"Inside {data['title']}")
    if not found:
        return join([title, about, tag("p", "No analysis was found: run braid analyze first.")])
    names = _names(data["reproduce"]["configs"][arm["name"]])
    note = tag("p", _NOTE.replace("`", ""), cls="about")
    return join([title, about, note, _figures(found, names), _paragraph(found, names)])


def _figures(found: Data, names: list[list[str]]) -> Markup:
    parts, absent = [], []
    for result in found["results"]:
        name, about = instrument_of(result), result.get("instrument") or {}
        picture = PICTURES.get(name)
        if result.get("why_not"):
            absent.append(f"{name}: {result['why_not']}.")
        elif picture is not None:
            where = f" ({inputs})" if (inputs := inputs_of(result)) else ""
            parts.append(tag("h3", f"{about.get('title') or result['name']}{where}", cls="part"))
            parts.append(tag("p", what_was_read(result), cls="about"))
            parts.append(tag("div", *picture.figures(Look(result, names)), cls="figures"))
    if absent:
        words = " ".join(dict.fromkeys(absent))
        parts.append(tag("p", "Not applicable: ", words, cls="soft"))
    return join(parts)


def _paragraph(found: Data, names: list[list[str]]) -> Markup:
    """All sentences; where several kinds of documents were read, a paragraph for each."""
    told: dict[str, list[str]] = {}
    for result in found["results"]:
        told.setdefault(inputs_of(result), []).extend(_sentences(result, names))
    told = {read: list(dict.fromkeys(said)) for read, said in told.items() if said}
    lines = [
        f"Of {read or 'held-out documents'}: {' '.join(said)}" if len(told) > 1 else " ".join(said)
        for read, said in told.items()
    ]
    lines = lines or ["Nothing stands out from the errors."]
    title = tag("h3", "What this says", cls="part")
    return join([title, *(tag("p", line, cls="findings") for line in lines)])


def _names(config: Data) -> list[list[str]]:
    """The mixers of each sublayer in words; none where the config cannot be read."""
    try:
        return [[diagram.label(kind) for kind in cell.kinds] for cell in diagram.cells(config)]
    except InputError:
        return []
