"""What the tests of the house read: tracked files, pages, code blocks, commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that git tracks; without git, every file of the package and its surroundings."""
    try:
        listed = subprocess.run(
            ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        return tuple(ROOT / name for name in listed if (ROOT / name).is_file())
    except (OSError, subprocess.CalledProcessError):
        folders = ("braidlm", "tests", "docs", "examples", "recipes", "benchmarks")
        found = [p for folder in folders for p in (ROOT / folder).rglob("*")]
        return tuple(p for p in (*found, *ROOT.glob("*.*")) if p.is_file() and p.suffix != ".pyc")


def pages() -> list[Path]:
    """Every Markdown page."""
    return sorted({*(p for p in tracked() if p.suffix == ".md"), *(ROOT / "docs").glob("*.md")})


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced code blocks of these languages; "" stands for none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """Arguments of every `braid ...` line in a page's code blocks.

    Brackets around what may be left out are taken away: all of it together must parse.
    """
    found = []
    for block in blocks(page, "", "sh", "bash", "console", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line.startswith("braid "):
                words = shlex.split(re.sub(r"\s[|>].*", "", line), comments=True)
                found.append([w.strip("[]") if " [-" in line else w for w in words[1:]])
    return found


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+?)\s*$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
