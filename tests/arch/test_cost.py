"""Every figure by hand, then against real modules: parameters and allocated bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braidlm.arch import Spec
from braidlm.arch.cost import cost, executed_matmul_flops, sublayer_costs, train_flops
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.ops.attention import KVCache
from braidlm.state import tensors

HEADS = {"*": {"head_dim": 4, "n_heads": 4, "n_kv_heads": 2, "v_head_dim": 6}}
MAMBA = {"M": {"head_dim": 8, "n_heads": 4, "n_groups": 2, "d_state": 5, "d_conv": 3}}


def declare(pattern, mixers=None, **fields):
    return Spec.of(
        {"pattern": pattern, "d_model": 16, "vocab_size": 100, "mixers": mixers or {}, **fields}
    )


def test_attention_by_hand():
    (row,) = sublayer_costs(declare("*", HEADS), 10)
    q, k, v, o = 16 * 16, 16 * 8, 16 * 12, 24 * 16
    assert row.n_params == q + k + v + o + 16
    assert row.n_active_params == row.n_params
    assert row.kv_bytes_per_token == 2 * (2 * 4 + 2 * 6)
    assert row.state_bytes == 0
    pairs = 10 * 11 // 2
    assert row.model_flops == 2 * 10 * (q + k + v + o) + pairs * 4 * (2 * 4 + 2 * 6)
    assert row.decode_flops == 2 * (q + k + v + o) + 10 * 4 * (2 * 4 + 2 * 6)


WINDOW = {"W": HEADS["*"] | {"window": 3, "n_sinks": 1}}


def test_a_window_by_hand():
    (row,) = sublayer_costs(declare("W", WINDOW), 10)
    matrices = 16 * 16 + 16 * 8 + 16 * 12 + 24 * 16
    pairs = 1 + 2 + 3 + 7 * 4
    assert row.n_params == matrices + 16
    assert row.model_flops == 2 * 10 * matrices + pairs * 4 * 20
    assert row.decode_flops == 2 * matrices + 4 * 4 * 20
    assert (row.kv_bytes, row.kv_bytes_per_token, row.state_bytes) == (4 * 40, 0, 0)
    filling = [sublayer_costs(declare("W", WINDOW), n)[0] for n in (2, 3, 4, 5)]
    assert [r.kv_bytes for r in filling] == [80, 120, 160, 160]
    assert [r.kv_bytes_per_token for r in filling] == [40, 40, 0, 0]
    c = cost(declare("W*", HEADS | WINDOW), 10)
    assert c.kv_bytes == 4 * 40 + 10 * 40 == c.cache_bytes
    assert c.decode_bytes_per_step == c.decode_weight_bytes + 14 * 40


def test_the_options_of_attention_by_hand():
    options = {"qk_norm": "head", "sink_logit": True, "softcap": 3.0, "output_gate": "channel"}
    (plain,) = sublayer_costs(declare("*", HEADS), 10)
    (row,) = sublayer_costs(declare("*", {"*": HEADS["*"] | options}), 10)
    gate = 16 * 24
    assert row.n_params - plain.n_params == gate + 2 * 4 + 4
    assert row.model_flops - plain.model_flops == 10 * 2 * gate
    assert row.kv_bytes == plain.kv_bytes
    (by_head,) = sublayer_costs(declare("*", {"*": HEADS["*"] | {"output_gate": "head"}}), 10)
    assert by_head.n_params - plain.n_params == 16 * 4


def test_a_window_above_the_context_costs_what_no_window_costs():
    wide = {"W": HEADS["*"] | {"window": 11}}
    assert cost(declare("W", wide), 11).model_flops == cost(declare("*", HEADS), 11).model_flops
    assert cost(declare("W", wide), 12).model_flops < cost(declare("*", HEADS), 12).model_flops


def test_tokens_that_are_no_whole_sequences_round_the_flops_down_once():
    spec = declare("W", WINDOW)
    one = cost(spec, 7)
    assert one.model_flops % 7 != 0
    assert train_flops(spec, 7, 7000) == 1000 * one.training_flops
    assert train_flops(spec, 7, 1) == one.training_flops // 7 == one.training_flops_per_token


def test_mamba2_by_hand():
    (row,) = sublayer_costs(declare("M", MAMBA), 10)
    inner, conv = 32, 32 + 2 * 2 * 5
    projections = 16 * (inner + conv + 4) + inner * 16
    assert row.n_params == projections + conv * 3 + conv + 3 * 4 + inner + 16
    assert row.kv_bytes_per_token == 0
    assert row.state_bytes == 4 * (inner * 5 + 2 * conv)
    recurrence = 5 * inner * 5 + 3 * inner
    assert row.model_flops == 10 * (2 * projections + 2 * 3 * conv + recurrence)
    assert row.decode_flops * 10 == row.model_flops


def test_mamba2_without_bias_and_norm():
    with_both = sublayer_costs(declare("M", MAMBA), 1)[0].n_params
    bare = {"M": MAMBA["M"] | {"conv_bias": False, "norm": "none"}}
    assert with_both - sublayer_costs(declare("M", bare), 1)[0].n_params == 52 + 32


SCAN = {"S": {"d_inner": 24, "d_state": 5, "dt_rank": 3, "d_conv": 3}}


def test_mamba1_by_hand():
    (row,) = sublayer_costs(declare("S", SCAN), 10)
    inner, n, rank = 24, 5, 3
    matrices = 16 * 2 * inner + inner * (rank + 2 * n) + rank * inner + inner * 16
    assert row.n_params == matrices + inner * 3 + inner + inner * n + 2 * inner + 16
    assert row.kv_bytes_per_token == 0
    assert row.state_bytes == 4 * inner * (n + 2)
    assert row.model_flops == 10 * (2 * matrices + 2 * 3 * inner + inner * (6 * n + 3))
    assert row.decode_flops * 10 == row.model_flops


def test_mamba1_without_bias_and_with_norms():
    plain = sublayer_costs(declare("S", SCAN), 1)[0]
    for fields, more in (
        ({"conv_bias": False}, -24),
        ({"dt_bc_norm": "rms"}, 3 + 2 * 5),
        ({"in_bias": True, "out_bias": True}, 2 * 24 + 16),
        ({"n_groups": 3}, 0),
        ({"n_groups": 3, "dt_bc_norm": "rms"}, 3 * 13),
        ({"dt_bc_norm": "rms_unweighted"}, 0),
    ):
        row = sublayer_costs(declare("S", {"S": SCAN["S"] | fields}), 1)[0]
        assert row.n_params - plain.n_params == more
        assert row.model_flops == plain.model_flops


DELTA = {"n_heads": 2, "n_v_heads": 4, "head_dim": 5, "v_head_dim": 6, "d_conv": 3}


def test_gated_deltanet_by_hand():
    (row,) = sublayer_costs(declare("G", {"G": DELTA}), 10)
    keys, values = 10, 24
    conv = 2 * keys + values
    projections = 16 * (conv + values + 2 * 4) + values * 16
    assert row.n_params == projections + conv * 3 + 2 * 4 + 6 + 16
    assert (row.kv_bytes, row.state_bytes) == (0, 4 * (4 * 5 * 6 + 2 * conv))
    recurrence = 4 * (7 * 5 * 6 + 2 * 6)
    assert row.model_flops == 10 * (2 * projections + 2 * 3 * conv + recurrence)
    assert row.decode_flops * 10 == row.model_flops
    biased = {"G": DELTA | {"conv_bias": True, "allow_negative_eigenvalues": True}}
    assert sublayer_costs(declare("G", biased), 10)[0].n_params == row.n_params + conv


def test_kda_by_hand():
    kda = DELTA | {"kind": "kda", "decay_rank": 3, "gate_rank": 7}
    (row,) = sublayer_costs(declare("K", {"K": kda}), 10)
    conv = 2 * 10 + 24
    matrices = 16 * (conv + 3 + 7 + 4) + 3 * 4 * 5 + 7 * 24 + 24 * 16
    assert row.n_params == matrices + conv * 3 + 4 + 4 * 5 + 24 + 6 + 16
    assert row.state_bytes == 4 * (4 * 5 * 6 + 2 * conv)
    recurrence = 4 * (7 * 5 * 6 + 2 * 6)
    assert row.model_flops == 10 * (2 * matrices + 2 * 3 * conv + recurrence)
    unbiased = {"K": kda | {"gate_bias": False}}
    assert sublayer_costs(declare("K", unbiased), 10)[0].n_params == row.n_params - 24


def test_the_published_shapes_of_delta_rules():
    """About 6 d^2 (Gated DeltaNet), OLMo-Hybrid's 30 heads, Qwen3-Next's 16 and 32 of 128."""
    (paper,) = Spec.parse("G", d_model=2048).sublayers[0].branches
    assert 5.95 < (paper.n_params(2048) + paper.width * 2048) / 2048**2 < 6.1
    (olmo,) = Spec.parse("G", d_model=3840).sublayers[0].branches
    assert olmo.summary == "gated_deltanet, 30 heads of 96, values of 192"
    shape = {"n_heads": 16, "n_v_heads": 32, "head_dim": 128, "v_head_dim": 128}
    spec = Spec.of({"pattern": "G", "d_model": 2048, "mixers": {"G": shape}})
    (qwen,) = spec.sublayers[0].branches
    assert qwen.summary == "gated_deltanet, 16 heads of 128, 32 values of 128"
    assert qwen.n_params(2048) == 2048 * 12288 + 2048 * 64 + 8192 * 4 + 2 * 32 + 128
    assert qwen.state_bytes() == 4 * (32 * 128 * 128 + 3 * 8192)
    shape = {"kind": "kda", "n_heads": 32, "head_dim": 128, "gate_bias": False}
    spec = Spec.of({"pattern": "K", "d_model": 2304, "mixers": {"K": shape}})
    kimi = spec.mixers[0].mixer
    assert kimi.summary == "kda, 32 heads of 128, values of 128"
    low_rank = 2 * (2304 * 128 + 128 * 4096)
    assert kimi.n_params(2304) == 2304 * (12288 + 32) + low_rank + 12288 * 4 + 32 + 4096 + 128


LATENT = {
    "n_heads": 3,
    "kv_lora_rank": 7,
    "qk_nope_head_dim": 5,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}


def test_latent_attention_by_hand():
    (row,) = sublayer_costs(declare("+", {"+": LATENT}), 10)
    q, down, up, o = 16 * 3 * 9, 16 * (7 + 4), 7 * 3 * (5 + 6), 3 * 6 * 16
    assert row.n_params == q + down + up + o + 7 + 16
    assert row.kv_bytes_per_token == 2 * (7 + 4)
    assert (row.kv_bytes, row.state_bytes) == (10 * 22, 0)
    pairs = 10 * 11 // 2
    assert row.model_flops == 2 * 10 * (q + down + up + o) + pairs * 3 * 2 * (9 + 6)
    assert row.decode_flops == 2 * (q + down + up + o) + 10 * 3 * 2 * (9 + 6)
    (latent,) = sublayer_costs(declare("+", {"+": LATENT | {"q_lora_rank": 8}}), 10)
    assert latent.n_params - row.n_params == 16 * 8 + 8 + 8 * 3 * 9 - q
    assert latent.kv_bytes == row.kv_bytes


def test_latent_attention_holds_what_deepseek_v3_says():
    """70 KB per token in bf16 over 61 layers, and 187.1M parameters of attention in each."""
    sizes = {
        "n_heads": 128,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }
    c = cost(declare("+61", {"+": sizes}, d_model=7168), 4096)
    assert c.kv_bytes_per_token == 61 * 2 * 576 == 70_272
    assert c.sublayers[0].n_params - 7168 == 187_107_328


BMOJO = {"kind": "bmojo_f", "n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "window": 3}


def test_bmojo_f_by_hand():
    mixers = {"B": BMOJO | {"ssm": {"kind": "mamba2", **MAMBA["M"]}}}
    (row,) = sublayer_costs(declare("B", mixers), 10)
    (ssm,) = sublayer_costs(declare("M", MAMBA), 10)
    q, kv, o = 16 * 16, 16 * 2 * 2 * 4, 16 * 16
    assert row.n_params == ssm.n_params + q + kv + o
    assert row.state_bytes == ssm.state_bytes
    assert (row.kv_bytes, row.kv_bytes_per_token) == ((6 + 3) * 2 * 16, 0)
    pairs = (1 + 2 + 3) + (3 + 1) + (3 + 2) + 5 * (3 + 3)
    assert row.model_flops == ssm.model_flops + 2 * 10 * (q + 2 * kv + o) + pairs * 4 * 2 * 8
    assert row.decode_flops == ssm.model_flops // 10 + 2 * (q + 2 * kv + o) + 6 * 4 * 2 * 8
    filling = [sublayer_costs(declare("B", mixers), n)[0] for n in range(1, 8)]
    assert [r.kv_read_bytes // 32 for r in filling] == [1, 2, 3, 4, 5, 6, 6]
    c = cost(declare("B", mixers), 10)
    assert c.decode_bytes_per_step == c.decode_weight_bytes + 6 * 32 + 2 * c.state_bytes
    assert [r.kv_bytes // 32 for r in filling] == [2, 4, 6, 7, 8, 9, 9]
    assert [r.kv_bytes_per_token // 32 for r in filling] == [2, 2, 1, 1, 1, 0, 0]
    options = {"tied": False, "qk_norm": "head", "in_bias": True}
    (more,) = sublayer_costs(declare("B", {"B": mixers["B"] | options}), 10)
    assert more.n_params - row.n_params == kv + (16 + 2 * 16) + 3 * 4
    assert more.model_flops == row.model_flops


def test_borrowed_keys_by_hand():
    """The owner pays: queries and output alone are the borrower's, and no byte of a cache."""
    options = {"qk_norm": "head", "output_gate": "head", "in_bias": True}
    borrower = {"kind": "attention", "kv_from": "*"} | options
    owner, row = sublayer_costs(declare("*B", {**HEADS, "B": borrower}), 10)
    q, gate, o = 16 * 16, 16 * 4, 24 * 16
    assert row.n_params == q + gate + o + (16 + 4) + 4 + 16
    assert (row.kv_bytes, row.kv_bytes_per_token, row.state_bytes) == (0, 0, 0)
    assert owner.kv_bytes == 10 * 40
    assert row.model_flops == 2 * 10 * (q + gate + o) + 55 * 4 * 20


