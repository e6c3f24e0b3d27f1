"""Small models that between them hold every mixer, option and fusion. Chunks are short so that
a few dozen tokens cross several of them."""

from __future__ import annotations

from typing import Any

from braidlm.arch import Spec

MAMBA: dict[str, Any] = {"n_heads": 4, "head_dim": 4, "d_state": 6, "chunk_size": 8}
MAMBA1: dict[str, Any] = {"d_inner": 10, "d_state": 3, "dt_rank": 2, "chunk_size": 8}
DELTA: dict[str, Any] = {"n_heads": 2, "head_dim": 4, "v_head_dim": 6, "chunk_size": 8}
ATTENTION: dict[str, Any] = {"n_heads": 4, "head_dim": 4, "n_kv_heads": 2}
MLA: dict[str, Any] = {
    "n_heads": 3,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 2,
    "v_head_dim": 5,
}
BMOJO: dict[str, Any] = {"kind": "bmojo_f", **ATTENTION, "window": 4}
WINDOW = {"W": {**ATTENTION, "window": 5}}
FROM_W: dict[str, Any] = {"kv_from": "W"}
MOE: dict[str, Any] = {"n_experts": 6, "top_k": 2, "d_ff": 10}


def spec(pattern: str, **fields: Any) -> Spec:
    """A spec of width 16 and vocabulary 31."""
    mixers = {
        "M": MAMBA,
        "S": MAMBA1,
        "G": DELTA,
        "*": ATTENTION,
        "+": MLA,
        "-": {"d_ff": 24},
        "E": MOE,
    }
    for letter, changes in fields.pop("mixers", {}).items():
        own = {} if "kind" in changes else mixers.get(letter, {})  # of another kind
        mixers[letter] = {**own, **changes}
    return Spec.of(
        {"pattern": pattern, "d_model": 16, "vocab_size": 31, "mixers": mixers, **fields}
    )


