"""Jamba: Mamba-1 or attention without positions, then a gated MLP or experts."""

from __future__ import annotations

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place, rows
from braidlm.interop.fields import Foreign, Must, Ours, Past, Same
from braidlm.interop.layout import UnfitError, n_layers
from braidlm.interop.moe_tables import n_experts, single_experts
from braidlm.interop.scan_tables import MAMBA1, inner_width, step_rank
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, heads, square_heads

ATTENTION_AT = ("attn_layer_period", "attn_layer_offset", (8, 4))
EXPERTS_AT = ("expert_layer_period", "expert_layer_offset", (2, 1))
"""Names of a period and an offset, and the usual values."""
EXPERTS = " with experts"


class Periodic:
    """Layer i holds attention where i mod period is the offset; all others hold Mamba-1.

    Where experts lie is told in the same way.
    """

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        n = n_layers(config)
        mixers = ["attention" if x else "mamba" for x in _read_places(config, n, *ATTENTION_AT)]
        has_experts = _read_places(config, n, *EXPERTS_AT)
        if config.get("num_experts") == 1:
            has_experts = [False] * n
        ends = [EXPERTS if x else "" for x in has_experts]
        return [mixer + end for mixer, end in zip(mixers, ends, strict=True)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the periods and offsets that give these layers, the usual ones before others."""
        is_attention = [kind.startswith("attention") for kind in kinds]
        has_experts = [kind.endswith(EXPERTS) for kind in kinds]
        found = {"num_hidden_layers": len(kinds)} | _write_places(is_attention, *ATTENTION_AT)
        return found | (_write_places(has_experts, *EXPERTS_AT) if any(has_experts) else {})


def _read_places(
    config: Foreign, n: int, period_name: str, offset_name: str, usual: tuple[int, int]
) -> list[bool]:
    period, offset = config.whole(period_name), config.get(offset_name)
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < period:
        raise config.error(offset_name, offset, f"a whole number from 0 to {period - 1}")
    return [i % period == offset for i in range(n)]


def _write_places(
    places: list[bool], period_name: str, offset_name: str, usual: tuple[int, int]
) -> dict[str, Any]:
    n = len(places)
    first = places.index(True) if any(places) else n
    for period, offset in (usual, *((p, first) for p in range(first + 1, n + 2))):
        if [i % period == offset for i in range(n)] == places:
            return {period_name: period, offset_name: offset}
    what = "attention" if period_name.startswith("attn") else "expert"
    raise UnfitError(f"{what} layers do not return after the same number of layers", 2 * first)


MLP = Place("-", "pre_ff_layernorm", ("feed_forward",))
MOE = Place("E", "pre_ff_layernorm", ("feed_forward",))
JAMBA = Family(
    model_type="jamba",
    architecture="JambaForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters={
        "S": Letter("mamba1", MAMBA1),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
        "E": Letter(
            "moe",
            single_experts({"router.weight": rows("router.weight")}, ("gate_proj", "up_proj")),
        ),
    },
    layers={
        "mamba": (Place("S", "input_layernorm", ("mamba",)), MLP),
        "attention": (Place("*", "input_layernorm", ("self_attn",)), MLP),
        f"mamba{EXPERTS}": (Place("S", "input_layernorm", ("mamba",)), MOE),
        f"attention{EXPERTS}": (Place("*", "input_layernorm", ("self_attn",)), MOE),
    },
    layout=Periodic(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "S.dt_bc_norm_eps"),  # one field says both
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        square_heads(),
        Ours("*.position", "none"),
        Same("mamba_d_state", "S.d_state"),
        inner_width("mamba_expand"),
        step_rank("mamba_dt_rank"),
        Same("mamba_d_conv", "S.d_conv"),
        Same("mamba_conv_bias", "S.conv_bias"),
        Ours("S.dt_bc_norm", "rms"),
        Same("mamba_proj_bias", "S.in_bias"),
        Same("mamba_proj_bias", "S.out_bias"),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        Past("mamba_inner_layernorms", True),
        n_experts("num_experts", without=1),
        Same("num_experts_per_tok", "E.top_k"),
        Same("intermediate_size", "E.d_ff"),
        Ours("E.norm_topk", False),
        Ours("E.balance", "none"),
    ),
    defaults={
        "tie_word_embeddings": False,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "mamba_d_conv": 4,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "hidden_act": "silu",
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "intermediate_size": 14336,
    },
    harmless=frozenset(
        {
            *("use_mambapy", "use_associative_scan", "layers_block_type", "layer_types"),
            *("n_ctx", "calc_logits_for_entire_prompt"),
        }
    ),
)
