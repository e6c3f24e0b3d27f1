"""Shared letters, and sublayers that read or write beside the stream: costs by hand, refusals."""

import re

import pytest

from braidlm.arch import Spec
from braidlm.arch.cost import cost, executed_matmul_flops, sublayer_costs
from braidlm.arch.published import published
from braidlm.arch.recipe import load_spec
from braidlm.arch.toml import model_table
from braidlm.errors import InputError

A = {"kind": "attention", "n_heads": 4, "head_dim": 4, "n_kv_heads": 2, "shared": True}
A |= {"input": "hidden+embedding", "output": "next_input", "lora_rank": 3}
F = {"kind": "mlp", "d_ff": 24, "shared": True, "input": "handed", "output": "next_input"}
F |= {"lora_rank": 2, "use_projection": True}
M = {"head_dim": 8, "n_heads": 4, "d_state": 5}


def declare(pattern, **fields):
    mixers = {k: v for k, v in {"A": A, "F": F, "M": M}.items() if k in pattern}
    mixers |= fields.pop("mixers", {})
    return Spec.of(
        {"pattern": pattern, "d_model": 16, "vocab_size": 100, "mixers": mixers, **fields}
    )


def test_a_zamba2_block_by_hand():
    n = 10
    spec = declare("MAFMMAFM")
    rows = sublayer_costs(spec, n)
    qkv, attention_out = 32 * (16 + 8 + 8), 16 * 16
    adapters = 3 * (32 + 16) + 2 * 3 * (32 + 8)
    first, later = rows[1], rows[5]
    assert first.n_params == 32 + qkv + attention_out + adapters
    assert later.n_params == later.n_active_params == adapters
    assert first.n_read_params == later.n_read_params == first.n_params
    pairs = n * (n + 1) // 2
    flops = 2 * n * (qkv + attention_out + adapters) + pairs * 4 * 4 * 4
    assert first.model_flops == later.model_flops == flops
    assert first.kv_bytes == later.kv_bytes == n * 2 * 2 * 2 * 4

    mlp, of_use = 3 * 16 * 24, 2 * (16 + 48) + 16 * 16
    assert rows[2].n_params == 16 + mlp + of_use
    assert rows[6].n_params == of_use
    assert rows[2].model_flops == rows[6].model_flops == 2 * n * (mlp + of_use)


def test_weights_count_once_and_are_read_at_every_use():
    once, twice = cost(declare("MAFM"), 10), cost(declare("MAFMMAFM"), 10)
    per_use = 3 * (32 + 16) + 2 * 3 * (32 + 8) + 2 * (16 + 48) + 16 * 16
    mamba = once.sublayers[0].n_params
    assert twice.n_params - once.n_params == 2 * mamba + per_use
    assert twice.n_active_params == twice.n_params
    assert twice.kv_bytes == 2 * once.kv_bytes
    assert twice.state_bytes == 2 * once.state_bytes
    read = sum(s.n_read_params for s in once.sublayers)
    assert twice.decode_weight_bytes - once.decode_weight_bytes == 2 * read


def test_sharing_saves_parameters_and_nothing_else():
    own = declare("*-*-")
    shared = declare("*-*-", mixers={"*": {"shared": True}, "-": {"shared": True}})
    a, b = cost(own, 9), cost(shared, 9)
    assert a.block_params == 2 * b.block_params
    assert (a.model_flops, a.kv_bytes) == (b.model_flops, b.kv_bytes)
    assert a.decode_bytes_per_step == b.decode_bytes_per_step
    assert executed_matmul_flops(own, 2, 9) == executed_matmul_flops(shared, 2, 9)


def test_owners_are_the_first_uses():
    spec = declare("MAFMAF-M", mixers={"-": {"d_ff": 8}})
    assert [s.owner for s in spec.sublayers] == [0, 1, 2, 3, 1, 2, 6, 7]
    assert Spec.of(spec.model_dump(mode="json", exclude_none=True)) == spec
    assert Spec.of(model_table(spec)) == spec


def test_zamba2_has_a_cache_per_use():
    spec = load_spec("recipes/published/zamba2-2.7b.toml")
    assert cost(spec, 1).kv_bytes_per_token == 9 * 2 * 2 * 32 * 160


BAD = [
    ("M*", {"*": {"output": "next_input"}}, "sublayer 1 (*): output = 'next_input': no sublayer"),
    (
        "M*",
        {"*": {"input": "handed"}},
        "sublayer 1 (*): input = 'handed': the sublayer before must",
    ),
    ("*M", {"*": {"input": "handed"}}, "sublayer 0 (*): input = 'handed'"),
    (
        "*M",
        {"*": {"input": "embedding"}},
        "mixers.*.input = 'embedding': input should be 'hidden',",
    ),
    ("*M", {"*": {"output": "stream"}}, "mixers.*.output = 'stream'"),
    ("*M", {"*": {"shared": 1}}, "mixers.*.shared = 1: input should be a valid boolean"),
    ("*M", {"*": {"lora_rank": 4}}, "lora_rank = 4: belongs only to shared = true"),
    ("*M", {"*": {"lora_rank": -1}}, "mixers.*.lora_rank = -1"),
    ("*M", {"*": {"use_projection": True}}, "use_projection = true: belongs only to shared = true"),
    (
        "MM",
        {"M": {"shared": True, "lora_rank": 4}},
        "lora_rank = 4: only a sublayer of attention or",
    ),
    ("{M*}", {"*": {"shared": True}}, "mixers.*.shared = True: letter '*' is a branch of 'M*'"),
    ("E", {"E": {"input": "hidden+embedding"}}, "a mixer that projects for itself"),
]


@pytest.mark.parametrize(("pattern", "mixers", "message"), BAD)
def test_what_cannot_be_is_refused(pattern, mixers, message):
    with pytest.raises(InputError, match=re.escape(message)):
        declare(pattern, mixers=mixers)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"combine": "gate", "input": "hidden+embedding"}, "a gate reads d_model channels"),
        ({"shared": True, "lora_rank": 2}, "lora_rank = 2: only a sublayer of attention or mlp"),
    ],
)
def test_what_cannot_be_of_branches_is_refused(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        declare("P", parallel={"P": {"branches": "M*", **fields}})


def test_baes_formulas_know_no_sharing():
    with pytest.raises(InputError, match="gives no formula for shared = true of sublayer 0"):
        published("bae", declare("**", mixers={"*": {"shared": True}}), 1)
