"""Weights that a training cannot begin with: one sentence, and nothing is made."""

import shutil

import pytest

from tests.cli.conftest import contents


def words(recipe, out, init, *sets):
    overrides = [w for text in sets for w in ("--set", text)]
    return ("train", recipe, "--out", out, "--no-eval", "--init", init, *overrides)


@pytest.mark.parametrize("what", ["missing", "file", "empty", "no_checkpoint", "config"])
def test_what_holds_no_weights_is_refused(refused, trained, recipe, tmp_path, what):
    init, out = tmp_path / "init", tmp_path / "out"
    says = {
        "missing": "no such folder",
        "file": "it is a file",
        "empty": "has no checkpoint",
        "no_checkpoint": "has no checkpoint",
        "config": "config.json",
    }[what]
    if what == "file":
        init.write_text("weights")
    elif what == "empty":
        init.mkdir()
    elif what != "missing":
        shutil.copytree(trained / "run", init)
        shutil.rmtree(init / "checkpoints")
    if what == "config":
        (init / "config.json").write_text("{")
    refused(*words(recipe, out, init), says=("init = ", says))
    assert not out.exists()


def test_another_width_vocabulary_or_tokenizer_is_refused(refused, trained, recipe, tmp_path):
    out = tmp_path / "out"
    init = trained / "run"
    says = ("model.d_model = 64: must be 32 as in init", "without [model] takes that of its init")
    refused(*words(recipe, out, init, "model.d_model=64"), says=says)
    refused(
        *words(recipe, out, init, "model.vocab_size=400"), says="model.vocab_size = 400: must be"
    )
    refused(*words(recipe, out, init, "data.tokenizer=absent.json"), says="absent.json")
    assert not out.exists()


def test_a_run_goes_on_from_weights_and_shows_where_they_came_from(braid, trained, tmp_path):
    before = contents(trained / "run")
    recipe = tmp_path / "recipe.toml"
    text = (trained / "recipe.toml").read_text()
    recipe.write_text(text[: text.index("[model]")] + text[text.index("[data]") :])
    call = words(recipe, tmp_path / "out", trained / "run", "train.steps=1")
    assert braid(*call, "--progress", "none").code == 0
    assert contents(trained / "run") == before
    assert (tmp_path / "out" / "init" / "origin.json").is_file()


def test_a_recipe_without_a_model_needs_an_init(refused, trained, tmp_path):
    recipe = tmp_path / "recipe.toml"
    text = (trained / "recipe.toml").read_text()
    recipe.write_text(text[: text.index("[model]")] + text[text.index("[data]") :])
    refused("train", recipe, "--out", tmp_path / "out", says="model")
