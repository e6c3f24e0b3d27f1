"""Attention over a window of tokens, and over what a recurrence made of those before the window."""

from __future__ import annotations

from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.fading.blocks import fading_blocks
from braidlm.ops.fading.cache import Entries, FadingCache, with_reserve
from braidlm.ops.fading.naive import fading_naive
from braidlm.segments import Segments, check_segments

__all__ = ["FADING_ATTENTION", "Entries", "FadingCache", "fading_attention", "with_reserve"]

FADING_ATTENTION = Operator(
    "fading_attention",
    (
        Implementation("blocks", fading_blocks, dispatch.always),
        Implementation("naive", fading_naive, dispatch.always),
    ),
)


def fading_attention(
    q: Tensor,
    own: Entries,
    faded: Entries,
    *,
    window: int,
    segments: Segments | None = None,
    cache: FadingCache | None = None,
    scale: float | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, FadingCache | None]:
    """One softmax over the own entries of the last w tokens and the faded ones of the w before.

    o_t = sum_s softmax_s(scale * q_t . k_s) v_s over the document's tokens s with t - s < 2 w, in
    the cache and in this call; k_s, v_s are own entries where t - s < w, and faded ones elsewhere.
    Query head h reads key-value head h // (Hq // Hkv).

    Args:
        q: (B, T, Hq, D), positions already encoded.
        own: keys (B, T, Hkv, D), positions already encoded, and values (B, T, Hkv, Dv).
        faded: the same, made of a recurrence's output at these tokens.
        window: w, the query's token included.
        segments: where documents lie; None: each row is one document.
        cache: what earlier calls with the same window have left, one row per document. Without
            gradients it is donated, see `braidlm.ops.attention.KVCache`.
        scale: multiplies the scores; D^-0.5 by default.
        return_state: whether the extended cache is returned.
        impl: "auto", "blocks" or "naive".

    Returns:
        o (B, T, Hq, Dv) in the dtype of `q` (zeros at padding), and the cache or None.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`.

    Source: B'MOJO (Zancato et al. 2024, arXiv 2407.06324), the layer called B'MOJO-F.
    """
    _check(q, own, faded, window, segments, cache)
    held = () if cache is None else (*cache.seen[:2], *cache.waiting[:2])
    sizes = {"B": q.shape[0], "T": q.shape[1], "D": q.shape[3], "w": window}
    call = Call.of(q, sizes, (q, *own, *faded, *held), segments, cache)
    chosen = FADING_ATTENTION.choose(impl, call)
    own, faded = (Entries(*(x.to(q.dtype) for x in e)) for e in (own, faded))
    with dispatch.own_precision(q):
        return chosen.function(
            q,
            own,
            faded,
            segments=segments,
            cache=cache,
            scale=q.shape[3] ** -0.5 if scale is None else scale,
            window=window,
            return_state=return_state,
        )


def _check(
    q: Tensor,
    own: Entries,
    faded: Entries,
    window: int,
    segments: Segments | None,
    cache: FadingCache | None,
) -> None:
    if window < 1:
        raise ValueError(f"fading_attention: window={window} must be at least 1.")
    if q.dim() != 4 or own.k.dim() != 4 or own.v.dim() != 4 or q.shape[1] < 1:
        raise ValueError(
            f"fading_attention: q, own.k and own.v have shapes {tuple(q.shape)}, "
            f"{tuple(own.k.shape)} and {tuple(own.v.shape)}; they must be (B, T, Hq, D), "
            "(B, T, Hkv, D) and (B, T, Hkv, Dv), with T >= 1."
        )
    n_kv_heads, width, v_width = own.k.shape[2], q.shape[3], own.v.shape[3]
    if n_kv_heads < 1 or q.shape[2] % n_kv_heads:
        raise ValueError(
            f"fading_attention: Hq={q.shape[2]} must be a multiple of Hkv={n_kv_heads}."
        )
    for name, entries in (("own", own), ("faded", faded)):
        for part, x, n in (("k", entries.k, width), ("v", entries.v, v_width)):
            shape = (*q.shape[:2], n_kv_heads, n)
            check_shape("fading_attention", f"{name}.{part}", x, shape)
    n_docs = check_segments(segments, q.shape[0], q.shape[1])
    if cache is not None:
        _check_cache(cache, (n_docs, n_kv_heads, width, v_width), window)


def _check_cache(cache: FadingCache, sizes: tuple[int, int, int, int], window: int) -> None:
    n_docs, n_kv_heads, width, v_width = sizes
    rings = (("seen", cache.seen, 2 * window), ("waiting", cache.waiting, window))
    for name, ring, most in rings:
        places = ring.k.shape[1]
        if places > most:
            raise ValueError(
                f"fading_attention: cache.{name} has {places} places; that of window={window} has "
                f"at most {most}."
            )
        for part, x, n in (("k", ring.k, width), ("v", ring.v, v_width)):
            shape = (n_docs, places, n_kv_heads, n)
            check_shape("fading_attention", f"cache.{name}.{part}", x, shape)
        check_shape("fading_attention", f"cache.{name}.length", ring.length, (n_docs,))
