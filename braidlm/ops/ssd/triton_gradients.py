"""The Triton kernels of SSD's backward pass; see `triton_kernels.py` for letters and decays."""

from __future__ import annotations

import triton
import triton.language as tl

from braidlm.ops.ssd.triton_kernels import _add_product, _product, _put_rows, _rows, _scaled


@triton.jit
def d_inputs(
    x_ptr, dt_ptr, cum_ptr, B_ptr, C_ptr, D_ptr, opens_ptr, dy_ptr, ds_ptr,
    dx_ptr, parts_ptr, d_scores_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks,
    HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, HB: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx of one chunk and HB heads of a group; the gradient of C B^T, summed over these heads, by
    columns -> d_scores (B, n_chunks, H / HB, Q, Q). By token -> parts (4 or 5, B, H, Tp): what it
    takes from its chunk (0, gradient of cum), what it gives to it (1) and to what comes after it
    (2, gradients of dt), and with D what goes past the state (4).

    Matrices of a chunk are turned here: a token that gives is a row, one that takes is a column.
    """
    k = tl.program_id(0)
    h0 = tl.program_id(1) * HB
    b = tl.program_id(2).to(tl.int64)
    g = h0 // R
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    bs = _rows(B_ptr + b * sbb + g * sbg, start, q, sbt, n, T, N)
    cs = _rows(C_ptr + b * scb + g * scg, start, q, sct, n, T, N)
    kind = bs.dtype
    lives = q[:, None] <= q[None, :]
    last = -1
    if HAS_DOC:
        opens_ptr += b * Tp + start
        lives = lives & (q[:, None] >= tl.load(opens_ptr + q)[None, :])
        last = tl.load(opens_ptr + Q - 1)
    scores = tl.where(lives, _product(bs, tl.trans(cs)), 0.0)
    d_scores = tl.zeros((Q, Q), tl.float32)
    n_parts = tl.num_programs(2).to(tl.int64) * H * Tp
    for r in tl.range(0, HB, num_stages=STAGES):
        h = h0 + r
        row = (b * H + h) * Tp + start
        dt = tl.load(dt_ptr + row + q)
        cum = tl.load(cum_ptr + row + q)
        end = tl.load(cum_ptr + row + Q - 1)
        leaves = tl.where(q >= last, tl.exp2(end - cum), 0.0)
        xs = _rows(x_ptr + b * sxb + h * sxh, start, q, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, start, q, syt, p, T, P)
        ds = tl.load(ds_ptr + ((b * n_chunks + k) * H + h) * (BN * BP) + square)
        decay = tl.exp2(tl.minimum(cum[None, :] - cum[:, None], 0.0))
        dx = _product(bs, ds) * leaves[:, None]
        mine_ptr = parts_ptr + row + q
        tl.store(mine_ptr + 2 * n_parts, tl.sum(dx * xs.to(tl.float32), 1))
        dx = _add_product((decay * scores).to(kind), ys, dx) * dt[:, None]
        if HAS_D:
            wide = ys.to(tl.float32)
            dx += tl.load(D_ptr + h).to(tl.float32) * wide
            tl.store(mine_ptr + 4 * n_parts, tl.sum(wide * xs.to(tl.float32), 1))
        _put_rows(dx_ptr + (b * T * H + h) * P, start, q, H * P, p, T, dx.to(kind), P)
        decay *= _product(xs, tl.trans(ys))
        d_scores += decay * dt[:, None]
        decay *= scores
        tl.store(mine_ptr + n_parts, tl.sum(decay, 1))
        tl.store(mine_ptr, tl.sum(decay * dt[:, None], 0))
    place = ((b * n_chunks + k) * tl.num_programs(1) + tl.program_id(1)) * (Q * Q)
    inside = tl.where(lives, d_scores, 0.0)
    tl.store(d_scores_ptr + place + q[:, None] * Q + q[None, :], inside)


@triton.jit
def d_projections(
    x_ptr, cum_ptr, key_ptr, B_ptr, C_ptr, opens_ptr, dy_ptr, s_ptr, ds_ptr, d_scores_ptr,
    parts_ptr, gain_ptr, dB_ptr, dC_ptr,
    sxb, sxt, sxh, sbb, sbt, sbg, scb, sct, scg, syb, syt, syh,
    T, H, R, Tp, n_chunks, n_shared,
    HAS_DOC: tl.constexpr, Q: tl.constexpr,
    P: tl.constexpr, BP: tl.constexpr, N: tl.constexpr, BN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dB and dC of one chunk and group, summed over its heads; d_scores comes in n_shared a group.

    What is found on the way, by what entered the chunk: the gradient of cum by token -> parts (3),
    and of the whole chunk's log decay -> gain (B, n_chunks, H).
    """
    k = tl.program_id(0)
    g = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    q, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    square = n[:, None] * BP + p[None, :]
    start = k * Q
    cs = _rows(C_ptr + b * scb + g * scg, start, q, sct, n, T, N)
    kind = cs.dtype
    goes_on = q >= 0
    last = -1
    if HAS_DOC:
        opens_ptr += b * Tp + start
        goes_on = tl.load(opens_ptr + q) < 0
        last = tl.load(opens_ptr + Q - 1)
    parts_ptr += 3 * (tl.num_programs(2).to(tl.int64) * H * Tp)
    d_b = tl.zeros((Q, BN), tl.float32)
    d_c = tl.zeros((Q, BN), tl.float32)
    for r in tl.range(0, R, num_stages=STAGES):
        h = g * R + r
        row = (b * H + h) * Tp + start
        cum = tl.load(cum_ptr + row + q)
        key = tl.load(key_ptr + row + q)
        end = tl.load(cum_ptr + row + Q - 1)
        xs = _rows(x_ptr + b * sxb + h * sxh, start, q, sxt, p, T, P)
        ys = _rows(dy_ptr + b * syb + h * syh, start, q, syt, p, T, P)
        place = (b * n_chunks + k) * H + h
        state = tl.load(s_ptr + place * (BN * BP) + square)
        ds = tl.load(ds_ptr + place * (BN * BP) + square)
        inner = tl.sum(tl.sum(state.to(tl.float32) * ds.to(tl.float32), 1), 0)
        tl.store(gain_ptr + place, tl.where(last < 0, inner * tl.exp2(end), 0.0))
        enters = tl.where(goes_on, tl.exp2(cum), 0.0)
        leaves = tl.where(q >= last, tl.exp2(end - key), 0.0)
        by_state = _product(_scaled(ys, enters), tl.trans(state))
        tl.store(parts_ptr + row + q, tl.sum(by_state * cs.to(tl.float32), 1))
        d_c += by_state
        d_b = _add_product(_scaled(xs, leaves), tl.trans(ds), d_b)
    inside = tl.zeros((Q, Q), tl.float32)
    d_scores_ptr += ((b * n_chunks + k) * tl.num_programs(1) + g) * n_shared * (Q * Q)
    for part in range(n_shared):
        inside += tl.load(d_scores_ptr + part * (Q * Q) + q[:, None] * Q + q[None, :])
    bs = _rows(B_ptr + b * sbb + g * sbg, start, q, sbt, n, T, N)
    d_c = _add_product(tl.trans(inside.to(kind)), bs, d_c)
    d_b = _add_product(inside.to(kind), cs, d_b)
    width = H // R * N
    place = b * T * width + g * N
    _put_rows(dB_ptr + place, start, q, width, n, T, d_b.to(kind), N)
    _put_rows(dC_ptr + place, start, q, width, n, T, d_c.to(kind), N)


@triton.jit
def finish(
    parts_ptr, dt_ptr, A_ptr, doc_ptr, out_ptr, shares_ptr, T, H,
    HAS_D: tl.constexpr, HAS_DOC: tl.constexpr, Q: tl.constexpr, HB: tl.constexpr,
):  # fmt: skip
    """d_dt (B, T, H) from the parts and, in shares (3, B, n_chunks, H), what passes through each
    chunk (0); each chunk's share of dA (1) and dD (2).

    The decay of token i's step acts on all that passes from before i to i or later: what entered
    the chunk and is taken from i on, what tokens before i leave to the end, what passes through the
    whole chunk, and, within the chunk, all that is taken from i on less what is given from i on.
    """
    k = tl.program_id(0)
    h = tl.program_id(1) * HB + tl.arange(0, HB)
    b = tl.program_id(2).to(tl.int64)
    q = tl.arange(0, Q)
    t = k * Q + q
    mine = (h < H)[None, :]
    a = tl.load(A_ptr + h, mask=h < H, other=0.0).to(tl.float32)[None, :]
    Tp = tl.num_programs(0) * Q
    place = (b * H + h[None, :]) * Tp + t[:, None]
    n_parts = tl.num_programs(2).to(tl.int64) * H * Tp
    share = (b * tl.num_programs(0) + k) * H + h
    n_shares = tl.num_programs(2) * tl.num_programs(0) * H
    dt = tl.load(dt_ptr + place, mask=mine, other=0.0)
    taken = tl.load(parts_ptr + place, mask=mine, other=0.0)
    taken += tl.load(parts_ptr + 3 * n_parts + place, mask=mine, other=0.0)
    given = tl.load(parts_ptr + n_parts + place, mask=mine, other=0.0)
    leaves = tl.load(parts_ptr + 2 * n_parts + place, mask=mine, other=0.0)
    passes = tl.load(shares_ptr + share, mask=h < H, other=0.0) + tl.sum(leaves * dt, 0)
    d_step = tl.cumsum(taken - (given + leaves) * dt, 0, reverse=True) + passes[None, :]
    d_step = tl.where(dt * a > -104.0, d_step, 0.0)
    d_dt = given + leaves + d_step * a
    if HAS_DOC:
        doc = tl.load(doc_ptr + b * T + t, mask=t < T, other=-1)
        d_dt = tl.where((doc >= 0)[:, None], d_dt, 0.0)
    where = (b * T + t.to(tl.int64)[:, None]) * H + h[None, :]
    tl.store(out_ptr + where, d_dt, mask=(t < T)[:, None] & mine)
    tl.store(shares_ptr + n_shares + share, tl.sum(d_step * dt, 0), mask=h < H)
    if HAS_D:
        past = tl.load(parts_ptr + 4 * n_parts + place, mask=mine, other=0.0)
        tl.store(shares_ptr + 2 * n_shares + share, tl.sum(past, 0), mask=h < H)
