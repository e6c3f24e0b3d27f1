"""docs/commands.md: every argument, and output that is still true."""

import argparse
import re

import pytest

from braidlm.cli.main import build_parser
from tests.cli.conftest import ROOT

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def _parsers(parser, name=""):
    """Every command's parser; the actions of `data` count as one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, found in action.choices.items():
                yield name or word, found
                yield from _parsers(found, name or word)


@pytest.mark.parametrize("name", sorted({name for name, _ in _parsers(build_parser())}))
def test_every_argument_is_described_in_its_section_and_no_other(name):
    section = PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `"))
    described = set(
        re.findall(r"`(--?[a-z-]+)", "\n".join(x.split("|")[1] for x in table.split("\n")))
    )
    parsers = [parser for found, parser in _parsers(build_parser()) if found == name]
    there = {flag for p in parsers for a in p._actions for flag in a.option_strings}
    assert described == there - {"-h", "--help"}


@pytest.mark.parametrize("words", ["describe '(M-M*-)8'", "describe M --set model.d_modle=3"])
def test_what_the_page_shows_is_what_is_printed(braid, words):
    shown = PAGE.split(f"$ braid {words}\n")[1].split("```")[0].split("\n$ braid")[0]
    found = braid(*words.replace("'", "").split())
    assert shown.strip() == (found.out or found.err).strip()
