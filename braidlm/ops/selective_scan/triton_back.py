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
def _ungated(dy, z, HAS_Z: tl.constexpr):
    """A tile of the gradient of what the gate multiplies."""
    dy = dy.to(tl.float32)
    if HAS_Z:
        z = z.to(tl.float32)
        dy *= z * sigmoid(z)
    return dy


@triton.jit
def _exchanged(low, high, axis: tl.constexpr, is_low):
    """Of two lanes across `axis`, the sum of both's `low` in the one and of both's `high` in the
    other. What another lane hands over is a sum by "exclusive or" without one's own part."""
    handed = tl.where(is_low, high, low).to(tl.int32, bitcast=True)
    got = tl.xor_sum(handed, axis, keep_dims=True) ^ handed
    return tl.where(is_low, low, high) + got.to(tl.float32, bitcast=True)


@triton.jit
def _summed(b, c, BN: tl.constexpr):
    """Sums of b and of c (8, BN) over the 8: (2, 2, 2, BN / 4), b or c, column's bits 0, 1.

    Each half of the lanes hands the other what that one sums, and sums the rest: one exchange for
    both, three times over, each with half of the numbers of the one before.
    """
    b, c = tl.reshape(b, (2, 4, BN)), tl.reshape(c, (2, 4, BN))
    is_low = (tl.arange(0, 2) == 0)[:, None, None]
    found = tl.reshape(_exchanged(b, c, 0, is_low), (2, 2, 2, BN // 2, 2))
    low, high = tl.split(found)
    is_low = (tl.arange(0, 2) == 0)[None, :, None, None]
    found = tl.reshape(_exchanged(low, high, 1, is_low), (2, 2, 2, BN // 4, 2))
    low, high = tl.split(found)
    is_low = (tl.arange(0, 2) == 0)[None, None, :, None]
    return _exchanged(low, high, 2, is_low)


@triton.jit
def scan_back(
    dt_ptr, A_ptr, C_ptr, z_ptr, bias_ptr, dy_ptr, begins_ptr, ends_ptr, d_last_ptr, last_ptr,
    span_ptr, room_ptr, sdb, szb, syb, rows, T, per_piece, n_pieces,
    SDT: tl.constexpr, SZ: tl.constexpr, SY: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
    Q: tl.constexpr, U: tl.constexpr,
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
    place = staged(Q, K * L)
    n_here = tl.cdiv((stop - begin).to(tl.int32), Q)
    chunk = begin + (n_here - 1) * Q
    next_raw = tile_of(dt_ptr, chunk, stop, c, SDT, W, Q)
    next_dy = tile_of(dy_ptr, chunk, stop, c, SY, W, Q)
    next_z = tile_of(z_ptr, chunk, stop, c, SZ, W, Q) if HAS_Z else next_dy
    for j in range(n_here):
        chunk = begin + (n_here - 1 - j) * Q
        dt = steps_of(next_raw, chunk, stop, c, bias, SOFTPLUS, W, Q)
        dy = _ungated(next_dy, next_z, HAS_Z)
        tl.debug_barrier()  # nobody reads what the chunk before left
        tl.store(dt_room + place, dt)
        tl.store(dy_room + place, dy)
        tl.debug_barrier()
        there = tl.where(j + 1 < n_here, stop, chunk - Q)
        next_raw = tile_of(dt_ptr, chunk - Q, there, c, SDT, W, Q)
        next_dy = tile_of(dy_ptr, chunk - Q, there, c, SY, W, Q)
        next_z = tile_of(z_ptr, chunk - Q, there, c, SZ, W, Q) if HAS_Z else next_dy
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
    dx_ptr, d_dt_ptr, d_A_ptr, d_BC_ptr, d_D_ptr, dz_ptr, d_bias_ptr, d_first_ptr,
    sxb, sdb, szb, syb, rows, T, per_piece, n_chunks,
    SX: tl.constexpr, SDT: tl.constexpr, SZ: tl.constexpr, SY: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    HAS_INTO: tl.constexpr, HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    HAS_FIRST: tl.constexpr, W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    K: tl.constexpr, L: tl.constexpr, Q: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Every gradient of one piece, from its last chunk to its first.

    A chunk is walked from the state before it (`each`), leaving every U-th state in `room`; then,
    from its end, U tokens at a time are walked again and then back. Shares of sums: dA (B,
    n_pieces, W, N), dD and d bias (B, n_pieces, W); dB and dC together (2, n_blocks, B, n_chunks Q,
    BN), one of each program's channels.
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
    both = (tl.num_programs(0) * tl.num_programs(2)).to(tl.int64) * n_chunks * (Q * BN)
    two = tl.arange(0, 2)
    shared = two[:, None, None, None] * both + two[None, :, None, None]
    shared += 2 * two[None, None, :, None] + 4 * tl.arange(0, BN // 4)[None, None, None, :]
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
    d_BC_ptr += (block * tl.num_programs(2) + b) * n_chunks * (Q * BN)
    begins_ptr += b * T
    ends_ptr += b * T
    each_ptr += b * n_chunks * (W * N)
    room_ptr += (mine * tl.num_programs(0) + block) * ((Q // U * BN + 4 * Q + U) * K * L)
    dt_room = room_ptr + (Q // U * BN + U) * K * L
    x_room, dy_room = dt_room + Q * K * L, dt_room + 2 * Q * K * L
    rate_room = dt_room + 3 * Q * K * L
    # A token's x and dy are in registers when they are written over: less is under way.
    d_u_room, y_room = x_room, dy_room
    place = staged(Q, K * L)
    n_here = tl.cdiv((stop - begin).to(tl.int32), Q)
    chunk = begin + (n_here - 1) * Q
    # What is stored may be what is loaded next, for all that the compiler knows: loads come first.
    next_raw = tile_of(dt_ptr, chunk, stop, c, SDT, W, Q)
    next_x = tile_of(x_ptr, chunk, stop, c, SX, W, Q)
    next_dy = tile_of(dy_ptr, chunk, stop, c, SY, W, Q)
    next_z = tile_of(z_ptr, chunk, stop, c, SZ, W, Q) if HAS_Z else next_dy
    next_each = tl.load(each_ptr + chunk // Q * (W * N) + cell, mask=ok, other=0.0)
    for j in range(n_here):
        chunk = begin + (n_here - 1 - j) * Q
        n_steps = tl.cdiv(tl.minimum(stop - chunk, Q).to(tl.int32), U)
        end = (n_steps - 1) * U
        state = next_each
        dt = steps_of(next_raw, chunk, stop, c, bias, SOFTPLUS, W, Q)
        dy = _ungated(next_dy, next_z, HAS_Z)
        tl.debug_barrier()  # nobody reads what the chunk before left
        tl.store(dt_room + place, dt)
        tl.store(x_room + place, next_x.to(tl.float32))
        tl.store(dy_room + place, dy)
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
                d_c = tl.sum(dys[k][:, None, :] * afters[k], 2)
                d_bc = _summed(tl.sum(g * u, 2), d_c, BN)
                d_u = tl.sum(g * bs[k][None, :, None], 1)
                flow = decays[k] * g
                rate = flow * befores[k]
                d_a += rate * dts[k][:, None, :]
                here = (now + k) * (K * L) + local
                if HAS_Z:
                    tl.store(y_room + here, tl.sum(afters[k] * cs[k][None, :, None], 1))
                tl.store(d_u_room + here, d_u)
                tl.store(rate_room + here, tl.sum(rate * a, 1))
                tl.store(d_BC_ptr + (chunk + now + k) * BN + shared, d_bc)
                if HAS_DOC and HAS_FIRST:
                    if opens[k] >= 0:
                        at_first = d_first_ptr + opens[k].to(tl.int64) * (W * N) + cell
                        tl.store(at_first, flow, mask=ok)
                    flow = tl.where(opens[k] > -2, 0.0, flow)
        tl.debug_barrier()
        d_u, rate = tl.load(d_u_room + place), tl.load(rate_room + place)
        dt, y = tl.load(dt_room + place), tl.load(y_room + place)
        raw = tile_of(dt_ptr, chunk, stop, c, SDT, W, Q)
        x = tile_of(x_ptr, chunk, stop, c, SX, W, Q)
        dy = tile_of(dy_ptr, chunk, stop, c, SY, W, Q)
        z = tile_of(z_ptr, chunk, stop, c, SZ, W, Q) if HAS_Z else dy
        there = tl.where(j + 1 < n_here, stop, chunk - Q)
        next_raw = tile_of(dt_ptr, chunk - Q, there, c, SDT, W, Q)
        next_x = tile_of(x_ptr, chunk - Q, there, c, SX, W, Q)
        next_dy = tile_of(dy_ptr, chunk - Q, there, c, SY, W, Q)
        next_z = tile_of(z_ptr, chunk - Q, there, c, SZ, W, Q) if HAS_Z else next_dy
        before = each_ptr + (chunk // Q - 1) * (W * N)
        next_each = tl.load(before + cell, mask=ok & (j + 1 < n_here), other=0.0)
        x, dy = x.to(tl.float32), dy.to(tl.float32)
        d_dt = rate * 0.6931471805599453 + d_u * x
        if SOFTPLUS:
            d_dt *= sigmoid(raw.to(tl.float32) + bias[None, :])
        put_tile(d_dt_ptr, chunk, stop, c, d_dt, W, Q)
        if HAS_BIAS:
            is_real = (chunk + tl.arange(0, Q) < stop)[:, None]
            d_bias += tl.sum(tl.where(is_real, d_dt, 0.0), 0)
        if HAS_Z:
            z = z.to(tl.float32)
            s = sigmoid(z)
            d_z = dy * (y + skip[None, :] * x) * s * (1.0 + z * (1.0 - s))
            put_tile(dz_ptr, chunk, stop, c, d_z, W, Q)
            dy *= z * s
        put_tile(dx_ptr, chunk, stop, c, d_u * dt + skip[None, :] * dy, W, Q)
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