def test_meta_tokens_by_hand():
    """A sequence is longer by them everywhere but in the head; decoding does not read them."""
    mixers = {"W": HEADS["*"] | {"window": 3}, "M": MAMBA["M"]}
    plain = declare("WM", {"W": mixers["W"] | {"n_sinks": 5}, "M": MAMBA["M"]})
    with_meta = declare("WM", mixers, n_meta_tokens=5)
    c, longer = cost(with_meta, 10), cost(plain, 15)
    assert c.n_params == longer.n_params + 5 * 16 == c.n_active_params
    assert c.model_flops - c.head_flops == longer.model_flops - longer.head_flops
    assert c.head_flops == cost(plain, 10).head_flops
    assert (c.kv_bytes, c.state_bytes) == (8 * 40, longer.state_bytes)
    assert c.kv_bytes_per_token == 0
    assert c.decode_weight_bytes == longer.decode_weight_bytes
    assert sum(cost(with_meta, n).decode_flops for n in range(1, 11)) == c.model_flops


def test_mlp_by_hand():
    gated, plain = sublayer_costs(
        declare("-F", {"-": {"d_ff": 24}, "F": {"kind": "mlp", "d_ff": 24, "gated": False}}), 7
    )
    assert gated.n_params == 3 * 16 * 24 + 16
    assert plain.n_params == 2 * 16 * 24 + 16
    assert gated.model_flops == 7 * 2 * 3 * 16 * 24
    assert (plain.kv_bytes_per_token, plain.state_bytes) == (0, 0)


