"""Kimi Linear: KDA or latent attention without positions, then experts or an MLP, in each layer."""

from dataclasses import replace
from typing import Any

from braidlm.interop.delta_tables import APART, KIMI_LINEAR
from braidlm.interop.family import KINDS, Ends, Family, Letter, Place
from braidlm.interop.family import rows as same
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same
from braidlm.interop.latent_tables import latent_attention
from braidlm.interop.layout import Listed, n_layers
from braidlm.interop.moe_tables import shared_expert, single_experts
from braidlm.interop.tables import GATED_MLP, UNTIED

MIXERS = {"linear_attention": "delta", "full_attention": "attention"}
CHANNELS = {"dense": "", "sparse": " with experts"}
GATE = "forget_gate."
"""Where the module of transformers has the decay, and a file has it not."""
DELTA = APART | {
    name: replace(stored, names=tuple(n.removeprefix(GATE) for n in stored.names))
    for name, stored in KIMI_LINEAR.items()
    if name not in APART
}
MOE = {
    "router.weight": same("gate.weight"),
    "router.bias": same("gate.e_score_correction_bias"),
    **shared_expert("shared_experts", "gate_proj", "up_proj"),
}
TABLE = "linear_attn_config"
"""A table that tells sizes of KDA and the numbers of the layers, from one, as it was published."""
SIZES = {
    "linear_head_dim": "head_dim",
    "linear_num_heads": "num_heads",
    "linear_conv_kernel_dim": "short_conv_kernel_size",
}
NUMBERS = {"kda_layers": "linear_attention", "full_attn_layers": "full_attention"}


def _table(config: Foreign) -> dict[str, Any]:
    config.used.add(TABLE)
    found = config.data.get(TABLE) or {}
    if not isinstance(found, dict):
        raise config.error(TABLE, found, "a table")
    extra = sorted(set(found) - {*SIZES.values(), *NUMBERS})
    if extra:
        raise config.error(f"{TABLE}.{extra[0]}", found[extra[0]])
    return found


def _numbered(config: Foreign) -> list[str] | None:
    """Return the words of the layers whose numbers the table gives."""
    table, n = _table(config), n_layers(config)
    if not set(NUMBERS) & set(table):
        return None
    words: dict[int, str] = {}
    for key, word in NUMBERS.items():
        numbers = table.get(key)
        is_list = isinstance(numbers, list) and all(i in range(1, n + 1) for i in numbers)
        if not is_list or words.keys() & set(numbers or ()):
            raise config.error(f"{TABLE}.{key}", numbers, f"numbers from 1 to {n}, each once")
        words |= dict.fromkeys(numbers or (), word)
    if len(words) < n:
        absent = min(set(range(1, n + 1)) - set(words))
        raise config.error(TABLE, table, f"every layer in one list; layer {absent} is in none")
    return [words[i] for i in range(1, n + 1)]


def _first_dense(config: Foreign) -> list[str] | None:
    """Return the words of an MLP in the first layers and experts in the others."""
    config.used |= {"first_k_dense_replace", "moe_layer_freq"}
    first, n = config.data.get("first_k_dense_replace"), n_layers(config)
    if config.data.get("moe_layer_freq") not in (None, 1):
        raise config.error("moe_layer_freq", config.data["moe_layer_freq"], "1")
    if first is None:
        return None
    if not isinstance(first, int) or first < 0:
        raise config.error("first_k_dense_replace", first, "a whole number")
    return ["dense" if i < first else "sparse" for i in range(n)]


def _told_twice(config: Foreign, listed: Listed, other: list[str] | None) -> list[str]:
    """Return the kinds by a list or by its older form; where there are both they must agree."""
    given = config.data.get(listed.key)
    if other is None:
        return listed.read(config)
    if given not in (None, other):
        raise config.error(listed.key, given, f"what the older fields say, {other!r:.200}")
    config.used.add(listed.key)
    return listed.kinds(config, other)


