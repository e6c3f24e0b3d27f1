"""Attention's options against five families of transformers: output and every gradient of a layer.

Each model runs as a whole, so that its masks and its angles are its own; one attention layer of it
is then called again, with what it was given, beside ours with the same weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from braidlm import mixers
from braidlm.arch.mixers import AttentionConfig
from braidlm.mixers import Attention
from tests.judges.judging import Widened, distance, enliven, probe

transformers = pytest.importorskip("transformers", minversion="5.15.1")

EXACT = 1e-12
"""Largest difference allowed when both compute in fp64; measured 2e-15."""
WIDTH, LENGTH = 20, 29
ROPE = {"rope_type": "default", "rope_theta": 500.0}
COMMON = {
    "vocab_size": 37,
    "hidden_size": WIDTH,
    "intermediate_size": 27,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "rms_norm_eps": 1e-3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": ROPE,
    "attn_implementation": "eager",
}
EXPERTS = {
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 8,
    "experts_implementation": "eager",  # another one knows no fp64
}
GEMMA = {"attn_logit_softcapping": 0.9, "query_pre_attn_scalar": 3, "sliding_window": 5}
NEXT = {
    **EXPERTS,
    "num_experts": 2,
    "shared_expert_intermediate_size": 8,
    "layer_types": ["full_attention"] * 2,
    "rope_parameters": {**ROPE, "partial_rotary_factor": 0.67},
}


class Case(NamedTuple):
    family: str
    fields: dict[str, Any]
    layer: int
    ours: dict[str, Any]


CASES = {
    "mistral, window": Case("Mistral", {"sliding_window": 5}, 1, {"window": 5}),
    "qwen3, norms": Case("Qwen3", {}, 1, {"qk_norm": "head"}),
    "gemma2, cap": Case("Gemma2", GEMMA, 1, {"softcap": 0.9, "softmax_scale": 3**-0.5}),
    "gemma2, cap and window": Case(
        "Gemma2", GEMMA, 0, {"softcap": 0.9, "softmax_scale": 3**-0.5, "window": 5}
    ),
    "gpt-oss, sink logit": Case(
        "GptOss",
        {"attention_bias": False, "num_local_experts": 2, **EXPERTS},
        1,
        {"sink_logit": True},
    ),
    "gpt-oss, sink logit and window": Case(
        "GptOss",
        {"attention_bias": False, "num_local_experts": 2, "sliding_window": 5, **EXPERTS},
        0,
        {"sink_logit": True, "window": 5},
    ),
    "qwen3-next, gate and norms": Case(
        "Qwen3Next", NEXT, 0, {"output_gate": "channel", "qk_norm": "head", "rope_fraction": 0.67}
    ),
}


class Pair(NamedTuple):
    ours: Attention
    theirs: Any
    given: dict[str, Any]
    """What the judge's layer was called with; `hidden_states` is (1, T, WIDTH)."""


