"""Qwen3: attention with normed queries and keys, and a gated MLP in every layer."""

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Must, Ours, Same
from braidlm.interop.layout import Listed
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, biases, heads

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "layer": (
            Place("*", "input_layernorm", ("self_attn",)),
            Place("-", "post_attention_layernorm", ("mlp",)),
        )
    },
    layout=Listed("layer_types", {"full_attention": "layer"}),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        Same("head_dim", "*.head_dim"),
        Ours("*.qk_norm", "head"),
        rope(),
        *biases("attention_bias", "*"),
        Must("use_sliding_window", False),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
    ),
    defaults={
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "head_dim": 128,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "attention_bias": False,
        "use_sliding_window": False,
        "hidden_act": "silu",
        "layer_types": lambda config: ["full_attention"] * config.whole("num_hidden_layers"),
    },
    harmless=frozenset({"sliding_window", "max_window_layers"}),
)
