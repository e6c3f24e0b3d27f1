"""The function that the mamba_ssm package computes, from its equations: a loop over tokens.

Source: state-spaces/mamba, mamba_ssm/models/mixer_seq_simple.py and mamba_ssm/modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

Named = Callable[[str], Tensor]
EPS = 1e-5


def logits(tensors: dict[str, Tensor], config: dict[str, Any], ids: Tensor) -> Tensor:
    """Return the logits (B, T, V) of ids (B, T)."""
    embedding = tensors["backbone.embedding.weight"]
    x = embedding[ids]
    for i in range(config["n_layer"]):

        def p(name: str, i: int = i) -> Tensor:
            return tensors[f"backbone.layers.{i}.{name}"]

        normed = norm(x, p("norm.weight"))
        if i in config.get("attn_layer_idx", []):
            x = x + attention(normed, p, config["attn_cfg"])
        elif config["ssm_cfg"].get("layer") == "Mamba2":
            x = x + mamba2(normed, p, config["ssm_cfg"])
        else:
            x = x + mamba1(normed, p)
        if config.get("d_intermediate"):
            up, gate = (norm(x, p("norm2.weight")) @ p("mlp.fc1.weight").T).chunk(2, dim=-1)
            x = x + (up * silu(gate)) @ p("mlp.fc2.weight").T
    head = tensors.get("lm_head.weight", embedding)
    return norm(x, tensors["backbone.norm_f.weight"]) @ head.T


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def project(x: Tensor, p: Named, name: str, has_bias: bool) -> Tensor:
    y = x @ p(f"{name}.weight").T
    return y + p(f"{name}.bias") if has_bias else y


def convolve(x: Tensor, p: Named) -> Tensor:
    """Each channel of x (B, T, C) with its own taps, the last of which is the token itself."""
    taps = p("mixer.conv1d.weight")[:, 0]
    padded = torch.cat([x.new_zeros(len(x), taps.shape[1] - 1, x.shape[2]), x], dim=1)
    steps = [(padded[:, t : t + taps.shape[1]].mT * taps).sum(-1) for t in range(x.shape[1])]
    return silu(torch.stack(steps, dim=1) + p("mixer.conv1d.bias"))


def attention(x: Tensor, p: Named, cfg: dict[str, Any]) -> Tensor:
    n, n_kv, width = cfg["num_heads"], cfg.get("num_heads_kv", cfg["num_heads"]), cfg["head_dim"]
    y = project(x, p, "mixer.in_proj", cfg.get("qkv_proj_bias", True))
    q, k, v = y.split([n * width, n_kv * width, n_kv * width], dim=-1)
    q, k, v = (a.unflatten(-1, (-1, width)) for a in (q, k, v))
    q, k = rotated(q, cfg), rotated(k, cfg)
    rows = []
    for t in range(x.shape[1]):
        heads = []
        for h in range(n):
            g = h * n_kv // n
            scores = (k[:, : t + 1, g] @ q[:, t, h, :, None])[..., 0]
            weights = (scores * cfg.get("softmax_scale", width**-0.5)).softmax(-1)
            heads.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        rows.append(torch.cat(heads, dim=-1))
    return project(torch.stack(rows, 1), p, "mixer.out_proj", cfg.get("out_proj_bias", True))


def rotated(x: Tensor, cfg: dict[str, Any]) -> Tensor:
    """Turn pair j of each head at position t by t * base^(-2j / n): neighbours, or far halves.

    The frequencies are rounded to fp32, as theirs and ours are.
    """
    n, base = cfg.get("rotary_emb_dim", 0), cfg.get("rotary_emb_base", 10_000.0)
    frequencies = base ** -(torch.arange(0, n, 2, dtype=torch.float32) / max(n, 1))
    out = x.clone()
    for j in range(n // 2):
        a, b = (2 * j, 2 * j + 1) if cfg.get("rotary_emb_interleaved") else (j, n // 2 + j)
        for t in range(x.shape[1]):
            angle = t * frequencies[j].item()
            c, s = math.cos(angle), math.sin(angle)
            out[:, t, :, a] = x[:, t, :, a] * c - x[:, t, :, b] * s
            out[:, t, :, b] = x[:, t, :, a] * s + x[:, t, :, b] * c
    return out


def mamba1(x: Tensor, p: Named) -> Tensor:
    """h_t = exp(dt A) h_{t-1} + dt B_t x_t of every channel; y_t = h_t C_t + D x_t."""
    A, D = -p("mixer.A_log").exp(), p("mixer.D")
    n = A.shape[1]
    x, z = (x @ p("mixer.in_proj.weight").T).chunk(2, dim=-1)
    x = convolve(x, p)
    low, B, C = (x @ p("mixer.x_proj.weight").T).tensor_split([-2 * n, -n], dim=-1)
    dt = softplus(low @ p("mixer.dt_proj.weight").T + p("mixer.dt_proj.bias"))
    state, found = 0.0, []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]
        state = (step * A).exp() * state + step * B[:, t, None] * x[:, t, :, None]
        found.append((state * C[:, t, None]).sum(-1) + D * x[:, t])
    return (torch.stack(found, 1) * silu(z)) @ p("mixer.out_proj.weight").T


def mamba2(x: Tensor, p: Named, cfg: dict[str, Any]) -> Tensor:
    """h_t = exp(dt A) h_{t-1} + dt x_t B_t^T of every head; y_t = h_t C_t + D x_t."""
    A, D = -p("mixer.A_log").exp(), p("mixer.D")
    heads, n, groups, width = len(A), cfg["d_state"], cfg["ngroups"], cfg["headdim"]
    inner = heads * width
    y = x @ p("mixer.in_proj.weight").T
    z, xBC, dt = y.split([inner, inner + 2 * groups * n, heads], dim=-1)
    x, B, C = convolve(xBC, p).split([inner, groups * n, groups * n], dim=-1)
    dt = softplus(dt + p("mixer.dt_bias"))
    x = x.unflatten(-1, (heads, width))
    B, C = (a.unflatten(-1, (groups, n)).repeat_interleave(heads // groups, dim=2) for a in (B, C))
    state, found = 0.0, []
    for t in range(x.shape[1]):
        decay = (dt[:, t] * A).exp()[..., None, None]
        new = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        state = decay * state + new
        found.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    y = (torch.stack(found, 1).flatten(2) * silu(z)).unflatten(-1, (groups, -1))
    y = (y / (y.square().mean(-1, keepdim=True) + EPS).sqrt()).flatten(2)
    return (y * p("mixer.norm.weight")) @ p("mixer.out_proj.weight").T
