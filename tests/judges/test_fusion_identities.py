"""Fusions against themselves in other words: identities between operators, and direct computations.

Two arms that an identity joins are one function class: a study that finds a difference between them
has measured its own noise (an A/A test).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.arch import Spec
from braidlm.parallel import Parallel
from braidlm.segments import Segments
from tests.judges.judging import distance, enliven, gradients, probe, relative

EXACT = 1e-12
"""Measured: outputs 2e-15, gradients 3e-15."""
EPS = 1e-3
"""Large enough that a norm without it is found out."""
MAMBA = {"n_heads": 6, "head_dim": 4, "d_state": 5, "n_groups": 3, "chunk_size": 8}
EQUAL = {"n_heads": 4, "head_dim": 6, "n_kv_heads": 2}
NARROW = {"n_heads": 4, "head_dim": 4, "n_kv_heads": 2}
SEGMENTS = Segments.from_lengths([(9, 1, 7), (17,), (3,)])


def parallel(fusion: dict[str, Any], attention: dict[str, Any] = NARROW) -> Parallel:
    """A parallel sublayer {M*} of width 12 with weights that matter; widths 24 and 16, or 24."""
    spec = Spec.of(
        {
            "pattern": "{M*}",
            "d_model": 12,
            "vocab_size": 31,
            "norm_eps": EPS,
            "mixers": {"M": MAMBA, "*": attention},
            "fusion": fusion,
        }
    )
    module = Parallel(spec.sublayers[0], spec)
    enliven(module)
    return module.double()


def inputs() -> Tensor:
    return probe((3, 17, 12), seed=7)


def output(module: Parallel, x: Tensor, segments: Segments | None = None) -> Tensor:
    return module(x, segments, None, False)[0]


def copy_shared(source: Parallel, target: Parallel) -> None:
    """Give `target` everything but the combining module."""
    own = {k: v for k, v in source.state_dict().items() if not k.startswith("combine.")}
    left_out = target.load_state_dict(own, strict=False)
    assert not left_out.unexpected_keys
    assert all(k.startswith("combine.") for k in left_out.missing_keys)


def matrices(module: Parallel) -> list[Tensor]:
    """The output projections' weights, (d_model, w) each."""
    return [p for name, p in module.combine.named_parameters() if "out_proj" in name]


def check_same_function(one: Parallel, other: Parallel, joined: Any) -> None:
    """Outputs agree; so do all gradients, those of the projections through `joined`.

    `joined` maps the gradients of one's projections to those of other's.
    """
    x, direction = inputs(), probe((3, 17, 12))
    found = []
    for module in (one, other):
        y = output(module, x)
        grads = gradients((y * direction).sum(), module)
        mixing = [grads.pop(k) for k in list(grads) if k.startswith("combine.")]
        found.append((y, grads, mixing))
    (y1, g1, w1), (y2, g2, w2) = found
    assert distance(y1, y2) < EXACT
    assert relative(g1, g2) < EXACT
    for a, b in zip(joined(w1), w2, strict=True):
        assert distance(a, b) < EXACT * float(b.abs().max())


SHARED = [{"norm": "none"}, {"norm": "rms"}, {"norm": "group", "scale": "learned"}]


@pytest.mark.parametrize("shared", SHARED, ids=lambda s: s["norm"])
def test_concat_is_add_with_the_matrix_cut_in_two(shared):
    """W [v_1; v_2] = W_1 v_1 + W_2 v_2 for W = [W_1 W_2]."""
    add = parallel({**shared, "combine": "add", "projection": "separate"})
    concat = parallel({**shared, "combine": "concat"})
    copy_shared(add, concat)
    with torch.no_grad():
        matrices(concat)[0].copy_(torch.cat(matrices(add), dim=1))
    check_same_function(add, concat, lambda w: [torch.cat(w, dim=1)])


@pytest.mark.parametrize("shared", SHARED, ids=lambda s: s["norm"])
def test_subtract_is_add_with_the_second_matrix_negated(shared):
    add = parallel({**shared, "combine": "add", "projection": "separate"})
    subtract = parallel({**shared, "combine": "subtract", "projection": "separate"})
    copy_shared(add, subtract)
    with torch.no_grad():
        for sign, a, b in zip((1, -1), matrices(add), matrices(subtract), strict=True):
            b.copy_(sign * a)
    check_same_function(add, subtract, lambda w: [w[0], -w[1]])


@pytest.mark.parametrize("shared", SHARED, ids=lambda s: s["norm"])
def test_mean_is_add_with_halved_matrices(shared):
    add = parallel({**shared, "combine": "add", "projection": "separate"})
    mean = parallel({**shared, "combine": "mean", "projection": "separate"})
    copy_shared(add, mean)
    with torch.no_grad():
        for a, b in zip(matrices(add), matrices(mean), strict=True):
            b.copy_(2 * a)
    check_same_function(add, mean, lambda w: [g / 2 for g in w])