SINGLE = {
    "mamba2": spec("M"),
    "mamba2 groups, norm first": spec("M", mixers={"M": {"n_groups": 2, "norm": "norm_first"}}),
    "mamba2 no norm, no bias": spec("M", mixers={"M": {"norm": "none", "conv_bias": False}}),
    "mamba2 slow decay": spec("M", mixers={"M": {"A_init_min": 0.01, "A_init_max": 2.0}}),
    "mamba1": spec("S"),
    "mamba1 normed (Jamba), no bias": spec(
        "S", mixers={"S": {"dt_bc_norm": "rms", "conv_bias": False}}
    ),
    "mamba1 in groups (Zamba), biases": spec(
        "S*", mixers={"S": {"n_groups": 2, "in_bias": True, "out_bias": True, "dt_bc_norm": "rms"}}
    ),
    "mamba1 normed without weights (FalconMamba)": spec(
        "S-", mixers={"S": {"dt_bc_norm": "rms_unweighted", "d_conv": 3}}
    ),
    "gated deltanet": spec("G"),
    "gated deltanet, grouped values (Qwen3-Next)": spec("G", mixers={"G": {"n_v_heads": 4}}),
    "gated deltanet, negative eigenvalues (OLMo-Hybrid)": spec(
        "G", mixers={"G": {"allow_negative_eigenvalues": True, "norm_eps": 1e-3}}
    ),
    "gated deltanet, sigmoid gate, bias, other rates": spec(
        "G",
        mixers={
            "G": {
                "gate_activation": "sigmoid",
                "conv_bias": True,
                "d_conv": 2,
                "A_init_min": 0.01,
                "A_init_max": 2.0,
                "dt_max": 1.0,
            }
        },
    ),
    "kda": spec("K", mixers={"K": {**DELTA, "kind": "kda"}}),
    "kda, grouped, other ranks, no bias, silu": spec(
        "K",
        mixers={
            "K": {
                **DELTA,
                "kind": "kda",
                "n_v_heads": 4,
                "v_head_dim": 3,
                "decay_rank": 2,
                "gate_rank": 5,
                "gate_bias": False,
                "gate_activation": "silu",
                "allow_negative_eigenvalues": True,
            }
        },
    ),
    "attention rope": spec("*"),
    "attention nope, multi-query": spec("*", mixers={"*": {"position": "none", "n_kv_heads": 1}}),
    "attention partial scaled rope": spec(
        "*",
        mixers={
            "*": {
                "rope_fraction": 0.5,
                "rope_scaling": {"kind": "llama3", "factor": 4.0, "original_length": 16},
            }
        },
    ),
    "attention, yarn": spec(
        "*",
        mixers={
            "*": {
                "rope_scaling": {
                    "kind": "yarn",
                    "factor": 4.0,
                    "original_length": 12,
                    "beta_fast": 1.5,
                    "beta_slow": 0.1,
                    "truncate": False,
                }
            }
        },
    ),
    "attention linear rope, wide values": spec(
        "*",
        mixers={"*": {"rope_scaling": {"factor": 2.0}, "v_head_dim": 6, "softmax_scale": 0.3}},
    ),
    "window": spec("W", mixers=WINDOW),
    "window of one, sinks, nope": spec(
        "W", mixers={"W": {**ATTENTION, "window": 1, "n_sinks": 2, "position": "none"}}
    ),
    "window with sinks, narrow values": spec(
        "W*W", mixers={"W": {**ATTENTION, "window": 4, "n_sinks": 3, "v_head_dim": 2}}
    ),
    "sink logit": spec("*", mixers={"*": {"sink_logit": True}}),
    "qk norm": spec("*", mixers={"*": {"qk_norm": "head", "rope_fraction": 0.5}}),
    "gate per channel": spec("*", mixers={"*": {"output_gate": "channel", "v_head_dim": 3}}),
    "gate per head": spec("*", mixers={"*": {"output_gate": "head"}}),
    "capped scores": spec("*", mixers={"*": {"softcap": 0.5, "n_kv_heads": 1}}),
    "window, sink logit (gpt-oss)": spec(
        "W*",
        mixers={"*": {"sink_logit": True}, "W": {**ATTENTION, "window": 4, "sink_logit": True}},
    ),
    "window, cap (Gemma 2)": spec("W", mixers={"W": {**ATTENTION, "window": 3, "softcap": 2.0}}),
    "every option of attention": spec(
        "W",
        mixers={
            "W": {
                **ATTENTION,
                "v_head_dim": 6,
                "window": 3,
                "n_sinks": 2,
                "sink_logit": True,
                "softcap": 1.0,
                "qk_norm": "head",
                "output_gate": "channel",
            }
        },
    ),
    "B'MOJO-F, Mamba-2": spec("B", mixers={"B": {**BMOJO, "ssm": {"kind": "mamba2", **MAMBA}}}),
    "B'MOJO-F, untied, gated deltanet, norms, biases": spec(
        "B",
        mixers={
            "B": {
                **BMOJO,
                "tied": False,
                "window": 3,
                "qk_norm": "head",
                "in_bias": True,
                "softmax_scale": 0.6,
                "rope_scaling": {"kind": "yarn", "factor": 2.0, "original_length": 12},
                "ssm": {
                    "kind": "gated_deltanet",
                    **DELTA,
                    "out_bias": True,
                    "in_multiplier": 1.5,
                    "out_multiplier": 0.7,
                },
            }
        },
        norm_offset=1.0,
    ),
    "B'MOJO-F, nope, multi-query, kda": spec(
        "B-",
        mixers={
            "B": {**BMOJO, "position": "none", "n_kv_heads": 1, "ssm": {"kind": "kda", **DELTA}}
        },
    ),
    "B'MOJO-F, window of one, norms, mamba1": spec(
        "B*",
        mixers={
            "B": {**BMOJO, "window": 1, "qk_norm": "head", "ssm": {"kind": "mamba1", **MAMBA1}}
        },
    ),
    "latent attention (DeepSeek-V3)": spec("+", mixers={"+": {"q_lora_rank": 7}}),
    "latent attention, nope (Kimi Linear)": spec(
        "+-", mixers={"+": {"position": "none", "norm_eps": 0.1}}
    ),
    "latent attention, no shared key, own scale": spec(
        "+", mixers={"+": {"qk_rope_head_dim": 0, "softmax_scale": 0.6}}
    ),
    "latent attention, scaled rope": spec(
        "+",
        mixers={
            "+": {
                "kv_lora_rank": 3,
                "qk_rope_head_dim": 6,
                "rope_scaling": {
                    "kind": "yarn",
                    "factor": 4.0,
                    "original_length": 16,
                    "beta_fast": 2.0,
                    "mscale": 0.7,
                    "mscale_all_dim": 0.2,
                },
            }
        },
    ),
    "mlp gelu": spec("-*", mixers={"-": {"activation": "gelu", "gated": False}}),
    "mlp squared relu": spec("-M", mixers={"-": {"activation": "relu2", "gated": False}}),
    "experts": spec("E*"),
    "experts, scores as they are (Jamba)": spec(
        "ME", mixers={"E": {"norm_topk": False, "top_k": 3, "z_coef": 0.01, "aux_over": "row"}}
    ),
    "experts, top-k first, shared (Granite 4)": spec(
        "E*", mixers={"E": {"topk_first": True, "d_shared": 12, "balance": "none"}}
    ),
    "experts, shared and gated (Qwen3-Next)": spec(
        "E", mixers={"E": {"d_shared": 12, "shared_gate": True, "top_k": 3, "activation": "gelu"}}
    ),
    "one expert each (Llama 4)": spec(
        "E*", mixers={"E": {"router": "sigmoid", "norm_topk": False, "top_k": 1}}
    ),
    "experts, sigmoid, groups, bias, latent (Nemotron 3)": spec(
        "EM",
        mixers={
            "E": {
                "router": "sigmoid",
                "n_groups": 3,
                "topk_group": 2,
                "routed_scale": 2.5,
                "balance": "bias",
                "bias_rate": 0.05,
                "d_shared": 12,
                "d_latent": 8,
                "activation": "relu2",
                "gated": False,
            }
        },
    ),
}
"""One mixer each."""

