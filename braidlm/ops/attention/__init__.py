"""Causal softmax attention inside documents, with grouped queries and a KV cache."""

from __future__ import annotations

from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.attention.cache import KVCache, Reserved, Window, newest, reserve
from braidlm.ops.attention.kernel import Scoring
from braidlm.ops.attention.lent import Lent, kept, lend
from braidlm.ops.attention.naive import attention_naive
from braidlm.ops.attention.sdpa import attention_sdpa
from braidlm.ops.attention.varlen import attention_varlen
from braidlm.ops.attention.varlen import why_not as why_not_varlen
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.segments import Segments, check_segments

__all__ = [
    "ATTENTION",
    "KVCache",
    "Lent",
    "Reserved",
    "attention",
    "kept",
    "lend",
    "newest",
    "reserve",
]


def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None,
    cache: KVCache,
    scoring: Scoring,
    window: Window | None,
    return_state: bool,
) -> tuple[Tensor, KVCache | None]:
    from braidlm.ops.attention.triton_step import attention_step_triton  # a CPU does without triton

    return attention_step_triton(
        *(q, k, v),
        segments=segments,
        cache=cache,
        scoring=scoring,
        window=window,
        return_state=return_state,
    )


def _why_not_step(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call) or dispatch.takes_one_token(call):
        return reason
    if not call.shapes["reserved"]:
        return "its cache has no room that is reserved"
    if call.needs_grad or call.options or call.shapes["window"]:
        return "it knows no gradient, window, cap and sink logit"
    return "a head of more than 256 channels" if call.shapes["D"] > 256 else None


ATTENTION = Operator(
    "attention",
    (
        Implementation("step", _step, _why_not_step),
        Implementation("varlen", attention_varlen, why_not_varlen),
        Implementation("sdpa", attention_sdpa, dispatch.always),
        Implementation("naive", attention_naive, dispatch.always),
    ),
)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    segments: Segments | None = None,
    cache: KVCache | None = None,
    scale: float | None = None,
    window: int | None = None,
    n_sinks: int = 0,
    sink_logits: Tensor | None = None,
    softcap: float | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, KVCache | None]:
    """o_t = sum_s softmax_s(cap(scale * q_t . k_s)) v_s over the tokens s that t sees.

    These are the document's tokens s <= t, in the cache and in this call; under a window only those
    with t - s < window, and the document's first n_sinks. Query head h reads key-value head
    h // (Hq // Hkv). Without gradients a passed cache is donated, see `KVCache`.

    Args:
        q: (B, T, Hq, D), positions already encoded.
        k: (B, T, Hkv, D), positions already encoded.
        v: (B, T, Hkv, Dv).
        segments: where documents lie; None: each row is one document.
        cache: keys and values of earlier calls, one row per document.
        scale: multiplies the scores; D^-0.5 by default.
        window: tokens that a query sees, itself included; None: all. The cache then is a ring of at
            most window + n_sinks places, which only calls with the same two numbers can read.
        n_sinks: first tokens of each document that stay visible under a window.
        sink_logits: (Hq,), a score of each head that joins the softmax's denominator, uncapped, and
            gives no value.
        softcap: scores become softcap * tanh(score / softcap); None: they stay as they are.
        return_state: whether the extended cache is returned.
        impl: "auto", "step", "varlen", "sdpa" or "naive".

    Returns:
        o (B, T, Hq, Dv) in the dtype of `q` (zeros at padding), and the cache or None.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`.

    Source: Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762), eq. 1; grouped queries:
        Ainslie et al. (arXiv 2305.13245); windows: Beltagy et al. (arXiv 2004.05150); sinks: Xiao
        et al. (arXiv 2309.17453); sink logits: gpt-oss (arXiv 2508.10925); cap: Gemma 2 (arXiv
        2408.00118).
    """
    _check(q, k, v, segments, cache)
    _check_scoring(q, scale, sink_logits, softcap)
    sight = _window(window, n_sinks, cache)
    sizes = {**dict(zip("BTHD", q.shape, strict=True)), "Dv": v.shape[3]}
    sizes |= {"window": window or 0, "reserved": isinstance(cache, Reserved)}
    held = () if cache is None else cache[:2]
    asked = {"sinks": n_sinks > 0, "sink logits": sink_logits is not None, "cap": bool(softcap)}
    options = tuple(name for name, is_asked in asked.items() if is_asked)
    inputs = (q, k, v, sink_logits, *held)
    call = Call.of(q, sizes, inputs, segments, cache, return_state, options)
    chosen = ATTENTION.choose(impl, call)
    scoring = Scoring(q.shape[-1] ** -0.5 if scale is None else scale, softcap, sink_logits)
    k, v = k.to(q.dtype), v.to(q.dtype)
    with dispatch.own_precision(q):
        return chosen.function(
            q,
            k,
            v,
            segments=segments,
            cache=cache,
            scoring=scoring,
            window=sight,
            return_state=return_state,
        )


def _check_scoring(
    q: Tensor, scale: float | None, sink_logits: Tensor | None, softcap: float | None
) -> None:
    if sink_logits is not None:
        check_shape("attention", "sink_logits", sink_logits, (q.shape[2],))
    if softcap is not None and not softcap > 0:
        raise ValueError(f"attention: softcap={softcap} must be greater than 0 or None.")
    if scale is not None and not scale > 0:
        raise ValueError(f"attention: scale={scale} must be greater than 0 or None.")


def _window(window: int | None, n_sinks: int, cache: KVCache | None) -> Window | None:
    if (window is not None and window < 1) or n_sinks < 0 or (window is None and n_sinks):
        raise ValueError(
            f"attention: window={window} must be at least 1 or None, and n_sinks={n_sinks} at "
            "least 0, and 0 without a window."
        )
    if window is None:
        return None
    found = Window(window, n_sinks)
    if cache is not None and cache.k.shape[1] > found.span:
        raise ValueError(
            f"attention: cache.k has {cache.k.shape[1]} places; the cache of window={window} and "
            f"n_sinks={n_sinks} has at most {found.span}."
        )
    return found


def _check(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments | None, cache: KVCache | None
) -> None:
    if q.dim() != 4 or k.dim() != 4 or v.dim() != 4:
        raise ValueError(
            f"attention: q, k and v have shapes {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(v.shape)}; they must be (B, T, Hq, D), (B, T, Hkv, D) and (B, T, Hkv, Dv)."
        )
    batch, length, n_heads, width = q.shape
    n_kv_heads, v_width = k.shape[2], v.shape[3]
    if n_kv_heads < 1 or n_heads % n_kv_heads or length < 1:
        raise ValueError(
            f"attention: Hq={n_heads} must be a multiple of Hkv={n_kv_heads}, and T={length} >= 1."
        )
    check_shape("attention", "k", k, (batch, length, n_kv_heads, width))
    check_shape("attention", "v", v, (batch, length, n_kv_heads, v_width))
    n_docs = check_segments(segments, batch, length)
    if cache is not None:
        capacity = cache.k.shape[1]
        check_shape("attention", "cache.k", cache.k, (n_docs, capacity, n_kv_heads, width))
        check_shape("attention", "cache.v", cache.v, (n_docs, capacity, n_kv_heads, v_width))
        check_shape("attention", "cache.length", cache.length, (n_docs,))
