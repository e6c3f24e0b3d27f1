import json
import re
from pathlib import Path

import pytest

from braidlm.arch import Recipe, Spec
from braidlm.arch.recipe import load_spec, override
from braidlm.errors import InputError

TINY = str(Path(__file__).parents[2] / "recipes" / "tiny.toml")


def test_a_recipe_survives_json():
    recipe = Recipe.load(TINY)
    stored = recipe.to_dict()
    assert Recipe.from_dict(stored) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(stored))) == recipe
    assert stored["model"]["pattern"] == "M-*-"


def test_overrides_reach_lists_by_name_and_by_number():
    recipe = Recipe.load(
        TINY,
        [
            "train.steps=4",
            "data.sources.mqar.length=40",
            "data.sources.0.weight=2",
            "model.mixers.M.d_state=16",
            "model.mixers.*.position=none",
            "data.sources.mqar.n_pairs=[1, 2]",
            "name=other",
            "tasks=[]",
        ],
    )
    assert (recipe.train.steps, recipe.name, recipe.tasks) == (4, "other", ())
    assert recipe.data.sources[0].weight == 2.0
    mqar = recipe.data.sources[1]
    assert mqar.kind == "mqar"
    assert (mqar.length, mqar.n_pairs) == (40, (1, 2))
    mixers = {x.letter: x.mixer for x in recipe.spec.mixers}
    assert mixers["M"].d_state == 16  # type: ignore[union-attr]
    assert mixers["*"].position == "none"  # type: ignore[union-attr]


def test_overrides_leave_their_input_alone():
    data = {"a": {"b": [1, 2]}}
    assert override(data, ["a.b.0=9", "a.c.d=x y"]) == {"a": {"b": [9, 2], "c": {"d": "x y"}}}
    assert data == {"a": {"b": [1, 2]}}


def test_values_are_read_as_toml_else_as_text():
    read = override({}, ["a=4", "b=true", 'c="4"', "d=1e-3", "e=M-*-", "f=x=y", "g="])
    assert read == {"a": 4, "b": True, "c": "4", "d": 1e-3, "e": "M-*-", "f": "x=y", "g": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.step=4", "train: unknown field 'step' (did you mean 'steps'?)"),
        ("data.sources.x.length=3", "'x' is no entry of this list; allowed: text, mqar"),
        ("data.sources.9.length=3", "'9' is no entry of this list"),
        ("train.steps", "must look like a.b=value"),
        ("=3", "must look like a.b=value"),
        ("train..steps=3", "must look like a.b=value"),
        ("train.steps.x=3", "'x' lies inside a plain value (60)"),
        ("train.steps=abc", "train.steps = 'abc'"),
        ('train.steps="4"', "train.steps = '4'"),
        ("train.steps=true", "train.steps = True"),
        ("train.lr=nan", "train.lr = nan"),
        ("train.micro_batch_size=3", "micro_batch_size = 3: must divide batch_size = 16"),
        ("data.sources.mqar.length=4", "length = 4: must be at least 16 for 4 pairs"),
        ("data.sources.mqar.name=text", "the name 'text' is used twice"),
        ("data.seq_len=16", "length = 32 is longer than seq_len = 16"),
        ("model.pattern=Q", "letter 'Q' names no mixer"),
        ("model.vocab_size=300", "must not exceed the model's vocab_size = 300"),
        ("tasks.0.source=mqar", "source = 'mqar' is no text source of this recipe; allowed: text"),
        ("tasks.mqar.source=x", "source = 'x' is no mqar source"),
        ("nope=3", "unknown field 'nope'"),
        ("seed=-1", "seed = -1"),
    ],
)
def test_bad_overrides_get_their_sentence(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Recipe.load(TINY, [text])
    assert "\n" not in str(caught.value)


def test_a_recipe_needs_data_and_a_file_that_can_be_read(tmp_path):
    cases = {
        "missing.toml": (None, "cannot be read (No such file or directory)"),
        "broken.toml": (b"a = ", "is not valid TOML"),
        "latin.toml": (b"a = '\xe9'", "is not valid TOML"),
        "empty.toml": (b"", "model: this field is required"),
        "model.toml": (b"[model]\npattern = 'M'", "data: this field is required"),
        "list.toml": (b"model = [1]", "model"),
    }
    for name, (text, message) in cases.items():
        path = tmp_path / name
        if text is not None:
            path.write_bytes(text)
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            Recipe.load(path)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(tmp_path)


def test_load_spec_reads_a_pattern_a_model_alone_and_a_whole_recipe(tmp_path):
    assert load_spec("(M-)2") == Spec.parse("(M-)2")
    assert load_spec("M", d_model=64, vocab_size=100) == Spec.parse("M", d_model=64, vocab_size=100)
    assert load_spec(TINY) == Recipe.load(TINY).spec
    path = tmp_path / "model.toml"
    path.write_text(
        "name = 'x'\n[model]\npattern = 'M*'\nd_model = 64\n[model.mixers.M]\nd_state=8"
    )
    spec = load_spec(path, ["model.mixers.M.n_groups=2"], d_model=128)
    assert (spec.d_model, spec.mixers[1].mixer.n_groups) == (128, 2)  # type: ignore[union-attr]
    assert spec.mixers[1].mixer.d_state == 8  # type: ignore[union-attr]


def test_load_spec_reads_the_config_of_a_run(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(Recipe.load(TINY).to_dict()))
    assert load_spec(path) == Recipe.load(TINY).spec
    spec = load_spec(path, ["model.mixers.M.mixer.d_state=8"])
    assert {x.letter: x.mixer for x in spec.mixers}["M"].d_state == 8  # type: ignore[union-attr]
    with pytest.raises(InputError, match="'d_state' belongs inside 'mixer'"):
        load_spec(path, ["model.mixers.M.d_state=8"])
    path.write_text("[1]")
    with pytest.raises(InputError, match="must be a table with a 'model'"):
        load_spec(path)


def test_a_run_is_found_by_its_bare_name_unless_that_is_a_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("run-a", "M"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(Recipe.load(TINY).to_dict()))
    spec = Recipe.load(TINY).spec
    assert load_spec("run-a") == load_spec("./M") == spec
    assert load_spec("M").pattern == "M" != spec.pattern


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("Q", [], "letter 'Q' names no mixer"),
        ("no.toml", [], "no.toml: cannot be read"),
        ("M", ["mixers.M.d_state=3"], "unknown field 'mixers' (did you mean 'model.mixers'?)"),
        ("M", ["model.mixers.M.d_sate=3"], "(did you mean 'd_state'?)"),
        ("M", ["train.steps=3"], "data: this field is required"),
        ("M", ["modle.d_model=3"], "unknown field 'modle' (did you mean 'model'?)"),
        (TINY, ["train.step=3"], "tiny.toml: train: unknown field 'step'"),
    ],
)
def test_load_spec_refuses(source, overrides, message):
    with pytest.raises(InputError, match=re.escape(message)):
        load_spec(source, overrides)