FUSIONS = {
    "mean": {"combine": "mean", "norm": "none"},
    "normed mean (Hymba)": {"combine": "mean", "norm": "rms", "projection": "joint"},
    "scaled add": {"combine": "add", "norm": "rms", "scale": "learned"},
    "concat (Falcon-H1)": {"combine": "concat", "norm": "none"},
    "mean of what is said": {"combine": "mean", "norm": "none"},
    "subtract (Bae)": {"combine": "subtract", "norm": "group"},
    "cross-attention (Lee)": {"combine": "cross_attention"},
    "cross-attention with residual": {
        "combine": "cross_attention",
        "norm": "none",
        "cross": {"residual": True, "n_kv_heads": 1},
    },
    "cross-attention reversed, rope": {
        "combine": "cross_attention",
        "scale": "scalar",
        "cross": {"query": "recurrent", "position": "rope", "answer_residual": True},
    },
    "gate per channel": {"combine": "gate", "norm": "group"},
    "gate per channel, joint": {"combine": "gate", "projection": "joint"},
    "gate per token": {"combine": "gate", "gate": "token", "scale": "learned"},
    "add, scalar (Bae)": {"combine": "add", "norm": "group", "scale": "scalar"},
    "cross-attention, window": {
        "combine": "cross_attention",
        "cross": {"window": 5, "position": "rope"},
    },
    "merge-attention": {"combine": "merge_attention"},
    "merge-attention, window": {"combine": "merge_attention", "cross": {"window": 6}},
    "cross-attention, window, sinks": {
        "combine": "cross_attention",
        "cross": {"window": 4, "n_sinks": 3, "query": "recurrent"},
    },
    "merge-attention, window, sinks": {
        "combine": "merge_attention",
        "cross": {"window": 3, "n_sinks": 2, "position": "rope", "n_kv_heads": 1},
    },
    "merge-attention with residual, rope": {
        "combine": "merge_attention",
        "norm": "none",
        "cross": {
            "position": "rope",
            "residual": True,
            "n_heads": 2,
            "n_kv_heads": 1,
            "head_dim": 8,
        },
    },
}
"""Fusions of {M*}."""

