"""Qwen3: attention with normed queries and keys, under a window or not, and a gated MLP."""

from typing import Any

from braidlm.arch.mixers import AttentionConfig, MixerConfig
from braidlm.interop.family import Ends, Family, Letter, Place
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same
from braidlm.interop.layout import Listed, n_layers
from braidlm.interop.rope_tables import rope
from braidlm.interop.tables import ATTENTION, ENDS, GATED_MLP, biases, heads

WORDS = {"full_attention": "full", "sliding_attention": "windowed"}


def _window(config: Foreign) -> int | None:
    """Return the window, which there is only where `use_sliding_window` says so."""
    config.used |= {"use_sliding_window", "sliding_window"}
    used, window = config.get("use_sliding_window"), config.data.get("sliding_window", 4096)
    if not isinstance(used, bool):
        raise config.error("use_sliding_window", used, "true, false")
    return window if used else None


def _usual(config: Foreign) -> list[str]:
    """Attention is windowed from layer `max_window_layers` on, if there is a window."""
    first, n = config.get("max_window_layers"), n_layers(config)
    if not isinstance(first, int) or first < 0:
        raise config.error("max_window_layers", first, "a whole number")
    n_full = n if _window(config) is None else min(first, n)
    return ["full_attention"] * n_full + ["sliding_attention"] * (n - n_full)


class Windowed:
    """A list names the layers that have a window."""

    listed = Listed("layer_types", WORDS)

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        kinds = self.listed.read(config)
        if "windowed" in kinds and _window(config) is None:
            needed = "full_attention, unless use_sliding_window and sliding_window give a window"
            raise config.error("layer_types", "sliding_attention", needed)
        return kinds

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and its length."""
        return self.listed.write(kinds)


def _written_window(ours: Flat) -> dict[str, Any]:
    window = ours.get("W.window")
    return {"use_sliding_window": window is not None, "sliding_window": window}


def _attention(letter: str) -> tuple[Field, ...]:
    """What both kinds of layers have; where there are both it is the same."""
    return (
        *heads(letter),
        Same("head_dim", f"{letter}.head_dim"),
        Ours(f"{letter}.qk_norm", "head"),
        rope(letter),
        *biases("attention_bias", letter),
    )


def _has_window(config: MixerConfig) -> bool:
    assert isinstance(config, AttentionConfig)
    return config.window is not None


MLP = Place("-", "post_attention_layernorm", ("mlp",))
QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    ends=Ends("model.embed_tokens.weight", "model.norm.weight", "model.layers"),
    letters={
        "*": Letter("attention", ATTENTION, "o_proj", when=lambda config: not _has_window(config)),
        "W": Letter("attention", ATTENTION, "o_proj", when=_has_window),
        "-": Letter("mlp", GATED_MLP, out="down_proj"),
    },
    layers={
        "full": (Place("*", "input_layernorm", ("self_attn",)), MLP),
        "windowed": (Place("W", "input_layernorm", ("self_attn",)), MLP),
    },
    layout=Windowed(),
    fields=(
        *ENDS,
        Same("rms_norm_eps", "norm_eps"),
        *_attention("*"),
        *_attention("W"),
        Coded(lambda config: {"W.window": _window(config)}, _written_window),
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
        "max_window_layers": 28,
        "hidden_act": "silu",
        "layer_types": _usual,
    },
    harmless=frozenset({"max_window_layers"}),
)
