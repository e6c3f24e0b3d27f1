"""Budgets are computed from the declarations, and matched means within one percent."""

from pathlib import Path

import pytest

from braidlm.arch import Recipe
from braidlm.errors import InputError
from braidlm.study.budget import check_matched, matched, quantities
from tests.study.making import RECIPE


def test_quantities_of_a_tiny_model_by_hand(tmp_path: Path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    overrides = ["model.mixers.*.head_dim=4", "model.mixers.*.n_heads=2", "model.mixers.-.d_ff=12"]
    found = quantities(Recipe.load(tmp_path / "recipe.toml", overrides), context=100)
    assert found["training tokens"] == 6 * 2 * 16
    assert found["cache bytes"] == 2 * 100 * 2 * 4 * 2  # K and V of 100 tokens, 2 heads, bf16
    attention, mlp, norms, embedding = 4 * 8 * 8, 3 * 8 * 12, 3 * 8, 32 * 8
    assert found["parameters"] in (
        attention + mlp + norms + embedding,
        attention + mlp + norms + 2 * embedding,
    )
    twice = quantities(Recipe.load(tmp_path / "recipe.toml", [*overrides, "train.steps=12"]), 100)
    assert twice["training FLOPs"] == 2 * found["training FLOPs"]
    assert twice["parameters"] == found["parameters"]


@pytest.mark.parametrize(("other", "is_matched"), [(990, True), (989, False), (1000, True)])
def test_matched_means_within_one_percent_of_the_largest(other: int, is_matched: bool):
    arms = {"a": {"parameters": 1000}, "b": {"parameters": other}}
    assert matched(arms) == (["parameters"] if is_matched else [])


def test_the_extremes_are_named_with_both_figures():
    arms = {"a": {"parameters": 1500}, "b": {"parameters": 1000}, "c": {"parameters": 2000}}
    with pytest.raises(InputError, match="'b' has 1,000 and 'c' has 2,000"):
        check_matched(arms, ["parameters"])
    check_matched(arms, [])
