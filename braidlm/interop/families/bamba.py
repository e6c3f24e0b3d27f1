"""Bamba: Mamba-2 or attention, then a gated MLP, in every layer; half of each head is rotated."""

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Foreign, Must, Same
from braidlm.interop.layout import n_layers
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import (
    ATTENTION,
    BAMBA_DEFAULTS,
    ENDS,
    GATED_MLP,
    MAMBA2,
    STEP_INIT,
    bamba_mixer,
    biases,
    expansion,
    heads,
    square_heads,
)


class AttentionIndices:
    """The layers that hold attention are listed by number; all others hold Mamba-2."""

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        n, indices = n_layers(config), config.get("attn_layer_indices")
        fits = isinstance(indices, list) and all(isinstance(i, int) and 0 <= i < n for i in indices)
        if not fits:
            raise config.error("attn_layer_indices", indices, f"numbers from 0 to {n - 1}")
        return ["attention" if i in indices else "mamba" for i in range(n)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and the number of layers."""
        indices = [i for i, kind in enumerate(kinds) if kind == "attention"]
        return {"num_hidden_layers": len(kinds), "attn_layer_indices": indices}


MLP = Place("-", "pre_ff_layernorm", ("feed_forward",))
BAMBA = Family(
    model_type="bamba",
    architecture="BambaForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.final_layernorm.weight", "model.layers"),
    letters={
        "M": Letter("mamba2", MAMBA2),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "mamba": (Place("M", "input_layernorm", ("mamba",)), MLP),
        "attention": (Place("*", "input_layernorm", ("self_attn",)), MLP),
    },
    layout=AttentionIndices(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        square_heads(),
        rope(fraction=0.5),
        *biases("attention_bias", "*"),
        *bamba_mixer(),
        Same("mamba_proj_bias", "M.out_bias"),
        expansion("mamba_expand"),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        *biases("mlp_bias", "-"),
    ),
    defaults=BAMBA_DEFAULTS
    | {
        "tie_word_embeddings": False,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "attn_layer_indices": [],
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    },
    harmless=STEP_INIT | {"attn_rotary_emb", "layers_block_type", "layer_types"},
)
