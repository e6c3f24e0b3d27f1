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
    *product(("mean", "add", "subtract"), ("separate", "joint")),
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


@pytest.mark.parametrize("scale", ["none", "learned"])
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
    expected = combined(sublayer, v, combine, projection)
    y, state = sublayer(x, None, None, False)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    assert state is None


def combined(sublayer: Parallel, v: list[Tensor], combine: str, projection: str) -> Tensor:
    matrices = [p.T for n, p in sublayer.combine.named_parameters() if "out_proj" in n]
    assert len(matrices) == (2 if projection == "separate" else 1)
    if combine == "concat":
        return torch.cat(v, dim=-1) @ matrices[0]
    if projection == "separate":
        v = [u @ w for u, w in zip(v, matrices, strict=True)]
    one, two = v
    total = {"mean": (one + two) / 2, "add": one + two, "subtract": one - two}[combine]
    return total if projection == "separate" else total @ matrices[0]


@pytest.mark.parametrize("scale", ["none", "learned"])
@pytest.mark.parametrize("norm", ["none", "rms", "group"])
def test_norms_and_scales_have_one_number_per_channel_and_each_counts(norm, scale):
    fusion = {"combine": "add", "norm": norm, "scale": scale}
    declared = spec("{M*}", fusion=fusion, mixers={"*": {"v_head_dim": 6}})
    sublayer = build(declared)
    found = {n: p for n, p in sublayer.named_parameters() if "norms." in n or "scales." in n}
    expected = {f"norms.{i}.weight" for i in (0, 1) if norm != "none"}
    expected |= {f"scales.{i}" for i in (0, 1) if scale == "learned"}
    assert found.keys() == expected
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    before, _ = sublayer(x, None, None, False)
    for name, parameter in found.items():
        width = (16, 24)[int(name.split(".")[1])]
        assert parameter.shape == (width,)
        for channel in (0, width - 1):
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
