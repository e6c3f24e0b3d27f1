"""The gated delta rule: linear attention that corrects what it remembers and forgets.

One operator serves Gated DeltaNet (a decay per head) and KDA (a decay per key channel).
"""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.gated_delta.chunk import gated_delta_chunk
from braidlm.ops.gated_delta.naive import gated_delta_naive
from braidlm.ops.gated_delta.step import step
from braidlm.segments import Segments, check_segments


def _step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    return step(q, k, v, g, beta, scale, initial_state, return_state)


def _why_not_triton(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call):
        return reason
    if call.dtype == torch.float16:
        return "it computes in bf16 or fp32"
    if call.shapes["E"] > 1:
        return "it takes one decay per head, not one per key channel"
    if call.shapes["D"] > 128:
        return "registers hold no state of more than 128 key channels"
    return None


def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    from braidlm.ops.gated_delta.triton import gated_delta_triton  # a CPU does without triton

    return gated_delta_triton(
        *(q, k, v, g, beta),
        scale=scale,
        chunk_size=chunk_size,
        segments=segments,
        initial_state=initial_state,
        return_state=return_state,
    )


GATED_DELTA = Operator(
    "gated_delta",
    (
        Implementation("step", _step, dispatch.takes_one_token),
        Implementation("triton", _triton, _why_not_triton),
        Implementation("chunk", gated_delta_chunk, dispatch.always),
        Implementation("naive", gated_delta_naive, dispatch.always),
    ),
)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    chunk_size: int = 64,
    segments: Segments | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """S' = Diag(exp(g_t)) S_{t-1}; S_t = S' + beta_t k_t (v_t - S'^T k_t)^T; y_t = scale S_t^T q_t.

    Inside each document. S_t is (D, Dv): what the state holds for the key is moved towards the
    value by the share beta. Axes: B rows, T tokens, H value heads of width Dv, G key heads of width
    D. Value head h reads key head h // (H // G). All is computed in at least fp32; the Triton form
    multiplies in the dtype of `v`.

    Args:
        q: (B, T, G, D) queries.
        k: (B, T, G, D) keys. They are taken as they are: a mixer gives them unit length
            (`ops.norm.l2_norm`), for which a state cannot grow while beta is at most 2.
        v: (B, T, H, Dv) values.
        g: (B, T, H) log decay of a head, or (B, T, H, D) of each of its key channels; at most 0.
        beta: (B, T, H) strength of the correction: 0 to 1, or to 2 for negative eigenvalues.
        scale: factor on the queries. Default: D ** -0.5.
        chunk_size: tokens of one triangular system; it changes speed, not the result.
        segments: where documents lie; None: each row is one document.
        initial_state: (n_docs, H, D, Dv) state before the first token, zeros by default.
        return_state: whether the final states are computed.
        impl: "auto", "step", "triton", "chunk" or "naive".

    Returns:
        y (B, T, H, Dv) in the dtype of `v` (finite and meaningless at padding), and the state
        after the last token of each document (n_docs, H, D, Dv), at least fp32, or None.

    Raises:
        ValueError: a shape that does not fit, or a chunk size below 1.
        InputError: an unknown `impl`, or one that cannot run this call.

    Source: Yang et al., "Gated Delta Networks" (arXiv 2412.06464), eq. 10 and section 3.3; Kimi
        Team, "Kimi Linear" (arXiv 2510.26692), eq. 1, for a decay per channel.
    """
    _check(q, k, v, g, beta, chunk_size, segments, initial_state)
    sizes = dict(zip("BTGD", k.shape, strict=True)) | dict(zip("BTHV", v.shape, strict=True))
    sizes["E"] = 1 if g.dim() == 3 else k.shape[3]
    call = Call.of(v, sizes, (q, k, v, g, beta, initial_state), segments, initial_state)
    chosen = GATED_DELTA.choose(impl, call)
    with dispatch.own_precision(v):
        return chosen.function(
            q,
            k,
            v,
            g,
            beta,
            scale=k.shape[3] ** -0.5 if scale is None else scale,
            chunk_size=chunk_size,
            segments=segments,
            initial_state=initial_state,
            return_state=return_state,
        )


def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`gated_delta` of one token per row, unchecked: what a mixer calls for each decoded token.

    Args:
        q: (B, 1, G, D), at least fp32.
        k: (B, 1, G, D).
        v: (B, 1, H, Dv).
        g: (B, 1, H) or (B, 1, H, D).
        beta: (B, 1, H).
        initial_state: (B, H, D, Dv).
        return_state: whether the new state is returned.

    Returns:
        y (B, 1, H, Dv) and the new state (B, H, D, Dv), or None.
    """
    GATED_DELTA.note("step")
    return step(q, k, v, g, beta, k.shape[3] ** -0.5, initial_state, return_state)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
) -> None:
    if k.dim() != 4 or v.dim() != 4:
        raise ValueError(
            f"gated_delta: k has shape {tuple(k.shape)} and v {tuple(v.shape)}; "
            "they must be (B, T, G, D) and (B, T, H, Dv)."
        )
    batch, length, n_groups, head_dim = k.shape
    n_heads, v_head_dim = v.shape[2:]
    if length < 1 or chunk_size < 1:
        raise ValueError(f"gated_delta: T={length} and chunk_size={chunk_size} must be at least 1.")
    if n_groups < 1 or n_heads % n_groups:
        raise ValueError(
            f"gated_delta: H={n_heads} value heads must be a multiple of G={n_groups} key heads."
        )
    per_token = (batch, length, n_heads)
    check_shape("gated_delta", "q", q, tuple(k.shape))
    check_shape("gated_delta", "v", v, (*per_token, v_head_dim))
    check_shape("gated_delta", "g", g, per_token if g.dim() == 3 else (*per_token, head_dim))
    check_shape("gated_delta", "beta", beta, per_token)
    n_docs = check_segments(segments, batch, length)
    if initial_state is not None:
        shape = (n_docs, n_heads, head_dim, v_head_dim)
        check_shape("gated_delta", "initial_state", initial_state, shape)