def pair(case: Case) -> Pair:
    """One layer of the judge, ours with the same weights, and what the judge's model gave it."""
    config = getattr(transformers, f"{case.family}Config")(**{**COMMON, **case.fields})
    model = getattr(transformers, f"{case.family}Model")(config).eval().double()
    enliven(model)
    theirs = model.layers[case.layer].self_attn
    ours = _ours(case)
    _load(ours, theirs, is_offset=case.family == "Qwen3Next")
    torch.testing.assert_close(ours.inv_freq, model.rotary_emb.inv_freq, rtol=3e-7, atol=0)
    model.rotary_emb.inv_freq = ours.inv_freq  # equal but for the last bit of fp32
    heard: list[dict[str, Any]] = []

    def listen(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        heard.append({**kwargs, **({"hidden_states": args[0]} if args else {})})

    handle = theirs.register_forward_pre_hook(listen, with_kwargs=True)
    ids = torch.randint(0, 37, (1, LENGTH), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model(input_ids=ids, use_cache=False)
    handle.remove()
    return Pair(ours, theirs, heard[0])


def _ours(case: Case) -> Attention:
    shape = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "v_head_dim": 6, "rope_theta": 500.0}
    mixer = mixers.build(AttentionConfig(**shape, **case.ours), WIDTH, 1e-3)
    assert isinstance(mixer, Attention)
    return mixer.double()


@torch.no_grad()
def _load(ours: Attention, theirs: Any, is_offset: bool) -> None:
    """Copy their weights; Qwen3-Next stores norms as w - 1, and queries and gates head by head."""
    q, gate = theirs.q_proj.weight, None
    if q.shape[0] == 48:
        q, gate = (x.reshape(24, WIDTH) for x in q.view(4, 2, 6, WIDTH).unbind(1))
    parts = [q, theirs.k_proj.weight, theirs.v_proj.weight, *([] if gate is None else [gate])]
    ours.in_proj.weight.copy_(torch.cat(parts))
    for mine, yours in ((ours.q_norm, "q_norm"), (ours.k_norm, "k_norm")):
        if mine is not None:
            mine.weight.copy_(getattr(theirs, yours).weight + (1.0 if is_offset else 0.0))
    if ours.sink_logits is not None:
        ours.sink_logits.copy_(theirs.sinks)


def compared(p: Pair) -> tuple[float, float]:
    """Largest difference of the output, and of the gradient of input and weights, relative."""
    x = p.given["hidden_states"].clone().requires_grad_()
    yours = p.theirs(**{**p.given, "hidden_states": x})[0]
    mine = nn.functional.linear(p.ours(x, None, None, False)[0], p.theirs.o_proj.weight)
    direction = probe(tuple(yours.shape))
    grads_of_mine = _gradients((mine * direction).sum(), x, p.ours)
    grads_of_yours = _gradients((yours * direction).sum(), x, p.theirs)
    pairs = [
        ("x", "x"),
        ("in_proj.weight", "in"),
        *((n, n) for n in ("q_norm.weight", "k_norm.weight") if n in grads_of_mine),
        *((n, "sinks") for n in ("sink_logits",) if n in grads_of_mine),
    ]
    assert len(pairs) == len(grads_of_mine)
    worst = max(
        distance(grads_of_mine[a], grads_of_yours[b]) / float(grads_of_yours[b].abs().max())
        for a, b in pairs
    )
    return distance(mine, yours), worst


def _gradients(value: Tensor, x: Tensor, module: nn.Module) -> dict[str, Tensor]:
    named = {n: p for n, p in module.named_parameters() if not n.startswith("o_proj")}
    found = torch.autograd.grad(value, [x, *named.values()], retain_graph=True)
    grads = dict(zip(["x", *named], found, strict=True))
    if "q_proj.weight" in grads:
        q = grads["q_proj.weight"]
        heads = q.view(4, -1, 6, WIDTH).unbind(1)
        first = [heads[0].reshape(24, WIDTH), grads["k_proj.weight"], grads["v_proj.weight"]]
        grads["in"] = torch.cat([*first, *(h.reshape(24, WIDTH) for h in heads[1:])])
    return grads


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_theirs(name):
    with Widened():
        output, grads = compared(pair(CASES[name]))
    assert output < EXACT
    assert grads < EXACT


@pytest.mark.parametrize("name", CASES)
def test_the_comparison_has_teeth(name):
    """Without its option, or with a window one token wider, a layer is not theirs."""
    case = CASES[name]
    without = {"rope_fraction": case.ours["rope_fraction"]} if "rope_fraction" in case.ours else {}
    if "window" in case.ours:
        without = {**case.ours, "window": 6}
    elif "output_gate" in case.ours:
        without = {**case.ours, "qk_norm": "none"}
    with Widened():
        p = pair(case)
        wrong = _ours(case._replace(ours=without))
        _load(wrong, p.theirs, is_offset=case.family == "Qwen3Next")
        x = p.given["hidden_states"]
        yours = p.theirs(**p.given)[0]
        mine = nn.functional.linear(wrong(x, None, None, False)[0], p.theirs.o_proj.weight)
    assert distance(mine, yours) > 1e-3