PARALLEL = {name: spec("{M*}-", fusion=fusion) for name, fusion in FUSIONS.items()} | {
    "mamba1 beside attention": spec("{S*}W", fusion={"combine": "concat"}, mixers=WINDOW),
    "latent attention beside Mamba-2": spec("{M+}", fusion={"combine": "cross_attention"}),
    "three branches": spec("{M*-}", fusion={"combine": "mean"}),
    "delta rule and attention": spec("{G*}-", fusion={"combine": "mean", "norm": "rms"}),
    "delta rule and attention, cross": spec("{*G}", fusion={"combine": "cross_attention"}),
    "B'MOJO-F beside Mamba-2": spec(
        "{MB}",
        fusion={"combine": "cross_attention"},
        mixers={"B": {**BMOJO, "ssm": {"kind": "mamba2", **MAMBA}}},
    ),
    "two fusions": spec("P{*M}", parallel={"P": {"branches": "M*", "combine": "concat"}}),
}

WHOLE = {
    "Samba's unit": spec("S-W-", mixers=WINDOW),
    "sequential hybrid": spec("(M-)2*-"),
    "shared experts, scaled": spec(
        "E*E",
        residual_multiplier=0.5,
        mixers={
            "E": {"shared": True, "balance": "bias", "in_multiplier": 2.0, "out_multiplier": 0.7}
        },
    ),
    "hybrid of experts": spec("ME*E-", depth_scaled_init=True),
    "delta hybrid": spec("(G-)2*-"),
    "parallel hybrid, untied": spec("M-{M*}-", tie_embeddings=False, depth_scaled_init=True),
}

LENT = {
    "keys lent (Hymba)": spec("WB-BWB", mixers={**WINDOW, "B": {"kind": "attention"} | FROM_W}),
    "all keys lent, other options": spec(
        "*AM*A",
        mixers={
            "*": {"qk_norm": "head", "v_head_dim": 6, "in_bias": True},
            "A": {
                "kind": "attention",
                "kv_from": "*",
                "n_heads": 2,
                "qk_norm": "width",
                "sink_logit": True,
                "output_gate": "channel",
                "softmax_scale": 0.7,
            },
        },
    ),
    "keys lent between branches, meta tokens (Hymba)": spec(
        "{SW}-{SB}-{SA}-B",
        n_meta_tokens=3,
        fusion={"combine": "mean", "norm": "rms", "projection": "joint"},
        mixers={
            "S": {"d_inner": 16, "d_conv": 3, "dt_bc_norm": "rms"},
            **WINDOW,
            "B": {"kind": "attention"} | FROM_W,
            "A": {"kind": "attention", **ATTENTION},
        },
    ),
    "keys lent, ring with sinks, multi-query, shared weights": spec(
        "WB-WB",
        mixers={
            "W": {**ATTENTION, "window": 3, "n_sinks": 2, "n_kv_heads": 1, "shared": True},
            "B": {"kind": "attention", "shared": True, "lora_rank": 2} | FROM_W,
        },
    ),
}
"""Attention with the keys and values of an earlier one."""

META = {
    "meta tokens": spec("M*W", n_meta_tokens=3, mixers=WINDOW),
    "meta tokens that a window loses": spec(
        "W-", n_meta_tokens=2, mixers={"W": {**ATTENTION, "window": 4, "n_sinks": 0}}
    ),
    "meta tokens that fade (B'MOJO-F)": spec(
        "B-", n_meta_tokens=3, mixers={"B": {**BMOJO, "ssm": {"kind": "mamba2", **MAMBA}}}
    ),
    "meta tokens that a cross attention sees": spec(
        "{M*}-", n_meta_tokens=3, fusion={"combine": "cross_attention", "cross": {"window": 4}}
    ),
    "meta tokens that a merge attention sees": spec(
        "{M*}-",
        n_meta_tokens=3,
        fusion={"combine": "merge_attention", "cross": {"window": 4, "position": "rope"}},
    ),
    "more meta tokens than a chunk": spec("GM+S", n_meta_tokens=9),
    "meta tokens before parallel branches (Hymba)": spec(
        "{SW}-{SA}-",
        n_meta_tokens=4,
        fusion={"combine": "mean", "norm": "rms", "projection": "joint"},
        mixers={
            "S": {"d_inner": 16, "d_conv": 3, "dt_bc_norm": "rms"},
            "W": WINDOW["W"],
            "A": {"kind": "attention", **ATTENTION},
        },
    ),
}
"""Learned vectors before every document."""

