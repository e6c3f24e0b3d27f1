"""The selective scan, the recurrence of Mamba-1 (a decay for each channel and state column)."""

from __future__ import annotations

from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape
from braidlm.ops.selective_scan.chunk import scan_chunk
from braidlm.ops.selective_scan.naive import scan_naive
from braidlm.ops.selective_scan.step import step
from braidlm.segments import Segments, check_segments


def _why_not_triton(call: Call) -> str | None:
    if reason := dispatch.why_not_triton(call):
        return reason
    return "registers hold no more than 256 columns" if call.shapes["N"] > 256 else None


def _triton(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    *,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    from braidlm.ops.selective_scan.triton import scan_triton  # a CPU does without triton

    return scan_triton(
        *(x, dt, A, B, C, D),
        z=z,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
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
    D: Tensor | None,
    *,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    y, state = step(x, dt, A, B, C, D, initial_state, z, dt_bias, dt_softplus)
    return y, state if return_state else None


SCAN = Operator(
    "selective_scan",
    (
        Implementation("step", _step, dispatch.takes_one_token),
        Implementation("triton", _triton, _why_not_triton),
        Implementation("chunk", scan_chunk, dispatch.always),
        Implementation("naive", scan_naive, dispatch.always),
    ),
)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    chunk_size: int = 16,
    segments: Segments | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T;  y_t = S_t C_t + D x_t, inside each document.

    With what stands around it in Mamba-1: dt_t = softplus(dt_t + dt_bias), y_t = y_t * SiLU(z_t).

    Axes: B rows, T tokens, I channels, each with N state columns that decay at rates of their own.
    Everything inside is at least fp32.

    Args:
        x: (B, T, I) inputs.
        dt: (B, T, I) step sizes, at least 0; with `dt_softplus` any numbers.
        A: (I, N) negative rates.
        B: (B, T, N) input projections, shared by the channels.
        C: (B, T, N) output projections.
        D: (I,) factor of the skip from input to output, or None for no skip.
        z: (B, T, I), what gates the outputs, or None for no gate.
        dt_bias: (I,), added to `dt`, or None.
        dt_softplus: whether steps are softplus of that.
        chunk_size: tokens whose states are held at once; it changes speed, not the result. "triton"
            chooses its own.
        segments: where documents lie; None: each row is one document.
        initial_state: (n_docs, I, N) state before the first token, zeros by default.
        return_state: whether the final states are returned.
        impl: "auto", "step", "triton", "chunk" or "naive".

    Returns:
        y (B, T, I) in the dtype of `x` (finite and meaningless at padding), and the state after
        the last token of each document (n_docs, I, N), at least fp32, or None.

    Raises:
        ValueError: a shape that does not fit, or a chunk size below 1.
        InputError: an unknown `impl`, or one that cannot run this call.

    Source: Gu and Dao, "Mamba" (arXiv 2312.00752), section 3 and algorithm 2.
    """
    _check(x, dt, A, B, C, D, z, dt_bias, chunk_size, segments, initial_state)
    sizes = dict(zip("BTI", x.shape, strict=True)) | {"N": B.shape[2]}
    tensors = (x, dt, A, B, C, D, initial_state, z, dt_bias)
    call = Call.of(x, sizes, tensors, segments, initial_state)
    chosen = SCAN.choose(impl, call)
    with dispatch.own_precision(x):
        return chosen.function(
            x,
            dt,
            A,
            B,
            C,
            D,
            z=z,
            dt_bias=dt_bias,
            dt_softplus=dt_softplus,
            chunk_size=chunk_size,
            segments=segments,
            initial_state=initial_state,
            return_state=return_state,
        )


def scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """`selective_scan` of one token per row, unchecked: what a mixer calls for each new token.

    Args:
        x: (B, 1, I), at least fp32.
        dt: (B, 1, I).
        A: (I, N).
        B: (B, 1, N).
        C: (B, 1, N).
        D: (I,).
        initial_state: (B, I, N).

    Returns:
        y (B, 1, I) and the new state (B, I, N).
    """
    SCAN.note("step")
    return step(x, dt, A, B, C, D, initial_state)


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    chunk_size: int,
    segments: Segments | None,
    initial_state: Tensor | None,
) -> None:
    if x.dim() != 3 or B.dim() != 3:
        raise ValueError(
            f"selective_scan: x has shape {tuple(x.shape)} and B {tuple(B.shape)}; "
            "they must be (B, T, I) and (B, T, N)."
        )
    batch, length, width = x.shape
    d_state = B.shape[2]
    if length < 1 or chunk_size < 1:
        raise ValueError(
            f"selective_scan: T={length} and chunk_size={chunk_size} must be at least 1."
        )
    check_shape("selective_scan", "dt", dt, (batch, length, width))
    check_shape("selective_scan", "A", A, (width, d_state))
    check_shape("selective_scan", "B", B, (batch, length, d_state))
    check_shape("selective_scan", "C", C, (batch, length, d_state))
    if D is not None:
        check_shape("selective_scan", "D", D, (width,))
    if z is not None:
        check_shape("selective_scan", "z", z, (batch, length, width))
    if dt_bias is not None:
        check_shape("selective_scan", "dt_bias", dt_bias, (width,))
    n_docs = check_segments(segments, batch, length)
    if initial_state is not None:
        check_shape("selective_scan", "initial_state", initial_state, (n_docs, width, d_state))
