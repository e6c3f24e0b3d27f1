"""What is written as TOML is read back as the same."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braidlm.arch import Recipe, Spec
from braidlm.arch.toml import document, inline, model_table
from tests.specs import ALL

ROOT = Path(__file__).parents[2]
PLAIN = st.none().map(lambda _: "") | st.booleans() | st.integers(-(2**63), 2**63 - 1)
PLAIN |= st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
@settings(max_examples=60)
def test_any_plain_data_on_one_line(data):
    assert tomllib.loads(f"x = {inline(data)}")["x"] == data


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_model_is_the_same_model(name: str):
    text = document({"model": model_table(ALL[name])})
    assert Spec.of(tomllib.loads(text)["model"]) == ALL[name]


@pytest.mark.parametrize("name", ["tiny", "demo"])
def test_a_recipe_is_the_same_recipe(name: str):
    recipe = Recipe.load(ROOT / "recipes" / f"{name}.toml")
    text = document({**recipe.to_dict(), "model": model_table(recipe.spec)})
    assert Recipe.from_dict(tomllib.loads(text)) == recipe
    assert text.endswith("\n")
    assert "\n\n[model]\npattern = " in text


def test_what_toml_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="None: TOML has no such value"):
        inline({"a": None})
