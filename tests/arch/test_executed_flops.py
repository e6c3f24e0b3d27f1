"""The predicted FLOPs of the products that run are those that torch's counter sees."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from braidlm.arch.cost import executed_matmul_flops, executed_training_flops
from braidlm.arch.spec import Spec
from braidlm.laws.flops import UNKNOWN_TO_TORCH
from braidlm.model import HybridLM

MIXERS = {
    "M": {"head_dim": 8, "n_groups": 2, "d_state": 6, "chunk_size": 8},
    "Z": {"kind": "mamba1", "d_state": 5, "dt_rank": 3, "chunk_size": 8},
    "G": {"n_heads": 2, "n_v_heads": 4, "head_dim": 6, "v_head_dim": 5, "chunk_size": 8},
    "K": {"kind": "kda", "n_heads": 2, "head_dim": 6, "n_v_heads": 4, "chunk_size": 20},
    "*": {"head_dim": 8, "n_kv_heads": 2},
    "A": {"kind": "attention", "head_dim": 8, "v_head_dim": 4},
    "W": {"head_dim": 8, "n_kv_heads": 2, "window": 5},
    "X": {"kind": "attention", "head_dim": 8, "v_head_dim": 4, "window": 70, "n_sinks": 3},
    "S": {"kind": "attention", "head_dim": 8, "n_kv_heads": 2, "sink_logit": True},
    "C": {"kind": "attention", "head_dim": 8, "v_head_dim": 4, "softcap": 2.0, "sink_logit": True},
    "N": {"kind": "attention", "head_dim": 8, "qk_norm": "head", "output_gate": "channel"},
    "+": {"n_heads": 3, "v_head_dim": 8, "qk_rope_head_dim": 6, "kv_lora_rank": 20},
    "-": {"d_ff": 24},
    "B": {"kind": "bmojo_f", "head_dim": 8, "n_kv_heads": 2, "window": 5}
    | {"ssm": {"kind": "mamba2", "head_dim": 8, "d_state": 6, "chunk_size": 8}},
}


ASIDE = {"shared": True, "output": "next_input", "lora_rank": 3}
BIASED = {"in_bias": True, "out_bias": True, "in_multiplier": 0.5, "out_multiplier": 2.0}


def tiny(pattern, **fields):
    mixers = {letter: m for letter, m in MIXERS.items() if letter in pattern}
    return Spec.of(
        {"pattern": pattern, "d_model": 32, "vocab_size": 40, "mixers": mixers, **fields}
    )


def matrix_products(counter):
    """All that was counted but for the short convolution, which is no matrix product."""
    counts = counter.get_flop_counts().get("Global", {})
    return sum(n for op, n in counts.items() if "convolution" not in str(op))


def counted(spec, batch, n_tokens, backward):
    model = HybridLM(spec)
    tokens = torch.randint(spec.vocab_size, (batch, n_tokens))
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        logits = model.head(model(tokens, return_state=False).hidden)
        if backward:
            logits.square().sum().backward()
    return matrix_products(counter)


SPECS = {
    "mamba2": tiny("M-"),
    "mamba1": tiny("Z-"),
    "mamba1, groups": tiny("Z", mixers={"Z": MIXERS["Z"] | {"n_groups": 4, "in_bias": True}}),
    "mamba1, norms": tiny("Z", mixers={"Z": MIXERS["Z"] | {"dt_bc_norm": "rms"}}),
    "gated deltanet": tiny("G-"),
    "kda": tiny("K-"),
    "delta hybrid": tiny("{G*}K"),
    "attention": tiny("*-"),
    "values narrower than keys": tiny("A"),
    "window": tiny("W-"),
    "window with sinks": tiny("X"),
    "sink logit": tiny("S"),
    "window, sink logit": tiny("W", mixers={"W": MIXERS["W"] | {"sink_logit": True}}),
    "capped scores": tiny("C"),
    "window, capped scores": tiny("W", mixers={"W": MIXERS["X"] | {"softcap": 2.0}}),
    "norms and gate": tiny("N"),
    "latent attention": tiny("+-"),
    "latent attention, latent queries, wide values": tiny(
        "+", mixers={"+": {**MIXERS["+"], "q_lora_rank": 9, "v_head_dim": 16}}
    ),
    "bmojo_f": tiny("B-"),
    "bmojo_f, untied, longer window": tiny(
        "B",
        mixers={
            "B": MIXERS["B"]
            | {"window": 70, "tied": False, "qk_norm": "head", "in_bias": True}
            | {"ssm": {"kind": "gated_deltanet", **MIXERS["G"]}}
        },
    ),
    "experts": tiny("E*", mixers=MIXERS | {"E": {"n_experts": 4, "d_ff": 12}}),
    "experts, every option": tiny(
        "E",
        mixers={
            "E": {
                "n_experts": 9,
                "top_k": 3,
                "d_ff": 10,
                "d_shared": 7,
                "shared_gate": True,
                "d_latent": 5,
                "gated": False,
            }
        },
    ),
    "plain mlp": tiny("--", mixers={"-": {"d_ff": 24, "gated": False, "activation": "gelu"}}),
    "hybrid": tiny("(MM-*-)2"),
    "mean": tiny("{M*}-"),
    "add, joint": tiny(
        "{M*}", mixers=MIXERS | {"*": {"head_dim": 8, "n_heads": 8}}, fusion={"projection": "joint"}
    ),
    "concat": tiny("{M*}", fusion={"combine": "concat"}),
    "cross attention": tiny("{M*}", fusion={"combine": "cross_attention"}),
    "cross attention, the recurrent branch asks": tiny(
        "{M*}",
        fusion={"combine": "cross_attention", "cross": {"query": "recurrent", "position": "rope"}},
    ),
    "gate": tiny("{M*}", fusion={"combine": "gate"}),
    "gate per token, joint": tiny(
        "{**}", fusion={"combine": "gate", "gate": "token", "projection": "joint"}
    ),
    "merge attention": tiny(
        "{M*}",
        mixers=MIXERS | {"*": {"head_dim": 8, "n_heads": 8}},
        fusion={"combine": "merge_attention"},
    ),
    "cross attention, window": tiny(
        "{M*}", fusion={"combine": "cross_attention", "cross": {"window": 6}}
    ),
    "merge attention, window": tiny(
        "{M*}",
        mixers=MIXERS | {"*": {"head_dim": 8, "n_heads": 8}},
        fusion={"combine": "merge_attention", "cross": {"window": 6}},
    ),
    "borrowed keys": tiny(
        "WN{MB}", mixers=MIXERS | {"B": {"kind": "attention", "kv_from": "W", "sink_logit": True}}
    ),
    "meta tokens": tiny("MZ*W-", n_meta_tokens=4),
    "cross attention, meta tokens": tiny(
        "{M*}",
        n_meta_tokens=4,
        fusion={"combine": "cross_attention", "cross": {"window": 6}},
    ),
    "merge attention, meta tokens": tiny(
        "{**}",
        n_meta_tokens=4,
        fusion={"combine": "merge_attention", "cross": {"window": 6}},
    ),
    "untied": tiny("M*", tie_embeddings=False),
    "shared, beside the stream": tiny(
        "MAFMAF-",
        mixers={
            **MIXERS,
            "A": MIXERS["*"] | ASIDE | {"kind": "attention", "input": "hidden+embedding"},
            "F": {"kind": "mlp", "d_ff": 24, "input": "handed", "use_projection": True} | ASIDE,
        },
    ),
    "biases and factors": tiny(
        "M*-", mixers={letter: MIXERS[letter] | BIASED for letter in "M*-"}, residual_multiplier=0.5
    ),
}


LENGTHS = [
    ("hybrid", 1),
    ("mamba1", 1),
    ("hybrid", 8),
    ("hybrid", 16),
    *(("delta hybrid", 1), ("gated deltanet", 8), ("kda", 19), ("kda", 40)),
    *((name, 5) for name in SPECS),
]
"""Below, at and past the chunk of 8; `PADDED` is past it and no multiple of it."""
WINDOWED = [
    *(("window", 6), ("window", 69), ("window with sinks", 73), ("window with sinks", 300)),
    *(("bmojo_f", 6), ("bmojo_f", 11), ("bmojo_f", 200), ("bmojo_f", 1)),
    *(("bmojo_f, untied, longer window", n) for n in (70, 71, 140, 211, 400)),
    *(("window, sink logit", 40), ("capped scores", 300), ("window, capped scores", 300)),
]
"""One token past the first span; one block of 64 and exactly that; several blocks of 70 and 256."""
PADDED = [*((name, 21) for name in SPECS), *WINDOWED]


@pytest.mark.parametrize(("name", "n_tokens"), LENGTHS + PADDED)
def test_forward(name, n_tokens):
    spec = SPECS[name]
    assert counted(spec, 2, n_tokens, False) == executed_matmul_flops(spec, 2, n_tokens)


@pytest.mark.parametrize(("name", "n_tokens"), LENGTHS[:8] + PADDED)
def test_forward_and_backward(name, n_tokens):
    spec = SPECS[name]
    assert counted(spec, 3, n_tokens, True) == executed_training_flops(spec, 3, n_tokens)


def test_experts_that_are_idle_run_no_product():
    """Three tokens of two of 64 experts: what the dense form would run is many times more."""
    spec = tiny("E", mixers={"E": {"n_experts": 64, "d_ff": 12}})
    assert counted(spec, 1, 3, True) == executed_training_flops(spec, 1, 3)


def test_the_loss_of_training_runs_the_same_products():
    spec = SPECS["hybrid"]
    model = HybridLM(spec)
    tokens = torch.randint(spec.vocab_size, (2, 21))
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        model.loss(tokens, tokens).backward()
    assert matrix_products(counter) == executed_training_flops(spec, 2, 21)
