"""Checkpoints of the mamba_ssm package: Mamba-1 and Mamba-2 in its own form. They are only read.

Its `config.json` names no family; the settings of the mixer lie in a table `ssm_cfg`, which is
read as ``ssm_cfg.<field>``.
"""

import math
from collections.abc import Mapping
from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.scan_tables import MAMBA1
from braidlm.interop.tables import MAMBA2

CFG = "ssm_cfg"
NO_BOUNDS = [0.0, math.inf]


def is_mamba_ssm(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of that package."""
    return "model_type" not in config and {"d_model", "n_layer"} <= set(config)


def flattened(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration with the mixer's table laid out.

    Raises:
        InputError: `ssm_cfg` is no table.
    """
    inner = config.get(CFG) or {}
    if not isinstance(inner, dict):
        raise Foreign(config, {}, where).error(CFG, inner, "a table")
    outer = {key: value for key, value in config.items() if key != CFG}
    return outer | {f"{CFG}.{key}": value for key, value in inner.items()}


def of_flattened(config: Mapping[str, Any], where: str) -> Family:
    """Return the family of such a configuration.

    Raises:
        InputError: another layer than Mamba-1 and Mamba-2.
    """
    layer = config.get(f"{CFG}.layer", "Mamba1")
    if layer not in LAYERS:
        raise Foreign(config, {}, where).error(f"{CFG}.layer", layer, ", ".join(LAYERS))
    return LAYERS[layer]


def _vocabulary(config: Foreign) -> Flat:
    """Rows are added up to a multiple."""
    multiple = config.whole("pad_vocab_size_multiple")
    return {"vocab_size": -(-config.whole("vocab_size") // multiple) * multiple}


def _unwritten(ours: Flat) -> dict[str, Any]:
    return {}


def _scan_sizes(config: Foreign) -> Flat:
    rank = config.get(f"{CFG}.dt_rank")
    return {
        "S.d_inner": config.whole(f"{CFG}.expand") * config.whole("d_model"),
        "S.dt_rank": -(-config.whole("d_model") // 16) if rank == "auto" else rank,
    }


def _heads(config: Foreign) -> Flat:
    inner = config.whole(f"{CFG}.expand") * config.whole("d_model")
    width = config.whole(f"{CFG}.headdim")
    if inner % width:
        raise config.error(f"{CFG}.headdim", width, f"a divisor of {inner}")
    return {"M.n_heads": inner // width, "M.head_dim": width}


def _norm(config: Foreign) -> Flat:
    first = config.get(f"{CFG}.norm_before_gate")
    if not config.get(f"{CFG}.rmsnorm"):
        return {"M.norm": "none"}
    return {"M.norm": "norm_first" if first else "gate_first"}


def _bounds(config: Foreign) -> Flat:
    low, high = config.get(f"{CFG}.dt_limit")
    return {"M.dt_limit_min": float(low), "M.dt_limit_max": None if high == math.inf else high}


ENDS: tuple[Field, ...] = (
    Same("d_model", "d_model"),
    Coded(_vocabulary, _unwritten),
    Same("tie_embeddings", "tie_embeddings"),
    Must("rms_norm", True),
    Must("d_intermediate", 0),
    Must("attn_layer_idx", []),
)
DEFAULTS = {
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
    "rms_norm": True,
    "d_intermediate": 0,
    "attn_layer_idx": [],
    f"{CFG}.expand": 2,
    f"{CFG}.d_conv": 4,
    f"{CFG}.conv_bias": True,
    f"{CFG}.bias": False,
}
HARMLESS = frozenset(
    {
        *("residual_in_fp32", "fused_add_norm", "attn_cfg", f"{CFG}.layer", f"{CFG}.use_fast_path"),
        *(f"{CFG}.dt_{x}" for x in ("min", "max", "init", "init_floor", "scale")),
        *(f"{CFG}.{x}" for x in ("A_init_range", "use_mem_eff_path", "chunk_size")),
    }
)
SHARED: dict[str, Any] = {
    "architecture": "",
    "ends": Ends("backbone.embedding.weight", "backbone.norm_f.weight", "backbone.layers"),
    "layout": Uniform(count="n_layer"),
    "harmless": HARMLESS,
}
MAMBA1_SSM = Family(
    model_type="mamba_ssm (Mamba1)",
    letters={"S": Letter("mamba1", MAMBA1)},
    layers={"layer": (Place("S", "norm", ("mixer",)),)},
    fields=(
        *ENDS,
        Coded(_scan_sizes, _unwritten),
        Same(f"{CFG}.d_state", "S.d_state"),
        Same(f"{CFG}.d_conv", "S.d_conv"),
        Same(f"{CFG}.conv_bias", "S.conv_bias"),
        Must(f"{CFG}.bias", False),
    ),
    defaults={**DEFAULTS, f"{CFG}.d_state": 16, f"{CFG}.dt_rank": "auto"},
    **SHARED,
)
MAMBA2_SSM = Family(
    model_type="mamba_ssm (Mamba2)",
    letters={"M": Letter("mamba2", MAMBA2)},
    layers={"layer": (Place("M", "norm", ("mixer",)),)},
    fields=(
        *ENDS,
        Coded(_heads, _unwritten),
        Same(f"{CFG}.d_state", "M.d_state"),
        Same(f"{CFG}.ngroups", "M.n_groups"),
        Same(f"{CFG}.d_conv", "M.d_conv"),
        Same(f"{CFG}.conv_bias", "M.conv_bias"),
        Same(f"{CFG}.bias", "M.in_bias"),
        Same(f"{CFG}.bias", "M.out_bias"),
        Coded(_norm, _unwritten),
        Coded(_bounds, _unwritten),
        Must(f"{CFG}.D_has_hdim", False),
    ),
    defaults={
        **DEFAULTS,
        f"{CFG}.d_state": 128,
        f"{CFG}.ngroups": 1,
        f"{CFG}.headdim": 64,
        f"{CFG}.rmsnorm": True,
        f"{CFG}.norm_before_gate": False,
        f"{CFG}.dt_limit": NO_BOUNDS,
        f"{CFG}.D_has_hdim": False,
    },
    **SHARED,
)
LAYERS = {"Mamba1": MAMBA1_SSM, "Mamba2": MAMBA2_SSM}
"""By the name of the mixer's class."""
