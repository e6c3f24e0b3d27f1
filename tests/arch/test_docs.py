"""What the pages on the declaration, on fusion and on cost show is true."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from braidlm.arch import Spec, allocate, defaults
from braidlm.arch.cost import cost
from braidlm.arch.published import published
from braidlm.arch.recipe import Recipe, load_spec

ROOT = Path(__file__).parents[2]


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["declaration", "fusion"])
def test_every_model_that_is_shown_can_be_declared(name):
    blocks = re.findall(r"```toml\n(.*?)```", page(name), re.S)
    assert blocks
    for block in blocks:
        Spec.of(tomllib.loads(block)["model"])


def test_every_override_that_is_shown_works():
    blocks = re.findall(r"```\n(--set.*?)```", page("declaration"), re.S)
    overrides = [text for block in blocks for text in shlex.split(block) if text != "--set"]
    assert len(overrides) == 6
    for text in overrides:
        longer = ["data.seq_len=256", "data.sources.mqar.length=64"]
        Recipe.load(ROOT / "recipes" / "tiny.toml", [*longer, text])


def test_every_call_that_is_shown_gives_what_is_shown():
    calls = re.findall(r"^\| `(\w+)\((.*?)\)` \| `([^`]+)`", page("declaration"), re.M)
    assert len(calls) == 4
    for name, arguments, result in calls:
        assert eval(f"allocate.{name}({arguments})", {"allocate": allocate}) == result


def test_the_table_of_defaults_names_every_field():
    text = page("declaration")
    for _, fields, _ in defaults.TABLE:
        for field in fields.split(", "):
            assert f"`{field}`" in text


def test_the_printed_figures_are_ours():
    text = page("cost")
    folder = ROOT / "recipes" / "published"
    hybrid = published("nvidia", load_spec(folder / "nvidia-8b-hybrid.toml"), 1)
    mamba = cost(load_spec(folder / "nvidia-8b-mamba2.toml"), 1)
    for number in (hybrid.n_params, hybrid.state_bytes, mamba.n_params):
        assert f"{number:,}" in text
