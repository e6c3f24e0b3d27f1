"""Configurations as released, with all that older and newer files say beside what decides.

The configurations that transformers writes today are tidier: a family whose tests read only those
refuses the very models that it is there for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from braidlm import interop
from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.arch.recipe import load_spec
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec, of_config
from braidlm.model import HybridLM

HERE = Path(__file__).parent
PUBLISHED = HERE.parents[1] / "recipes" / "published"
RELEASED: dict[str, dict[str, Any]] = json.loads((HERE / "released.json").read_text())
N_PARAMS = {
    "bamba-9b": 9_780_235_392,
    "falcon-h1-0.5b": 521_411_104,
    "falcon-mamba-7b": 7_272_665_088,
    "granite-4.0-h-1b": 1_461_538_368,
    "granite-4.0-h-tiny": 6_939_037_248,
    "jamba-v0.1": 51_570_323_328,
    "kimi-linear-48b-a3b": 49_122_675_072,
    "llama-3.2-1b": 1_235_814_400,
    "mamba-130m-hf": 129_135_360,
    "mamba-codestral-7b": 7_285_403_648,
    "nemotron-3-nano-30b-a3b": 31_577_937_344,
    "nemotron-h-8b": 8_100_852_736,
    "qwen3-0.6b": 596_049_920,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "smollm2-135m-instruct": 134_515_008,
}
"""Of the released models; `test_transformers_builds_as_many` counts them again."""


def spec_of(name: str, **changes: Any) -> Spec:
    config = RELEASED[name] | changes
    return of_config(config, "config.json").spec(config)


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_configuration_is_read(name):
    assert cost(spec_of(name), 1).n_params == N_PARAMS[name]


@pytest.mark.parametrize("name", [n for n in RELEASED if (PUBLISHED / f"{n}.toml").exists()])
def test_it_has_the_sublayers_of_the_recipe(name):
    """Written from the papers and cards, apart from any configuration."""
    found, recipe = spec_of(name), load_spec(PUBLISHED / f"{name}.toml")
    kinds = [[type(b) for b in s.branches] for s in found.sublayers]
    assert kinds == [[type(b) for b in s.branches] for s in recipe.sublayers]
    widths = (found.d_model, found.vocab_size, found.tie_embeddings)
    assert widths == (recipe.d_model, recipe.vocab_size, recipe.tie_embeddings)


@pytest.mark.parametrize("name", RELEASED)
def test_it_goes_out_as_its_family(name):
    spec = spec_of(name)
    family, config = for_spec(spec, RELEASED[name]["model_type"])
    assert family.spec(config) == spec


def test_an_inner_width_decides_over_an_expansion():
    """FalconMamba 7B says 16 times 4096, and 8192; its class takes the latter."""
    told = RELEASED["falcon-mamba-7b"]
    assert (told["expand"], told["hidden_size"], told["intermediate_size"]) == (16, 4096, 8192)
    scan = {x.letter: x.mixer for x in spec_of("falcon-mamba-7b").mixers}["S"]
    assert scan.model_dump()["d_inner"] == 8192


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mamba-codestral-7b", {"rms_norm": False}),
        ("falcon-h1-0.5b", {"mamba_use_mlp": False}),
        ("granite-4.0-h-1b", {"normalization_function": "layernorm"}),
        ("granite-4.0-h-1b", {"position_embedding_type": "alibi"}),
        ("jamba-v0.1", {"mamba_inner_layernorms": False}),
        ("falcon-mamba-7b", {"intermediate_size": "8192"}),
    ],
)
def test_what_older_files_say_is_not_passed_over_unread(name, changes):
    (field,) = changes
    with pytest.raises(InputError, match=rf"config field {field} = .*no field of ours"):
        spec_of(name, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
def test_transformers_builds_as_many(name):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(**RELEASED[name])
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == N_PARAMS[name]


@torch.no_grad()
def test_an_embedding_under_its_older_name_is_read(tmp_path):
    """As transformers 5.12 wrote Nemotron-H; 5.23 goes on with a random one."""
    small = {
        "num_hidden_layers": 2,
        "hybrid_override_pattern": "M*",
        "hidden_size": 16,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "vocab_size": 31,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    model = HybridLM(spec_of("nemotron-h-8b", **small))
    interop.save(model, tmp_path / "a", family="nemotron_h")
    file = tmp_path / "a" / "model.safetensors"
    named = {k.replace(".embeddings.", ".embedding."): t for k, t in load_file(file).items()}
    assert "backbone.embedding.weight" in named
    save_file(named, file)
    again = interop.load(tmp_path / "a").model
    assert torch.equal(again.embedding.weight, model.embedding.weight)
