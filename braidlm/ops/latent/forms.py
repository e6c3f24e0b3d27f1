"""Two forms of latent attention that hold no square of tokens: expansion and absorption.

Axes: n documents, L queries, S entries, H heads, N and R channels of a head's own and of the shared
key, C of a latent, V of a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.attention.cache import KVCache, by_document, extend
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.attention.sdpa import attention_sdpa, over_cache, to_rows
from braidlm.segments import Segments


class Expansion(NamedTuple):
    """The matrices that make keys and values of latents."""

    weight: Tensor
    """(H * N + H * V, C): of keys, all heads, then of values"""
    keys: Tensor
    """(H, N, C)"""
    values: Tensor
    """(H, V, C)"""

    @classmethod
    def of(cls, weight: Tensor, n_heads: int, nope: int) -> Expansion:
        """Cut `weight` into its heads."""
        keys, values = weight.split([n_heads * nope, len(weight) - n_heads * nope])
        return cls(weight, keys.unflatten(0, (n_heads, -1)), values.unflatten(0, (n_heads, -1)))

    def expanded(self, entries: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (..., H, N + R) and values (..., H, V) of entries (..., C + R)."""
        latent, shared = entries.tensor_split([self.weight.shape[1]], dim=-1)
        n_heads, nope = self.keys.shape[:2]
        made = F.linear(latent, self.weight)
        keys, values = made.tensor_split([n_heads * nope], dim=-1)
        keys, values = keys.unflatten(-1, (n_heads, -1)), values.unflatten(-1, (n_heads, -1))
        if shared.shape[-1]:
            shared = shared.unsqueeze(-2).expand(*keys.shape[:-1], -1)
            keys = torch.cat((keys, shared), dim=-1)
        return keys, values


def latent_expand(
    q: Tensor,
    latent: Tensor,
    up: Expansion,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """Make keys and values of every entry, then attend; see `latent_attention`."""
    if cache is not None:
        return _over(q, latent, segments, cache, scale, lambda held: up.expanded(held[:, :, 0]))
    keys, values = up.expanded(latent)
    o, _ = attention_sdpa(
        q,
        keys,
        values,
        segments=segments,
        cache=None,
        scoring=Scoring(scale),
        window=None,
        return_state=False,
    )
    return o, extend(None, *_entries(latent), segments) if return_state else None


def latent_absorb(
    q: Tensor,
    latent: Tensor,
    up: Expansion,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """Ask the entries themselves: q . U_k c = (U_k^T q) . c; see `latent_attention`.

    The shared key is a part of what is read as a value too, for a view of the latent alone would
    have to be copied by the kernel; its channels are left out of the result.
    """
    own, shared = q.tensor_split([up.keys.shape[1]], dim=-1)
    asked = torch.cat((torch.einsum("bthn,hnc->bthc", own, up.keys), shared), dim=-1)
    o, extended = _over(asked, latent, segments, cache, scale, lambda held: (held, held))
    o = torch.einsum("bthc,hvc->bthv", o[..., : up.keys.shape[2]], up.values)
    return o, extended


def _entries(latent: Tensor) -> tuple[Tensor, Tensor]:
    """What a cache takes as keys and values: the entries, and nothing."""
    return latent[:, :, None], latent.new_empty(*latent.shape[:2], 1, 0)


def _over(
    q: Tensor,
    latent: Tensor,
    segments: Segments | None,
    cache: KVCache | None,
    scale: float,
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, KVCache]:
    """Attend over the extended cache, whose entries (n, S, 1, C + R) `read` gives as keys, values.

    Returns:
        (B, T, H, width of values) and the extended cache.
    """
    extended = extend(cache, *_entries(latent), segments)
    asked = by_document(q, segments)
    before = torch.zeros_like(extended.length) if cache is None else cache.length
    keys, values = read(extended.k.to(q.dtype))
    if not len(asked):
        return q.new_zeros(*q.shape[:3], values.shape[3]), extended
    held = type(extended)(keys, values, extended.length)
    o = over_cache(asked, before, held, Scoring(scale))
    return o if segments is None else to_rows(o, segments), extended
