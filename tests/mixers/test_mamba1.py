"""Mamba-1 begins as its paper says, and its options do what they say."""

import math

import pytest
import torch
import torch.nn.functional as F

from braidlm import mixers
from braidlm.arch.mixers import Mamba1Config
from braidlm.mixers import Mamba1
from tests.mixers.test_mamba2 import CRITICAL, distance_to_uniform
from tests.specs import MAMBA1

D_MODEL, STD = 16, 0.05
MANY = {"d_inner": 2000, "d_state": 5, "dt_rank": 3}
NORMS = ["none", "rms", "rms_unweighted"]
OPTIONS = [
    {},
    {"conv_bias": False, "d_conv": 3, "dt_bc_norm_eps": 0.1},
    {"n_groups": 2, "in_bias": True},
]


def build(seed: int = 0, **fields) -> Mamba1:
    torch.manual_seed(seed)
    mixer = mixers.build(Mamba1Config(**{**MAMBA1, **fields}), D_MODEL, 1e-5)
    assert isinstance(mixer, Mamba1)
    mixer.reset_parameters(STD)
    return mixer.requires_grad_(False)


def lively(**fields) -> Mamba1:
    """In fp64, with nothing left that hides behind a one or a zero."""
    mixer = build(**fields).double()
    for parameter in mixer.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def test_the_rates_are_1_to_n_in_every_channel():
    A = build(**MANY).dynamics.A_log.exp()
    torch.testing.assert_close(A, torch.arange(1.0, 6.0).expand(2000, 5))


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
    assert 0.45 < float((dt < 1.01e-4).double().mean()) < 0.55


@pytest.mark.parametrize("rank", [3, 12])
def test_the_projection_to_dt_is_uniform_with_the_spread_of_its_rank(rank):
    weight = build(**{**MANY, "dt_rank": rank}).dt_proj.weight
    assert weight.shape == (2000, rank)
    assert distance_to_uniform(weight[:, 0], -(rank**-0.5), rank**-0.5) < CRITICAL


def test_the_rest_begins_plain():
    mixer = build(**MANY, dt_bc_norm="rms")
    assert torch.equal(mixer.dynamics.D, torch.ones(2000))
    assert mixer.norm_weight is not None
    assert torch.equal(mixer.norm_weight, torch.ones(3 + 2 * 5))
    assert mixer.conv_bias is not None
    for weight in (mixer.conv_weight, mixer.conv_bias):
        assert 0.99 * 4**-0.5 < weight.abs().max() <= 4**-0.5
        assert abs(float(weight.mean())) < 0.02
    for weight in (mixer.in_proj.weight, mixer.x_proj.weight):
        assert float(weight.std()) == pytest.approx(STD, rel=0.05)


def by_hand(mixer: Mamba1, x: torch.Tensor, norm: str, eps: float) -> torch.Tensor:
    """The docstring of the mixer, token by token, for one row (T, d_model) in fp64."""
    inputs = x @ mixer.in_proj.weight.T
    if mixer.in_proj.bias is not None:
        inputs = inputs + mixer.in_proj.bias
    inputs, gates = inputs.chunk(2, dim=-1)
    A = -torch.exp(mixer.dynamics.A_log)
    taps = mixer.conv_weight.shape[1]
    held = torch.zeros_like(A)
    out = []
    for t in range(len(x)):
        conv = torch.zeros_like(inputs[0]) if mixer.conv_bias is None else mixer.conv_bias
        for k in range(min(taps, t + 1)):
            conv = conv + mixer.conv_weight[:, taps - 1 - k] * inputs[t - k]
        conv = conv * torch.sigmoid(conv)
        dt, b, c = selected(mixer, conv, norm, eps)
        held = torch.exp(dt[:, None] * A) * held + (dt * conv)[:, None] * b
        y = (held * c).sum(1) + mixer.dynamics.D * conv
        out.append(y * gates[t] * torch.sigmoid(gates[t]))
    return torch.stack(out)


def selected(mixer: Mamba1, conv: torch.Tensor, norm: str, eps: float) -> list[torch.Tensor]:
    """dt, and for every channel the B and C of its group, of one token."""
    rank, n, _ = mixer.widths
    size, width = len(conv) // mixer.n_groups, rank + 2 * n
    found = []
    for g in range(mixer.n_groups):
        mine, rows = slice(g * size, (g + 1) * size), slice(g * width, (g + 1) * width)
        parts = list((mixer.x_proj.weight[rows] @ conv[mine]).split([rank, n, n]))
        if norm != "none":
            parts = [p / torch.sqrt(p.square().mean() + eps) for p in parts]
        if mixer.norm_weight is not None:
            weights = mixer.norm_weight[rows].split([rank, n, n])
            parts = [p * w for p, w in zip(parts, weights, strict=True)]
        source, b, c = parts
        raw = mixer.dt_proj.weight[mine] @ source + mixer.dynamics.dt_bias[mine]
        found.append((torch.log1p(torch.exp(raw)), b.expand(size, n), c.expand(size, n)))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fields", OPTIONS)
def test_the_mixer_is_its_formula(norm, fields):
    mixer = lively(dt_bc_norm=norm, **fields)
    x = torch.randn(1, 19, D_MODEL, dtype=torch.float64)
    u, state = mixer(x, None, None, True)
    expected = by_hand(mixer, x[0], norm, fields.get("dt_bc_norm_eps", 1e-6))
    torch.testing.assert_close(u[0], expected, rtol=1e-10, atol=1e-10)
    assert state is not None
    assert state.conv.shape[1] == mixer.conv_weight.shape[1] - 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fields", OPTIONS)
def test_lean_steps_are_the_formula_and_leave_the_state_that_they_are_given(norm, fields):
    mixer = lively(dt_bc_norm=norm, **fields)
    x = torch.randn(2, 9, D_MODEL, dtype=torch.float64)
    eps = fields.get("dt_bc_norm_eps", 1e-6)
    expected = torch.stack([by_hand(mixer, row, norm, eps) for row in x])
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


def test_under_autocast_the_step_sizes_and_states_are_precise():
    """A bias that bf16 would round away moves the state."""
    mixer = build()
    x = torch.randn(1, 30, D_MODEL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        u, state = mixer(x, None, None, True)
        mixer.dynamics.dt_bias.mul_(1 + 2**-12)
        _, moved = mixer(x, None, None, True)
    assert u.dtype == torch.bfloat16
    assert state.ssm.dtype == state.conv.dtype == torch.float32
    assert not torch.equal(state.ssm, moved.ssm)
