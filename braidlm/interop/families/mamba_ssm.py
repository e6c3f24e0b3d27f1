"""Checkpoints of the mamba_ssm package in its own form: Mamba-1 or Mamba-2, attention in layers
that are listed, and a gated MLP in all layers or none. They are only read.

Its `config.json` names no family; settings of the scan lie in a table `ssm_cfg` and those of
attention in `attn_cfg`, which are read as ``ssm_cfg.<field>`` and ``attn_cfg.<field>``.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from braidlm.interop import mha_tables
from braidlm.interop.family import Ends, Family, Letter
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same
from braidlm.interop.mha_tables import ATTN
from braidlm.interop.scan_tables import MAMBA1
from braidlm.interop.tables import MAMBA2

CFG = "ssm_cfg"
NO_BOUNDS = [0.0, math.inf]


def is_mamba_ssm(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of that package."""
    return "model_type" not in config and {"d_model", "n_layer"} <= set(config)


def flattened(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration with the mixers' tables laid out.

    Raises:
        InputError: `ssm_cfg` or `attn_cfg` is no table.
    """
    found = {key: value for key, value in config.items() if key not in (CFG, ATTN)}
    for name in (CFG, ATTN):
        inner = config.get(name) or {}
        if not isinstance(inner, dict):
            raise Foreign(config, {}, where).error(name, inner, "a table")
        found |= {f"{name}.{key}": value for key, value in inner.items()}
    return found


def of_flattened(config: Mapping[str, Any], where: str) -> Family:
    """Return the family of such a configuration.

    Raises:
        InputError: another layer than Mamba-1 and Mamba-2.
    """
    layer = config.get(f"{CFG}.layer", "Mamba1")
    if layer not in LAYERS:
        raise Foreign(config, {}, where).error(f"{CFG}.layer", layer, ", ".join(LAYERS))
    family = LAYERS[layer]
    if not config.get(f"{ATTN}.rotary_emb_interleaved"):
        return family
    return replace(family, letters={**family.letters, "*": mha_tables.INTERLEAVED})


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
    Ours("norm_eps", 1e-5),
    *mha_tables.fields(),
)
DEFAULTS = {
    **mha_tables.DEFAULTS,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
    "rms_norm": True,
    "fused_add_norm": True,
    f"{CFG}.expand": 2,
    f"{CFG}.d_conv": 4,
    f"{CFG}.conv_bias": True,
    f"{CFG}.bias": False,
}
HARMLESS = frozenset(
    {
        *("residual_in_fp32", "fused_add_norm", f"{CFG}.layer", f"{CFG}.use_fast_path"),
        *(f"{CFG}.dt_{x}" for x in ("min", "max", "init", "init_floor", "scale")),
        *(f"{CFG}.{x}" for x in ("A_init_range", "use_mem_eff_path", "chunk_size")),
    }
)
SHARED: dict[str, Any] = {
    "architecture": "",
    "ends": Ends("backbone.embedding.weight", "backbone.norm_f.weight", "backbone.layers"),
    "layout": mha_tables.Indexed(),
    "skipped": (r".*\.rotary_emb\.inv_freq",),
    "harmless": HARMLESS,
}
MAMBA1_SSM = Family(
    model_type="mamba_ssm (Mamba1)",
    letters={"S": Letter("mamba1", MAMBA1), "*": mha_tables.MHA, "-": mha_tables.MLP},
    layers=mha_tables.layers("S"),
    fields=(
        *ENDS,
        Coded(_scan_sizes, _unwritten),
        Same(f"{CFG}.d_state", "S.d_state"),
        Same(f"{CFG}.d_conv", "S.d_conv"),
        Same(f"{CFG}.conv_bias", "S.conv_bias"),
        Same(f"{CFG}.bias", "S.in_bias"),
        Same(f"{CFG}.bias", "S.out_bias"),
    ),
    defaults={**DEFAULTS, f"{CFG}.d_state": 16, f"{CFG}.dt_rank": "auto"},
    **SHARED,
)
MAMBA2_SSM = Family(
    model_type="mamba_ssm (Mamba2)",
    letters={"M": Letter("mamba2", MAMBA2), "*": mha_tables.MHA, "-": mha_tables.MLP},
    layers=mha_tables.layers("M"),
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
