"""Qwen3-Next: Gated DeltaNet or gated attention, then experts or a gated MLP, in every layer."""

from typing import Any

from braidlm.arch.mixers import AttentionConfig, MixerConfig
from braidlm.interop.delta_tables import QWEN3_NEXT as DELTA
from braidlm.interop.family import Ends, Family, Letter, Place, Rows, rows
from braidlm.interop.fields import Foreign, Must, Ours, Same
from braidlm.interop.layout import Listed
from braidlm.interop.moe_tables import n_experts, shared_expert, single_experts
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import ENDS, GATED_MLP, biases, heads

WORDS = {"linear_attention": "delta", "full_attention": "attention"}
EXPERTS = " with experts"


def _gated_heads(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Their query projection holds for each head the query and its gate; keys and values follow."""
    assert isinstance(config, AttentionConfig)
    n, width = config.n_heads, config.head_dim
    queries, others = 2 * n * width, config.n_kv_heads * width
    halves = [
        [2 * h * width + start + i for h in range(n) for i in range(width)] for start in (0, width)
    ]
    order = [*halves[0], *range(queries, queries + 2 * others), *halves[1]]
    return (queries, others, others), order


PROJECTIONS = ("q_proj", "k_proj", "v_proj")
ATTENTION = {
    "in_proj.weight": Rows(tuple(f"{x}.weight" for x in PROJECTIONS), order=_gated_heads),
    "in_proj.bias": Rows(tuple(f"{x}.bias" for x in PROJECTIONS), order=_gated_heads),
    "q_norm.weight": rows("q_norm.weight"),
    "k_norm.weight": rows("k_norm.weight"),
}
MOE = {
    "router.weight": rows("gate.weight"),
    "shared.gate.weight": rows("shared_expert_gate.weight"),
    **shared_expert("shared_expert", "gate_proj", "up_proj"),
}


def _usual(config: Foreign) -> list[str]:
    """Every fourth layer has attention, or every `full_attention_interval`-th."""
    n, every = config.whole("num_hidden_layers"), config.whole("full_attention_interval")
    return ["linear_attention" if (i + 1) % every else "full_attention" for i in range(n)]


class BySparsity:
    """A list names the mixer of each layer; a step and a list of exceptions tell the experts."""

    listed = Listed("layer_types", WORDS)

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        kinds, step = self.listed.read(config), config.whole("decoder_sparse_step")
        dense = config.get("mlp_only_layers")
        if not isinstance(dense, list):
            raise config.error("mlp_only_layers", dense, "a list of layers")
        if config.get("num_experts") == 0:
            return kinds
        sparse = [i not in dense and (i + 1) % step == 0 for i in range(len(kinds))]
        return [kind + EXPERTS * x for kind, x in zip(kinds, sparse, strict=True)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return both lists."""
        dense = [i for i, kind in enumerate(kinds) if not kind.endswith(EXPERTS)]
        listed = self.listed.write([kind.removesuffix(EXPERTS) for kind in kinds])
        return {**listed, "mlp_only_layers": dense, "decoder_sparse_step": 1}


MIXERS = {
    "delta": Place("G", "input_layernorm", ("linear_attn",)),
    "attention": Place("*", "input_layernorm", ("self_attn",)),
}
QWEN3_NEXT = Family(
    model_type="qwen3_next",
    architecture="Qwen3NextForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "G": Letter("gated_deltanet", DELTA),
        "*": Letter("attention", ATTENTION, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
        "E": Letter("moe", single_experts(MOE, ("gate_proj", "up_proj"))),
    },
    layers={
        f"{kind}{end}": (mixer, Place(letter, "post_attention_layernorm", ("mlp",)))
        for kind, mixer in MIXERS.items()
        for letter, end in (("-", ""), ("E", EXPERTS))
    },
    layout=BySparsity(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        Ours("norm_offset", 1.0),
        Same("linear_num_key_heads", "G.n_heads"),
        Same("linear_num_value_heads", "G.n_v_heads"),
        Same("linear_key_head_dim", "G.head_dim"),
        Same("linear_value_head_dim", "G.v_head_dim"),
        Same("linear_conv_kernel_dim", "G.d_conv"),
        *heads(),
        Same("head_dim", "*.head_dim"),
        Ours("*.qk_norm", "head"),
        Ours("*.output_gate", "channel"),
        rope(fraction=0.25),
        *biases("attention_bias", "*"),
        n_experts("num_experts", without=0),
        Same("num_experts_per_tok", "E.top_k"),
        Same("moe_intermediate_size", "E.d_ff"),
        Same("shared_expert_intermediate_size", "E.d_shared"),
        Same("norm_topk_prob", "E.norm_topk"),
        Ours("E.shared_gate", True),
        Ours("E.balance", "none"),
        Same("intermediate_size", "-.d_ff"),
        Must("hidden_act", "silu"),
    ),
    defaults={
        "layer_types": _usual,
        "full_attention_interval": 4,
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-6,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": True,
        "intermediate_size": 5632,
        "hidden_act": "silu",
    },
    harmless=frozenset({"full_attention_interval"}),
    skipped=(r"mtp\..*",),
)
"""Tensors of `mtp` predict further tokens, which the model alone does not."""
