"""A page of paraphrases: what was accepted and what rejected, side by side with the words marked.

It reads the plain files of a folder that `braid paraphrase` made.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from braidlm.files import read_json
from braidlm.report.html import Markup, details, join, plain_table, tag
from braidlm.report.page import document, section, write

N_ACCEPTED, N_REJECTED = 60, 8
"""Samples: accepted ones, and rejected ones of each reason."""
MAX_WORDS = 400
"""Words of a text that are shown."""
_PIECE = re.compile(r"\w+|\s+|[^\w\s]")
_Row = dict[str, Any]


def build(folder: Path | str) -> Path:
    """Write `report.html` into a folder of paraphrases and return its path.

    Raises:
        InputError: `manifest.json` is missing or no JSON.
        OSError: a file cannot be read or written.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    title = f"Paraphrases: {folder.resolve().name}"
    body = tag(
        "main",
        tag("h1", title),
        tag("p", _lead(manifest), cls="lead"),
        *_warning(manifest),
        tag("p", _legend(), cls="about"),
        section("accepted", "Accepted", _accepted(folder)),
        section("rejected", "Rejected", _rejected(folder, manifest["counts"]["rejected"])),
        section("settings", "Settings", _settings(manifest)),
        id="main",
    )
    return write(folder / "report.html", document(f"{title} – BraidLM report", body, "accepted"))


def _warning(manifest: _Row) -> list[Markup]:
    if manifest["is_complete"]:
        return []
    return [tag("p", "Unfinished: more is to be done.", cls="warn")]


def _lead(manifest: _Row) -> str:
    counts = manifest["counts"]
    n_rejected = sum(counts["rejected"].values())
    source = (manifest["source"] or {}).get("path")
    return (
        f"Method {manifest['method']}{f' over {source}' if source else ''}: {counts['read']:,} "
        f"texts read, {counts['accepted']:,} paraphrases of {counts['texts']:,} texts accepted, "
        f"{n_rejected:,} rejected."
    )


def _legend() -> Markup:
    return join(
        [
            f"Up to {N_ACCEPTED} accepted ones and {N_REJECTED} rejected ones of each reason, "
            "chosen by the hash of their names. ",
            tag("del", "Words of the text alone"),
            " are struck out, ",
            tag("ins", "words of the paraphrase alone"),
            " underlined.",
        ]
    )


def _accepted(folder: Path) -> Markup:
    chosen = nsmallest(N_ACCEPTED, _rows(folder / "pairs.jsonl"), key=_draw)
    return _table(chosen, "Accepted") if chosen else tag("p", "None.", cls="soft")


def _rejected(folder: Path, counts: dict[str, int]) -> Markup:
    by_reason: dict[str, list[_Row]] = defaultdict(list)
    for row in _rows(folder / "rejected.jsonl"):
        kept = by_reason[row["reason"].partition(":")[0]]
        kept.append(row)
        if len(kept) > 10 * N_REJECTED:
            kept[:] = nsmallest(N_REJECTED, kept, key=_draw)
    parts = [
        details(f"{reason}: {counts.get(reason, 0):,}", _table(_few(rows), f"Rejected: {reason}"))
        for reason, rows in sorted(by_reason.items())
    ]
    return join(parts) if parts else tag("p", "None.", cls="soft")


def _few(rows: list[_Row]) -> list[_Row]:
    return nsmallest(N_REJECTED, rows, key=_draw)


def _table(rows: list[_Row], name: str) -> Markup:
    heads = ("id", "text", "paraphrase", "scores")
    shown = ((row["id"], *_marked(row["text"], row["paraphrase"]), _about(row)) for row in rows)
    return tag("div", plain_table(heads, shown, name=name), cls="beside")


def _about(row: _Row) -> Markup:
    reason = [tag("b", row["reason"])] if "reason" in row else []
    scores = (f"{name.replace('_', ' ')} {score:g}" for name, score in row["scores"].items())
    return join([*reason, tag("small", ", ".join(scores))])


def _marked(text: str, paraphrase: str) -> tuple[Markup, Markup]:
    """Return both texts, what stands in one alone marked."""
    old, new = _pieces(text), _pieces(paraphrase)
    if not new:
        return join(old), join(new)
    left: list[object] = []
    right: list[object] = []
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for what, a, b, c, d in blocks:
        before, after = "".join(old[a:b]), "".join(new[c:d])
        left += [before if what == "equal" or not before else tag("del", before)]
        right += [after if what == "equal" or not after else tag("ins", after)]
    return join(left), join(right)


def _pieces(text: str) -> list[str]:
    pieces = _PIECE.findall(text)
    return pieces if len(pieces) <= 2 * MAX_WORDS else [*pieces[: 2 * MAX_WORDS], " ..."]


def _settings(manifest: _Row) -> Markup:
    names = ("settings", "source", "gate", "seed", "code_version")
    rows = [(name, json.dumps(manifest.get(name), ensure_ascii=False)) for name in names]
    return plain_table(("what", "value"), rows, name="Settings")


def _rows(path: Path) -> Iterator[_Row]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _draw(row: _Row) -> bytes:
    return hashlib.sha256(row["id"].encode("utf-8", "replace")).digest()
