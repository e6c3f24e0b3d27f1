"""Llama: attention and a gated MLP in every layer."""

from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Must, Past, Same
from braidlm.interop.layout import Uniform
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, biases, head_dim, heads

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
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
    layout=Uniform(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *heads(),
        Same("head_dim", "*.head_dim"),
        rope(),
        Past("rope_interleaved", False),
        *biases("attention_bias", "*"),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
        *biases("mlp_bias", "-"),
    ),
    defaults={
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "head_dim": head_dim,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    },
    skipped=(r".*\.rotary_emb\.inv_freq",),
)
