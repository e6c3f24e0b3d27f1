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


@pytest.mark.parametrize("shared", SHARED, ids=lambda s: s["norm"])
@pytest.mark.parametrize("gate", ["channel", "token"])
@pytest.mark.parametrize("projection", ["separate", "joint"])
def test_a_gate_that_hears_nothing_is_the_mean(projection, gate, shared):
    """sigmoid(0) = 1/2: the mean is in the class of the gate."""
    mean = parallel({**shared, "combine": "mean", "projection": projection}, EQUAL)
    fusion = {"combine": "gate", "gate": gate, "projection": projection}
    gated = parallel({**shared, **fusion}, EQUAL)
    copy_shared(mean, gated)
    with torch.no_grad():
        for a, b in zip(matrices(mean), matrices(gated), strict=True):
            b.copy_(a)
        for name in ("gate_proj.weight", "gate_proj.bias"):
            gated.combine.get_parameter(name).zero_()
    assert distance(output(mean, inputs()), output(gated, inputs())) < EXACT


@pytest.mark.parametrize("projection", ["separate", "joint"])
def test_a_gate_per_channel_of_equal_rows_is_a_gate_per_token(projection):
    one = parallel({"combine": "gate", "gate": "token", "projection": projection}, EQUAL)
    many = parallel({"combine": "gate", "gate": "channel", "projection": projection}, EQUAL)
    assert (matrices(one)[0].shape[1], EQUAL["n_heads"] * EQUAL["head_dim"]) == (24, 24)
    copy_shared(one, many)
    with torch.no_grad():
        for a, b in zip(matrices(one), matrices(many), strict=True):
            b.copy_(a)
        for name in ("gate_proj.weight", "gate_proj.bias"):
            many.combine.get_parameter(name).copy_(one.combine.get_parameter(name))  # all rows
    assert distance(output(one, inputs()), output(many, inputs())) < EXACT


@pytest.mark.parametrize("combine", ["add", "subtract"])
def test_a_scalar_is_a_factor_on_the_second_matrix(combine):
    """Separate: the same class as no scale; joint: a class of its own."""
    plain = parallel({"combine": combine})
    scaled = parallel({"combine": combine, "scale": "scalar"})
    own = {k: v for k, v in scaled.state_dict().items() if not k.startswith("scales.")}
    plain.load_state_dict(own)
    with torch.no_grad():
        matrices(plain)[1].mul_(scaled.scales[0])
    assert float((scaled.scales[0].detach() - 1).abs()) > 1e-2
    assert distance(output(plain, inputs()), output(scaled, inputs())) < EXACT


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
    "answer residual": {"answer_residual": True, "n_heads": 6},
    "rope": {"position": "rope", "rope_theta": 30.0},
    "window": {"window": 4, "position": "rope"},
    "window, sinks": {"window": 3, "n_sinks": 2, "position": "rope"},
    "the recurrent branch asks": {"query": "recurrent", "n_heads": 6, "residual": True},
}
MERGE = {
    "as the attention branch": {},
    "multi-query, rope": {"n_heads": 3, "n_kv_heads": 1, "head_dim": 8, "position": "rope"},
    "residual": {"residual": True},
    "window": {"window": 3, "position": "rope"},
    "window, sinks": {"window": 2, "n_sinks": 3},
}
ATTENDING = [
    *(("cross_attention", NARROW, cross) for cross in CROSS.values()),
    *(("merge_attention", EQUAL, cross) for cross in MERGE.values()),
]
ATTENDING_IDS = [*CROSS, *(f"merge, {name}" for name in MERGE)]