@pytest.mark.parametrize("tied", [True, False])
def test_totals_by_hand(tied):
    c = cost(declare("*M-", HEADS | MAMBA | {"-": {"d_ff": 24}}, tie_embeddings=tied), 10)
    blocks = sum(s.n_params for s in c.sublayers)
    table = 100 * 16
    assert (c.embedding_params, c.head_params) == (table, 0 if tied else table)
    assert c.n_params == blocks + 16 + table * (1 if tied else 2) == c.n_active_params
    flops = sum(s.model_flops for s in c.sublayers) + 10 * 2 * table
    assert (c.model_flops, c.training_flops) == (flops, 3 * flops)
    assert c.model_flops_per_token * 10 == flops
    assert (c.kv_bytes_per_token, c.state_bytes) == (40, 4 * (32 * 5 + 2 * 52))
    assert c.cache_bytes == 10 * 40 + c.state_bytes
    # Tied: the head reads the whole table. Untied: it reads its own, and one row is looked up.
    weights = blocks + 16 + table + (0 if tied else 16)
    assert c.decode_weight_bytes == 2 * weights
    assert c.decode_bytes_per_step == 2 * weights + 10 * 40 + 2 * c.state_bytes


def test_dtypes_scale_their_own_bytes_alone():
    spec = declare("*M", HEADS | MAMBA)
    base = cost(spec, 10)
    wide = cost(spec, 10, weight_dtype_bytes=4, kv_dtype_bytes=4, state_dtype_bytes=2)
    assert wide.kv_bytes_per_token == 2 * base.kv_bytes_per_token
    assert 2 * wide.state_bytes == base.state_bytes
    assert wide.decode_weight_bytes == 2 * base.decode_weight_bytes
    assert wide.n_params == base.n_params


