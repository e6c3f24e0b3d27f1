"""Whole models with a delta rule at and beyond chunks of 64, in parts, padded, and as stored.

`test_transformers` compares them at shorter lengths, as every other family.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from braidlm import interop
from braidlm.errors import InputError
from braidlm.segments import Segments
from tests.judges.judging import Widened, distance
from tests.judges.transformers_pairs import (
    CASES,
    DELTA,
    EXACT,
    differences,
    judged,
    model_of,
    our_logits,
    pair,
    tokens,
)

transformers = pytest.importorskip("transformers", minversion="5.15.1")
WHOLE = [case for case in CASES if case.startswith(DELTA)]
EACH = [
    pytest.param(case, marks=() if case in ("olmo_hybrid", "kimi_linear") else pytest.mark.slow)
    for case in WHOLE
]
LONG = [*(pytest.param(n, marks=pytest.mark.slow) for n in (64, 65)), 150]


@pytest.mark.parametrize("length", LONG)
@pytest.mark.parametrize("case", EACH)
def test_logits_and_gradients_agree_over_chunks(case, length):
    """Measured: 4e-13 and 2e-13."""
    with Widened():
        assert max(differences(pair(case), tokens(2, length))) < EXACT


def continued(theirs: Any, parts: tuple[Tensor, ...], mask: Tensor | None = None) -> Tensor:
    """Their logits of consecutive calls, each with the cache of the one before."""
    cache, logits, end = None, [], 0
    with Widened():
        for part in parts:
            end += part.shape[1]
            seen = None if mask is None else mask[:, :end]
            out = theirs(input_ids=part, past_key_values=cache, use_cache=True, attention_mask=seen)
            cache = out.past_key_values
            logits.append(out.logits)
    return torch.cat(logits, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("case", EACH)
def test_both_continue_by_one_token_and_by_several_as_in_one_call(case):
    """Beyond a chunk: theirs agrees with its own full forward here, unlike Mamba-1's."""
    p, ids = pair(case), tokens(2, 150)
    parts = ids.split([70, 1, 1, 66, 1, 11], dim=1)
    with Widened():
        expected = judged(p.theirs, ids)
    hidden, state = [], None
    for part in parts:
        out = p.ours(part, state=state)
        hidden.append(out.hidden)
        state = out.state
    assert distance(p.ours.head(torch.cat(hidden, dim=1)), expected) < EXACT
    assert distance(continued(p.theirs, parts), expected) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("case", EACH)