def turned(heads: Tensor, position: int, cross: Any) -> Tensor:
    """Rotate pairs (i, i + P/2) of each head (h, P) by position * theta^(-2i / P)."""
    if cross.get("position") != "rope":
        return heads
    half = heads.shape[-1] // 2
    theta = cross.get("rope_theta", 10_000.0)
    rate = torch.tensor([theta ** (-i / half) for i in range(half)], dtype=torch.float32)
    cos, sin = (position * rate.double()).cos(), (position * rate.double()).sin()
    a, b = heads[..., :half], heads[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def attended_by_position(
    module: Parallel, x: Tensor, segments: Segments, shape: dict[str, int], cross: Any
) -> Tensor:
    """W_o softmax(q k^T / sqrt(P)) v token by token: who asks and who answers, as declared."""
    streams = [
        norm(u) for norm, u in zip(module.norms, branch_outputs(module, x, segments), strict=True)
    ]
    ssm, attention = streams
    merges = "query" not in cross and type(module.combine).__name__ == "MergeAttention"
    asking = ssm if cross.get("query") == "recurrent" else attention
    answering = [attention if cross.get("query") == "recurrent" else ssm]
    if merges:
        asking, answering = (ssm + attention) / 2, streams
    n_heads, n_kv = cross.get("n_heads", shape["n_heads"]), cross.get("n_kv_heads", 2)
    dim = cross.get("head_dim", shape["head_dim"])
    mats = module.combine.get_parameter
    w_q, w_k = mats("q_proj.weight"), mats("kv_proj.weight")[: n_kv * dim]
    w_v, w_o = mats("kv_proj.weight")[n_kv * dim :], mats("out_proj.weight")
    y = torch.zeros(*x.shape, dtype=torch.float64)
    for row, start, length in segments.spans:
        for t in range(length):
            q = turned((w_q @ asking[row, start + t]).view(n_heads, dim), t, cross)
            first = max(0, t + 1 - cross.get("window", t + 1))
            places = [i for i in range(t + 1) if i >= first or i < cross.get("n_sinks", 0)]
            seen = [(s[row, start + i], i) for s in answering for i in places]
            k = torch.stack([turned((w_k @ u).view(n_kv, dim), i, cross) for u, i in seen])
            v = torch.stack([(w_v @ u).view(n_kv, dim) for u, _ in seen])
            heads = []
            for h in range(n_heads):
                g = h // (n_heads // n_kv)
                heads.append(torch.softmax(k[:, g] @ q[h] / dim**0.5, dim=0) @ v[:, g])
            o = torch.cat(heads)
            o = o + asking[row, start + t] if cross.get("residual") else o
            o = o + answering[0][row, start + t] if cross.get("answer_residual") else o
            y[row, start + t] = w_o @ o
    return y


@pytest.mark.parametrize(("combine", "shape", "cross"), ATTENDING, ids=ATTENDING_IDS)
def test_an_attention_between_branches_is_a_loop_over_positions(combine, shape, cross):
    module = parallel({"combine": combine, "cross": cross}, shape)
    x, real = inputs(), SEGMENTS.is_real
    direction = probe((3, 17, 12)) * real[..., None]
    y = output(module, x, SEGMENTS)
    expected = attended_by_position(module, x, SEGMENTS, shape, cross)
    assert distance(y[real], expected[real]) < EXACT
    mine = gradients((y * direction).sum(), module)
    assert relative(mine, gradients((expected * direction).sum(), module)) < EXACT


@torch.no_grad()
@pytest.mark.parametrize(("combine", "shape", "cross"), ATTENDING, ids=ATTENDING_IDS)
def test_stepped_it_is_the_same_loop(combine, shape, cross):
    module = parallel({"combine": combine, "cross": cross}, shape)
    x = inputs()
    whole = Segments.from_lengths([(17,)] * 3)
    expected = attended_by_position(module, x, whole, shape, cross)
    y, state = module(x[:, :8], None, None, True)
    parts = [y]
    for t in range(8, 17):
        y, state = module(x[:, t : t + 1], None, state, True)
        parts.append(y)
    assert distance(torch.cat(parts, dim=1), expected) < EXACT


def test_a_merge_attention_of_equal_streams_is_an_attention_over_one():
    """Every key counts twice, which the softmax does not see."""
    merge = parallel({"combine": "merge_attention", "norm": "none"}, EQUAL).combine
    cross = parallel({"combine": "cross_attention", "norm": "none"}, EQUAL).combine
    cross.load_state_dict(merge.state_dict())
    stream, x = probe((3, 17, 24), seed=8), inputs()
    one = cross([stream, stream], x, SEGMENTS, None, False)[0]
    other = merge([stream, stream], x, SEGMENTS, None, False)[0]
    assert distance(one[SEGMENTS.is_real], other[SEGMENTS.is_real]) < EXACT


def test_swapped_branches_of_a_merge_attention_are_the_same_function():
    merge = parallel({"combine": "merge_attention", "norm": "none"}, EQUAL).combine
    a, b, x = probe((3, 17, 24), seed=8), probe((3, 17, 24), seed=9), inputs()
    one, other = (merge(v, x, None, None, False)[0] for v in ([a, b], [b, a]))
    assert distance(one, other) < EXACT


def test_the_identities_have_teeth():
    """Swapped halves of W, or the other branch asking, are other functions."""
    add = parallel({"combine": "add", "norm": "none"}, EQUAL)
    concat = parallel({"combine": "concat", "norm": "none"}, EQUAL)
    copy_shared(add, concat)
    with torch.no_grad():
        matrices(concat)[0].copy_(torch.cat(matrices(add)[::-1], dim=1))
    x = inputs()
    assert distance(output(add, x), output(concat, x)) > 1e-2
