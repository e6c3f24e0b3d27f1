"""One HTML page out of run directories: no network, no outside file, opens from disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import atomic_write
from braidlm.report import analysis, contrasts, conversions, gallery, inside, sections, speeds
from braidlm.report.content import tables
from braidlm.report.html import Markup, join, tag


def build(dirs: Iterable[Path | str], out: Path | str, *, context: int = 8192) -> Path:
    """Write the report of run and study directories to the file `out` and return its path.

    Args:
        dirs: run directories, study directories, or both.
        out: the HTML file; its folder is made when it is missing.
        context: tokens at which cache bytes are stated.

    Raises:
        InputError: as `tables`, or `out` is a directory.
        OSError: `out` cannot be written; an earlier page stays as it was.
    """
    path = checked(out)
    return write(path, render(tables(dirs, context=context)))


def build_analysis(run_dir: Path | str, out: Path | str) -> Path:
    """Write a page of what `braid analyze` found in one run to the file `out`; return its path.

    Raises:
        InputError: as `tables`, `run_dir` is no single run, or `out` is a directory.
        OSError: `out` cannot be written; an earlier page stays as it was.
    """
    path, data = checked(out), tables([run_dir])
    if len(data["arms"]) != 1:
        raise InputError(f"{run_dir} is a study: a page of analyses is about one run")
    body = tag("main", analysis.page(data), id="layers")
    return write(path, document(f"Inside {data['title']} – BraidLM", body, "layers"))


def checked(out: Path | str) -> Path:
    """Return the path of a page to be written.

    Raises:
        InputError: it is a directory.
    """
    path = Path(out)
    if path.is_dir():
        raise InputError(f"--out {path}: is a directory; give the name of a file")
    return path


def write(path: Path, text: str) -> Path:
    """Write a page, an earlier one replaced only by a whole one, and return its path."""
    page = text.encode("utf-8", "replace")
    if path.exists() and not path.is_file():  # a pipe or a device is written, never replaced
        path.write_bytes(page)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(Path(os.path.realpath(path)), page)  # a link stays, what it means is replaced
    return path


def render(data: dict[str, Any]) -> str:
    """The page of what `tables` returns."""
    lead = tag("p", " ".join(data["summary"]), cls="lead")
    notes = tag("p", " ".join(data["notes"]), cls="about") if data["notes"] else ""
    described = tag("p", data["description"], cls="soft") if data["description"] else ""
    parts = [
        tag("h1", data["title"]),
        described,
        lead,
        notes,
        section("arms", "Arms", sections.arms(data)),
        *(
            [section("treatments", "Before, after, and against each other", told)]
            if (told := contrasts.section(data))
            else []
        ),
        *(
            [section("conversion", "From teacher to student", told)]
            if (told := conversions.section(data))
            else []
        ),
        section("figures", "Figures", gallery.figures(data)),
        *([section("speed", "Speed and memory", told)] if (told := speeds.section(data)) else []),
        section("layers", "Layers", gallery.diagrams(data)),
        *(
            [section("inside", "Inside the training", told)]
            if (told := inside.section(data))
            else []
        ),
        *(
            [section("analysis", "Where the memory is", told)]
            if (told := analysis.section(data))
            else []
        ),
        section("problems", "Failed, unfinished or unlike", sections.problems(data)),
        section("reproduce", "To reproduce", sections.reproduce(data)),
    ]
    return document(f"{data['title']} – BraidLM report", tag("main", *parts, id="main"), "arms")


def section(name: str, title: str, body: Markup) -> Markup:
    """A part of a page with its heading."""
    return tag(
        "section",
        tag("h2", title, id=f"{name}-title"),
        body,
        id=name,
        aria_labelledby=f"{name}-title",
    )


def document(title: str, body: Markup, table: str) -> str:
    """A whole page in the style of the house; `table` names the section of its main table."""
    folder = files("braidlm.report")
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    head = join(
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup('<meta name="color-scheme" content="light dark">'),
            Markup('<link rel="icon" href="data:,">'),
            tag("title", title),
            Markup(f"<style>\n{style}</style>"),
        ]
    )
    skip = tag("a", f"Skip to the table of {table}", cls="skip", href=f"#{table}")
    tip = Markup('<div id="tip" role="status" hidden></div>')
    tail = Markup(f"<script>\n{script}</script>")
    page = join([tag("head", head), "\n", tag("body", skip, body, tip, tail)])
    return f'<!DOCTYPE html>\n<html lang="en">\n{page}\n</html>\n'
