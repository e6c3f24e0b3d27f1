"""Every recipe that is shipped can be read, and its model can be built."""

from pathlib import Path

import pytest
import torch

from braidlm.arch.cost import cost
from braidlm.arch.recipe import Recipe, load_spec, read_toml
from braidlm.model import HybridLM

RECIPES = Path(__file__).parents[2] / "recipes"


FILES = [p for p in sorted(RECIPES.rglob("*.toml")) if not p.stem.endswith((".study", ".convert"))]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_it_parses_and_builds_on_the_meta_device(path):
    data = read_toml(path)
    assert data["name"] == path.stem
    spec = load_spec(path)
    if set(data) - {"name", "seed", "model"}:
        assert Recipe.load(path).spec == spec
    with torch.device("meta"):
        model = HybridLM(spec)
    assert sum(p.numel() for p in model.parameters()) == cost(spec, 1).n_params
