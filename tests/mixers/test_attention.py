"""The attention mixer: its heads, its positions and its scale, written out by hand."""

import math

import pytest
import torch

from braidlm import mixers
from braidlm.arch.mixers import AttentionConfig
from braidlm.mixers import Attention

D_MODEL, LENGTH = 16, 11


def build(**fields) -> Attention:
    torch.manual_seed(0)
    config = {"n_heads": 4, "head_dim": 6, "n_kv_heads": 2, "v_head_dim": 6, **fields}
    mixer = mixers.build(AttentionConfig(**config), D_MODEL, 1e-5)
    assert isinstance(mixer, Attention)
    mixer.reset_parameters(0.3)
    return mixer.double().requires_grad_(False)


def by_hand(mixer: Attention, x: torch.Tensor, rotated: int, theta: float) -> torch.Tensor:
    """Scores of every pair, rotation as complex numbers; x is one row (T, d_model)."""
    q, k, v = (x @ mixer.in_proj.weight.T).split(mixer.widths, dim=-1)
    q = q.view(LENGTH, mixer.n_heads, mixer.head_dim)
    k = k.view(LENGTH, mixer.n_kv_heads, mixer.head_dim)
    v = v.view(LENGTH, mixer.n_kv_heads, mixer.v_head_dim)
    q, k = turn(q, rotated, theta), turn(k, rotated, theta)
    scale = mixer.head_dim**-0.5 if mixer.scale is None else mixer.scale
    per_kv = mixer.n_heads // mixer.n_kv_heads
    out = torch.zeros(LENGTH, mixer.n_heads, mixer.v_head_dim, dtype=x.dtype)
    for t in range(LENGTH):
        for h in range(mixer.n_heads):
            scores = torch.stack([q[t, h] @ k[s, h // per_kv] * scale for s in range(t + 1)])
            out[t, h] = torch.softmax(scores, dim=0) @ v[: t + 1, h // per_kv]
    return out.flatten(1)


def turn(x: torch.Tensor, rotated: int, theta: float) -> torch.Tensor:
    half = rotated // 2
    x = x.clone()
    for t in range(LENGTH):
        for i in range(half):
            angle = t * theta ** (-2 * i / rotated)
            a, b = x[t, :, i].clone(), x[t, :, i + half].clone()
            x[t, :, i] = a * math.cos(angle) - b * math.sin(angle)
            x[t, :, i + half] = a * math.sin(angle) + b * math.cos(angle)
    return x


@pytest.mark.parametrize(
    ("fields", "rotated", "theta"),
    [
        ({}, 6, 10_000.0),
        ({"rope_theta": 100.0, "n_kv_heads": 4}, 6, 100.0),
        ({"position": "none"}, 0, 1.0),
        ({"rope_fraction": 0.67, "softmax_scale": 0.9, "v_head_dim": 3}, 4, 10_000.0),
    ],
)
def test_the_mixer_is_its_formula(fields, rotated, theta):
    mixer = build(**fields)
    x = torch.randn(1, LENGTH, D_MODEL, dtype=torch.float64)
    u, cache = mixer(x, None, None, True)
    expected = by_hand(mixer, x[0], rotated, theta)
    # The frequencies are kept in fp32: an angle is off by 1e-7 of itself.
    torch.testing.assert_close(u[0], expected, rtol=0, atol=1e-6)
    assert cache is not None
    assert cache.length.tolist() == [LENGTH]


def test_a_fresh_mixer_has_its_frequencies_at_once():
    mixer = mixers.build(
        AttentionConfig(n_heads=1, n_kv_heads=1, head_dim=8, v_head_dim=8), 8, 1e-5
    )
    expected = torch.tensor([1.0, 0.1, 0.01, 0.001])
    assert isinstance(mixer, Attention)
    torch.testing.assert_close(mixer.inv_freq, expected)
    assert "inv_freq" not in mixer.state_dict()


def test_the_options_are_their_formula():
    """Norms before the rotation, a window and its sinks, cap, sink logit, gate per channel."""
    mixer = build(
        qk_norm="head",
        window=3,
        n_sinks=1,
        softcap=0.8,
        sink_logit=True,
        output_gate="channel",
        v_head_dim=5,
    )
    of = dict(mixer.named_parameters())
    for name in ("q_norm.weight", "k_norm.weight", "sink_logits"):
        torch.nn.init.normal_(of[name])
    x = torch.randn(1, LENGTH, D_MODEL, dtype=torch.float64)
    q, k, v, gate = (x[0] @ mixer.in_proj.weight.T).split([24, 12, 10, 20], dim=-1)
    q = turn(normed(q.view(LENGTH, 4, 6), of["q_norm.weight"]), 6, 10_000.0)
    k = turn(normed(k.view(LENGTH, 2, 6), of["k_norm.weight"]), 6, 10_000.0)
    v = v.view(LENGTH, 2, 5)
    out = torch.zeros(LENGTH, 4, 5, dtype=x.dtype)
    for t in range(LENGTH):
        visible = [s for s in range(t + 1) if t - s < 3 or s < 1]
        for h in range(4):
            scores = torch.stack([q[t, h] @ k[s, h // 2] * 6**-0.5 for s in visible])
            weights = torch.exp(0.8 * torch.tanh(scores / 0.8))
            total = weights.sum() + of["sink_logits"][h].exp()
            out[t, h] = weights / total @ v[visible, h // 2]
    u, _ = mixer(x, None, None, False)
    expected = out.flatten(1) * torch.sigmoid(gate)
    torch.testing.assert_close(u[0], expected, rtol=0, atol=1e-6)


def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def test_a_gate_per_head_is_one_factor_for_all_its_channels():
    mixer = build(output_gate="head")
    x = torch.randn(1, LENGTH, D_MODEL, dtype=torch.float64)
    u, _ = mixer(x, None, None, False)
    plain = build()
    plain.in_proj.weight.copy_(mixer.in_proj.weight[:-4])
    bare, _ = plain(x, None, None, False)
    factor = torch.sigmoid(x @ mixer.in_proj.weight[-4:].T)
    torch.testing.assert_close(u, bare * factor.repeat_interleave(6, dim=-1))


def test_a_fresh_mixer_starts_without_gain_and_with_a_sink_of_weight_one():
    held = build(qk_norm="head", sink_logit=True).state_dict()
    assert set(held) - set(build().state_dict()) == {
        "q_norm.weight",
        "k_norm.weight",
        "sink_logits",
    }
    assert torch.equal(held["q_norm.weight"], torch.ones(6, dtype=torch.float64))
    assert torch.equal(held["sink_logits"], torch.zeros(4, dtype=torch.float64))
