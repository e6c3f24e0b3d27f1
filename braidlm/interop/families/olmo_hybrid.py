"""OLMo Hybrid: Gated DeltaNet normed before, or attention normed after, and an MLP like it."""

from dataclasses import replace
from typing import Any

from braidlm.interop.delta_tables import APART
from braidlm.interop.delta_tables import OLMO_HYBRID as DELTA
from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Coded, Flat, Foreign, Must, Ours, Same
from braidlm.interop.layout import Listed, UnfitError
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, biases, head_dim, heads

WORDS = {"linear_attention": "delta", "full_attention": "attention"}
BOTH = f"at least one {' and one '.join(WORDS)}"
CONVOLUTIONS = {name: replace(stored, or_evenly=True) for name, stored in APART.items()}
"""As transformers writes a convolution that it has as one: in thirds, whatever they belong to."""


class BothKinds:
    """A list names the mixer of each layer; their class takes no model without either."""

    listed = Listed("layer_types", WORDS)

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        kinds = self.listed.read(config)
        if len(set(kinds)) < len(WORDS):
            raise config.error("layer_types", config.get("layer_types"), BOTH)
        return kinds

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and its length."""
        if len(set(kinds)) < len(WORDS):
            raise UnfitError(f"its layers are {BOTH}; here all are of one kind", 0)
        return self.listed.write(kinds)


def _usual(config: Foreign) -> list[str]:
    """Every fourth layer has attention; of fewer than four the last."""
    n = config.whole("num_hidden_layers")
    words = ["linear_attention" if (i + 1) % 4 else "full_attention" for i in range(n)]
    return words if n >= 4 else [*words[:-1], "full_attention"]


def _written_width(ours: Flat) -> dict[str, Any]:
    """Return the width of a head only if it does not follow from the number of heads."""
    if "*.head_dim" not in ours or ours["*.head_dim"] == ours["d_model"] // ours["*.n_heads"]:
        return {}
    return {"head_dim": ours["*.head_dim"]}


def _usual_key_width(config: Foreign) -> int:
    return int(0.75 * config.whole("hidden_size") / config.whole("linear_num_key_heads"))


OLMO_HYBRID = Family(
    model_type="olmo_hybrid",
    architecture="OlmoHybridForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "G": Letter("gated_deltanet", DELTA | CONVOLUTIONS, out="o_proj"),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
        "F": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "delta": (
            Place("G", "input_layernorm", ("linear_attn",)),
            Place("-", "post_attention_layernorm", ("mlp",)),
        ),
        "attention": (
            Place("*", "post_attention_layernorm", ("self_attn",), norm_position="post"),
            Place("F", "post_feedforward_layernorm", ("mlp",), norm_position="post"),
        ),
    },
    layout=BothKinds(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        Same("linear_num_key_heads", "G.n_heads"),
        Same("linear_num_value_heads", "G.n_v_heads"),
        Same("linear_key_head_dim", "G.head_dim"),
        Same("linear_value_head_dim", "G.v_head_dim"),
        Same("linear_conv_kernel_dim", "G.d_conv"),
        Same("linear_allow_neg_eigval", "G.allow_negative_eigenvalues"),
        Same("linear_a_log_min", "G.A_init_min"),  # bounds of A, not of its logarithm
        Same("linear_a_log_max", "G.A_init_max"),
        Same("linear_dt_min", "G.dt_min"),
        Same("linear_dt_max", "G.dt_max"),
        Same("linear_dt_init_floor", "G.dt_init_floor"),
        Ours("G.norm_eps", 1e-5),  # whatever rms_norm_eps is
        *heads(),
        Coded(lambda config: {"*.head_dim": config.get("head_dim")}, _written_width),
        Ours("*.qk_norm", "width"),
        rope(or_none=True),
        *biases("attention_bias", "*"),
        Same("intermediate_size", "-.d_ff"),
        Same("intermediate_size", "F.d_ff"),
        Must("hidden_act", "silu"),
    ),
    defaults={
        "layer_types": _usual,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "num_attention_heads": 30,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "head_dim": head_dim,
        "attention_bias": False,
        "linear_num_key_heads": lambda config: config.get("num_attention_heads"),
        "linear_num_value_heads": lambda config: config.get("num_attention_heads"),
        "linear_key_head_dim": _usual_key_width,
        "linear_value_head_dim": lambda config: 2 * config.whole("linear_key_head_dim"),
        "linear_conv_kernel_dim": 4,
        "linear_allow_neg_eigval": True,
        "linear_a_log_min": 0.0,
        "linear_a_log_max": 16.0,
        "linear_dt_min": 0.001,
        "linear_dt_max": 0.1,
        "linear_dt_init_floor": 1e-4,
        "hidden_act": "silu",
    },
    skipped=(r"mtp\..*",),
    respelled=(
        (r"\.attention_layer_norm\.", ".input_layernorm."),
        (r"\.feedforward_layer_norm\.", ".post_attention_layernorm."),
    ),
)
"""Written are the names that its modules have in transformers and in vLLM. Files of its trainer,
and transformers itself, spell two of the norms otherwise, transformers in every layer."""
