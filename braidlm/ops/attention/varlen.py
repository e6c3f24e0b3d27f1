"""Packed documents by torch's variable-length attention: one call, whatever their lengths.

It is FlashAttention over the documents laid end to end. Nothing is gathered where no token is
padding, and nothing waits for the device where the lengths are known to the host.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

from torch import Tensor

from braidlm.ops.attention.cache import KVCache, Window, extend, take
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.attention.ring import extend_ring
from braidlm.ops.dispatch import Call
from braidlm.segments import Segments

WIDEST = 256
"""Channels of a head at most."""
ALIGNED = 8
"""Channels of a head are a multiple of this."""


def why_not(call: Call) -> str | None:
    """What speaks against `attention_varlen`."""
    if call.device != "cuda":
        return "it needs an NVIDIA GPU"
    if call.dtype.itemsize != 2:
        return f"it takes bf16 and fp16, not {call.dtype}"
    if not call.is_packed:
        return "rows that are documents need no offsets"
    if call.has_state:
        return "it reads no cache"
    if call.options:
        return f"it has no {', no '.join(call.options)}"
    width, v_width = call.shapes["D"], call.shapes["Dv"]
    if width != v_width or width > WIDEST or width % ALIGNED:
        return (
            f"heads of {width} channels, and {v_width} of values: it takes one width for both, "
            f"a multiple of {ALIGNED} up to {WIDEST}"
        )
    return None


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache | None,
    scoring: Scoring,
    window: Window | None,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    """Causal attention inside documents; see `attention` for the arguments."""
    assert segments is not None
    assert cache is None
    o = _inside(q, k, v, segments, scoring.scale, -1 if window is None else window.size - 1)
    if not return_state:
        return o, None
    if window is None:
        return o, extend(None, k, v, segments)
    return o, extend_ring(None, k, v, segments, window)


def _inside(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float, n_before: int
) -> Tensor:
    """(B, T, Hq, D), zeros at padding; a query sees so many tokens before it, all where -1."""
    from torch.nn.attention import varlen  # on a CPU nobody needs it

    if segments.n_docs == 0:
        return q.new_zeros(*q.shape[:3], v.shape[3])
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))
    places = segments.places
    if places is not None:
        queries, keys, values = (take(x, places) for x in (queries, keys, values))
    ends, longest = segments.cu_seqlens, segments.max_length
    attend = varlen.varlen_attn
    o = cast(Callable[..., Tensor], attend)(
        queries,
        keys,
        values,
        ends,
        ends,
        longest,
        longest,
        scale=scale,
        window_size=(n_before, 0),
        **_asked(attend, q.shape[2] != k.shape[2]),
    )
    if places is not None:
        o = o.new_zeros(segments.doc.numel(), *o.shape[1:]).index_copy(0, places, o)
    return o.unflatten(0, segments.shape)


def _asked(attend: Callable[..., object], is_grouped: bool) -> dict[str, bool]:
    """Torch 2.12 wants to be told that heads share keys; 2.11 has no word for it and does it."""
    has_word = "enable_gqa" in inspect.signature(attend).parameters
    return {"enable_gqa": is_grouped} if has_word else {}
