"""Gated DeltaNet and KDA begin as their papers say, and are their formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm import mixers
from braidlm.arch.mixers import GatedDeltaNetConfig, KDAConfig
from braidlm.mixers.delta import DeltaMixer
from tests.mixers.test_mamba2 import CRITICAL, distance_to_uniform
from tests.specs import DELTA

D_MODEL, STD = 16, 0.05
MANY = {"n_heads": 2000, "n_v_heads": 2000, "head_dim": 2, "v_head_dim": 1, "chunk_size": 8}
RANKS = {"decay_rank": 3, "gate_rank": 5}


def build(kind: str, seed: int = 0, **fields: Any) -> DeltaMixer:
    torch.manual_seed(seed)
    sizes = {"n_v_heads": fields.get("n_heads", DELTA["n_heads"]), **DELTA, **fields}
    config = KDAConfig(**RANKS, **sizes) if kind == "kda" else GatedDeltaNetConfig(**sizes)
    mixer = mixers.build(config, D_MODEL, 1e-5)
    assert isinstance(mixer, DeltaMixer)
    mixer.reset_parameters(STD)
    return mixer.requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("gated_deltanet", 0.0, 16.0), ("kda", 1.0, 16.0)]
)
def test_the_rate_is_uniform_between_the_papers_bounds(kind, low, high):
    A = build(kind, **MANY).dynamics.A_log.exp()
    assert A.shape == (2000,)
    assert low * 0.999 <= A.min()
    assert A.max() <= high * 1.001
    assert distance_to_uniform(A, low, high) < CRITICAL
    other = build(kind, **MANY, A_init_min=0.5, A_init_max=2.0).dynamics.A_log.exp()
    assert distance_to_uniform(other, 0.5, 2.0) < CRITICAL


def test_a_rate_is_never_zero():
    A = build("gated_deltanet", **MANY, A_init_max=1e-4).dynamics.A_log.exp()
    torch.testing.assert_close(A, torch.full((2000,), 1e-4))


@pytest.mark.parametrize("kind", ["gated_deltanet", "kda"])
def test_the_initial_step_is_log_uniform_and_has_a_floor(kind):
    dt = F.softplus(build(kind, **MANY).dynamics.dt_bias)
    assert dt.shape == (2000 * (2 if kind == "kda" else 1),)
    assert distance_to_uniform(dt.log(), math.log(1e-3), math.log(0.1)) < CRITICAL
    low = F.softplus(build(kind, **MANY, dt_min=1e-6, dt_max=1e-2).dynamics.dt_bias)
    assert float(low.min()) == pytest.approx(1e-4, rel=1e-3)
    assert 0.45 < float((low < 1.01e-4).double().mean()) < 0.55


def test_the_rest_begins_plain():
    mixer = build("kda", n_heads=64, conv_bias=True)
    named = dict(mixer.named_parameters())
    assert torch.equal(named["norm_weight"], torch.ones(6))
    assert torch.equal(named["gate_proj.bias"], torch.zeros(64 * 6))
    for name in ("in_proj.weight", "gate_proj.weight", "decay_proj.weight"):
        assert float(named[name].std()) == pytest.approx(STD, rel=0.06)
    for name in ("conv_weight", "conv_bias"):
        assert 0.95 * 4**-0.5 < named[name].abs().max() <= 4**-0.5
    assert not torch.equal(build("kda", 1).in_proj.weight, build("kda", 2).in_proj.weight)


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def by_hand(mixer: DeltaMixer, x: Tensor, eps: float, beta_max: float) -> Tensor:
    """The docstrings of the mixers, token by token, for one row (T, d_model) in fp64."""
    p = dict(mixer.named_parameters())
    heads, groups = mixer.n_v_heads, mixer.n_heads
    keys = groups * mixer.head_dim
    width = heads * mixer.v_head_dim
    rows, is_kda = x @ p["in_proj.weight"].T, "gate_proj.weight" in p
    widths = (2 * keys + width, 5, 3, heads) if is_kda else (2 * keys + width, width, heads, heads)
    qkv, z, a, b = rows.split(widths, dim=-1)
    if is_kda:
        z = z @ p["gate_proj.weight"].T + p.get("gate_proj.bias", 0.0)
        a = a @ p["decay_proj.weight"].T
    taps = p["conv_weight"].shape[1]
    held = torch.zeros(heads, mixer.head_dim, mixer.v_head_dim, dtype=x.dtype)
    out = []
    for t in range(len(x)):
        conv = p.get("conv_bias", torch.zeros_like(qkv[0]))
        for n in range(min(taps, t + 1)):
            conv = conv + p["conv_weight"][:, taps - 1 - n] * qkv[t - n]
        q, k, v = silu(conv).split((keys, keys, width))
        q, k = (unit(y.view(groups, -1)).repeat_interleave(heads // groups, 0) for y in (q, k))
        step = torch.log1p(torch.exp(a[t] + p["dynamics.dt_bias"])).view(heads, -1)
        decay = torch.exp(-torch.exp(p["dynamics.A_log"])[:, None] * step)
        held = decay[..., None] * held
        missing = v.view(heads, -1) - torch.einsum("hdv,hd->hv", held, k)
        beta = beta_max * torch.sigmoid(b[t])
        held = held + torch.einsum("h,hd,hv->hdv", beta, k, missing)
        y = torch.einsum("hdv,hd->hv", held, q) / mixer.head_dim**0.5
        y = y / torch.sqrt(y.square().mean(-1, keepdim=True) + eps) * p["norm_weight"]
        gate = z[t].view(heads, -1)
        gate = silu(gate) if mixer.gate_activation == "silu" else torch.sigmoid(gate)
        out.append((y * gate).flatten())
    return torch.stack(out)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "grouped": {"n_v_heads": 4, "d_conv": 3, "conv_bias": True},
    "negative": {"allow_negative_eigenvalues": True, "norm_eps": 0.1},
    "silu": {"gate_activation": "silu"},
    "sigmoid": {"gate_activation": "sigmoid", "n_v_heads": 6},
}


def lively(kind: str, case: str) -> tuple[DeltaMixer, float, float]:
    """A mixer in fp64 in which nothing hides behind a one or a zero, its eps and largest beta."""
    fields = CASES[case]
    mixer = build(kind, **fields).double()
    for parameter in mixer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    beta_max = 2.0 if "allow_negative_eigenvalues" in fields else 1.0
    return mixer, fields.get("norm_eps", 1e-5), beta_max


@pytest.mark.parametrize("kind", ["gated_deltanet", "kda"])
@pytest.mark.parametrize("case", CASES)
def test_the_mixer_is_its_formula(kind, case):
    mixer, eps, beta_max = lively(kind, case)
    x = torch.randn(1, 19, D_MODEL, dtype=torch.float64)
    u, state = mixer(x, None, None, True)
    expected = by_hand(mixer, x[0], eps, beta_max)
    torch.testing.assert_close(u[0], expected, rtol=1e-10, atol=1e-10)
    assert state is not None
    assert state.conv.shape[1] == mixer.conv_weight.shape[1] - 1


@pytest.mark.parametrize("kind", ["gated_deltanet", "kda"])
@pytest.mark.parametrize("case", CASES)
def test_lean_steps_are_the_formula_and_leave_the_state_that_they_are_given(kind, case):
    mixer, eps, beta_max = lively(kind, case)
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    expected = torch.stack([by_hand(mixer, row, eps, beta_max) for row in x])
    with torch.no_grad():
        _, state = mixer(x[:, :4], None, None, True)
        for t in range(4, 9):
            assert state is not None
            before = [part.clone() for part in state]
            u, after = mixer(x[:, t : t + 1], None, state, True)
            torch.testing.assert_close(u[:, 0], expected[:, t], rtol=1e-10, atol=1e-10)
            assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
            with torch.enable_grad():
                _, same = mixer(x[:, t : t + 1], None, state, True)
            for one, other in zip(after, same, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
            alone, nothing = mixer(x[:, t : t + 1], None, state, False)
            assert nothing is None
            assert torch.equal(alone, u)
            state = after


@pytest.mark.parametrize("kind", ["gated_deltanet", "kda"])
def test_the_parts_of_the_input_projection_are_named_whole(kind):
    mixer = build(kind, n_v_heads=4)
    (rows,) = mixer.row_parts().values()
    assert sum(rows) == len(mixer.in_proj.weight)
    last = (5, 3, 4) if kind == "kda" else (24, 4, 4)
    assert rows == (8, 8, 24, *last)