MUP = {"muP": spec("M-*", mup_base_width=8, logits_multiplier=1.5)}
"""A parametrisation that depends on the width."""

BIASED = {"in_bias": True, "out_bias": True}
WIRED = {
    "biases": spec("M*-", mixers={"M": BIASED, "*": BIASED, "-": BIASED}),
    "biases of branches": spec(
        "{M*}-", mixers={"M": BIASED, "*": {"out_bias": True}}, fusion={"combine": "subtract"}
    ),
    "biases of branches without norms": spec(
        "{M*}-",
        mixers={"M": BIASED | {"out_multiplier": 0.5}, "*": BIASED},
        fusion={"combine": "subtract", "norm": "none"},
        residual_multiplier=0.7,
    ),
    "multipliers (Falcon-H1)": spec(
        "{M*}-",
        mixers={
            "M": {
                "in_multiplier": 1.5,
                "out_multiplier": 0.5,
                "multipliers": [0.5, 2, 0.7, 1.3, 3],
            },
            "*": {"in_multiplier": 0.5, "out_multiplier": 2.0, "key_multiplier": 0.25},
            "-": {"gate_multiplier": 1.5, "out_multiplier": 0.7},
        },
        fusion={"combine": "add", "norm": "none"},
        embedding_multiplier=3.0,
        logits_multiplier=0.5,
    ),
    "scale by position (HypeNet)": spec(
        "*W",
        mixers={
            "*": {"position": "none", "position_scale": {"length": 3.0}},
            "W": {**ATTENTION, "window": 4, "softcap": 2.0}
            | {"position_scale": {"kind": "steps", "length": 4.0, "beta": 0.5, "first": 1}},
        },
    ),
    "residual multiplier (Granite)": spec("M-*-", residual_multiplier=0.25),
    "limited step sizes": spec("M", mixers={"M": {"dt_limit_min": 0.02, "dt_limit_max": 0.05}}),
    "norms after attention, offset (OLMo)": spec(
        "M-*F",
        mixers={
            "*": {"norm_position": "post", "qk_norm": "width"},
            "F": {"kind": "mlp", "d_ff": 24, "norm_position": "post"},
        },
        norm_offset=1.0,
    ),
    "norm after branches": spec(
        "P-", parallel={"P": {"branches": "M*", "combine": "add", "norm_position": "post"}}
    ),
}
"""What lies between mixers and the stream: biases, factors, places of norms."""

ASIDE = {"shared": True, "input": "hidden+embedding", "output": "next_input"}
HANDED = {"shared": True, "input": "handed", "output": "next_input"}
SHARED = {
    "one shared letter": spec("M*-M*-", mixers={"*": {"shared": True}, "-": {"shared": True}}),
    "two shared blocks (Zamba2)": spec(
        "MAFM(BHM)2AFM",
        mixers={
            **{x: {"kind": "attention", **ATTENTION, **ASIDE, "lora_rank": 3} for x in "AB"},
            **{
                x: {"kind": "mlp", "d_ff": 24, **HANDED, "lora_rank": 2, "use_projection": True}
                for x in "FH"
            },
        },
    ),
    "shared B'MOJO-F beside the embedding": spec(
        "B-B",
        mixers={
            "B": {**BMOJO, "shared": True, "input": "hidden+embedding"}
            | {"ssm": {"kind": "gated_deltanet", **DELTA}}
        },
    ),
    "shared branches, handed on": spec(
        "PMPWP-",
        mixers={"W": {**ATTENTION, "window": 4, "norm_position": "post"}},
        parallel={"P": {"branches": "M*", "combine": "concat", **ASIDE, "use_projection": True}},
    ),
    "shared, normed afterwards": spec(
        "-A-A",
        mixers={
            "A": {"kind": "attention", **ATTENTION, "shared": True, "norm_position": "post"}
            | {"input": "hidden+embedding", "lora_rank": 2, "output_gate": "head"},
        },
        residual_multiplier=0.5,
    ),
}
"""Sublayers with one set of weights, and those that read or write beside the stream."""

ALL = SINGLE | PARALLEL | WHOLE | MUP | WIRED | SHARED | META | LENT
