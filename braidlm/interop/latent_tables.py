"""Maps of latent attention, in the names of DeepSeek's models and those that followed them.

Our input projection stacks queries (or their latent), the latent of keys and values, and the shared
key; our `kv_up` the keys of all heads, then their values. Theirs holds both head by head. A shared
key that is rotated is not mapped: its channels may lie in pairs there.
"""

from __future__ import annotations

from collections.abc import Mapping

from braidlm.arch.mixers import MixerConfig, MLAConfig
from braidlm.interop.family import Rows, rows


def _entries(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """Queries or their latent; the latent and the shared key, in one."""
    assert isinstance(config, MLAConfig)
    return (config.query_width, config.cache_width), list(range(config.in_proj_width))


def _by_head(config: MixerConfig) -> tuple[tuple[int, ...], list[int]]:
    """For each head its key, then its value."""
    assert isinstance(config, MLAConfig)
    own, value, heads = config.qk_nope_head_dim, config.v_head_dim, range(config.n_heads)
    keys = [h * (own + value) + i for h in heads for i in range(own)]
    values = [h * (own + value) + own + i for h in heads for i in range(value)]
    return (len(keys) + len(values),), keys + values


def latent_attention(config: MixerConfig) -> Mapping[str, Rows]:
    """Return the map of latent attention without positions; the output projection is o_proj."""
    assert isinstance(config, MLAConfig)
    queries = "q_proj.weight" if config.q_lora_rank is None else "q_a_proj.weight"
    return {
        "in_proj.weight": Rows((queries, "kv_a_proj_with_mqa.weight"), order=_entries),
        "q_norm.weight": rows("q_a_layernorm.weight"),
        "q_up.weight": rows("q_b_proj.weight"),
        "kv_norm.weight": rows("kv_a_layernorm.weight"),
        "kv_up.weight": Rows(("kv_b_proj.weight",), order=_by_head),
    }
