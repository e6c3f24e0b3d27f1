"""The parallel sublayer computed a second time, step by step, from its branches' own outputs."""

from itertools import product

import pytest
import torch
from torch import Tensor

from braidlm.arch import Spec
from braidlm.model import HybridLM
from braidlm.ops.attention import KVCache
from braidlm.parallel import Parallel, ParallelState
from tests.specs import spec

WIDTHS = (16, 16)
HEADS = 4
LEGAL = [
    *product(("mean", "add", "subtract", "gate"), ("separate", "joint")),
    ("concat", "joint"),
]


def build(declared: Spec) -> Parallel:
    """Return the sublayer of ``{M*}`` in fp64 with nothing at its plain initial value."""
    torch.manual_seed(0)
    model = HybridLM(declared).double().requires_grad_(False)
    sublayer = model.get_submodule("blocks.0.mix")
    assert isinstance(sublayer, Parallel)
    for parameter in sublayer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return sublayer


def branch_outputs(sublayer: Parallel, x: Tensor) -> list[Tensor]:
    return [branch(x, None, None, False)[0] for branch in sublayer.branches]


def normed(u: Tensor, kind: str, weight: Tensor, eps: float = 1e-5) -> Tensor:
    groups = {"rms": 1, "group": HEADS}[kind]
    parts = u.unflatten(-1, (groups, -1))
    parts = parts / (parts.square().mean(-1, keepdim=True) + eps).sqrt()
    return parts.flatten(-2) * weight


@pytest.mark.parametrize("scale", ["none", "learned", "scalar"])
@pytest.mark.parametrize("norm", ["none", "rms", "group"])
@pytest.mark.parametrize(("combine", "projection"), LEGAL)
def test_every_operator_is_its_formula(combine, projection, norm, scale):
    fusion = {"combine": combine, "projection": projection, "norm": norm, "scale": scale}
    sublayer = build(spec("{M*}", fusion=fusion))
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    v = branch_outputs(sublayer, x)
    if norm != "none":
        gains = [sublayer.get_parameter(f"norms.{i}.weight") for i in (0, 1)]
        v = [normed(u, norm, g) for u, g in zip(v, gains, strict=True)]
    if scale == "learned":
        v = [u * s for u, s in zip(v, sublayer.scales, strict=True)]
    if scale == "scalar":
        (factor,) = sublayer.scales
        v = [v[0], v[1] * factor]
    expected = combined(sublayer, v, x, combine, projection)
    y, state = sublayer(x, None, None, False)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    assert state is None


def combined(
    sublayer: Parallel, v: list[Tensor], x: Tensor, combine: str, projection: str
) -> Tensor:
    matrices = [p.T for n, p in sublayer.combine.named_parameters() if "out_proj" in n]
    assert len(matrices) == (2 if projection == "separate" else 1)
    if combine == "concat":
        return torch.cat(v, dim=-1) @ matrices[0]
    if projection == "separate":
        v = [u @ w for u, w in zip(v, matrices, strict=True)]
    one, two = v
    if combine == "gate":
        opening = torch.sigmoid(gate_scores(sublayer, x))
        total = opening * one + (1 - opening) * two
    else:
        total = {"mean": (one + two) / 2, "add": one + two, "subtract": one - two}[combine]
    return total if projection == "separate" else total @ matrices[0]


def gate_scores(sublayer: Parallel, x: Tensor) -> Tensor:
    weight = sublayer.combine.get_parameter("gate_proj.weight")
    return x @ weight.T + sublayer.combine.get_parameter("gate_proj.bias")


@pytest.mark.parametrize("projection", ["separate", "joint"])
def test_a_gate_per_token_is_one_number_for_all_channels(projection):
    fusion = {"combine": "gate", "gate": "token", "projection": projection, "norm": "none"}
    sublayer = build(spec("{M*}", fusion=fusion))
    assert sublayer.combine.get_parameter("gate_proj.weight").shape == (1, 16)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    v = branch_outputs(sublayer, x)
    y, _ = sublayer(x, None, None, False)
    torch.testing.assert_close(y, combined(sublayer, v, x, "gate", projection))


def test_the_gate_opens_for_the_first_branch_of_every_token():
    sublayer = build(spec("{M*}", fusion={"combine": "gate", "norm": "none"}))
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    v = branch_outputs(sublayer, x)
    for bias, chosen in ((1e3, 0), (-1e3, 1)):
        sublayer.combine.get_parameter("gate_proj.bias").fill_(bias)
        expected = v[chosen] @ sublayer.combine.get_parameter(f"out_projs.{chosen}.weight").T
        torch.testing.assert_close(sublayer(x, None, None, False)[0], expected)


