"""Jamba without experts: Mamba-1 or attention without positions, then a gated MLP."""

from __future__ import annotations

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Foreign, Must, Ours, Same
from braidlm.interop.layout import UnfitError, n_layers
from braidlm.interop.scan_tables import MAMBA1, inner_width, step_rank
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, heads, square_heads

PERIOD, OFFSET = "attn_layer_period", "attn_layer_offset"
USUAL = (8, 4)


class Periodic:
    """Layer i holds attention where i mod period is the offset; all others hold Mamba-1."""

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        n, period, offset = n_layers(config), config.whole(PERIOD), config.get(OFFSET)
        if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < period:
            raise config.error(OFFSET, offset, f"a whole number from 0 to {period - 1}")
        return _kinds(n, period, offset)

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the first period and offset that give these layers, the usual ones before all."""
        n = len(kinds)
        first = kinds.index("attention") if "attention" in kinds else n
        for period, offset in (USUAL, *((p, first) for p in range(first + 1, n + 2))):
            if _kinds(n, period, offset) == kinds:
                return {"num_hidden_layers": n, PERIOD: period, OFFSET: offset}
        raise UnfitError("attention does not return after the same number of layers", 2 * first)


def _kinds(n: int, period: int, offset: int) -> list[str]:
    return ["attention" if i % period == offset else "mamba" for i in range(n)]


MLP = Place("-", "pre_ff_layernorm", ("feed_forward",))
JAMBA = Family(
    model_type="jamba",
    architecture="JambaForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters={
        "S": Letter("mamba1", MAMBA1),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "mamba": (Place("S", "input_layernorm", ("mamba",)), MLP),
        "attention": (Place("*", "input_layernorm", ("self_attn",)), MLP),
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
        Must("mamba_proj_bias", False),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        Must("num_experts", 1),
    ),
    defaults={
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        PERIOD: USUAL[0],
        OFFSET: USUAL[1],
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "mamba_d_conv": 4,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "hidden_act": "silu",
        "num_experts": 16,
    },
    harmless=frozenset(
        {
            *("num_experts_per_tok", "expert_layer_period", "expert_layer_offset"),
            *("use_mambapy", "use_associative_scan", "layers_block_type", "layer_types"),
        }
    ),
)