@pytest.mark.parametrize("combine", ["mean", "add", "subtract"])
def test_a_joint_projection_is_a_separate_one_with_equal_matrices(combine):
    """The converse does not hold: joint is the smaller class."""
    joint = parallel({"combine": combine, "projection": "joint"}, EQUAL)
    separate = parallel({"combine": combine, "projection": "separate"}, EQUAL)
    copy_shared(joint, separate)
    with torch.no_grad():
        for w in matrices(separate):
            w.copy_(matrices(joint)[0])
    x = inputs()
    assert distance(output(joint, x), output(separate, x)) < EXACT


def branch_outputs(module: Parallel, x: Tensor, segments: Segments | None) -> list[Tensor]:
    return [branch(x, segments, None, False)[0] for branch in module.branches]


@pytest.mark.parametrize("norm", ["rms", "group"])
def test_a_scaled_normed_mean_is_its_formula(norm):
    """mean_i W_i (s_i * RMSNorm_i(u_i)), the norm over all channels or over each head."""
    module = parallel({"combine": "mean", "norm": norm, "scale": "learned"})
    x = inputs()
    expected = torch.zeros(3, 17, 12, dtype=torch.float64)
    for i, (u, n_heads) in enumerate(zip(branch_outputs(module, x, SEGMENTS), (6, 4), strict=True)):
        groups = n_heads if norm == "group" else 1
        cut = u.unflatten(-1, (groups, -1))
        normed = F.rms_norm(cut, (cut.shape[-1],), eps=EPS).flatten(-2)
        weight = module.norms[i].get_parameter("weight")
        expected = expected + F.linear(normed * weight * module.scales[i], matrices(module)[i]) / 2
    assert distance(output(module, x, SEGMENTS), expected) < EXACT


CROSS = {
    "as the attention branch": {},
    "multi-query, own width": {"n_heads": 3, "n_kv_heads": 1, "head_dim": 5},
    "residual": {"residual": True},
}


def cross_by_position(module: Parallel, x: Tensor, segments: Segments, cross: Any) -> Tensor:
    """W_o softmax(q k^T / sqrt(d)) v with q of attention and k, v of the SSM, token by token."""
    ssm, attention = (
        norm(u) for norm, u in zip(module.norms, branch_outputs(module, x, segments), strict=True)
    )
    n_heads, n_kv = cross.get("n_heads", 4), cross.get("n_kv_heads", 2)
    dim = cross.get("head_dim", 4)
    mats = module.combine.get_parameter
    w_q, w_k = mats("q_proj.weight"), mats("kv_proj.weight")[: n_kv * dim]
    w_v, w_o = mats("kv_proj.weight")[n_kv * dim :], mats("out_proj.weight")
    y = torch.zeros(*x.shape, dtype=torch.float64)
    for row, start, length in segments.spans:
        for t in range(start, start + length):
            heads = []
            for h in range(n_heads):
                g = h // (n_heads // n_kv)
                q = w_q[h * dim : (h + 1) * dim] @ attention[row, t]
                seen = ssm[row, start : t + 1]
                k = seen @ w_k[g * dim : (g + 1) * dim].T
                v = seen @ w_v[g * dim : (g + 1) * dim].T
                heads.append(torch.softmax(k @ q / dim**0.5, dim=0) @ v)
            o = torch.cat(heads)
            y[row, t] = w_o @ (o + attention[row, t] if cross.get("residual") else o)
    return y


@pytest.mark.parametrize("cross", CROSS.values(), ids=CROSS)
def test_cross_attention_is_a_loop_over_positions(cross):
    module = parallel({"combine": "cross_attention", "cross": cross})
    x, real = inputs(), SEGMENTS.is_real
    direction = probe((3, 17, 12)) * real[..., None]
    y = output(module, x, SEGMENTS)
    expected = cross_by_position(module, x, SEGMENTS, cross)
    assert distance(y[real], expected[real]) < EXACT
    mine = gradients((y * direction).sum(), module)
    assert relative(mine, gradients((expected * direction).sum(), module)) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("cross", CROSS.values(), ids=CROSS)
def test_a_stepped_cross_attention_is_the_same_loop(cross):
    module = parallel({"combine": "cross_attention", "cross": cross})
    x = inputs()
    expected = cross_by_position(module, x, Segments.from_lengths([(17,)] * 3), cross)
    y, state = module(x[:, :8], None, None, True)
    parts = [y]
    for t in range(8, 17):
        y, state = module(x[:, t : t + 1], None, state, True)
        parts.append(y)
    assert distance(torch.cat(parts, dim=1), expected) < EXACT


def test_the_identities_have_teeth():
    """Swapped halves of W, or the other branch asking, are other functions."""
    add = parallel({"combine": "add", "norm": "none"}, EQUAL)
    concat = parallel({"combine": "concat", "norm": "none"}, EQUAL)
    copy_shared(add, concat)
    with torch.no_grad():
        matrices(concat)[0].copy_(torch.cat(matrices(add)[::-1], dim=1))
    x = inputs()
    assert distance(output(add, x), output(concat, x)) > 1e-2
