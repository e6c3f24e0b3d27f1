"""The Triton kernels of the selective scan; `triton.py` launches them and says how all is laid out.

A program is one warp. It holds the state of K * L channels as (L, BN, K): L channels and BN columns
(N rounded up to a power of two; columns beyond are zero) lie over lanes, each of which has K
channels and some neighbouring columns, so that sums over either cross few lanes. Tokens follow each
other, U at a time: their inputs are loaded together, while those before them are computed. A token
past the end has zeros for everything, a step of zero too, which changes no state.

`begins` says of each token which document begins there: -1 for a run of padding, -2 for none;
`ends` which document ends there, less than 0 for none.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _left(t, begin, stop):
    """Tokens of a piece from t on; none where t lies before it."""
    return tl.where(t < begin, 0, stop - t).to(tl.int32)


@triton.jit
def _tokens(base, t, left, columns, ok, STRIDE: tl.constexpr, U: tl.constexpr):
    """Columns of U tokens from t on, of which `left` are there, in fp32; zero for the others."""
    place = base + t * STRIDE + columns
    rows = ()
    for k in tl.static_range(U):  # type: ignore[reportGeneralTypeIssues]
        row = tl.load(place + k * STRIDE, mask=ok & (k < left), other=0.0)
        rows += (row.to(tl.float32),)
    return rows


@triton.jit
def _put(base, t, k, left, columns, ok, value, STRIDE: tl.constexpr):
    """Columns of token t + k, if that is there."""
    place = base + t * STRIDE + columns + k * STRIDE
    tl.store(place, value.to(base.dtype.element_ty), mask=ok & (k < left))


@triton.jit
def _edges(edge_ptr, t, left, U: tl.constexpr, HAS: tl.constexpr):
    """What begins, or ends, at U tokens from t on."""
    edges = ()
    for k in tl.static_range(U):  # type: ignore[reportGeneralTypeIssues]
        if HAS:
            edges += (tl.load(edge_ptr + t + k, mask=k < left, other=-2),)
    return edges


@triton.jit
def _begun(state, opens, first_ptr, cell, ok, SIZE: tl.constexpr):
    """`state`, or what the document that begins here begins with."""
    if opens > -2:
        place = first_ptr + opens.to(tl.int64) * SIZE + cell
        state = tl.load(place, mask=ok & (opens >= 0), other=0.0)
    return state


@triton.jit
def _decay(dt, a, opens, CUTS: tl.constexpr):
    """exp(dt A); if it cuts, zero where a document begins: nothing goes through, or back."""
    power = dt[:, None, :] * a
    if CUTS:
        power += tl.where(opens > -2, float("-inf"), 0.0)
    return tl.exp2(power)


@triton.jit
def _rates(A_ptr, n, d, ok, N: tl.constexpr):
    """A as (L, BN, K), so that exp(dt A) is a power of two."""
    place = A_ptr + d[:, None, :] * N + n[None, :, None]
    return tl.load(place, mask=ok, other=0.0).to(tl.float32) * 1.4426950408889634


@triton.jit
def scan(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, begins_ptr, ends_ptr, first_ptr, into_ptr,
    y_ptr, each_ptr, last_ptr, span_ptr, sxb, sdb, sbb, scb, T, per_piece, n_pieces, n_chunks,
    SX: tl.constexpr, SDT: tl.constexpr, SB: tl.constexpr, SC: tl.constexpr,
    HAS_Y: tl.constexpr, HAS_D: tl.constexpr, HAS_EACH: tl.constexpr, HAS_INTO: tl.constexpr,
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
    d = tl.program_id(0) * (K * L) + tl.arange(0, L)[:, None] * K + tl.arange(0, K)[None, :]
    cell = d[:, None, :] * N + n[None, :, None]
    ok_n, ok_d = n < N, d < W
    ok = ok_n[None, :, None] & ok_d[:, None, :]
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, T)
    a = _rates(A_ptr, n, d, ok, N)
    state = tl.zeros((L, BN, K), tl.float32)
    span, skip = tl.zeros((L, K), tl.float32), tl.zeros((L, K), tl.float32)
    if HAS_INTO:
        state += tl.load(into_ptr + mine * (W * N) + cell, mask=ok, other=0.0)
    if HAS_D:
        skip += tl.load(D_ptr + d, mask=ok_d, other=0.0).to(tl.float32)
    x_ptr += b * sxb
    dt_ptr += b * sdb
    B_ptr += b * sbb
    C_ptr += b * scb
    y_ptr += b * T * W
    begins_ptr += b * T
    ends_ptr += b * T
    each_ptr += (b * n_chunks + begin // Q) * (W * N)
    left = _left(begin, begin, stop)
    next_dts = _tokens(dt_ptr, begin, left, d, ok_d, SDT, U)
    next_xs = _tokens(x_ptr, begin, left, d, ok_d, SX, U)
    next_bs = _tokens(B_ptr, begin, left, n, ok_n, SB, U)
    next_cs = _tokens(C_ptr, begin, left, n, ok_n, SC, U) if HAS_Y else ()
    next_opens = _edges(begins_ptr, begin, left, U, HAS_DOC)
    next_closes = _edges(ends_ptr, begin, left, U, HAS_DOC and HAS_LAST)
    for i in range(0, (stop - begin).to(tl.int32), U):
        start = begin + i
        if HAS_EACH:  # noqa: SIM102 - known at compile time
            if i % Q == 0:
                tl.store(each_ptr + i // Q * (W * N) + cell, state, mask=ok)
        dts, xs, bs, cs = next_dts, next_xs, next_bs, next_cs
        opens, closes = next_opens, next_closes
        left, ahead = _left(start, begin, stop), _left(start + U, begin, stop)
        next_dts = _tokens(dt_ptr, start + U, ahead, d, ok_d, SDT, U)
        next_xs = _tokens(x_ptr, start + U, ahead, d, ok_d, SX, U)
        next_bs = _tokens(B_ptr, start + U, ahead, n, ok_n, SB, U)
        next_cs = _tokens(C_ptr, start + U, ahead, n, ok_n, SC, U) if HAS_Y else ()
        next_opens = _edges(begins_ptr, start + U, ahead, U, HAS_DOC)
        next_closes = _edges(ends_ptr, start + U, ahead, U, HAS_DOC and HAS_LAST)
        for k in tl.static_range(U):
            cut = opens[k] if HAS_DOC else 0
            if HAS_DOC and HAS_FIRST:
                state = _begun(state, cut, first_ptr, cell, ok, W * N)
            decay = _decay(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
            state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
            if HAS_Y:
                y = tl.sum(state * cs[k][None, :, None], 1) + skip * xs[k]
                _put(y_ptr, start, k, left, d, ok_d, y, W)
                if HAS_LAST and HAS_DOC:  # noqa: SIM102
                    if closes[k] >= 0:
                        place = last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                        tl.store(place, state, mask=ok)
            else:
                span += tl.where(cut > -2, float("inf"), dts[k]) if HAS_DOC else dts[k]
    if HAS_Y:
        if HAS_LAST and not HAS_DOC:  # noqa: SIM102
            if stop == T:
                tl.store(last_ptr + b * (W * N) + cell, state, mask=ok)
    else:
        tl.store(last_ptr + mine * (W * N) + cell, state, mask=ok)
        tl.store(span_ptr + mine * W + d, span, mask=ok_d)


@triton.jit
def scan_back(
    dt_ptr, A_ptr, C_ptr, dy_ptr, begins_ptr, ends_ptr, d_last_ptr, last_ptr, span_ptr,
    sdb, scb, syb, T, per_piece, n_pieces,
    SDT: tl.constexpr, SC: tl.constexpr, SY: tl.constexpr,
    HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
    U: tl.constexpr,
):  # fmt: skip
    """One piece from its last token to its first, as if none followed: the gradient of the state
    before it -> last (B, n_pieces, W, N), and `span` as `scan` gives it."""
    b = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64) + 1  # nothing is before the first
    mine = b * n_pieces + piece
    n = tl.arange(0, BN)
    d = tl.program_id(0) * (K * L) + tl.arange(0, L)[:, None] * K + tl.arange(0, K)[None, :]
    cell = d[:, None, :] * N + n[None, :, None]
    ok_n, ok_d = n < N, d < W
    ok = ok_n[None, :, None] & ok_d[:, None, :]
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, T)
    a = _rates(A_ptr, n, d, ok, N)
    flow = tl.zeros((L, BN, K), tl.float32)
    span = tl.zeros((L, K), tl.float32)
    dt_ptr += b * sdb
    C_ptr += b * scb
    dy_ptr += b * syb
    begins_ptr += b * T
    ends_ptr += b * T
    n_steps = tl.cdiv((stop - begin).to(tl.int32), U)
    end = begin + (n_steps - 1) * U
    left = _left(end, begin, stop)
    next_dts = _tokens(dt_ptr, end, left, d, ok_d, SDT, U)
    next_dys = _tokens(dy_ptr, end, left, d, ok_d, SY, U)
    next_cs = _tokens(C_ptr, end, left, n, ok_n, SC, U)
    next_opens = _edges(begins_ptr, end, left, U, HAS_DOC)
    next_closes = _edges(ends_ptr, end, left, U, HAS_DOC and HAS_LAST)
    for i in range(n_steps):
        start = end - i * U
        dts, dys, cs = next_dts, next_dys, next_cs
        opens, closes = next_opens, next_closes
        ahead = _left(start - U, begin, stop)
        next_dts = _tokens(dt_ptr, start - U, ahead, d, ok_d, SDT, U)
        next_dys = _tokens(dy_ptr, start - U, ahead, d, ok_d, SY, U)
        next_cs = _tokens(C_ptr, start - U, ahead, n, ok_n, SC, U)
        next_opens = _edges(begins_ptr, start - U, ahead, U, HAS_DOC)
        next_closes = _edges(ends_ptr, start - U, ahead, U, HAS_DOC and HAS_LAST)
        for k in tl.static_range(U - 1, -1, -1):
            g = flow + dys[k][:, None, :] * cs[k][None, :, None]
            if HAS_DOC and HAS_LAST:  # noqa: SIM102
                if closes[k] >= 0:
                    place = d_last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                    g += tl.load(place, mask=ok, other=0.0)
            cut = opens[k] if HAS_DOC else 0
            flow = _decay(dts[k], a, cut, HAS_DOC) * g
            span += tl.where(cut > -2, float("inf"), dts[k]) if HAS_DOC else dts[k]
    tl.store(last_ptr + mine * (W * N) + cell, flow, mask=ok)
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


@triton.jit
def gradients(
    x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, dy_ptr, begins_ptr, ends_ptr,
    first_ptr, each_ptr, d_last_ptr, into_ptr, room_ptr,
    dx_ptr, d_dt_ptr, d_A_ptr, dB_ptr, dC_ptr, d_D_ptr, d_first_ptr,
    sxb, sdb, sbb, scb, syb, T, per_piece, n_chunks,
    SX: tl.constexpr, SDT: tl.constexpr, SB: tl.constexpr, SC: tl.constexpr, SY: tl.constexpr,
    HAS_D: tl.constexpr, HAS_INTO: tl.constexpr, HAS_LAST: tl.constexpr, HAS_DOC: tl.constexpr,
    HAS_FIRST: tl.constexpr, W: tl.constexpr, N: tl.constexpr, BN: tl.constexpr,
    K: tl.constexpr, L: tl.constexpr, Q: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Every gradient of one piece, from its last chunk to its first.

    A chunk is walked from the state before it (`each`), leaving every U-th state in `room`; then,
    from its end, U tokens at a time are walked again and then back. Shares of sums: dA (B,
    n_pieces, W, N) and dD (B, n_pieces, W); dB and dC (n_blocks, B, T, N), one of each program's
    channels.
    """
    b = tl.program_id(2).to(tl.int64)
    piece = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0).to(tl.int64)
    mine = b * tl.num_programs(1) + piece
    n = tl.arange(0, BN)
    d = tl.program_id(0) * (K * L) + tl.arange(0, L)[:, None] * K + tl.arange(0, K)[None, :]
    cell = d[:, None, :] * N + n[None, :, None]
    inner = tl.arange(0, L)[:, None, None] * K + tl.arange(0, K)[None, None, :]
    inner = inner * BN + n[None, :, None]
    ok_n, ok_d = n < N, d < W
    ok = ok_n[None, :, None] & ok_d[:, None, :]
    # What lanes of several channels all hold is written by those of the first, from where it is.
    shared = tl.arange(0, L)[:, None] * 0 + n[None, :]
    ok_shared = ok_n[None, :] & (tl.arange(0, L) == 0)[:, None]
    begin = piece * per_piece
    stop = tl.minimum(begin + per_piece, T)
    a = _rates(A_ptr, n, d, ok, N)
    flow, d_a = tl.zeros((L, BN, K), tl.float32), tl.zeros((L, BN, K), tl.float32)
    skip, d_skip = tl.zeros((L, K), tl.float32), tl.zeros((L, K), tl.float32)
    if HAS_INTO:
        flow += tl.load(into_ptr + mine * (W * N) + cell, mask=ok, other=0.0)
    if HAS_D:
        skip += tl.load(D_ptr + d, mask=ok_d, other=0.0).to(tl.float32)
    x_ptr += b * sxb
    dt_ptr += b * sdb
    B_ptr += b * sbb
    C_ptr += b * scb
    dy_ptr += b * syb
    dx_ptr += b * T * W
    d_dt_ptr += b * T * W
    dB_ptr += (block * tl.num_programs(2) + b) * T * N
    dC_ptr += (block * tl.num_programs(2) + b) * T * N
    begins_ptr += b * T
    ends_ptr += b * T
    each_ptr += (b * n_chunks + begin // Q) * (W * N)
    room_ptr += (mine * tl.num_programs(0) + block) * (Q // U * BN * K * L)
    n_here = tl.cdiv((stop - begin).to(tl.int32), Q)
    for j in range(n_here):
        chunk = begin + (n_here - 1 - j) * Q
        n_steps = tl.cdiv(tl.minimum(stop - chunk, Q).to(tl.int32), U)
        state = tl.load(each_ptr + (n_here - 1 - j) * (W * N) + cell, mask=ok, other=0.0)
        tl.debug_barrier()  # nobody reads what the chunk before left
        left = _left(chunk, begin, stop)
        next_dts = _tokens(dt_ptr, chunk, left, d, ok_d, SDT, U)
        next_xs = _tokens(x_ptr, chunk, left, d, ok_d, SX, U)
        next_bs = _tokens(B_ptr, chunk, left, n, ok_n, SB, U)
        next_dys = _tokens(dy_ptr, chunk, left, d, ok_d, SY, U)
        next_opens = _edges(begins_ptr, chunk, left, U, HAS_DOC)
        for i in range(n_steps):
            tl.store(room_ptr + i * (BN * K * L) + inner, state)
            dts, xs, bs, dys, opens = next_dts, next_xs, next_bs, next_dys, next_opens
            start = chunk + (i + 1) * U
            left = _left(start, begin, stop)
            next_dts = _tokens(dt_ptr, start, left, d, ok_d, SDT, U)
            next_xs = _tokens(x_ptr, start, left, d, ok_d, SX, U)
            next_bs = _tokens(B_ptr, start, left, n, ok_n, SB, U)
            next_dys = _tokens(dy_ptr, start, left, d, ok_d, SY, U)
            next_opens = _edges(begins_ptr, start, left, U, HAS_DOC)
            for k in tl.static_range(U):
                cut = opens[k] if HAS_DOC else 0
                if HAS_DOC and HAS_FIRST:
                    state = _begun(state, cut, first_ptr, cell, ok, W * N)
                decay = _decay(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
                state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
                d_skip += dys[k] * xs[k]
        tl.debug_barrier()
        end = chunk + (n_steps - 1) * U
        left = _left(end, begin, stop)
        next_state = tl.load(room_ptr + (n_steps - 1) * (BN * K * L) + inner)
        next_dts = _tokens(dt_ptr, end, left, d, ok_d, SDT, U)
        next_xs = _tokens(x_ptr, end, left, d, ok_d, SX, U)
        next_bs = _tokens(B_ptr, end, left, n, ok_n, SB, U)
        next_dys = _tokens(dy_ptr, end, left, d, ok_d, SY, U)
        next_cs = _tokens(C_ptr, end, left, n, ok_n, SC, U)
        next_opens = _edges(begins_ptr, end, left, U, HAS_DOC)
        next_closes = _edges(ends_ptr, end, left, U, HAS_DOC and HAS_LAST)
        for i in range(n_steps):
            start = end - i * U
            left, ahead = _left(start, begin, stop), _left(start - U, chunk, stop)
            dts, xs, bs, dys, cs = next_dts, next_xs, next_bs, next_dys, next_cs
            state, opens, closes = next_state, next_opens, next_closes
            decays, befores, afters = (), (), ()
            for k in tl.static_range(U):
                cut = opens[k] if HAS_DOC else 0
                if HAS_DOC and HAS_FIRST:
                    state = _begun(state, cut, first_ptr, cell, ok, W * N)
                befores += (state,)
                decay = _decay(dts[k], a, cut, HAS_DOC and not HAS_FIRST)
                state = decay * state + (dts[k] * xs[k])[:, None, :] * bs[k][None, :, None]
                decays += (decay,)
                afters += (state,)
            for k in tl.static_range(U - 1, -1, -1):
                if k == U // 2:  # half of the registers are free, and half of the work is left
                    before = room_ptr + (n_steps - 2 - i) * (BN * K * L)
                    next_state = tl.load(before + inner, mask=ahead > 0, other=0.0)
                    next_dts = _tokens(dt_ptr, start - U, ahead, d, ok_d, SDT, U)
                    next_xs = _tokens(x_ptr, start - U, ahead, d, ok_d, SX, U)
                    next_bs = _tokens(B_ptr, start - U, ahead, n, ok_n, SB, U)
                    next_dys = _tokens(dy_ptr, start - U, ahead, d, ok_d, SY, U)
                    next_cs = _tokens(C_ptr, start - U, ahead, n, ok_n, SC, U)
                    next_opens = _edges(begins_ptr, start - U, ahead, U, HAS_DOC)
                    next_closes = _edges(ends_ptr, start - U, ahead, U, HAS_DOC and HAS_LAST)
                u = (dts[k] * xs[k])[:, None, :]
                g = flow + dys[k][:, None, :] * cs[k][None, :, None]
                if HAS_DOC and HAS_LAST:  # noqa: SIM102
                    if closes[k] >= 0:
                        place = d_last_ptr + closes[k].to(tl.int64) * (W * N) + cell
                        g += tl.load(place, mask=ok, other=0.0)
                d_c = tl.sum(tl.sum(dys[k][:, None, :] * afters[k], 2), 0)
                d_b = tl.sum(tl.sum(g * u, 2), 0)
                d_u = tl.sum(g * bs[k][None, :, None], 1)
                flow = decays[k] * g
                rate = flow * befores[k]
                d_a += rate * dts[k][:, None, :]
                d_dt = tl.sum(rate * a, 1) * 0.6931471805599453 + d_u * xs[k]
                _put(dx_ptr, start, k, left, d, ok_d, d_u * dts[k] + skip * dys[k], W)
                _put(d_dt_ptr, start, k, left, d, ok_d, d_dt, W)
                _put(dB_ptr, start, k, left, shared, ok_shared, d_b[None, :], N)
                _put(dC_ptr, start, k, left, shared, ok_shared, d_c[None, :], N)
                if HAS_DOC and HAS_FIRST:
                    if opens[k] >= 0:
                        place = d_first_ptr + opens[k].to(tl.int64) * (W * N) + cell
                        tl.store(place, flow, mask=ok)
                    flow = tl.where(opens[k] > -2, 0.0, flow)
    if HAS_FIRST and not HAS_DOC:  # noqa: SIM102
        if begin == 0:
            tl.store(d_first_ptr + b * (W * N) + cell, flow, mask=ok)
    tl.store(d_A_ptr + mine * (W * N) + cell, d_a, mask=ok)
    if HAS_D:
        tl.store(d_D_ptr + mine * W + d, d_skip, mask=ok_d)
