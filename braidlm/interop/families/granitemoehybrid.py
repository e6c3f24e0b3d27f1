"""Granite 4: Mamba-2 or attention, then a gated MLP or experts with one, in every layer."""

from typing import Any

from braidlm.interop.family import Ends, Family, Letter, Place, rows
from braidlm.interop.fields import Coded, Flat, Foreign, Must, Ours, Past, Same, Words
from braidlm.interop.layout import Listed, UnfitError
from braidlm.interop.moe_tables import n_experts
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import (
    ATTENTION,
    BAMBA_DEFAULTS,
    ENDS,
    MAMBA2,
    STEP_INIT,
    bamba_mixer,
    biases,
    expansion,
    heads,
    square_heads,
)

WORDS = {
    "linear_attention": "mamba",
    "mamba": "mamba",
    "full_attention": "attention",
    "attention": "attention",
}
MLP = Place("-", "post_attention_layernorm", ("shared_mlp",))
MOE = Place("E", "post_attention_layernorm", ("",))
EXPERTS = {
    "router.weight": rows("block_sparse_moe.router.layer.weight"),
    "experts_in": rows("block_sparse_moe.input_linear.weight"),
    "experts_out": rows("block_sparse_moe.output_linear.weight"),
    "shared.mlp.in_proj.weight": rows("shared_mlp.input_linear.weight"),
    "shared.out_proj.weight": rows("shared_mlp.output_linear.weight"),
}


class ByExperts:
    """A list names the mixer of each layer; all layers have experts, or none has."""

    listed = Listed("layer_types", WORDS, also=("layers_block_type",))

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        end = "" if config.get("num_local_experts") == 0 else " with experts"
        return [kind + end for kind in self.listed.read(config)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list."""
        has_experts = [kind.endswith(" with experts") for kind in kinds]
        if len(set(has_experts)) > 1:
            first = has_experts.index(not has_experts[0])
            raise UnfitError("some layers have experts and some have not", 2 * first + 1)
        return self.listed.write([kind.removesuffix(" with experts") for kind in kinds])


def _read_logits(config: Foreign) -> Flat:
    scaling = config.get("logits_scaling")
    if not isinstance(scaling, int | float) or not scaling > 0:
        raise config.error("logits_scaling", scaling, "a number greater than 0")
    return {"logits_multiplier": 1.0 / scaling}


def _write_scale(ours: Flat) -> dict[str, Any]:
    if "*.head_dim" not in ours:
        return {}
    return {"attention_multiplier": ours["*.softmax_scale"] or ours["*.head_dim"] ** -0.5}


POSITIONS = ((None, "none"), ("nope", "none"), ("rope", "rope"))
"""The second as released files have it."""
GRANITE = Family(
    model_type="granitemoehybrid",
    architecture="GraniteMoeHybridForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "M": Letter("mamba2", MAMBA2),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", {"in_proj.weight": rows("input_linear.weight")}, out="output_linear"),
        "E": Letter("moe", EXPERTS),
    },
    layers={
        "mamba": (Place("M", "input_layernorm", ("mamba",)), MLP),
        "attention": (Place("*", "input_layernorm", ("self_attn",)), MLP),
        "mamba with experts": (Place("M", "input_layernorm", ("mamba",)), MOE),
        "attention with experts": (Place("*", "input_layernorm", ("self_attn",)), MOE),
    },
    layout=ByExperts(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        square_heads(),
        Words("position_embedding_type", "*.position", POSITIONS),
        rope(),
        Coded(lambda c: {"*.softmax_scale": float(c.get("attention_multiplier"))}, _write_scale),
        *biases("attention_bias", "*"),
        *bamba_mixer(),
        Same("mamba_proj_bias", "M.out_bias"),
        expansion("mamba_expand"),
        n_experts("num_local_experts", without=0),
        Same("num_experts_per_tok", "E.top_k"),
        Same("intermediate_size", "E.d_ff"),
        Ours("E.topk_first", True),
        Ours("E.balance", "none"),
        Same("shared_intermediate_size", "E.d_shared"),
        Same("shared_intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        Past("normalization_function", "rmsnorm"),
        Same("embedding_multiplier", "embedding_multiplier"),
        Same("residual_multiplier", "residual_multiplier"),
        Coded(_read_logits, lambda ours: {"logits_scaling": 1.0 / ours["logits_multiplier"]}),
    ),
    defaults=BAMBA_DEFAULTS
    | {
        "tie_word_embeddings": False,
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "position_embedding_type": None,
        "attention_multiplier": 1.0,
        "attention_bias": False,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 11008,
        "shared_intermediate_size": 1024,
        "hidden_act": "silu",
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "layer_types": lambda c: ["linear_attention"] * c.whole("num_hidden_layers"),
    },
    harmless=STEP_INIT | {"init_method"},
)
