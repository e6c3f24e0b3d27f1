"""Latent attention: softmax attention whose cache holds what keys and values are made from."""

from __future__ import annotations

from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.attention import KVCache
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.latent.forms import Expansion, latent_absorb, latent_expand
from braidlm.ops.latent.naive import latent_naive
from braidlm.segments import Segments, check_segments

__all__ = ["LATENT_ATTENTION", "Expansion", "latent_attention"]

LATENT_ATTENTION = Operator(
    "latent_attention",
    (
        Implementation("expand", latent_expand, dispatch.always),
        Implementation("absorb", latent_absorb, dispatch.always),
        Implementation("naive", latent_naive, dispatch.always),
    ),
)


def latent_attention(
    q: Tensor,
    latent: Tensor,
    up: Tensor,
    *,
    rank: int,
    segments: Segments | None = None,
    cache: KVCache | None = None,
    scale: float | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, KVCache | None]:
    """o_t = sum_s softmax_s(scale * q_t . [U_k c_s, r_s]) U_v c_s over the tokens s that t sees.

    These are the document's tokens s <= t, in the cache and in this call. [c_s, r_s] is the entry
    of token s: a latent of C channels and a key of R channels that all heads share. "auto" takes
    the form with fewer products: `expand` without a cache, and over one while a call is long;
    `absorb` for steps (README.md of this folder). Without gradients a passed cache is donated.

    Args:
        q: (B, T, H, N + R), the last R channels with positions already encoded.
        latent: (B, T, C + R), the latent normed, the shared key with positions encoded.
        up: (H * N + H * V, C): U_k of all heads, then U_v of all heads.
        rank: C.
        segments: where documents lie; None: each row is one document.
        cache: entries of earlier calls, one row per document: `k` (n_docs, S, 1, C + R) holds
            them, `v` (n_docs, S, 1, 0) nothing, for values are made from the same entries.
        scale: multiplies the scores; (N + R)^-0.5 by default.
        return_state: whether the extended cache is returned.
        impl: "auto", "expand", "absorb" or "naive".

    Returns:
        o (B, T, H, V) in the dtype of `q` (zeros at padding), and the cache or None.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`.

    Source: DeepSeek-V2 (arXiv 2405.04434), section 2.1 and appendix C.
    """
    sizes = _sizes(q, latent, up, rank)
    n_docs = check_segments(segments, q.shape[0], q.shape[1])
    if cache is not None:
        capacity = cache.k.shape[1]
        check_shape("latent_attention", "cache.k", cache.k, (n_docs, capacity, 1, latent.shape[2]))
        check_shape("latent_attention", "cache.v", cache.v, (n_docs, capacity, 1, 0))
        check_shape("latent_attention", "cache.length", cache.length, (n_docs,))
    held = () if cache is None else (cache.k,)
    shapes = {"B": q.shape[0], "T": q.shape[1], **sizes}
    call = Call.of(q, shapes, (q, latent, up, *held), segments, cache)
    if impl == "auto":
        longest = q.shape[1] if segments is None else segments.max_length
        impl = "absorb" if cache is not None and _is_step(longest, sizes) else "expand"
    chosen = LATENT_ATTENTION.choose(impl, call)
    with dispatch.own_precision(q):
        return chosen.function(
            q,
            latent.to(q.dtype),
            Expansion.of(up.to(q.dtype), sizes["H"], sizes["N"]),
            segments=segments,
            cache=cache,
            scale=q.shape[3] ** -0.5 if scale is None else scale,
            return_state=return_state,
        )


def _is_step(n_new: int, sizes: dict[str, int]) -> bool:
    """Whether over a long cache absorption runs fewer products than expansion.

    Per held token and head expansion costs C (N + V) once and N + R + V per query, absorption
    2 (C + R) per query: the kernel reads entries of one width as keys and as values.
    """
    rank, nope, rope, value = (sizes[name] for name in "CNRV")
    return n_new * (2 * (rank + rope) - (nope + rope + value)) <= rank * (nope + value)


def _sizes(q: Tensor, latent: Tensor, up: Tensor, rank: int) -> dict[str, int]:
    if q.dim() != 4 or latent.dim() != 3 or up.dim() != 2 or q.shape[1] < 1:
        raise ValueError(
            f"latent_attention: q, latent and up have shapes {tuple(q.shape)}, "
            f"{tuple(latent.shape)} and {tuple(up.shape)}; they must be (B, T, H, N + R), "
            "(B, T, C + R) and (H * N + H * V, C), with T >= 1."
        )
    n_heads, width = q.shape[2:]
    rope = latent.shape[2] - rank
    nope = width - rope
    value = len(up) // n_heads - nope
    if rank < 1 or rope < 0 or nope < 1 or value < 1:
        raise ValueError(
            f"latent_attention: rank={rank} does not fit q {tuple(q.shape)}, latent "
            f"{tuple(latent.shape)} and up {tuple(up.shape)}."
        )
    check_shape("latent_attention", "latent", latent, (*q.shape[:2], rank + rope))
    check_shape("latent_attention", "up", up, (n_heads * (nope + value), rank))
    return {"H": n_heads, "C": rank, "N": nope, "R": rope, "V": value}