def test_branches_of_different_heads_are_normed_by_their_own():
    heads = {
        "M": {"n_heads": 6, "head_dim": 4},
        "*": {"n_heads": 4, "head_dim": 4, "v_head_dim": 6},
    }
    declared = spec("{M*}", fusion={"combine": "concat", "norm": "group"}, mixers=heads)
    sublayer = build(declared)
    u = branch_outputs(sublayer, torch.randn(2, 7, 16, dtype=torch.float64))
    for norm, branch, n_heads in zip(sublayer.norms, u, (6, 4), strict=True):
        norm.get_parameter("weight").fill_(1)
        expected = torch.cat(
            [
                torch.nn.functional.rms_norm(head, (24 // n_heads,), eps=1e-5)
                for head in branch.split(24 // n_heads, dim=-1)
            ],
            dim=-1,
        )
        torch.testing.assert_close(norm(branch), expected)


@pytest.mark.parametrize("scale", ["none", "learned", "scalar"])
@pytest.mark.parametrize("norm", ["none", "rms", "group"])
def test_norms_and_scales_have_one_number_per_channel_and_each_counts(norm, scale):
    fusion = {"combine": "add", "norm": norm, "scale": scale}
    declared = spec("{M*}", fusion=fusion, mixers={"*": {"v_head_dim": 6}})
    sublayer = build(declared)
    found = {n: p for n, p in sublayer.named_parameters() if "norms." in n or "scales." in n}
    expected = {f"norms.{i}.weight" for i in (0, 1) if norm != "none"}
    expected |= {"none": set(), "learned": {"scales.0", "scales.1"}, "scalar": {"scales.0"}}[scale]
    assert found.keys() == expected
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    before, _ = sublayer(x, None, None, False)
    for name, parameter in found.items():
        width = 1 if scale == "scalar" and "scales" in name else (16, 24)[int(name.split(".")[1])]
        assert parameter.shape == (width,)
        for channel in {0, width - 1}:
            parameter[channel] += 1
            changed, _ = sublayer(x, None, None, False)
            assert (changed - before).abs().max() > 1e-4, (name, channel)
            parameter[channel] -= 1


def test_a_group_norm_frees_each_head_of_the_size_of_the_others():
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    for norm, is_free in (("group", True), ("rms", False)):
        sublayer = build(spec("{M*}", fusion={"combine": "concat", "norm": norm}))
        (weight,) = [p for n, p in sublayer.combine.named_parameters() if "out_proj" in n]
        weight[:, 20:] = 0  # keep the first head of the attention branch, and the SSM
        before, _ = sublayer(x, None, None, False)
        values = sublayer.get_parameter("branches.1.in_proj.weight")
        values[-4:] *= 10  # the values of the other key/value head
        after, _ = sublayer(x, None, None, False)
        assert torch.allclose(before, after, rtol=0, atol=1e-9) == is_free


def test_each_branch_and_the_fusion_keep_a_state_of_their_own():
    fused = spec("{M*}", fusion={"combine": "cross_attention"})
    sublayer = build(fused)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    _, state = sublayer(x, None, None, True)
    assert isinstance(state, ParallelState)
    assert [type(s).__name__ for s in state.branches] == ["Mamba2State", "KVCache"]
    assert isinstance(state.fusion, KVCache)
    assert state.fusion.length.tolist() == [5, 5]
    u = branch_outputs(sublayer, x)[0]
    gain = sublayer.get_parameter("norms.0.weight")
    kv = normed(u, "rms", gain) @ sublayer.get_parameter("combine.kv_proj.weight").T
    held = torch.cat([state.fusion.k.flatten(2), state.fusion.v.flatten(2)], dim=-1)
    torch.testing.assert_close(held, kv, rtol=1e-10, atol=1e-10)

    _, state = build(spec("{M*}"))(x, None, None, True)
    assert isinstance(state, ParallelState)
    assert state.fusion is None


def test_a_merge_attention_keeps_both_streams_side_by_side():
    sublayer = build(spec("{M*}", fusion={"combine": "merge_attention", "norm": "none"}))
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    _, state = sublayer(x, None, None, True)
    assert isinstance(state, ParallelState)
    assert isinstance(state.fusion, KVCache)
    assert state.fusion.length.tolist() == [10, 10]
    held = torch.cat([state.fusion.k.flatten(2), state.fusion.v.flatten(2)], dim=-1)
    for place, u in enumerate(branch_outputs(sublayer, x)):
        kv = u @ sublayer.get_parameter("combine.kv_proj.weight").T
        torch.testing.assert_close(held[:, place::2], kv, rtol=1e-10, atol=1e-10)


TINY = {
    "M": {"n_heads": 3, "head_dim": 2, "d_state": 2, "chunk_size": 2},
    "*": {"n_heads": 3, "head_dim": 2, "n_kv_heads": 1},
}


@pytest.mark.parametrize(
    "fusion",
    [
        {"combine": "mean", "norm": "group"},
        {"combine": "add", "scale": "scalar"},
        {"combine": "subtract", "scale": "learned", "projection": "joint"},
        {"combine": "concat"},
        {"combine": "gate"},
        {"combine": "gate", "gate": "token", "projection": "joint"},
        {"combine": "cross_attention", "cross": {"residual": True}},
        {"combine": "cross_attention", "cross": {"query": "recurrent", "position": "rope"}},
        {"combine": "merge_attention", "cross": {"residual": True, "position": "rope"}},
    ],
    ids=lambda f: "-".join(str(x) for x in f.values() if isinstance(x, str)),
)
def test_gradients_are_those_of_finite_differences(fusion):
    """The combining module alone: to its inputs and to all of its weights."""
    declared = Spec.of(
        {"pattern": "{M*}", "d_model": 3, "vocab_size": 5, "mixers": TINY, "fusion": fusion}
    )
    torch.manual_seed(0)
    sublayer = Parallel(declared.sublayers[0], declared).double()
    sublayer.reset_parameters(0.7, 0.7)
    names, weights = zip(*sublayer.combine.named_parameters(), strict=True)
    v = [torch.randn(1, 5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)

    def run(first, second, x, *weights):
        given = dict(zip(names, weights, strict=True))
        arguments = ([first, second], x, None, None, False)
        return torch.func.functional_call(sublayer.combine, given, arguments)[0]

    assert torch.autograd.gradcheck(run, (*v, x, *weights))
