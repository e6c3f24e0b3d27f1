import re
from itertools import product

import pytest

from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.errors import InputError

D = 32
EQUAL = {"M": {"expand": 1, "head_dim": 16}, "*": {"head_dim": 16}}
WIDER = {"M": {"expand": 2, "head_dim": 16}, "*": {"head_dim": 16}}
COMBINE = ("mean", "add", "subtract", "concat", "cross_attention")


def declare(pattern="{M*}", mixers=EQUAL, **fusion):
    return Spec.of(
        {"pattern": pattern, "d_model": D, "vocab_size": 8, "mixers": mixers, "fusion": fusion}
    )


def why_not(combine, projection, n_branches, mixers):
    """The table of docs/fusion.md: the reason of a refusal, or None."""
    if combine == "concat" and projection == "separate":
        return "concat is always joint"
    if combine == "cross_attention" and projection == "separate":
        return "cross_attention has one output projection of its own"
    if n_branches > 2 and combine in ("subtract", "cross_attention"):
        return f"combine = '{combine}': takes two branches, not 3"
    if projection == "joint" and combine in ("mean", "add", "subtract") and mixers is WIDER:
        return "projection = 'joint': needs branches of equal width"
    return None


@pytest.mark.parametrize("mixers", [EQUAL, WIDER], ids=["equal", "wider"])
@pytest.mark.parametrize("pattern", ["{M*}", "{*M}", "{MM*}"])
@pytest.mark.parametrize(("combine", "projection"), list(product(COMBINE, ("separate", "joint"))))
def test_every_combination_is_legal_or_refused_with_its_reason(
    combine, projection, pattern, mixers
):
    reason = why_not(combine, projection, len(pattern) - 2, mixers)
    if reason is None:
        fusion = declare(pattern, mixers, combine=combine, projection=projection).fusion
        assert (fusion.combine, fusion.projection) == (combine, projection)
    else:
        with pytest.raises(InputError, match=re.escape(reason)):
            declare(pattern, mixers, combine=combine, projection=projection)


@pytest.mark.parametrize("combine", ["concat", "cross_attention"])
def test_a_projection_that_has_one_legal_value_need_not_be_given(combine):
    assert declare(combine=combine).fusion.projection == "joint"


@pytest.mark.parametrize(
    ("norm", "scale"), list(product(("none", "rms", "group"), ("none", "learned")))
)
@pytest.mark.parametrize("combine", COMBINE)
def test_norm_and_scale_go_with_every_operator(combine, norm, scale):
    fusion = declare(mixers=WIDER, combine=combine, norm=norm, scale=scale).fusion
    assert (fusion.norm, fusion.scale) == (norm, scale)


def test_a_cross_attention_has_the_shape_of_the_attention_branch_unless_told():
    mixers = {"*": {"head_dim": 8, "n_heads": 6, "n_kv_heads": 3}}
    cross = declare(mixers=mixers, combine="cross_attention").fusion.cross
    assert cross is not None
    assert (cross.n_heads, cross.n_kv_heads, cross.head_dim, cross.residual) == (6, 3, 8, False)
    fusion = declare(mixers=mixers, combine="cross_attention", cross={"n_kv_heads": 1}).fusion
    assert fusion.cross is not None
    assert (fusion.cross.n_heads, fusion.cross.n_kv_heads) == (6, 1)


def test_the_attention_branch_asks_wherever_it_stands():
    for pattern, roles in (("{M*}", (1, 0)), ("{*M}", (0, 1))):
        sublayer = declare(pattern, combine="cross_attention").sublayers[0]
        assert sublayer.fusion is not None
        assert sublayer.fusion.roles(sublayer.branches) == roles


@pytest.mark.parametrize(
    ("pattern", "mixers", "fusion", "message"),
    [
        ("{MM}", EQUAL, {"combine": "cross_attention"}, "needs a parallel sublayer with an att"),
        ("{-*}", {"*": {"head_dim": 16}}, {"combine": "cross_attention"},
         "sublayer 0 ({-*}): combine = 'cross_attention': needs one attention and one recurrent"),
        ("{M*}", EQUAL, {"combine": "mean", "cross": {"n_heads": 2}}, "belongs only to combine"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": 3}, "fusion.cross = 3"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"head": 3}}, "unknown field"),
        ("{M*}", EQUAL, {"combine": "cross_attention", "cross": {"n_kv_heads": 3}},
         "n_kv_heads = 3: must divide n_heads = 2"),
        ("{M*}", EQUAL,
         {"combine": "cross_attention", "cross": {"residual": True, "head_dim": 8}},
         "cross.residual = true: needs the querying branch's width 32 to equal"),
        ("{M*}", EQUAL, {"norm": "layer"}, "fusion.norm = 'layer'"),
        ("{M*}", EQUAL, {"scale": 1.0}, "fusion.scale = 1.0"),
    ],
)  # fmt: skip
def test_other_refusals(pattern, mixers, fusion, message):
    with pytest.raises(InputError, match=re.escape(message)):
        declare(pattern, mixers, **fusion)


def fusion_params(**fusion):
    """Parameters beyond the branches' own and the sublayer's norm, widths 64 and 32, d_model 32."""
    spec = declare(mixers=WIDER, **fusion)
    own = sum(b.n_params(D) for b in spec.sublayers[0].branches)
    return cost(spec, 1).block_params - own - D


def test_parameters_by_hand():
    assert fusion_params(norm="none", combine="mean") == (64 + 32) * 32
    assert fusion_params(norm="rms", combine="add") == (64 + 32) * 32 + 96
    assert fusion_params(norm="group", scale="learned", combine="subtract") == 96 * 32 + 192
    assert fusion_params(norm="none", combine="concat") == 96 * 32
    # q 32 x 32, k and v 64 x (2 * 32), o 32 x 32
    assert fusion_params(norm="none", combine="cross_attention") == 1024 + 64 * 64 + 1024
    equal = declare(norm="none", combine="mean", projection="joint")
    own = sum(b.n_params(D) for b in equal.sublayers[0].branches)
    assert cost(equal, 1).block_params - own - D == 32 * 32


def test_one_function_class_has_one_cost():
    arms = [
        declare(mixers=WIDER, combine="concat"),
        declare(mixers=WIDER, combine="add"),
        declare(mixers=WIDER, combine="subtract"),
    ]
    costs = [cost(spec, 100) for spec in arms]
    assert len({(c.n_params, c.model_flops, c.cache_bytes) for c in costs}) == 1


def test_a_cross_attention_pays_for_its_cache_and_its_pairs():
    mean, cross = (cost(declare(combine=c), 10) for c in ("mean", "cross_attention"))
    assert mean.kv_bytes_per_token == 2 * 2 * 32
    assert cross.kv_bytes_per_token == 2 * mean.kv_bytes_per_token
    matrices = (32 * 32 + 32 * 64 + 32 * 32) - 2 * 32 * 32
    assert cross.model_flops - mean.model_flops == 2 * 10 * matrices + 10 * 11 * 2 * (16 + 16)
