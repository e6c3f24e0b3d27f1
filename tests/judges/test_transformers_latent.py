"""Latent attention against DeepSeek-V3 and Kimi Linear of transformers: output and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from braidlm.arch.mixers import MLAConfig
from braidlm.mixers.mla import MLA
from tests.judges.judging import Widened, distance, enliven, probe

transformers = pytest.importorskip("transformers", minversion="5.15.1")

EXACT = 1e-12
"""Largest difference allowed when both compute in fp64; measured 9e-16."""
WIDTH, LENGTH, EPS = 20, 29, 1e-6
SIZES: dict[str, Any] = {
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "kv_lora_rank": 7,
}
OWN, SHARED, VALUE = 5, 4, 6
N_HEADS = 3
COMMON = {
    "vocab_size": 37,
    "hidden_size": WIDTH,
    "intermediate_size": 27,
    "num_hidden_layers": 2,
    "num_attention_heads": N_HEADS,
    "num_key_value_heads": N_HEADS,
    "rms_norm_eps": EPS,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "attn_implementation": "eager",
    "experts_implementation": "eager",  # another one knows no fp64
    **SIZES,
}
DEEPSEEK = {
    **COMMON,
    "n_routed_experts": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
YARN = {
    "kind": "yarn",
    "factor": 4.0,
    "original_length": 12,
    "beta_fast": 1.0,
    "beta_slow": 0.01,
    "mscale": 0.5,
    "mscale_all_dim": 0.8,
}
GROWN = {"rope_scaling": YARN, "softmax_scale": 9**-0.5 * (0.1 * 0.8 * math.log(4) + 1) ** 2}
"""Ours for what they do under YaRN: they scale scores too, by the square of the divisor."""
THEIR_YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "original_max_position_embeddings": YARN["original_length"],
    **{k: v for k, v in YARN.items() if k not in ("kind", "original_length")},
}
CASES = {
    "deepseek-v3": ("DeepseekV3", {**DEEPSEEK, "rope_interleave": False}),
    "deepseek-v3, neighbouring pairs": ("DeepseekV3", {**DEEPSEEK, "rope_interleave": True}),
    "deepseek-v3, yarn": (
        "DeepseekV3",
        {**DEEPSEEK, "rope_interleave": False, "rope_parameters": THEIR_YARN},
    ),
    "deepseek-v3, queries from x": ("DeepseekV3", {**DEEPSEEK, "q_lora_rank": None}),
    "kimi linear": (
        "KimiLinear",
        {**COMMON, "q_lora_rank": None, "num_experts": 8, "layer_types": ["full_attention"] * 2},
    ),
}


def their_layer(family: str, fields: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A layer's attention, and what the whole model called it with."""
    config = getattr(transformers, f"{family}Config")(**fields)
    model = getattr(transformers, f"{family}Model")(config).eval().double()
    enliven(model)
    theirs = model.layers[1].self_attn
    if family == "DeepseekV3":
        ours = our_layer(family, fields).inv_freq
        torch.testing.assert_close(ours, model.rotary_emb.inv_freq, rtol=3e-7, atol=0)
        model.rotary_emb.inv_freq = ours  # equal but for the last bit of fp32
    heard: list[dict[str, Any]] = []

    def listen(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        heard.append({**kwargs, **({"hidden_states": args[0]} if args else {})})

    handle = theirs.register_forward_pre_hook(listen, with_kwargs=True)
    ids = torch.randint(0, 37, (1, LENGTH), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    return theirs, heard[0]


def our_layer(family: str, fields: dict[str, Any]) -> MLA:
    is_stretched = fields.get("rope_parameters") == THEIR_YARN
    return MLA(
        MLAConfig(
            n_heads=N_HEADS,
            q_lora_rank=fields["q_lora_rank"],
            rope_theta=500.0,
            position="none" if family == "KimiLinear" else "rope",
            **(GROWN if is_stretched else {}),
            **SIZES,
        ),
        WIDTH,
        EPS,
    ).double()


def rows_of(name: str, weight: Tensor, interleaved: bool) -> Tensor:
    """Their rows in our order: rotated channels by halves; all heads' keys, then their values."""
    order = torch.arange(SHARED)
    if interleaved:
        order = torch.cat((order[0::2], order[1::2]))
    if name in ("q_proj", "q_b_proj"):
        heads = weight.unflatten(0, (N_HEADS, OWN + SHARED))
        return torch.cat((heads[:, :OWN], heads[:, OWN:][:, order]), dim=1).flatten(0, 1)
    if name == "kv_b_proj":
        heads = weight.unflatten(0, (N_HEADS, OWN + VALUE))
        return torch.cat((heads[:, :OWN].flatten(0, 1), heads[:, OWN:].flatten(0, 1)))
    if name == "kv_a_proj_with_mqa":
        return torch.cat((weight[:-SHARED], weight[-SHARED:][order]))
    return weight


def by_our_names(theirs: dict[str, Tensor], interleaved: bool) -> dict[str, Tensor]:
    rows = {n: rows_of(n, w, interleaved) for n, w in theirs.items()}
    first = rows["q_a_proj"] if "q_a_proj" in rows else rows["q_proj"]
    found = {
        "in_proj.weight": torch.cat((first, rows["kv_a_proj_with_mqa"])),
        "kv_norm.weight": rows["kv_a_layernorm"],
        "kv_up.weight": rows["kv_b_proj"],
    }
    if "q_a_proj" in rows:
        found |= {"q_norm.weight": rows["q_a_layernorm"], "q_up.weight": rows["q_b_proj"]}
    return found


def weights_of(layer: nn.Module) -> dict[str, Tensor]:
    named = layer.named_parameters()
    return {n.removesuffix(".weight"): p for n, p in named if not n.startswith("o_proj")}


def compared(name: str) -> tuple[float, float]:
    family, fields = CASES[name]
    theirs, given = their_layer(family, fields)
    interleaved = family == "DeepseekV3" and fields.get("rope_interleave", True)
    ours = our_layer(family, fields)
    ours.load_state_dict(by_our_names(weights_of(theirs), interleaved))
    x = given["hidden_states"].clone().requires_grad_()
    yours = theirs(**{**given, "hidden_states": x})[0]
    out: Any = theirs.o_proj
    mine = nn.functional.linear(ours(x, None, None, False)[0], out.weight)
    direction = probe(tuple(yours.shape))
    their_weights = weights_of(theirs)
    got = torch.autograd.grad((yours * direction).sum(), [x, *their_weights.values()])
    expected = by_our_names(dict(zip(their_weights, got[1:], strict=True)), interleaved)
    own_weights = dict(ours.named_parameters())
    own = torch.autograd.grad((mine * direction).sum(), [x, *own_weights.values()])
    pairs = [(own[0], got[0])]
    pairs += [(g, expected[n]) for n, g in zip(own_weights, own[1:], strict=True)]
    worst = max(distance(a, b) / float(b.abs().max()) for a, b in pairs)
    return distance(mine, yours), worst


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_theirs(name):
    with Widened():
        output, gradients = compared(name)
    assert output < EXACT
    assert gradients < EXACT


def test_the_comparison_has_teeth(monkeypatch):
    """Rotated where Kimi Linear does not, a layer is not theirs."""
    family, fields = CASES["kimi linear"]
    right = our_layer(family, fields)
    monkeypatch.setitem(globals(), "our_layer", lambda *_: our_other(right))
    with Widened():
        output, _ = compared("kimi linear")
    assert output > 1e-3


def our_other(right: MLA) -> MLA:
    config = MLAConfig(n_heads=N_HEADS, rope_theta=500.0, **SIZES)
    return MLA(config, WIDTH, EPS).double()