def test_a_left_padded_batch_is_theirs_of_the_same_batch(case):
    p, lengths = pair(case), torch.tensor([1, 5, 17, 80])
    ids = tokens(4, 80)
    mask = torch.arange(80) >= 80 - lengths[:, None]
    logits = our_logits(p.ours, ids, Segments.from_mask(mask))
    with Widened():
        settings = {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
        theirs = p.theirs(input_ids=ids, attention_mask=mask.long(), use_cache=False, **settings)
    assert distance(logits[mask], theirs.logits[mask]) < EXACT


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def written(tmp_path: Path, case: str) -> tuple[Any, Path]:
    """A model, and a folder of it in the names that we write."""
    theirs = model_of(case)
    theirs.save_pretrained(tmp_path / "theirs")
    interop.save(interop.load(tmp_path / "theirs").model, tmp_path / "ours")
    return theirs, tmp_path / "ours"


def spelled(folder: Path, out: Path, *changes: tuple[str, str]) -> Path:
    """A copy whose tensors have other names."""
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = stored(folder)
    for pattern, name in changes:
        assert any(re.search(pattern, k) for k in tensors)
        tensors = {re.sub(pattern, name, k): t for k, t in tensors.items()}
    save_file(tensors, out / "model.safetensors")
    return out


@torch.no_grad()
def test_every_spelling_of_olmos_norms_is_the_same_model(tmp_path):
    """Its trainer's files respell both norms of layers with the delta rule; transformers as it
    saves also the one after attention. All three load on both sides to the same weights."""
    theirs, folder = written(tmp_path, "olmo_hybrid")
    here = r"model\.layers\.[02]\."
    trainers = spelled(
        folder,
        tmp_path / "trainer",
        (rf"({here})input_layernorm", r"\1attention_layer_norm"),
        (rf"({here})post_attention_layernorm", r"\1feedforward_layer_norm"),
    )
    names = set(stored(tmp_path / "theirs"))
    assert "model.layers.1.feedforward_layer_norm.weight" in names
    assert "model.layers.1.post_attention_layernorm.weight" in stored(trainers)
    expected = interop.load(folder).model.state_dict()
    for place in (tmp_path / "theirs", trainers, folder):
        mine = interop.load(place).model.state_dict()
        assert all(torch.equal(mine[k], t) for k, t in expected.items())
        yours = transformers.AutoModelForCausalLM.from_pretrained(place).state_dict()
        assert all(torch.equal(yours[k], t) for k, t in theirs.state_dict().items())
    both = stored(trainers) | {"model.layers.0.input_layernorm.weight": torch.ones(24)}
    save_file(both, trainers / "model.safetensors")
    with pytest.raises(InputError, match=r"'model.layers.0.attention_layer_norm.weight' and"):
        interop.load(trainers)


def test_a_convolution_in_thirds_is_read_and_written_by_what_it_belongs_to(tmp_path):
    """transformers holds one convolution and parts its 10 + 10 + 12 channels into 11, 11 and 10 as
    it saves: the file calls channels of keys queries. Only the whole is right, and we read that; we
    write each with its own, which is what names mean and what a trainer's files hold."""
    _, folder = written(tmp_path, "olmo_hybrid")
    names = [f"model.layers.0.linear_attn.{x}_conv1d.weight" for x in "qkv"]
    theirs, ours = (stored(place) for place in (tmp_path / "theirs", folder))
    assert [len(theirs[name]) for name in names] == [11, 11, 10]
    assert [len(ours[name]) for name in names] == [10, 10, 12]
    for sizes in ([10, 12, 10], [11, 10, 11], [12, 10, 10], [10, 10, 11]):
        other = {n: torch.zeros(size, 1, 3) for n, size in zip(names, sizes, strict=True)}
        save_file(ours | other, folder / "model.safetensors")
        with pytest.raises(InputError, match=r"_conv1d.weight' has shape \(\d+, 1, 3\), expected"):
            interop.load(folder)


@pytest.mark.parametrize("given", ["nowhere", "null", "a null base", "a null base in the table"])
def test_what_leaves_out_rotation_does_so_on_both_sides(tmp_path, given):
    """A table that is null or absent rotates with the usual base; a base that is null does not."""
    _, folder = written(tmp_path, "olmo_hybrid, no positions, positive eigenvalues")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config |= {
        "nowhere": {},
        "null": {"rope_parameters": None},
        "a null base": {"rope_parameters": None, "rope_theta": None},
        "a null base in the table": {"rope_parameters": {"rope_theta": None}},
    }[given]
    (folder / "config.json").write_text(json.dumps(config))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    spec = interop.load(folder).model.spec
    (position,) = (x.mixer.model_dump()["position"] for x in spec.mixers if x.letter == "*")
    assert (position == "rope") == (theirs.model.rotary_emb is not None)
    assert (position == "rope") == (given in ("nowhere", "null"))


PUBLISHED = {
    "linear_attn_config": {
        "full_attn_layers": [2, 4],
        "kda_layers": [1, 3],
        "head_dim": 10,
        "num_heads": 2,
        "short_conv_kernel_size": 3,
    },
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "head_dim": 7,  # the width of the model by its heads: nobody reads it
    "mla_use_nope": True,
    "moe_router_activation_func": "sigmoid",
    "num_nextn_predict_layers": 0,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "topk_method": "noaux_tc",
    "use_grouped_topk": True,
}
"""What the released configuration says instead of lists of layers and sizes beside the others."""


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.rope_scaling. is deprecated:FutureWarning")
def test_kimi_as_it_was_published_is_the_same_model_on_both_sides(tmp_path):
    """The released form of the configuration and of names: an MLP is no mixture without experts,
    as transformers calls it when it saves."""
    case = "kimi_linear, latent queries, weights as scored"
    theirs, folder = written(tmp_path, case)
    names = {k.split(".", 3)[3].rpartition(".")[0] for k in stored(folder) if ".layers.0." in k}
    assert {"mlp.gate_proj", "self_attn.f_a_proj", "self_attn.q_conv1d"} <= names
    assert "model.layers.0.block_sparse_moe.gate_proj.weight" in stored(tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    for field in ("layer_types", "mlp_layer_types", *(k for k in config if k[:7] == "linear_")):
        del config[field]
    (folder / "config.json").write_text(json.dumps(config | PUBLISHED))
    settings = {"experts_implementation": "eager"}  # others know no fp64
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, **settings).double()
    assert all(
        torch.equal(again.state_dict()[k], t) for k, t in theirs.double().state_dict().items()
    )
    loaded = interop.load(folder, dtype=torch.float64)
    ids = tokens(2, 29)
    with Widened():
        assert distance(our_logits(loaded.model.double(), ids), judged(again, ids)) < EXACT
    again.save_pretrained(tmp_path / "resaved")  # both forms in one file
    assert interop.load(tmp_path / "resaved").model.spec == loaded.model.spec


def test_kimis_class_has_a_head_of_its_own_even_if_it_is_said_to_be_tied():
    """Its table of tied weights is empty: a model that we hold as tied would get a random head."""
    family, fields = CASES["kimi_linear"]
    config = getattr(transformers, f"{family}Config")(**{**fields, "tie_word_embeddings": True})
    theirs = getattr(transformers, f"{family}ForCausalLM")(config)
    assert not torch.equal(theirs.lm_head.weight, theirs.model.embed_tokens.weight)


def _swap_rows(p: Any, name: str, first: slice, second: slice) -> None:
    weight = p.ours.get_parameter(name).detach()
    kept = weight[first].clone()
    weight[first] = weight[second]
    weight[second] = kept


def _swap_decay_and_strength(p: Any) -> None:
    _swap_rows(p, "blocks.0.mix.mixer.in_proj.weight", slice(44, 48), slice(48, 52))


def _norm_as_the_model_does(p: Any) -> None:
    p.ours.get_submodule("blocks.0.mix.mixer").norm_eps = 1e-3


def _norm_before(p: Any) -> None:
    p.ours.get_submodule("blocks.3").is_post_normed = False


def _swap_ranks(p: Any) -> None:
    _swap_rows(p, "blocks.0.mix.mixer.in_proj.weight", slice(60, 70), slice(70, 80))


def _keys_and_values_by_head(p: Any) -> None:
    _swap_rows(p, "blocks.2.mix.mixer.kv_up.weight", slice(5, 10), slice(10, 15))


def _norm_latents_as_the_model_does(p: Any) -> None:
    p.ours.get_submodule("blocks.2.mix.mixer.kv_norm").eps = 1e-3


def _forget_the_bias_of_the_choice(p: Any) -> None:
    p.ours.get_submodule("blocks.3.mix.mixer.router").bias.zero_()


@pytest.mark.parametrize(
    ("case", "spoil"),
    [
        ("olmo_hybrid", _swap_decay_and_strength),
        ("olmo_hybrid", _norm_as_the_model_does),
        ("olmo_hybrid", _norm_before),
        ("kimi_linear", _swap_ranks),
        ("kimi_linear", _keys_and_values_by_head),
        ("kimi_linear", _norm_latents_as_the_model_does),
        ("kimi_linear", _forget_the_bias_of_the_choice),
    ],
)
def test_the_comparison_has_teeth(case, spoil):
    p = pair(case)
    with torch.no_grad():
        spoil(p)
    with Widened():
        assert distance(our_logits(p.ours, tokens(2, 29)), judged(p.theirs, tokens(2, 29))) > 1e-6
