"""SSD, the state-space recurrence of Mamba-2 (scalar decay per head)."""

from __future__ import annotations

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.ssd.chunk import ssd_chunk
from braidlm.ops.ssd.naive import ssd_naive
from braidlm.ops.ssd.step import step
from braidlm.segments import Segments, check_segments


def _why_not_triton(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call):
        return reason
    if call.is_packed and (call.has_state or call.returns_state):
        return "it passes no states where documents are packed"
    if call.shapes["N"] > 128 or call.shapes["P"] > 64:
        return "registers hold no state of more than 128 x 64"
    return None


def _triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    from braidlm.ops.ssd.triton import ssd_triton  # a CPU does without triton

    return ssd_triton(
        *(x, dt, A, B, C),
        D=D,
        chunk_size=chunk_size,
        segments=segments,
        initial_state=initial_state,
        return_state=return_state,
    )


def _step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    y, state = step(x, dt, A, B, C, initial_state)
    return y, state if return_state else None


SSD = Operator(
    "ssd",
    (
        Implementation("step", _step, dispatch.takes_one_token),
        Implementation("triton", _triton, _why_not_triton),
        Implementation("chunk", ssd_chunk, dispatch.always),
        Implementation("naive", ssd_naive, dispatch.always),
    ),
)


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    chunk_size: int = 64,
    segments: Segments | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(A dt_t) S_{t-1} + dt_t x_t B_t^T;  y_t = S_t C_t + D x_t, inside each document.

    Axes: B rows, T tokens, H heads of width P, G groups of state width N. Head h reads group
    h // (H // G). The decay, the state and the sums over chunks are at least fp32; matrix products
    run in the dtype of `x`.

    Args:
        x: (B, T, H, P) inputs.
        dt: (B, T, H) step sizes, already positive (softplus applied), at least 0.
        A: (H,) negative rates.
        B: (B, T, G, N) input projections.
        C: (B, T, G, N) output projections.
        D: (H,) what of the input goes past the state; None: nothing.
        chunk_size: tokens handled by one matrix product; it changes speed, not the result.
        segments: where documents lie; None: each row is one document.
        initial_state: (n_docs, H, P, N) state before the first token, zeros by default.
        return_state: whether the final states are computed.
        impl: "auto", "step", "triton", "chunk" or "naive".

    Returns:
        y (B, T, H, P) in the dtype of `x` (finite and meaningless at padding), and the state after
        the last token of each document (n_docs, H, P, N), at least fp32, or None.

    Raises:
        ValueError: a shape that does not fit, or a chunk size below 1.
        InputError: an unknown `impl`, or one that cannot run this call.

    Source: Dao and Gu, "Transformers are SSMs" (arXiv 2405.21060), sections 5 and 6.
    """
    _check(x, dt, A, B, C, D, chunk_size, segments, initial_state)
    sizes = dict(zip("BTHP", x.shape, strict=True)) | {"N": B.shape[3]}
    call = Call.of(
        x, sizes, (x, dt, A, B, C, D, initial_state), segments, initial_state, return_state
    )
    chosen = SSD.choose(impl, call)
    options = {"chunk_size": chunk_size, "segments": segments, "initial_state": initial_state}
    options |= {"return_state": return_state}
    with dispatch.own_precision(x):
        if chosen.name == "triton":  # adds what goes past the state by itself
            return chosen.function(x, dt, A, B, C, D=D, **options)
        y, state = chosen.function(x, dt, A, B, C, **options)
        return y if D is None else torch.addcmul(y, x, D.to(y.dtype)[:, None]), state


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """`ssd` of one token per row, unchecked: what a mixer calls for each token that it decodes.

    Args:
        x: (B, 1, H, P), at least fp32.
        dt: (B, 1, H).
        A: (H,).
        B: (B, 1, G, N).
        C: (B, 1, G, N).
        initial_state: (B, H, P, N).

    Returns:
        y (B, 1, H, P) and the new state (B, H, P, N).
    """
    SSD.note("step")
    return step(x, dt, A, B, C, initial_state)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 4 or B.dim() != 4:
        raise ValueError(
            f"ssd: x has shape {tuple(x.shape)} and B {tuple(B.shape)}; "
            "they must be (B, T, H, P) and (B, T, G, N)."
        )
    batch, length, n_heads, head_dim = x.shape
    n_groups, d_state = B.shape[2:]
    if length < 1 or chunk_size < 1:
        raise ValueError(f"ssd: T={length} and chunk_size={chunk_size} must be at least 1.")
    if n_groups < 1 or n_heads % n_groups:
        raise ValueError(f"ssd: H={n_heads} heads must be a multiple of G={n_groups} groups.")
    check_shape("ssd", "dt", dt, (batch, length, n_heads))
    check_shape("ssd", "A", A, (n_heads,))
    if D is not None:
        check_shape("ssd", "D", D, (n_heads,))
    check_shape("ssd", "B", B, (batch, length, n_groups, d_state))
    check_shape("ssd", "C", C, (batch, length, n_groups, d_state))
    n_docs = check_segments(segments, batch, length)
    if initial_state is not None:
        check_shape("ssd", "initial_state", initial_state, (n_docs, n_heads, head_dim, d_state))
