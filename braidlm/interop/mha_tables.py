"""What mamba_ssm adds to its scans: multi-head attention and a gated MLP, their maps and fields.

Attention's settings lie in a table `attn_cfg`, read as ``attn_cfg.<field>``. Source:
state-spaces/mamba, mamba_ssm/modules/mha.py, mlp.py and block.py.
"""

from __future__ import annotations

import math
from typing import Any

from braidlm.arch.mixers import AttentionConfig, MixerConfig, MLPConfig
from braidlm.interop.family import Letter, Place, Rows, rows
from braidlm.interop.fields import Coded, Field, Flat, Foreign
from braidlm.interop.layout import n_layers

ATTN = "attn_cfg"
SETTINGS = tuple(
    f"{ATTN}.{name}"
    for name in (
        *("num_heads", "num_heads_kv", "head_dim", "mlp_dim", "qkv_proj_bias", "out_proj_bias"),
        *("softmax_scale", "causal", "d_conv", "rotary_emb_dim", "rotary_emb_base"),
        "rotary_emb_interleaved",
    )
)
"""Every field of theirs."""
DEFAULTS: dict[str, Any] = {
    "d_intermediate": 0,
    "attn_layer_idx": [],
    f"{ATTN}.num_heads_kv": None,
    f"{ATTN}.head_dim": None,
    f"{ATTN}.mlp_dim": 0,
    f"{ATTN}.qkv_proj_bias": True,
    f"{ATTN}.out_proj_bias": True,
    f"{ATTN}.softmax_scale": None,
    f"{ATTN}.causal": False,
    f"{ATTN}.d_conv": 0,
    f"{ATTN}.rotary_emb_dim": 0,
    f"{ATTN}.rotary_emb_base": 10_000.0,
    f"{ATTN}.rotary_emb_interleaved": False,
}
MLP_MULTIPLE = 128
"""What the MLP's width is rounded up to."""


def pairs_to_halves(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Rows of q and k whose rotated pairs are neighbours, put as ours: first halves, then second.

    One order for queries and keys leaves their products as they are.
    """
    assert isinstance(config, AttentionConfig)
    turned, width = config.rope_dim, config.head_dim
    head = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, width)]
    n_turned = config.n_heads + config.n_kv_heads
    asked = [i * width + row for i in range(n_turned) for row in head]
    return (config.in_proj_width,), [*asked, *range(n_turned * width, config.in_proj_width)]


def _gate_first(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Theirs is up, gate; ours gate, up."""
    assert isinstance(config, MLPConfig)
    n = config.d_ff
    return (2 * n,), [*range(n, 2 * n), *range(n)]


MHA = Letter("attention", {x: rows(x) for x in ("in_proj.weight", "in_proj.bias")})
INTERLEAVED = Letter(
    "attention",
    {x: Rows((x,), order=pairs_to_halves) for x in ("in_proj.weight", "in_proj.bias")},
)
MLP = Letter("mlp", {"in_proj.weight": Rows(("fc1.weight",), order=_gate_first)}, out="fc2")


def layers(scan: str) -> dict[str, tuple[Place, ...]]:
    """Return the kinds of layers around a scan of this letter, as `Indexed` names them.

    Those with an MLP come first: without it each would be found as the beginning of the other.
    """
    mlp = Place("-", "norm2", ("mlp",))
    mixers = {"scan": Place(scan, "norm", ("mixer",)), "attention": Place("*", "norm", ("mixer",))}
    with_mlp = {f"{kind}, mlp": (place, mlp) for kind, place in mixers.items()}
    return with_mlp | {kind: (place,) for kind, place in mixers.items()}


class Indexed:
    """A list numbers the layers that hold attention; all layers have an MLP, or none has."""

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        n, listed = n_layers(config, "n_layer"), config.get("attn_layer_idx")
        fits = isinstance(listed, list) and all(type(i) is int and 0 <= i < n for i in listed)
        if not fits:
            raise config.error("attn_layer_idx", listed, f"numbers from 0 to {n - 1}")
        end = ", mlp" if _inner(config) else ""
        return [("attention" if i in listed else "scan") + end for i in range(n)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and the number of layers; this form is only read."""
        listed = [i for i, kind in enumerate(kinds) if kind.startswith("attention")]
        return {"n_layer": len(kinds), "attn_layer_idx": listed}


def fields() -> tuple[Field, ...]:
    """Return the fields of attention and of the MLP."""
    return tuple(Coded(read, lambda ours: {}) for read in (_attention, _positions, _mlp))


def _inner(config: Foreign) -> int:
    found = config.get("d_intermediate")
    return 0 if found == 0 else -(-config.whole("d_intermediate") // MLP_MULTIPLE) * MLP_MULTIPLE


def _mlp(config: Foreign) -> Flat:
    """Without its fused norms that package has normed the stream itself in some releases."""
    inner = _inner(config)
    if not inner:
        return {}
    if config.get("fused_add_norm") is not True:
        told = "true beside an MLP, since releases of mamba_ssm differ without it"
        raise config.error("fused_add_norm", False, told)
    return {"-.d_ff": inner}


def _attention(config: Foreign) -> Flat:
    if not config.get("attn_layer_idx"):
        config.used |= {*SETTINGS}
        return {}
    for name, value in (("causal", True), ("mlp_dim", 0), ("d_conv", 0)):
        found = config.get(f"{ATTN}.{name}")
        if found != value:
            raise config.error(f"{ATTN}.{name}", found, repr(value))
    n, width = config.whole(f"{ATTN}.num_heads"), _head_dim(config)
    return {
        "*.n_heads": n,
        "*.n_kv_heads": config.get(f"{ATTN}.num_heads_kv") or n,
        "*.head_dim": width,
        "*.in_bias": config.get(f"{ATTN}.qkv_proj_bias"),
        "*.out_bias": config.get(f"{ATTN}.out_proj_bias"),
        "*.softmax_scale": config.get(f"{ATTN}.softmax_scale"),
    }


def _head_dim(config: Foreign) -> int:
    n, d_model = config.whole(f"{ATTN}.num_heads"), config.whole("d_model")
    if config.get(f"{ATTN}.head_dim") is not None:
        return config.whole(f"{ATTN}.head_dim")
    if d_model % n:
        raise config.error(f"{ATTN}.num_heads", n, f"a divisor of {d_model}, or head_dim beside it")
    return d_model // n


def _positions(config: Foreign) -> Flat:
    """Rotated are the first `rotary_emb_dim` channels of each head."""
    if not config.get("attn_layer_idx"):
        return {}
    turned, width = config.get(f"{ATTN}.rotary_emb_dim"), _head_dim(config)
    config.used |= {f"{ATTN}.rotary_emb_base", f"{ATTN}.rotary_emb_interleaved"}
    if turned == 0:
        return {"*.position": "none"}
    if type(turned) is not int or not 0 < turned <= width or turned % 2:
        told = f"an even number up to head_dim = {width}"
        raise config.error(f"{ATTN}.rotary_emb_dim", turned, told)
    share = turned / width
    if int(width * share) != turned:  # the quotient was rounded down
        share = math.nextafter(share, 1.0)
    return {"*.rope_theta": config.get(f"{ATTN}.rotary_emb_base"), "*.rope_fraction": share}
