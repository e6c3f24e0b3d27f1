"""One offline HTML page from what `braidlm.conform.Report.to_dict` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braidlm.report.html import Cell, Head, Markup, join, plain_table, table, tag
from braidlm.report.page import checked, document, section, write
from braidlm.report.units import MISSING, listing, plain

WORDS = {"pass": "pass", "fail": "FAIL", "not applicable": "not applicable"}
HEADS = (
    Head("law"),
    Head("verdict"),
    Head("largest error", "num"),
    Head("tolerance", "num"),
    Head("first position", "num"),
    Head("where, or why not"),
)


def build(data: dict[str, Any], out: Path | str) -> Path:
    """Write the page of a report to the file `out` and return its path.

    Raises:
        InputError: `out` is a directory.
        OSError: `out` cannot be written; an earlier page stays as it was.
    """
    return write(checked(out), render(data))


def render(data: dict[str, Any]) -> str:
    """The page."""
    title = f"Conformance of {data['model']}"
    body = tag(
        "main",
        tag("h1", title),
        tag("p", summary(data), cls="lead"),
        tag("p", _settings(data["settings"]), cls="about"),
        *_failures(data["verdicts"]),
        section("laws", "Laws", _laws(data["verdicts"])),
        section("reproduce", "To reproduce", _reproduce(data["env"])),
        id="main",
    )
    return document(f"{title} – BraidLM", body, "laws")


def summary(data: dict[str, Any]) -> str:
    """One sentence: how many laws hold, and which do not."""
    by: dict[str, list[str]] = {status: [] for status in WORDS}
    for verdict in data["verdicts"]:
        by[verdict["status"]].append(verdict["law"])
    held, failed, silent = (by[status] for status in WORDS)
    parts = [f"{len(held)} of {len(held) + len(failed)} applicable laws hold"]
    if failed:
        parts.append(f"{listing(failed)} {'fails' if len(failed) == 1 else 'fail'}")
    if silent:
        parts.append(f"{listing(silent)} {'says' if len(silent) == 1 else 'say'} nothing here")
    return "; ".join(parts) + "."


def _settings(settings: dict[str, Any]) -> str:
    lengths = listing([str(n) for n in settings["lengths"]])
    return (
        f"Sequences of {lengths} tokens (largest chunk or window: {settings['span']}), "
        f"{settings['dtype']} on {settings['device']}, seed {settings['seed']}."
    )


def _failures(verdicts: list[dict[str, Any]]) -> list[Markup]:
    """A sentence for each law that fails; what it may follow from comes first."""
    return [
        tag("p", tag("strong", v["law"].replace("_", " ")), f": {_told(v)}", cls="warn")
        for v in verdicts
        if v["status"] == "fail"
    ]


def _told(v: dict[str, Any]) -> str:
    """Size, place, whether it is rounding, where to look, and what it may follow from."""
    hint = f"{v['hint'][:1].upper()}{v['hint'][1:]}."
    if v["error"] is None:
        return hint
    first = v["first_position"]
    place = f", first at position {first}" if first is not None else ""
    again = v["in_fp64"]
    in_fp64 = f" In fp64 throughout it is {plain(again)}." if again is not None else ""
    after = f" ({v['reason']})" if v["reason"] else ""
    return f"{plain(v['error'])} {v['unit']}{place}: {v['case']}.{in_fp64} {hint}{after}"


def _laws(verdicts: list[dict[str, Any]]) -> Markup:
    return table(HEADS, map(_row, verdicts), name="Laws", cls="pin laws")


def _row(v: dict[str, Any]) -> list[Cell]:
    word = WORDS[v["status"]]
    shown = tag("strong", word) if v["status"] == "fail" else word
    first = MISSING if v["first_position"] is None else str(v["first_position"])
    return [
        Cell(join([v["law"].replace("_", " "), tag("small", f" {v['says']}")])),
        Cell(shown),
        Cell(plain(v["error"]), cls="num"),
        Cell(join([plain(v["tolerance"]), tag("small", v["unit"])]), cls="num"),
        Cell(first, cls="num"),
        Cell(v["reason"] if v["status"] == "not applicable" else v["case"]),
    ]


def _reproduce(env: dict[str, Any]) -> Markup:
    rows = [("python", env["python"]), *env["packages"].items(), ("code", env["code_version"])]
    rows += [("machine", f"{env['platform']}, {env['cpu']}"), ("date", env["started_at"])]
    return join([tag("pre", env["command"]), plain_table(("what", "which"), rows, name="Versions")])