def test_decode_flops_add_up_to_the_sequence():
    spec = declare("*M-{M*}W", HEADS | MAMBA | WINDOW, fusion={"combine": "cross_attention"})
    assert sum(cost(spec, n).decode_flops for n in range(1, 13)) == cost(spec, 12).model_flops


def test_train_flops_count_tokens_not_sequences():
    spec = declare("*M")
    assert train_flops(spec, 8, 1000) == 125 * cost(spec, 8).training_flops
    assert train_flops(spec, 8, 1) == 3 * cost(spec, 8).model_flops_per_token


def test_a_long_context_is_exact():
    spec = declare("*", HEADS)
    n = 2**20
    assert cost(spec, n).model_flops - n * cost(spec, 1).model_flops == n * (n - 1) * 4 * 10
    with pytest.raises(InputError, match="context = 0: must be at least 1 token"):
        cost(spec, 0)


@given(
    st.lists(st.sampled_from(["M", "*", "-", "{M*}", "{M-}"]), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 3000),
)
def test_a_repeated_pattern_costs_that_many_units(unit, n, context):
    text = "".join(unit)
    one, many = (cost(declare(p), context) for p in (text, f"({text}){n}"))
    assert many.block_params == n * one.block_params
    assert many.kv_bytes_per_token == n * one.kv_bytes_per_token
    assert many.state_bytes == n * one.state_bytes
    assert many.model_flops - many.head_flops == n * (one.model_flops - one.head_flops)
    executed = [executed_matmul_flops(declare(p), 2, context) for p in (text, f"({text}){n}")]
    head = 2 * 2 * context * 16 * 100
    assert executed[1] - head == n * (executed[0] - head)


