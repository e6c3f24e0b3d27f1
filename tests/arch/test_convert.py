"""The declaration of a conversion: what is refused, and how a stage's recipe is made."""

from pathlib import Path
from typing import Any

import pytest

from braidlm.arch.convert import Conversion
from braidlm.arch.recipe import read_toml
from braidlm.errors import InputError
from tests.convert.tiny import spec

STAGE = {"kind": "mixers", "steps": 5, "lr": 1e-3}
DATA = {"sources": [{"kind": "text", "path": "python-docs"}]}
RECIPES = Path(__file__).parents[2] / "recipes"


def conversion(**fields: Any) -> Conversion:
    convert = {"pattern": "M-M-", "stages": [STAGE]} | fields
    convert = {k: v for k, v in convert.items() if v is not None}
    return Conversion.from_dict({"convert": convert, "data": DATA, "seed": 4})


def test_a_stage_has_its_own_length_rate_and_text():
    found = conversion(stages=[STAGE | {"seq_len": 64, "batch_size": 2, "warmup_steps": 1}])
    recipe = found.recipe(spec(), 1)
    assert (recipe.train.steps, recipe.train.lr, recipe.train.warmup_steps) == (5, 1e-3, 1)
    assert (recipe.data.seq_len, recipe.train.batch_size) == (64, 2)
    assert (recipe.seed, recipe.name) == (5, "converted mixers")
    assert (found.recipe(spec()).seed, found.recipe(spec()).data.seq_len) == (4, 256)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pattern": None}, "one of pattern, keep and keep_layers must be given, not none"),
        ({"keep": 1}, "must be given, not pattern and keep"),
        ({"stages": [STAGE, STAGE]}, "the name 'mixers' is used twice"),
        ({"stages": [STAGE | {"name": "copy"}]}, "the name 'copy' is used twice"),
        ({"stages": [STAGE | {"trained": "all"}]}, "trained = 'all': a stage of kind 'mixers'"),
        ({"stages": [STAGE | {"kind": "mse"}]}, "convert.stages.0.kind = 'mse'"),
        ({"stages": [STAGE | {"step": 3}]}, "unknown field 'step' (did you mean 'steps'?)"),
        ({"share": 1.0}, "convert.share = 1.0"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(fields, says):
    with pytest.raises(InputError) as told:
        conversion(**fields)
    assert says in str(told.value)


def test_a_stage_that_does_not_fit_the_training_is_named():
    found = conversion(stages=[STAGE | {"batch_size": 3, "micro_batch_size": 2}])
    with pytest.raises(InputError, match=r"stages\.0: .*micro_batch_size = 2: must divide"):
        found.recipe(spec(), 1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.convert.toml")), ids=lambda p: p.stem)
def test_shipped_conversions_are_declarations(path):
    found = Conversion.from_dict({"data": DATA} | read_toml(path), str(path))
    for stage in range(len(found.convert.stages) + 1):
        if not found.convert.choose.tasks:
            found.recipe(spec(), stage)