class TwoLists:
    """One list names the mixer of each layer, another what comes after it."""

    mixers, channels = Listed("layer_types", MIXERS), Listed("mlp_layer_types", CHANNELS)

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        mixers = _told_twice(config, self.mixers, _numbered(config))
        channels = _told_twice(config, self.channels, _first_dense(config))
        return [mixer + channel for mixer, channel in zip(mixers, channels, strict=True)]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return both lists, and the number of the first layers without experts."""
        experts = CHANNELS["sparse"]
        sparse = [kind.endswith(experts) for kind in kinds]
        written = self.mixers.write([kind.removesuffix(experts) for kind in kinds])
        written |= self.channels.write([experts if x else CHANNELS["dense"] for x in sparse])
        first = sparse.index(True) if True in sparse else len(sparse)
        return written | ({"first_k_dense_replace": first} if all(sparse[first:]) else {})


def _read_delta(config: Foreign) -> Flat:
    table = _table(config)
    width, n_heads, taps = (table.get(old, config.get(new)) for new, old in SIZES.items())
    return {
        **dict.fromkeys(("A.n_heads", "A.n_v_heads"), n_heads),
        **dict.fromkeys(("A.head_dim", "A.v_head_dim", "A.decay_rank", "A.gate_rank"), width),
        "A.d_conv": taps,
    }


def _write_delta(ours: Flat) -> dict[str, Any]:
    """Return the sizes in both forms, and the numbers of the layers in the older one."""
    names = zip(SIZES, ("head_dim", "n_heads", "d_conv"), strict=True)
    sizes = {new: ours[f"A.{name}"] for new, name in names if f"A.{name}" in ours}
    table: dict[str, Any] = {SIZES[new]: size for new, size in sizes.items()}
    for key, word in NUMBERS.items():
        numbers = enumerate(ours[KINDS], start=1)
        table[key] = [i for i, kind in numbers if kind.startswith(MIXERS[word])]
    return {**sizes, TABLE: table}


def _read_key_heads(config: Foreign) -> Flat:
    """Keys come from the latent, one for each head."""
    found, n_heads = config.get("num_key_value_heads"), config.get("num_attention_heads")
    if found != n_heads:
        raise config.error("num_key_value_heads", found, f"num_attention_heads = {n_heads}")
    return {}


def _write_key_heads(ours: Flat) -> dict[str, Any]:
    return {"num_key_value_heads": ours["+.n_heads"]} if "+.n_heads" in ours else {}


def _read_shared(config: Foreign) -> Flat:
    width, n = config.whole("moe_intermediate_size"), config.whole("num_shared_experts")
    return {"E.d_ff": width, "E.d_shared": width * n}


def _write_shared(ours: Flat) -> dict[str, Any]:
    if "E.d_ff" not in ours:
        return {}
    width, shared = ours["E.d_ff"], ours["E.d_shared"] or 0
    return {"moe_intermediate_size": width, "num_shared_experts": max(1, shared // width)}


def _latent_sizes() -> tuple[Field, ...]:
    widths = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    return tuple(Same(name, f"+.{name}") for name in widths)


CHANNEL_PLACES = {
    "dense": Place("-", "post_attention_layernorm", ("mlp",)),
    "sparse": Place("E", "post_attention_layernorm", ("block_sparse_moe",)),
}
KIMI = Family(
    model_type="kimi_linear",
    architecture="KimiLinearForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "A": Letter("kda", DELTA, out="o_proj"),
        "+": Letter("mla", latent_attention, out="o_proj"),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
        "E": Letter("moe", single_experts(MOE, ("w1", "w3"), down="w2")),
    },
    layers={
        kind + CHANNELS[word]: (Place(letter, "input_layernorm", ("self_attn",)), place)
        for kind, letter in (("delta", "A"), ("attention", "+"))
        for word, place in CHANNEL_PLACES.items()
    },
    layout=TwoLists(),
    fields=(
        *UNTIED,
        Same("rms_norm_eps", "norm_eps"),
        Coded(_read_delta, _write_delta),
        Ours("A.gate_bias", False),
        Same("num_attention_heads", "+.n_heads"),
        Coded(_read_key_heads, _write_key_heads),
        *_latent_sizes(),
        Ours("+.position", "none"),
        Ours("+.norm_eps", 1e-6),  # whatever rms_norm_eps is
        Must("mla_use_nope", True),
        Must("attention_bias", False),
        Same("intermediate_size", "-.d_ff"),
        Same("num_experts", "E.n_experts"),
        Same("num_experts_per_token", "E.top_k"),
        Coded(_read_shared, _write_shared),
        Same("routed_scaling_factor", "E.routed_scale"),
        Same("num_expert_group", "E.n_groups"),
        Same("topk_group", "E.topk_group"),
        Same("moe_renormalize", "E.norm_topk"),
        Ours("E.router", "sigmoid"),
        Ours("E.balance", "bias"),
        Must("moe_router_activation_func", "sigmoid"),
        Must("topk_method", "noaux_tc"),
        Must("use_grouped_topk", True),
        Must("num_nextn_predict_layers", 0),
        Must("hidden_act", "silu"),
    ),
    defaults={
        "mlp_layer_types": lambda config: ["dense"] + ["sparse"] * (n_layers(config) - 1),
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "linear_head_dim": 128,
        "linear_num_heads": 32,
        "linear_conv_kernel_dim": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": lambda config: config.get("num_attention_heads"),
        "kv_lora_rank": 512,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "mla_use_nope": True,
        "attention_bias": False,
        "intermediate_size": 9216,
        "num_experts": 256,
        "num_experts_per_token": 8,
        "moe_intermediate_size": 1024,
        "num_shared_experts": 1,
        "routed_scaling_factor": 2.446,
        "num_expert_group": 1,
        "topk_group": 1,
        "moe_renormalize": True,
        "moe_router_activation_func": "sigmoid",
        "topk_method": "noaux_tc",
        "use_grouped_topk": True,
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
    },
    harmless=frozenset({"head_dim", "qk_head_dim", "model_max_length", "rope_theta"}),
    respelled=((r"\.block_sparse_moe\.(gate|up|down)_proj\.", r".mlp.\1_proj."),),
)
"""Written are the names of the published files, which transformers and vLLM read. transformers
itself calls an MLP without experts as if it had some when it saves."""
