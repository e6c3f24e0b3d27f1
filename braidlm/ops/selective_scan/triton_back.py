"""The Triton kernels of the selective scan going back, see `triton_forward.py`."""

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
def _ungated(
    dy_ptr, z_ptr, t, stop, c,
    HAS_Z: tl.constexpr, SY: tl.constexpr, SZ: tl.constexpr, W: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of what the gate multiplies."""
    dy = tile_of(dy_ptr, t, stop, c, SY, W, R).to(tl.float32)
    if HAS_Z:
        z = tile_of(z_ptr, t, stop, c, SZ, W, R).to(tl.float32)
        dy *= z * sigmoid(z)
    return dy


@triton.jit
def scan_back(
    dt_ptr, A_ptr, C_ptr, z_ptr, bias_ptr, dy_ptr, begins_ptr, ends_ptr, d_last_ptr, last_ptr,
    span_ptr, room_ptr, sdb, szb, syb, rows, T, per_piece, n_pieces,
    SDT: tl.constexpr, SZ: tl.constexpr, SY: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
    Q: tl.constexpr, U: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """One piece from its last token to its first, as if none followed: the gradient of the state
    before it -> last (B, n_pieces, W, N), and `span` as `scan` gives it."""
    b = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64) + 1  # nothing is before the first
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
    bias = of_channels(bias_ptr, c, HAS_BIAS, W)
    flow = tl.zeros((L, BN, K), tl.float32)
    span = tl.zeros((L, K), tl.float32)
    dt_ptr += b * sdb
    z_ptr += b * szb
    C_ptr += b * rows * BN
    dy_ptr += b * syb
    begins_ptr += b * T
    ends_ptr += b * T
    program = (b * tl.num_programs(1) + piece - 1) * tl.num_programs(0) + tl.program_id(0)
    dt_room = room_ptr + program * ((2 * Q + U) * K * L) + U * K * L
    dy_room = dt_room + Q * K * L
    place = staged(R, K * L)
    n_here = tl.cdiv((stop - begin).to(tl.int32), Q)
    for j in range(n_here):
        chunk = begin + (n_here - 1 - j) * Q
        tl.debug_barrier()  # nobody reads what the chunk before left
        for i in range(0, Q, R):
            at = i * K * L + place
            raw = tile_of(dt_ptr, chunk + i, stop, c, SDT, W, R)
            tl.store(dt_room + at, steps_of(raw, chunk + i, stop, c, bias, SOFTPLUS, W, R))
            tl.store(dy_room + at, _ungated(dy_ptr, z_ptr, chunk + i, stop, c, HAS_Z, SY, SZ, W, R))
        tl.debug_barrier()
        n_steps = tl.cdiv(tl.minimum(stop - chunk, Q).to(tl.int32), U)
        end = (n_steps - 1) * U
        next_dts = rows_of(dt_room + end * (K * L) + local, K * L, U)
        next_dys = rows_of(dy_room + end * (K * L) + local, K * L, U)
        next_cs = rows_of(C_ptr + (chunk + end) * BN + n, BN, U)
        next_opens = edges_of(begins_ptr, chunk + end, begin, stop, U, HAS_DOC)
        next_closes = edges_of(ends_ptr, chunk + end, begin, stop, U, HAS_DOC and HAS_LAST)
        for i in range(n_steps):
            dts, dys, cs = next_dts, next_dys, next_cs
            opens, closes = next_opens, next_closes
            ahead = end - (i + 1) * U
            next_dts = rows_of(dt_room + ahead * (K * L) + local, K * L, U)
            next_dys = rows_of(dy_room + ahead * (K * L) + local, K * L, U)
            next_cs = rows_of(C_ptr + (chunk + ahead) * BN + n, BN, U)
            next_opens = edges_of(begins_ptr, chunk + ahead, begin, stop, U, HAS_DOC)
            next_closes = edges_of(ends_ptr, chunk + ahead, begin, stop, U, HAS_DOC and HAS_LAST)
            for k in tl.static_range(U - 1, -1, -1):
                g = flow + dys[k][:, None, :] * cs[k][None, :, None]
                if HAS_DOC and HAS_LAST:  # noqa: SIM102
                    if closes[k] >= 0:
                        at_last = d_last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                        g += tl.load(at_last, mask=ok, other=0.0)
                cut = opens[k] if HAS_DOC else 0
                flow = decay_of(dts[k], a, cut, HAS_DOC) * g
                span += tl.where(cut > -2, float("inf"), dts[k]) if HAS_DOC else dts[k]
    tl.store(last_ptr + mine * (W * N) + cell, flow, mask=ok)
    tl.store(span_ptr + mine * W + d, span, mask=ok_d)


@triton.jit
def gradients(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, dy_ptr, begins_ptr, ends_ptr,
    first_ptr, each_ptr, d_last_ptr, into_ptr, room_ptr,
    dx_ptr, d_dt_ptr, d_A_ptr, dB_ptr, dC_ptr, d_D_ptr, dz_ptr, d_bias_ptr, d_first_ptr,
    sxb, sdb, szb, syb, rows, T, per_piece, n_chunks,
    SX: tl.constexpr, SDT: tl.constexpr, SZ: tl.constexpr, SY: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_INTO: tl.constexpr, HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    HAS_FIRST: tl.constexpr, W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    K: tl.constexpr, L: tl.constexpr, Q: tl.constexpr, U: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """Every gradient of one piece, from its last chunk to its first.

    A chunk is walked from the state before it (`each`), leaving every U-th state in `room`; then,
    from its end, U tokens at a time are walked again and then back. Shares of sums: dA (B,
    n_pieces, W, N), dD and d bias (B, n_pieces, W); dB and dC (n_blocks, B, n_chunks Q, BN), one
    of each program's channels.
    """
    b = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0).to(tl.int64)
    mine = b * tl.num_programs(1) + piece
    n = tl.arange(0, BN)
    local = tl.arange(0, L)[:, None] * K + tl.arange(0, K)[None, :]
    d = tl.program_id(0) * (K * L) + local
    c = tl.program_id(0) * (K * L) + tl.arange(0, K * L)
    cell = d[:, None, :] * N + n[None, :, None]
    inner = local[:, None, :] * BN + n[None, :, None]
    ok = (n < N)[None, :, None] & (d < W)[:, None, :]
    # What lanes of several channels all hold is written by those of the first, from where it is.
    shared = tl.arange(0, L)[:, None] * 0 + n[None, :]
    is_first = (tl.arange(0, L) == 0)[:, None]
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, T)
    a = rates_of(A_ptr, n, d, ok, N)
    bias, skip = of_channels(bias_ptr, c, HAS_BIAS, W), of_channels(D_ptr, c, HAS_D, W)
    flow, d_a = tl.zeros((L, BN, K), tl.float32), tl.zeros((L, BN, K), tl.float32)
    d_skip, d_bias = tl.zeros((K * L,), tl.float32), tl.zeros((K * L,), tl.float32)
    if HAS_INTO:
        flow += tl.load(into_ptr + mine * (W * N) + cell, mask=ok, other=0.0)
    x_ptr += b * sxb
    dt_ptr += b * sdb
    z_ptr += b * szb
    dy_ptr += b * syb
    B_ptr += b * rows * BN
    C_ptr += b * rows * BN
    dx_ptr += b * T * W
    d_dt_ptr += b * T * W
    dz_ptr += b * T * W
    dB_ptr += (block * tl.num_programs(2) + b) * n_chunks * (Q * BN)
    dC_ptr += (block * tl.num_programs(2) + b) * n_chunks * (Q * BN)
    begins_ptr += b * T
    ends_ptr += b * T
    each_ptr += (b * n_chunks + begin // Q) * (W * N)
    room_ptr += (mine * tl.num_programs(0) + block) * ((Q // U * BN + 4 * Q + U) * K * L)
    dt_room = room_ptr + (Q // U * BN + U) * K * L
    x_room, dy_room = dt_room + Q * K * L, dt_room + 2 * Q * K * L
    rate_room = dt_room + 3 * Q * K * L
    # A token's x and dy are in registers when they are written over: less is under way.
    d_u_room, y_room = x_room, dy_room
    place = staged(R, K * L)
    n_here = tl.cdiv((stop - begin).to(tl.int32), Q)
    for j in range(n_here):
        chunk = begin + (n_here - 1 - j) * Q
        n_steps = tl.cdiv(tl.minimum(stop - chunk, Q).to(tl.int32), U)
        state = tl.load(each_ptr + (n_here - 1 - j) * (W * N) + cell, mask=ok, other=0.0)
        tl.debug_barrier()  # nobody reads what the chunk before left
        for i in range(0, Q, R):
            at = i * K * L + place
            raw = tile_of(dt_ptr, chunk + i, stop, c, SDT, W, R)
            x = tile_of(x_ptr, chunk + i, stop, c, SX, W, R)
            tl.store(dt_room + at, steps_of(raw, chunk + i, stop, c, bias, SOFTPLUS, W, R))
            tl.store(x_room + at, x.to(tl.float32))
            tl.store(dy_room + at, _ungated(dy_ptr, z_ptr, chunk + i, stop, c, HAS_Z, SY, SZ, W, R))
        tl.debug_barrier()
        next_dts = rows_of(dt_room + local, K * L, U)
        next_xs = rows_of(x_room + local, K * L, U)
        next_bs = rows_of(B_ptr + chunk * BN + n, BN, U)
        next_opens = edges_of(begins_ptr, chunk, begin, stop, U, HAS_DOC)
        for i in tl.range(0, n_steps, loop_unroll_factor=2):  # or loads are moved about
            tl.store(room_ptr + i * (BN * K * L) + inner, state)
            dts, xs, bs, opens = next_dts, next_xs, next_bs, next_opens
            ahead = (i + 1) * U
            next_dts = rows_of(dt_room + ahead * (K * L) + local, K * L, U)
            next_xs = rows_of(x_room + ahead * (K * L) + local, K * L, U)
            next_bs = rows_of(B_ptr + (chunk + ahead) * BN + n, BN, U)
            next_opens = edges_of(begins_ptr, chunk + ahead, begin, stop, U, HAS_DOC)
            for k in tl.static_range(U):
                cut = opens[k] if HAS_DOC else 0
                if HAS_DOC and HAS_FIRST:
                    state = begun(state, cut, first_ptr, cell, ok, W * N)
                decay = decay_of(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
                state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
        tl.debug_barrier()
        end = (n_steps - 1) * U
        next_state = tl.load(room_ptr + (n_steps - 1) * (BN * K * L) + inner)
        next_dts = rows_of(dt_room + end * (K * L) + local, K * L, U)
        next_xs = rows_of(x_room + end * (K * L) + local, K * L, U)
        next_dys = rows_of(dy_room + end * (K * L) + local, K * L, U)
        next_bs = rows_of(B_ptr + (chunk + end) * BN + n, BN, U)
        next_cs = rows_of(C_ptr + (chunk + end) * BN + n, BN, U)
        next_opens = edges_of(begins_ptr, chunk + end, begin, stop, U, HAS_DOC)
        next_closes = edges_of(ends_ptr, chunk + end, begin, stop, U, HAS_DOC and HAS_LAST)
        for i in range(n_steps):
            now = end - i * U
            ahead = now - U
            dts, xs, bs, dys, cs = next_dts, next_xs, next_bs, next_dys, next_cs
            state, opens, closes = next_state, next_opens, next_closes
            decays, befores, afters = (), (), ()
            for k in tl.static_range(U):
                cut = opens[k] if HAS_DOC else 0
                if HAS_DOC and HAS_FIRST:
                    state = begun(state, cut, first_ptr, cell, ok, W * N)
                befores += (state,)
                decay = decay_of(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
                state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
                decays += (decay,)
                afters += (state,)
            for k in tl.static_range(U - 1, -1, -1):
                if k == U // 2:  # half of the registers are free, and half of the work is left
                    before = room_ptr + tl.maximum(n_steps - 2 - i, 0) * (BN * K * L)
                    next_state = tl.load(before + inner)
                    next_dts = rows_of(dt_room + ahead * (K * L) + local, K * L, U)
                    next_xs = rows_of(x_room + ahead * (K * L) + local, K * L, U)
                    next_dys = rows_of(dy_room + ahead * (K * L) + local, K * L, U)
                    next_bs = rows_of(B_ptr + (chunk + ahead) * BN + n, BN, U)
                    next_cs = rows_of(C_ptr + (chunk + ahead) * BN + n, BN, U)
                    next_opens = edges_of(begins_ptr, chunk + ahead, chunk, stop, U, HAS_DOC)
                    next_closes = edges_of(
                        ends_ptr, chunk + ahead, chunk, stop, U, HAS_DOC and HAS_LAST
                    )
                u = (dts[k] * xs[k])[:, None, :]
                g = flow + dys[k][:, None, :] * cs[k][None, :, None]
                if HAS_DOC and HAS_LAST:  # noqa: SIM102
                    if closes[k] >= 0:
                        at_last = d_last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                        g += tl.load(at_last, mask=ok, other=0.0)
                d_c = tl.sum(tl.sum(dys[k][:, None, :] * afters[k], 2), 0)
                d_b = tl.sum(tl.sum(g * u, 2), 0)
                d_u = tl.sum(g * bs[k][None, :, None], 1)
                flow = decays[k] * g
                rate = flow * befores[k]
                d_a += rate * dts[k][:, None, :]
                here = (now + k) * (K * L) + local
                if HAS_Z:
                    tl.store(y_room + here, tl.sum(afters[k] * cs[k][None, :, None], 1))
                tl.store(d_u_room + here, d_u)
                tl.store(rate_room + here, tl.sum(rate * a, 1))
                token = (chunk + now + k) * BN + shared
                tl.store(dB_ptr + token, d_b[None, :] + is_first * 0.0, mask=is_first)
                tl.store(dC_ptr + token, d_c[None, :] + is_first * 0.0, mask=is_first)
                if HAS_DOC and HAS_FIRST:
                    if opens[k] >= 0:
                        at_first = d_first_ptr + opens[k].to(tl.int64) * (W * N) + cell
                        tl.store(at_first, flow, mask=ok)
                    flow = tl.where(opens[k] > -2, 0.0, flow)
        tl.debug_barrier()
        for i in range(0, Q, R):
            at, t = i * K * L + place, chunk + i
            dt, d_u, rate = tl.load(dt_room + at), tl.load(d_u_room + at), tl.load(rate_room + at)
            x = tile_of(x_ptr, t, stop, c, SX, W, R).to(tl.float32)
            d_dt = rate * 0.6931471805599453 + d_u * x
            if SOFTPLUS:
                raw = tile_of(dt_ptr, t, stop, c, SDT, W, R).to(tl.float32)
                d_dt *= sigmoid(raw + bias[None, :])
            put_tile(d_dt_ptr, t, stop, c, d_dt, W, R)
            if HAS_BIAS:
                there = (t + tl.arange(0, R) < stop)[:, None]
                d_bias += tl.sum(tl.where(there, d_dt, 0.0), 0)
            dy = tile_of(dy_ptr, t, stop, c, SY, W, R).to(tl.float32)
            if HAS_Z:
                z = tile_of(z_ptr, t, stop, c, SZ, W, R).to(tl.float32)
                s = sigmoid(z)
                y = tl.load(y_room + at) + skip[None, :] * x
                put_tile(dz_ptr, t, stop, c, dy * y * s * (1.0 + z * (1.0 - s)), W, R)
                dy *= z * s
            put_tile(dx_ptr, t, stop, c, d_u * dt + skip[None, :] * dy, W, R)
            if HAS_D:
                d_skip += tl.sum(dy * x, 0)
    if HAS_FIRST and not HAS_DOC:  # noqa: SIM102
        if begin == 0:
            tl.store(d_first_ptr + b * (W * N) + cell, flow, mask=ok)
    tl.store(d_A_ptr + mine * (W * N) + cell, d_a, mask=ok)
    if HAS_D:
        tl.store(d_D_ptr + mine * W + c, d_skip, mask=c < W)
    if HAS_BIAS:
        tl.store(d_bias_ptr + mine * W + c, d_bias, mask=c < W)
