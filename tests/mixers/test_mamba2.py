"""Mamba-2 begins as its paper says, and its options do what they say."""

import math

import pytest
import torch
import torch.nn.functional as F

from braidlm import mixers
from braidlm.arch import Spec
from braidlm.arch.mixers import Mamba2Config
from braidlm.mixers import Mamba2
from tests.specs import MAMBA

D_MODEL, STD = 16, 0.05
MANY = {"n_heads": 2000, "head_dim": 2, "d_state": 2}


def build(seed: int = 0, **fields) -> Mamba2:
    torch.manual_seed(seed)
    mixer = mixers.build(Mamba2Config(**{**MAMBA, **fields}), D_MODEL, 1e-5)
    assert isinstance(mixer, Mamba2)
    mixer.reset_parameters(STD)
    return mixer.requires_grad_(False)


def distance_to_uniform(x: torch.Tensor, low: float, high: float) -> float:
    """Kolmogorov-Smirnov: the largest gap between the empirical and the uniform distribution."""
    n = x.numel()
    cdf = (x.double().sort().values - low) / (high - low)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return float(torch.maximum(cdf - steps[:-1], steps[1:] - cdf).max())


CRITICAL = 1.95 / math.sqrt(2000)
"""KS at the level 0.001 for 2000 draws; the seeds are fixed."""


@pytest.mark.parametrize(("low", "high"), [(1.0, 16.0), (0.01, 2.0)])
def test_the_rate_is_uniform_between_its_bounds(low, high):
    A = build(**MANY, A_init_min=low, A_init_max=high).dynamics.A_log.exp()
    assert low * 0.999 <= A.min()
    assert A.max() <= high * 1.001
    assert distance_to_uniform(A, low, high) < CRITICAL
    assert distance_to_uniform(A.log(), math.log(low), math.log(high)) > 3 * CRITICAL


@pytest.mark.parametrize(("low", "high"), [(1e-3, 0.1), (1e-2, 1.0)])
def test_the_initial_step_is_log_uniform_between_its_bounds(low, high):
    dt = F.softplus(build(**MANY, dt_min=low, dt_max=high).dynamics.dt_bias)
    assert low * 0.99 <= dt.min()
    assert dt.max() <= high * 1.01
    assert distance_to_uniform(dt.log(), math.log(low), math.log(high)) < CRITICAL
    assert distance_to_uniform(dt, low, high) > 3 * CRITICAL


def test_the_initial_step_has_a_floor():
    dt = F.softplus(build(**MANY, dt_min=1e-6, dt_max=1e-2, dt_init_floor=1e-4).dynamics.dt_bias)
    assert float(dt.min()) == pytest.approx(1e-4, rel=1e-3)
    # Half of the draws' logarithms lie below the floor, and no other value is that frequent.
    assert 0.45 < float((dt < 1.01e-4).double().mean()) < 0.55


def test_the_rest_begins_plain():
    mixer = build(**MANY)
    assert torch.equal(mixer.dynamics.D, torch.ones(2000))
    assert mixer.norm_weight is not None
    assert torch.equal(mixer.norm_weight, torch.ones(4000))
    assert mixer.conv_bias is not None
    for weight in (mixer.conv_weight, mixer.conv_bias):
        assert weight.abs().max() <= 4**-0.5  # as torch's Conv1d with 4 taps and one channel each
        assert weight.abs().max() > 0.99 * 4**-0.5
        assert abs(float(weight.mean())) < 0.02


def test_two_builds_draw_apart_and_a_seed_repeats():
    one, same, other = build(1), build(1), build(2)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, same.get_parameter(name)), name
    for name in ("in_proj.weight", "conv_weight", "dynamics.A_log", "dynamics.dt_bias"):
        assert not torch.equal(one.get_parameter(name), other.get_parameter(name)), name


def by_hand(mixer: Mamba2, x: torch.Tensor, norm: str, eps: float = 1e-5) -> torch.Tensor:
    """The docstring of the mixer, token by token, for one row (T, d_model) in fp64."""
    inner, n, heads = mixer.n_heads * mixer.head_dim, mixer.d_state, mixer.n_heads
    per_group = heads // mixer.n_groups
    z, xbc, dt = (x @ mixer.in_proj.weight.T).split(mixer.widths, dim=-1)
    taps = mixer.conv_weight.shape[1]
    held = torch.zeros(heads, mixer.head_dim, n, dtype=x.dtype)
    out = []
    for t in range(len(x)):
        conv = torch.zeros_like(xbc[0]) if mixer.conv_bias is None else mixer.conv_bias
        for k in range(taps):
            if t - k >= 0:
                conv = conv + mixer.conv_weight[:, taps - 1 - k] * xbc[t - k]
        conv = conv * torch.sigmoid(conv)
        u = conv[:inner].view(heads, mixer.head_dim)
        b, c = conv[inner:].view(2, mixer.n_groups, n).repeat_interleave(per_group, dim=1)
        step = torch.log1p(torch.exp(dt[t] + mixer.dynamics.dt_bias))
        decay = torch.exp(-torch.exp(mixer.dynamics.A_log) * step)
        held = decay[:, None, None] * held + torch.einsum("h,hp,hn->hpn", step, u, b)
        y = torch.einsum("hpn,hn->hp", held, c) + mixer.dynamics.D[:, None] * u
        gate = z[t] * torch.sigmoid(z[t])
        out.append(gated(y.flatten(), gate, mixer, norm, eps))
    return torch.stack(out)


def gated(
    y: torch.Tensor, gate: torch.Tensor, mixer: Mamba2, norm: str, eps: float
) -> torch.Tensor:
    if mixer.norm_weight is None:
        return y * gate
    y = (y * gate if norm == "gate_first" else y).view(mixer.n_groups, -1)
    y = (y / torch.sqrt(y.square().mean(-1, keepdim=True) + eps)).flatten()
    y = y * mixer.norm_weight
    return y if norm == "gate_first" else y * gate


@pytest.mark.parametrize("norm", ["gate_first", "norm_first", "none"])
@pytest.mark.parametrize("fields", [{}, {"n_groups": 2, "conv_bias": False, "d_conv": 3}])
def test_the_mixer_is_its_formula(norm, fields):
    mixer = build(norm=norm, **fields).double()
    for parameter in mixer.parameters():  # nothing may hide behind a one or a zero
        parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(1, 19, D_MODEL, dtype=torch.float64)
    u, state = mixer(x, None, None, True)
    torch.testing.assert_close(u[0], by_hand(mixer, x[0], norm), rtol=1e-10, atol=1e-10)
    assert state is not None
    assert state.conv.shape[1] == mixer.conv_weight.shape[1] - 1


@pytest.mark.parametrize("norm", ["gate_first", "norm_first", "none"])
@pytest.mark.parametrize("fields", [{}, {"n_groups": 2, "conv_bias": False, "d_conv": 3}])
def test_lean_steps_are_the_formula_and_leave_the_state_that_they_are_given(norm, fields):
    mixer = build(norm=norm, **fields).double()
    for parameter in mixer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    expected = torch.stack([by_hand(mixer, row, norm) for row in x])
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
            state = after


def test_the_default_norm_is_the_papers():
    (sublayer,) = Spec.parse("M", d_model=64).sublayers
    (config,) = sublayer.branches
    assert isinstance(config, Mamba2Config)
    assert (config.norm, config.A_init_min, config.A_init_max) == ("gate_first", 1.0, 16.0)
    assert (config.dt_min, config.dt_max, config.dt_init_floor) == (1e-3, 0.1, 1e-4)
