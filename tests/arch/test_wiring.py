"""Biases, factors and places of norms: what they cost, and what cannot be."""

import re

import pytest

from braidlm.arch import Spec
from braidlm.arch.cost import cost, sublayer_costs
from braidlm.errors import InputError

HEADS = {"head_dim": 4, "n_heads": 4, "n_kv_heads": 2, "v_head_dim": 6}
MAMBA = {"head_dim": 8, "n_heads": 4, "n_groups": 2, "d_state": 5, "d_conv": 3}
BIASED = {"in_bias": True, "out_bias": True}


def declare(pattern, mixers, **fields):
    return Spec.of({"pattern": pattern, "d_model": 16, "mixers": mixers, **fields})


def added(pattern, mixers, changes, **fields):
    """Parameters that `changes` of each mixer add."""
    changed = {letter: {**m, **changes} for letter, m in mixers.items()}
    plain, more = (sublayer_costs(declare(pattern, m, **fields), 9) for m in (mixers, changed))
    assert [s.model_flops for s in plain] == [s.model_flops for s in more]
    assert [s.state_bytes for s in plain] == [s.state_bytes for s in more]
    return sum(s.n_params for s in more) - sum(s.n_params for s in plain)


def test_biases_by_hand():
    qkv, zxbcdt = 16 + 8 + 12, 2 * 32 + 2 * 2 * 5 + 4
    assert added("*", {"*": HEADS}, BIASED) == qkv + 16
    assert added("*", {"*": {**HEADS, "output_gate": "head"}}, {"in_bias": True}) == qkv + 4
    assert added("M", {"M": MAMBA}, BIASED) == zxbcdt + 16
    assert added("-", {"-": {"d_ff": 24}}, BIASED) == 48 + 16
    assert added("-", {"-": {"d_ff": 24, "gated": False}}, BIASED) == 24 + 16
    both = {"M": MAMBA, "*": HEADS}
    assert added("{M*}", both, BIASED, fusion={"combine": "gate"}) == qkv + zxbcdt + 2 * 16


def test_norms_of_all_heads_by_hand():
    assert added("*", {"*": HEADS}, {"qk_norm": "width"}) == 16 + 8
    assert added("*", {"*": HEADS}, {"qk_norm": "head"}) == 4 + 4


@pytest.mark.parametrize(
    "changes", [{"norm_position": "post"}, {"in_multiplier": 0.5, "out_multiplier": 2.0}]
)
def test_places_and_factors_cost_nothing(changes):
    assert added("*", {"*": HEADS}, changes) == 0


def test_factors_of_the_whole_model_cost_nothing():
    factors = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "norm_offset": 1.0}
    plain, more = declare("*-", {"*": HEADS}), declare("*-", {"*": HEADS}, **factors)
    assert cost(plain, 9) == cost(more, 9)


BAD = [
    ("*", {"*": {"norm_position": "both"}}, {}, "mixers.*.norm_position = 'both': input should be"),
    ("*", {"*": {"norm_postion": "post"}}, {}, "(did you mean 'norm_position'?)"),
    (
        "{M*}",
        {"M": {"norm_position": "post"}},
        {},
        "mixers.M.norm_position = 'post': letter 'M' is a branch of 'M*'",
    ),
    (
        "{M*}",
        {"M": {"out_bias": True}},
        {"fusion": {"combine": "concat"}},
        "sublayer 0 ({M*}): out_bias = true of a branch: the branches of combine = 'concat'",
    ),
    (
        "{M*}",
        {"*": {"out_multiplier": 0.5}},
        {"fusion": {"combine": "cross_attention"}},
        "out_multiplier = 0.5 of a branch: the branches of combine = 'cross_attention'",
    ),
    ("*", {"*": {"position_scale": {"length": 1.0}}}, {}, "mixers.*.position_scale.length = 1.0"),
    ("*", {"*": {"position_scale": {}}}, {}, "mixers.*.position_scale.length: this field is"),
    (
        "*",
        {"*": {"position_scale": {"kind": "root", "length": 9.0}}},
        {},
        "mixers.*.position_scale.kind = 'root': input should be 'log' or 'steps'",
    ),
    ("*", {"*": {"position_scale": {"length": 9.0, "first": 2}}}, {}, "position_scale.first = 2"),
    ("-", {"-": {"out_multiplier": 0}}, {}, "mixers.-.out_multiplier = 0"),
    (
        "-",
        {"-": {"gated": False, "gate_multiplier": 0.5}},
        {},
        "gate_multiplier = 0.5: needs gated",
    ),
    ("-", {"-": {"in_bias": 1}}, {}, "mixers.-.in_bias = 1: input should be a valid boolean"),
    (
        "M",
        {"M": {"multipliers": [1.0, 2.0]}},
        {},
        "mixers.M.multipliers = (1.0, 2.0): tuple should have at",
    ),
    ("M", {"M": {"multipliers": [1.0, 2.0, 1.0, -1.0, 1.0]}}, {}, "mixers.M.multipliers.3 = -1.0"),
    (
        "E",
        {"E": {"out_bias": True}},
        {},
        "mixers.E: out_bias = true: this mixer projects for itself",
    ),
    ("M", {"M": {"dt_limit_max": 0.0}}, {}, "mixers.M.dt_limit_max = 0.0"),
    (
        "M",
        {"M": {"dt_limit_min": 0.2, "dt_limit_max": 0.1}},
        {},
        "dt_limit_min = 0.2: must not exceed dt_limit_max = 0.1",
    ),
    ("M", {}, {"residual_multiplier": 0.0}, "residual_multiplier = 0.0: input should be greater"),
    ("M", {}, {"norm_offset": "1"}, "norm_offset = '1'"),
    (
        "P",
        {},
        {"parallel": {"P": {"branches": "M*", "norm_position": "mid"}}},
        "parallel.P.norm_position = 'mid'",
    ),
]


@pytest.mark.parametrize(("pattern", "mixers", "fields", "message"), BAD)
def test_what_cannot_be_is_refused(pattern, mixers, fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        declare(pattern, mixers, **fields)
