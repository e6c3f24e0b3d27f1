"""What Zamba and Zamba2 have in common: blocks of attention and MLP that layers share by turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from braidlm.interop.family import Place
from braidlm.interop.fields import Coded, Field, Flat, Foreign, Must, Ours, Same, Words
from braidlm.interop.layout import Listed, UnfitError
from braidlm.interop.tables import heads

BLOCKS = ("AF", "BG", "CH", "IJ")
"""Letters of the attention and the MLP of each shared block."""
WORDS = {"linear_attention": "mamba", "mamba": "mamba", "hybrid": "hybrid"}
ACTIVATIONS = (("gelu", "gelu"), ("silu", "silu"), ("swish", "silu"), ("relu2", "relu2"))
HARMLESS = frozenset(
    {
        *("time_step_max", "time_step_floor", "use_associative_scan", "use_mem_eff_path"),
        *("kv_channels", "num_query_groups"),
    }
)
"""How weights began, how they are computed, and sizes that nothing reads."""


@dataclass(frozen=True)
class Turns:
    """A list names the layers before whose Mamba a shared block works; blocks take turns."""

    n_least: int = 1
    """Hybrid layers that transformers needs to build and run a model."""
    count: str | None = None
    """Their name of the number of blocks; None: there is one."""

    @property
    def listed(self) -> Listed:
        """The list."""
        return Listed("layers_block_type", WORDS, also=("layer_types",))

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer: mamba, or the letters of its shared block."""
        n = 1 if self.count is None else config.whole(self.count)
        if n > len(BLOCKS):
            raise config.error(str(self.count), n, f"1 to {len(BLOCKS)}")
        kinds, use = [], 0
        for word in self.listed.read(config):
            kinds.append(word if word == "mamba" else BLOCKS[use % n])
            use += word != "mamba"
        return kinds

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and the number of blocks."""
        uses = [(i, kind) for i, kind in enumerate(kinds) if kind != "mamba"]
        if len(uses) < self.n_least:
            reason = f"transformers runs no such model with fewer than {self.n_least} shared blocks"
            raise UnfitError(f"{reason} before a Mamba", 0, has_layers=False)
        n = len({kind for _, kind in uses})
        for use, (i, kind) in enumerate(uses):
            if kind != BLOCKS[use % n]:
                sublayer = sum(1 if before == "mamba" else 3 for before in kinds[:i])
                raise UnfitError(
                    f"sublayer {sublayer}: its {n} shared blocks do not take turns", sublayer
                )
        words = ["mamba" if kind == "mamba" else "hybrid" for kind in kinds]
        count = {} if self.count is None else {self.count: n}
        return self.listed.write(words) | count


def layers(mamba: str, block: str, n_blocks: int) -> dict[str, tuple[Place, ...]]:
    """Return the layers: a Mamba alone, or one with a shared block before it.

    Args:
        mamba: letter of the Mamba.
        block: their name of a shared block.
        n_blocks: how many there may be.
    """
    alone = (Place(mamba, "input_layernorm", ("mamba",)),)
    found: dict[str, tuple[Place, ...]] = {"mamba": alone}
    inner = Place(mamba, "mamba_decoder.input_layernorm", ("mamba_decoder.mamba",))
    for letters in BLOCKS[:n_blocks]:
        a, f = letters
        attention = Place(a, f"{block}.input_layernorm", (f"{block}.self_attn",))
        place = (f"{block}.feed_forward",)
        mlp = Place(f, f"{block}.pre_ff_layernorm", place, use_proj="linear")
        found[letters] = (attention, mlp, inner)
    return found


def block_fields(a: str, f: str) -> tuple[Field, ...]:
    """Fields of one shared block, with the letters of its attention and of its MLP."""
    return (
        *heads(a),
        Same("attention_head_dim", f"{a}.head_dim"),
        _scale(a),
        Ours(f"{a}.input", "hidden+embedding"),
        Ours(f"{a}.output", "next_input"),
        Same("intermediate_size", f"{f}.d_ff"),
        Words("hidden_act", f"{f}.activation", ACTIVATIONS),
        Ours(f"{f}.input", "handed"),
        Ours(f"{f}.output", "next_input"),
        Ours(f"{f}.use_projection", True),
    )


def attention_width(config: Foreign) -> int:
    """Return what the attention reads: stream and embedding beside each other."""
    return 2 * config.whole("hidden_size")


def wide_head_dim(config: Foreign) -> int:
    """Return the width of a head where the file does not give it."""
    return attention_width(config) // config.whole("num_attention_heads")


def read_attention_width(config: Foreign) -> Flat:
    """Refuse a width that the attention cannot read."""
    found, only = config.get("attention_hidden_size"), attention_width(config)
    if found != only:
        raise config.error("attention_hidden_size", found, f"{only}, twice hidden_size")
    return {}


ATTENTION_WIDTH = Coded(
    read_attention_width, lambda ours: {"attention_hidden_size": 2 * ours["d_model"]}
)
MAMBA_ACTIVATION = Must("hidden_mamba_act", "silu", ("swish",))


def _scale(letter: str) -> Field:
    """Scores are divided by the root of half a head's width."""

    def read(config: Foreign) -> Flat:
        return {f"{letter}.softmax_scale": (config.whole("attention_head_dim") / 2) ** -0.5}

    return Coded(read, lambda ours: {})