ASIDE = {"shared": True, "output": "next_input", "lora_rank": 3}
BIASED = {"in_bias": True, "out_bias": True}
CROSS = {"combine": "cross_attention", "norm": "group", "scale": "learned"}
SPECS = {
    "mamba2": declare("M2", MAMBA),
    "mamba2, bare": declare("M", {"M": {"conv_bias": False, "norm": "none"}}),
    "mamba1": declare("S2-", SCAN),
    "mamba1, norms": declare("S", {"S": SCAN["S"] | {"dt_bc_norm": "rms", "conv_bias": False}}),
    "mamba1, groups, biases": declare("S", {"S": SCAN["S"] | BIASED | {"n_groups": 3}}),
    "mamba1, beside attention": declare("{S*}", HEADS | SCAN),
    "gated deltanet": declare("G-G", {"G": DELTA}),
    "gated deltanet, defaults": declare("G"),
    "kda": declare("K", {"K": DELTA | {"kind": "kda", "decay_rank": 3, "gate_rank": 7}}),
    "kda, defaults, no bias": declare("K", {"K": {"kind": "kda", "gate_bias": False}}),
    "delta rule beside attention": declare("{G*}", {"G": DELTA} | HEADS),
    "attention": declare("*", HEADS),
    "window": declare("W*", HEADS | WINDOW),
    "attention, every option": declare(
        "*",
        {
            "*": HEADS["*"]
            | {"qk_norm": "head", "sink_logit": True, "softcap": 3.0, "output_gate": "channel"}
        },
    ),
    "gate per head": declare("*", {"*": HEADS["*"] | {"output_gate": "head"}}),
    "hybrid, untied": declare("(M-*-)2", HEADS | MAMBA, tie_embeddings=False),
    "experts": declare("E-"),
    "experts, every option": declare(
        "E",
        {
            "E": {
                "n_experts": 6,
                "top_k": 3,
                "d_ff": 10,
                "d_shared": 7,
                "shared_gate": True,
                "d_latent": 5,
                "balance": "bias",
            }
        },
        tie_embeddings=False,
    ),
    "experts, shared": declare(
        "E-EE", {"E": {"n_experts": 8, "top_k": 2, "d_ff": 10, "shared": True}}
    ),
    "plain mlp": declare("-", {"-": {"gated": False, "activation": "relu2"}}),
    "mean": declare("{M*}-", HEADS | MAMBA),
    "add, learned, no norm": declare(
        "{M*}", HEADS | MAMBA, fusion={"combine": "add", "norm": "none", "scale": "learned"}
    ),
    "joint": declare("{**}", fusion={"combine": "subtract", "projection": "joint"}),
    "three branches": declare("{MM*}", HEADS | MAMBA, fusion={"combine": "concat"}),
    "cross attention": declare("{M*}*", HEADS | MAMBA, fusion=CROSS),
    "reversed cross attention": declare(
        "{M*}", HEADS | MAMBA, fusion=CROSS | {"cross": {"query": "recurrent", "n_heads": 2}}
    ),
    "gate": declare("{M*}-", HEADS | MAMBA, fusion={"combine": "gate", "scale": "scalar"}),
    "gate per token": declare("{M*}-", HEADS | MAMBA, fusion={"combine": "gate", "gate": "token"}),
    "gate, joint": declare("{**}", fusion={"combine": "gate", "projection": "joint"}),
    "merge attention": declare("{**}M", fusion=CROSS | {"combine": "merge_attention"}),
    "cross attention, window": declare("{M*}", fusion=CROSS | {"cross": {"window": 4}}),
    "cross attention, longer window": declare("{M*}", fusion=CROSS | {"cross": {"window": 40}}),
    "cross attention, sinks": declare(
        "{M*}", fusion=CROSS | {"cross": {"window": 4, "n_sinks": 2}}
    ),
    "merge attention, sinks": declare(
        "{**}M",
        fusion={"combine": "merge_attention", "cross": {"window": 2, "n_sinks": 3}},
    ),
    "merge attention, window": declare(
        "{**}M", fusion={"combine": "merge_attention", "cross": {"window": 4}}
    ),
    "shared": declare("M*-M*-", HEADS | MAMBA | {"-": {"d_ff": 24, "shared": True}}),
    "shared, beside the stream": declare(
        "AFM2AFM",
        {
            **MAMBA,
            "A": HEADS["*"] | ASIDE | {"kind": "attention", "input": "hidden+embedding"},
            "F": {"kind": "mlp", "input": "handed", "use_projection": True} | ASIDE,
        },
    ),
    "biases": declare("M*-", {k: m | BIASED for k, m in (HEADS | MAMBA | {"-": {}}).items()}),
    "biases of branches, norms of all heads": declare(
        "{M*}",
        {"M": MAMBA["M"] | BIASED, "*": HEADS["*"] | BIASED | {"qk_norm": "width"}},
        fusion={"combine": "gate"},
    ),
    "latent attention": declare("+-+", {"+": LATENT | {"q_lora_rank": 8}}),
    "bmojo_f": declare("B-", {"B": BMOJO | {"ssm": {"kind": "mamba2"} | MAMBA["M"]}}),
    "bmojo_f, untied, every option": declare(
        "B{MB}",
        MAMBA
        | {
            "B": BMOJO
            | {"tied": False, "qk_norm": "head", "in_bias": True}
            | {"ssm": DELTA | {"kind": "gated_deltanet", "out_bias": True}}
        },
    ),
    "borrowed keys": declare(
        "*{MB}B", HEADS | MAMBA | {"B": {"kind": "attention", "kv_from": "*"}}
    ),
    "meta tokens": declare("WM{M*}-", HEADS | MAMBA, n_meta_tokens=5, tie_embeddings=False),
    "two fusions": declare("{M*}P", parallel={"P": {"branches": "*M", "combine": "concat"}}),
}


