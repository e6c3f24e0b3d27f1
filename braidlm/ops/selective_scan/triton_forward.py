"""The Triton kernels of the selective scan forward; `triton.py` launches them and says how all is
laid out, `triton_tokens.py` how a program holds its states.

Tokens follow each other, U at a time: their numbers are loaded together, while those before them
are computed. Those of a chunk are staged before, see `triton_stage.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from braidlm.ops.selective_scan.triton_stage import (
    of_channels,
    put_tile,
    sigmoid,
    staged,
    steps_of,
    tile_of,
)
from braidlm.ops.selective_scan.triton_tokens import begun, decay_of, edges_of, rates_of, rows_of


@triton.jit
def scan(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, begins_ptr, ends_ptr, first_ptr,
    into_ptr, y_ptr, each_ptr, last_ptr, span_ptr, room_ptr,
    sxb, sdb, szb, rows, T, per_piece, n_pieces, n_chunks,
    SX: tl.constexpr, SDT: tl.constexpr, SZ: tl.constexpr,
    HAS_Y: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr, HAS_EACH: tl.constexpr, HAS_INTO: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr, HAS_FIRST: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
    Q: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """One piece of a row, from its first token to its last.

    With outputs: y, the state before each chunk -> each (B, n_chunks, W, N), the last states of
    documents, or of the row -> last (n_docs, W, N). Without: the state after the piece, that began
    with zeros -> last (B, n_pieces, W, N), and the sum of its steps, infinite where a document
    begins inside -> span (B, n_pieces, W).
    """
    b = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64)
    mine = b * n_pieces + piece
    n = tl.arange(0, BN)
    local = tl.arange(0, L)[:, None] * K + tl.arange(0, K)[None, :]
    d = tl.program_id(0) * (K * L) + local
    c = tl.program_id(0) * (K * L) + tl.arange(0, K * L)
    cell = d[:, None, :] * N + n[None, :, None]
    ok_d = d < W
    ok = (n < N)[None, :, None] & ok_d[:, None, :]
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, T)
    a = rates_of(A_ptr, n, d, ok, N)
    bias, skip = of_channels(bias_ptr, c, HAS_BIAS, W), of_channels(D_ptr, c, HAS_D, W)
    state = tl.zeros((L, BN, K), tl.float32)
    span = tl.zeros((L, K), tl.float32)
    if HAS_INTO:
        state += tl.load(into_ptr + mine * (W * N) + cell, mask=ok, other=0.0)
    x_ptr += b * sxb
    dt_ptr += b * sdb
    z_ptr += b * szb
    B_ptr += b * rows * BN
    C_ptr += b * rows * BN
    y_ptr += b * T * W
    begins_ptr += b * T
    ends_ptr += b * T
    each_ptr += b * n_chunks * (W * N)
    program = (b * tl.num_programs(1) + piece) * tl.num_programs(0) + tl.program_id(0)
    dt_room = room_ptr + program * (4 * Q * K * L)
    x_room, y_room = dt_room + Q * K * L, dt_room + 2 * Q * K * L
    place = staged(Q, K * L)
    next_dt = tile_of(dt_ptr, begin, stop, c, SDT, W, Q)
    next_x = tile_of(x_ptr, begin, stop, c, SX, W, Q)
    for j in range(tl.cdiv((stop - begin).to(tl.int32), Q)):
        chunk = begin + j * Q
        if HAS_EACH:
            tl.store(each_ptr + chunk // Q * (W * N) + cell, state, mask=ok)
        x = next_x.to(tl.float32)
        dt = steps_of(next_dt, chunk, stop, c, bias, SOFTPLUS, W, Q)
        tl.debug_barrier()  # nobody reads what the chunk before left
        tl.store(dt_room + place, dt)
        tl.store(x_room + place, x)
        tl.debug_barrier()
        z = tile_of(z_ptr, chunk, stop, c, SZ, W, Q) if HAS_Z and HAS_Y else next_x
        next_dt = tile_of(dt_ptr, chunk + Q, stop, c, SDT, W, Q)
        next_x = tile_of(x_ptr, chunk + Q, stop, c, SX, W, Q)
        next_dts = rows_of(dt_room + local, K * L, U)
        next_xs = rows_of(x_room + local, K * L, U)
        next_bs = rows_of(B_ptr + chunk * BN + n, BN, U)
        next_cs = rows_of(C_ptr + chunk * BN + n, BN, U) if HAS_Y else ()
        next_opens = edges_of(begins_ptr, chunk, begin, stop, U, HAS_DOC)
        next_closes = edges_of(ends_ptr, chunk, begin, stop, U, HAS_DOC and HAS_LAST)
        for i in range(0, tl.minimum(stop - chunk, Q).to(tl.int32), U):
            dts, xs, bs, cs = next_dts, next_xs, next_bs, next_cs
            opens, closes = next_opens, next_closes
            ahead = i + U
            next_dts = rows_of(dt_room + ahead * (K * L) + local, K * L, U)
            next_xs = rows_of(x_room + ahead * (K * L) + local, K * L, U)
            next_bs = rows_of(B_ptr + (chunk + ahead) * BN + n, BN, U)
            next_cs = rows_of(C_ptr + (chunk + ahead) * BN + n, BN, U) if HAS_Y else ()
            next_opens = edges_of(begins_ptr, chunk + ahead, begin, stop, U, HAS_DOC)
            next_closes = edges_of(ends_ptr, chunk + ahead, begin, stop, U, HAS_DOC and HAS_LAST)
            for k in tl.static_range(U):
                cut = opens[k] if HAS_DOC else 0
                if HAS_DOC and HAS_FIRST:
                    state = begun(state, cut, first_ptr, cell, ok, W * N)
                decay = decay_of(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
                state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
                if HAS_Y:
                    y = tl.sum(state * cs[k][None, :, None], 1)
                    tl.store(y_room + (i + k) * (K * L) + local, y)
                    if HAS_LAST and HAS_DOC:  # noqa: SIM102
                        if closes[k] >= 0:
                            at = last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                            tl.store(at, state, mask=ok)
                else:
                    span += tl.where(cut > -2, float("inf"), dts[k]) if HAS_DOC else dts[k]
        if HAS_Y:
            tl.debug_barrier()
            y = tl.load(y_room + place) + skip[None, :] * x
            if HAS_Z:
                z = z.to(tl.float32)
                y *= z * sigmoid(z)
            put_tile(y_ptr, chunk, stop, c, y, W, Q)
    if HAS_Y:
        if HAS_LAST and not HAS_DOC:  # noqa: SIM102
            if stop == T:
                tl.store(last_ptr + b * (W * N) + cell, state, mask=ok)
    else:
        tl.store(last_ptr + mine * (W * N) + cell, state, mask=ok)
        tl.store(span_ptr + mine * W + d, span, mask=ok_d)


@triton.jit
def carry(
    last_ptr, span_ptr, A_ptr, first_ptr, into_ptr, n_pieces,
    BACK: tl.constexpr, HAS_FIRST: tl.constexpr, W: tl.constexpr, N: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """What enters each piece -> into (B, n_pieces, W, N), from what each adds and how long it is.

    first: (B, W, N), what enters the first of them; going back, the last.
    """
    b = tl.program_id(1).to(tl.int64)
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ok = cell < W * N
    d = cell // N
    a = tl.load(A_ptr + cell, mask=ok, other=0.0).to(tl.float32) * 1.4426950408889634
    state = tl.zeros((BLOCK,), tl.float32)
    if HAS_FIRST:
        state += tl.load(first_ptr + b * (W * N) + cell, mask=ok, other=0.0)
    for i in range(n_pieces):
        piece = b * n_pieces + (n_pieces - 1 - i if BACK else i)
        tl.store(into_ptr + piece * (W * N) + cell, state, mask=ok)
        goes_on = ok & (i < n_pieces - 1)
        span = tl.load(span_ptr + piece * W + d, mask=goes_on, other=0.0)
        gain = tl.where(span == float("inf"), 0.0, tl.exp2(span * a))
        added = tl.load(last_ptr + piece * (W * N) + cell, mask=goes_on, other=0.0)
        state = state * gain + added
