"""Gated DeltaNet in the form of flash-linear-attention. It is only read."""

import math
from typing import Any

from braidlm.interop.delta_tables import APART, OLMO_HYBRID
from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Coded, Flat, Foreign, Must, Same
from braidlm.interop.layout import n_layers
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP

INNER_MULTIPLE = 256
"""What the MLP's width is rounded up to, where it follows from `hidden_ratio`."""


DELTA = OLMO_HYBRID | APART


def _attention(config: Foreign) -> dict[str, Any]:
    found = config.get("attn")
    if not isinstance(found, dict):
        raise config.error("attn", found, "a table")
    return found


class Layers:
    """The table `attn` lists the layers that hold attention; all others hold the delta rule."""

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        n, listed = n_layers(config), _attention(config).get("layers", [])
        if not isinstance(listed, list) or not all(i in range(n) for i in listed):
            raise config.error("attn.layers", listed, f"numbers from 0 to {n - 1}")
        return ["attention" if i in listed else "delta" for i in range(n)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the number of layers; this form is only read."""
        return {"num_hidden_layers": len(kinds)}


def _read_attention(config: Foreign) -> Flat:
    found = _attention(config)
    known = {"layers", "num_heads", "num_kv_heads", "qkv_bias", "window_size", "rope_theta"}
    extra = sorted(set(found) - known)
    if extra:
        raise config.error(f"attn.{extra[0]}", found[extra[0]])
    if not found:
        return {}
    n, width = found.get("num_heads"), config.whole("hidden_size")
    if not isinstance(n, int) or n < 1 or width % n:
        raise config.error("attn.num_heads", n, f"a divisor of {width}")
    return {
        "*.n_heads": n,
        "*.n_kv_heads": found.get("num_kv_heads", n),
        "*.head_dim": width // n,
        "*.in_bias": found.get("qkv_bias", False),
        "*.window": found.get("window_size"),
        "*.rope_theta": found.get("rope_theta", 10_000.0),
    }


def _read_heads(config: Foreign) -> Flat:
    width, n = config.get("head_dim"), config.whole("num_heads")
    values = width * config.get("expand_v")
    if not math.isclose(values, round(values)):
        raise config.error("expand_v", config.get("expand_v"), f"a whole multiple of 1 / {width}")
    return {
        "G.n_heads": n,
        "G.n_v_heads": config.get("num_v_heads") or n,
        "G.head_dim": width,
        "G.v_head_dim": round(values),
    }


def _read_inner(config: Foreign) -> Flat:
    given = config.get("intermediate_size")
    inner = int(config.whole("hidden_size") * config.get("hidden_ratio") * 2 / 3)
    return {"-.d_ff": given or -(-inner // INNER_MULTIPLE) * INNER_MULTIPLE}


def _unwritten(ours: Flat) -> dict[str, Any]:
    return {}


MLP = Place("-", "mlp_norm", ("mlp",))
GATED_DELTANET = Family(
    model_type="gated_deltanet",
    architecture="GatedDeltaNetForCausalLM",
    ends=Ends("model.embeddings.weight", "model.norm.weight", "model.layers"),
    letters={
        "G": Letter("gated_deltanet", DELTA, out="o_proj"),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "delta": (Place("G", "attn_norm", ("attn",)), MLP),
        "attention": (Place("*", "attn_norm", ("attn",)), MLP),
    },
    layout=Layers(),
    fields=(
        *ENDS,
        Same("norm_eps", "norm_eps"),
        Coded(_read_heads, _unwritten),
        Same("conv_size", "G.d_conv"),
        Same("allow_neg_eigval", "G.allow_negative_eigenvalues"),
        Must("use_gate", True),
        Must("use_short_conv", True),
        Coded(_read_attention, _unwritten),
        Coded(_read_inner, _unwritten),
        Must("hidden_act", "swish", same=("silu",)),
    ),
    defaults={
        "tie_word_embeddings": False,
        "norm_eps": 1e-6,
        "head_dim": 256,
        "num_heads": 6,
        "num_v_heads": None,
        "expand_v": 2.0,
        "conv_size": 4,
        "allow_neg_eigval": False,
        "use_gate": True,
        "use_short_conv": True,
        "attn": {},
        "intermediate_size": None,
        "hidden_ratio": 4,
        "hidden_act": "swish",
    },
    harmless=frozenset(
        {
            *("attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "use_l2warp"),
            "fuse_linear_cross_entropy",
        }
    ),
)