@pytest.mark.parametrize("name", SPECS)
def test_parameters_are_those_of_the_model(name):
    with torch.device("meta"):
        model = HybridLM(SPECS[name])
    c = cost(SPECS[name], 1)
    assert sum(p.numel() for p in model.parameters()) == c.n_params
    counted: set[int] = set()
    for s, block, row in zip(SPECS[name].sublayers, model.blocks, c.sublayers, strict=True):
        own = {id(p): p.numel() for p in block.parameters()}
        assert sum(n for i, n in own.items() if i not in counted) == row.n_params
        width = s.input_width(16)  # idle: experts that a token does not choose
        idle = sum(b.n_params(width) - b.n_active_params(width) for b in s.branches)
        assert sum(own.values()) - idle == row.n_read_params
        counted |= own.keys()


@torch.no_grad()
@pytest.mark.parametrize("name", SPECS)
def test_bytes_are_those_of_a_real_state(name):
    """A fresh cache has no spare capacity; its length counters are bookkeeping, not cache."""
    model = HybridLM(SPECS[name])
    state = model(torch.zeros(1, 9, dtype=torch.int64)).state
    expected = cost(SPECS[name], 9, kv_dtype_bytes=4)
    held = [_held(s) for s in state]
    assert [kv for kv, _ in held] == [s.kv_bytes for s in expected.sublayers]
    assert [fixed for _, fixed in held] == [s.state_bytes for s in expected.sublayers]


def _held(state):
    """Bytes of KV caches, and of everything else."""
    if isinstance(state, KVCache):
        return sum(t.numel() * t.element_size() for t in state[:2]), 0
    if state is None or all(isinstance(x, torch.Tensor) for x in state):
        return 0, sum(t.numel() * t.element_size() for t in tensors(state))
    parts = [_held(x) for x in state]
    return sum(a for a, _ in parts), sum(b for _, b in parts)
