"""`braid match`: what it prints, writes and refuses."""

import json
import shlex

from braidlm.arch import Recipe
from braidlm.arch.match import measures
from tests.cli.conftest import ROOT, TINY
from tests.house import blocks


def test_the_table_shows_all_quantities_and_what_was_changed(braid):
    found = braid("match", "(M-M*-)8", "(*-)20")
    assert found.code == 0
    for words in ("matched to A on parameters", "86.91 M", "before / A", "active", "cache"):
        assert words in found.out
    assert "  mixers.-.d_ff  1,408 -> 1,600" in found.out
    assert "nothing had to change" in braid("match", "M-", "M-", "--on", "cache").out


def test_what_is_written_trains_and_is_what_was_printed(braid, recipe, tmp_path):
    out = tmp_path / "matched.toml"
    given = ("--on", "flops", "--context", 64, "--factor", 3, "--json")
    found = braid("match", TINY, recipe, *given, "--out", out)
    assert found.code == 0, found.err
    said = json.loads(found.out)
    written, before = Recipe.load(out), Recipe.load(recipe)
    assert measures(written.spec, 64)._asdict() == said["after"]
    assert (
        abs(
            said["after"]["training_flops_per_token"]
            / measures(Recipe.load(TINY).spec, 64).training_flops_per_token
            - 1
        )
        <= 0.01
    )
    assert [c["field"] for c in said["changes"]] != []
    assert (written.data, written.train, written.tasks) == (before.data, before.train, before.tasks)
    trained = braid("train", out, "--out", tmp_path / "run", "--progress", "none")
    assert trained.code == 0, trained.err


def test_a_pattern_alone_is_written_as_a_model_file(braid, tmp_path):
    out = tmp_path / "matched.toml"
    assert braid("match", "M-*-", "*-*-", "--out", out).code == 0
    assert braid("describe", out).code == 0


def test_what_cannot_be_is_one_sentence(refused, recipe, tmp_path):
    before = recipe.read_bytes()
    refused("match", "*", "M", "--on", "cache", says=("cannot be matched", "the nearest is 2,127"))
    refused("match", "M", "M", "--on", "speed", says="on = 'speed': allowed are flops, params")
    refused("match", "M", "M", "--tolerance", 2, says="tolerance = 2: must be at least 0")
    refused("match", "M", "M", "--factor", 0, says="factor = 0: must be between 1 and 64")
    refused("match", "M", "M", "--context", 0, says="context = 0: must be at least 1 token")
    refused("match", "M", "M", "--out", recipe, says="exists already; choose a new name")
    refused("match", "M", "M", "--out", tmp_path / "c.json", says="must end in .toml")
    refused("match", "M", tmp_path / "none.toml", says="cannot be read")
    refused("match", "M", "Q-", says="letter 'Q'")
    refused("match", "M", says="B")
    assert recipe.read_bytes() == before
    assert not (tmp_path / "c.json").exists()


def test_what_the_page_shows_is_what_is_printed(braid):
    shown = blocks(ROOT / "docs" / "matching.md", "console")
    assert len(shown) == 2
    for block in shown:
        command, _, printed = block.partition("\n")
        found = braid(*shlex.split(command.removeprefix("$ braid ")))
        assert printed.strip() == (found.out or found.err).strip()
