"""Root-mean-square norms on a GPU, plain and gated: one kernel each way, nothing kept but inputs.

With f the gate's SiLU or sigmoid, s the scale, and m(.) the mean over the W channels of a group::

    v = x f(z) (gate before the norm) or x;   r = 1 / sqrt(m(v^2) + eps);   y = v r s
    y = v r s f(z) (gate after it)

    d_v = r (d_y s - v r^2 m(d_y s v));   d_s = sum over rows of d_y v r

Rows are read once each way and r is found again in the backward pass. A program takes blocks of
rows of one group in turn, and so adds up its share of d_s in registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from braidlm.ops.launch import Launcher, described, known_as
from braidlm.ops.triton_activation import sigmoid

triton_jit: Any = triton.jit  # no type checker knows what a launch takes

WIDEST = 2**14
"""Channels of a group that a program holds."""
BLOCK = 2**12
"""Elements of a block of rows, where a row has fewer."""
PER_WARP = 512
"""Channels of a row for which a program has a warp."""
PROGRAMS = 1024
"""Programs that share the rows: enough for any machine, few enough to add up their d_s."""
STAGES, IN_ADVANCE = 3, 2**16
"""Going back, blocks on their way and the one that is worked on, where those on their way take no
more bytes than this."""
NO_GATE, GATE_FIRST, NORM_FIRST = 0, 1, 2


def norm_triton(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    n_groups: int,
    norm_first: bool = False,
    is_silu: bool = True,
) -> Tensor:
    """x, gate (..., D), scale (D,) in fp32, all on one GPU -> (..., D) in the dtype of x."""
    return torch.ops.braidlm.norm(x, gate, scale, eps, n_groups, norm_first, is_silu)


torch.library.define(
    "braidlm::norm",
    "(Tensor x, Tensor? gate, Tensor? scale, float eps, int n_groups, bool norm_first, "
    "bool is_silu) -> Tensor",
)
torch.library.define(
    "braidlm::norm_backward",
    "(Tensor x, Tensor? gate, Tensor? scale, Tensor dy, float eps, int n_groups, bool norm_first, "
    "bool is_silu) -> (Tensor, Tensor, Tensor)",
)


def norm_forward(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    eps: float,
    n_groups: int,
    norm_first: bool,
    is_silu: bool,
) -> Tensor:
    """y; the operator without its gradients."""
    rows, gates = _rows(x), None if gate is None else _rows(gate)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    sizes, shape, grid, warps = _plan(rows, gates, n_groups)
    args = (rows, _or(gates, rows), _or(scale, rows), y, *sizes, eps)
    options = _options(gate, scale, norm_first, is_silu) | shape
    _FORWARD.run(_key(sizes, rows, gates, scale), grid, args, options, warps)
    return y


torch.library.impl("braidlm::norm", "default", norm_forward)


@torch.library.register_fake("braidlm::norm")
def _(x, gate, scale, eps, n_groups, norm_first, is_silu):
    return x.new_empty(x.shape)


def norm_backward(
    x: Tensor,
    gate: Tensor | None,
    scale: Tensor | None,
    dy: Tensor,
    eps: float,
    n_groups: int,
    norm_first: bool,
    is_silu: bool,
    d_gate: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, gate and scale; that of a gate is written into `d_gate` if it is given."""
    rows, gates = _rows(x), None if gate is None else _rows(gate)
    sizes, shape, grid, warps = _plan(rows, gates, n_groups)
    d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if d_gate is None:
        d_gate = x.new_empty(0) if gate is None else torch.empty_like(d_x, dtype=gate.dtype)
    into = d_gate if gate is None else d_gate.view(-1, d_gate.shape[-1])
    shares = x.new_empty(grid[0] if scale is not None else 0, x.shape[-1], dtype=torch.float32)
    args = (rows, _or(gates, rows), _or(scale, rows), dy.contiguous(), d_x, into, shares)
    args += (*sizes, into.stride(0), eps)
    options = _options(gate, scale, norm_first, is_silu) | shape
    options["STAGES"] = _stages(shape, x, gate, dy)
    key = _key(sizes, rows, gates, scale, dy, into)
    _BACKWARD.run(key, grid, args, options, warps)
    return d_x, d_gate, shares.sum(0) if scale is not None else shares.new_empty(0)


torch.library.impl("braidlm::norm_backward", "default", norm_backward)


@torch.library.register_fake("braidlm::norm_backward")
def _(x, gate, scale, dy, eps, n_groups, norm_first, is_silu):
    d_gate = x.new_empty(0 if gate is None else gate.shape)
    d_scale = x.new_empty(0 if scale is None else scale.shape, dtype=torch.float32)
    return x.new_empty(x.shape), d_gate, d_scale


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps, ctx.n_groups, ctx.norm_first, ctx.is_silu = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, gate, scale = ctx.saved_tensors
    settings = (ctx.eps, ctx.n_groups, ctx.norm_first, ctx.is_silu)
    found = torch.ops.braidlm.norm_backward(x, gate, scale, dy, *settings)
    d_x, d_gate, d_scale = found
    d_gate, d_scale = (None if v is None else d for v, d in ((gate, d_gate), (scale, d_scale)))
    return d_x, d_gate, d_scale, None, None, None, None


torch.library.register_autograd("braidlm::norm", _gradients, setup_context=_setup)


def _rows(v: Tensor) -> Tensor:
    """(n_rows, D) with channels side by side; a slice of a wider projection is not copied."""
    v = v if v.stride(-1) == 1 else v.contiguous()
    return v.flatten(0, -2) if v.dim() > 1 else v[None]


def _key(sizes: tuple[int, ...], x: Tensor, *others: Tensor | None) -> int:
    """Stands for everything that compiled kernels depend on but their constants."""
    return known_as((x.device.index, sizes, described(x, *others)))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A kernel takes some pointer where it reads none."""
    return other if tensor is None else tensor


def _options(
    gate: Tensor | None, scale: Tensor | None, norm_first: bool, is_silu: bool
) -> dict[str, Any]:
    """What kernels are compiled for."""
    order = NO_GATE if gate is None else NORM_FIRST if norm_first else GATE_FIRST
    return {"GATE": order, "IS_SILU": is_silu, "HAS_SCALE": scale is not None}


def _plan(
    x: Tensor, gate: Tensor | None, n_groups: int
) -> tuple[tuple[int, ...], dict[str, int], tuple[int, int, int], int]:
    """Row strides, rows, blocks of rows per program; compiled sizes; programs, groups; warps."""
    n_rows, width = x.shape[0], x.shape[1] // n_groups
    padded = 1 << (width - 1).bit_length()
    rows = max(1, min(BLOCK // padded, 1 << max(n_rows - 1, 0).bit_length()))
    n_blocks = -(-n_rows // rows)
    each = -(-n_blocks // max(1, min(n_blocks, PROGRAMS // n_groups)))
    warps = max(4, min(16, padded // PER_WARP))
    shape = {"W": width, "BW": padded, "ROWS": rows}
    strides = x.stride(0), 0 if gate is None else gate.stride(0)
    return (*strides, n_rows, each), shape, (max(1, -(-n_blocks // each)), n_groups, 1), warps


def _stages(shape: dict[str, int], *read: Tensor | None) -> int:
    """Blocks of these tensors that a program holds or waits for; 1: it loads what it needs next."""
    n_bytes = shape["ROWS"] * shape["BW"] * sum(v.itemsize for v in read if v is not None)
    return STAGES if n_bytes * (STAGES - 1) <= IN_ADVANCE else 1


@triton_jit
def _opening(z, IS_SILU: tl.constexpr):
    """f(z) and f'(z)."""
    s = sigmoid(z)
    if IS_SILU:
        return z * s, s * (1.0 + z * (1.0 - s))
    return s, s * (1.0 - s)


@triton_jit
def _norm_forward(
    x_ptr, z_ptr, scale_ptr, y_ptr, sx, sz, n_rows, each, eps,
    GATE: tl.constexpr, IS_SILU: tl.constexpr, HAS_SCALE: tl.constexpr,
    W: tl.constexpr, BW: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    column = tl.arange(0, BW)
    width = tl.num_programs(1) * W
    scale = tl.full((BW,), 1.0, tl.float32)
    if HAS_SCALE:
        scale = tl.load(scale_ptr + group * W + column, mask=column < W, other=0.0)
    for i in range(each):
        row = (tl.program_id(0) * each + i) * ROWS + tl.arange(0, ROWS)
        ok = (row < n_rows)[:, None] & (column < W)[None, :]
        row = row.to(tl.int64)[:, None]
        inside = group * W + column[None, :]
        place = row * width + inside
        v = tl.load(x_ptr + row * sx + inside, mask=ok, other=0.0).to(tl.float32)
        opening = v
        if GATE != 0:
            z = tl.load(z_ptr + row * sz + inside, mask=ok, other=0.0).to(tl.float32)
            opening, _ = _opening(z, IS_SILU)
        if GATE == 1:
            v *= opening
        r = tl.rsqrt(tl.sum(v * v, 1) / W + eps)
        y = v * r[:, None] * scale[None, :]
        if GATE == 2:
            y *= opening
        tl.store(y_ptr + place, y, mask=ok)


@triton_jit
def _norm_backward(
    x_ptr, z_ptr, scale_ptr, dy_ptr, dx_ptr, dz_ptr, shares_ptr, sx, sz, n_rows, each, sdz, eps,
    GATE: tl.constexpr, IS_SILU: tl.constexpr, HAS_SCALE: tl.constexpr,
    W: tl.constexpr, BW: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """dx, dz and, of every program, the sum over its rows of d_scale -> shares (programs, D)."""
    group = tl.program_id(1)
    column = tl.arange(0, BW)
    width = tl.num_programs(1) * W
    scale = tl.full((BW,), 1.0, tl.float32)
    if HAS_SCALE:
        scale = tl.load(scale_ptr + group * W + column, mask=column < W, other=0.0)
    share = tl.zeros((BW,), tl.float32)
    for i in tl.range(each, num_stages=STAGES):  # type: ignore[reportGeneralTypeIssues]
        row = (tl.program_id(0) * each + i) * ROWS + tl.arange(0, ROWS)
        ok = (row < n_rows)[:, None] & (column < W)[None, :]
        row = row.to(tl.int64)[:, None]
        inside = group * W + column[None, :]
        place = row * width + inside
        x = tl.load(x_ptr + row * sx + inside, mask=ok, other=0.0).to(tl.float32)
        d = tl.load(dy_ptr + place, mask=ok, other=0.0).to(tl.float32)
        v, opening, slope = x, x, x
        if GATE != 0:
            z = tl.load(z_ptr + row * sz + inside, mask=ok, other=0.0).to(tl.float32)
            opening, slope = _opening(z, IS_SILU)
        if GATE == 1:
            v = x * opening
        r = tl.rsqrt(tl.sum(v * v, 1) / W + eps)[:, None]
        if GATE == 2:
            tl.store(dz_ptr + row * sdz + inside, d * v * r * scale[None, :] * slope, mask=ok)
            d *= opening
        share += tl.sum(d * v * r, 0)
        d *= scale[None, :]
        mean = tl.sum(d * v, 1)[:, None] / W
        d = r * (d - v * r * r * mean)
        if GATE == 1:
            tl.store(dz_ptr + row * sdz + inside, d * x * slope, mask=ok)
            d *= opening
        tl.store(dx_ptr + place, d, mask=ok)
    if HAS_SCALE:
        to = shares_ptr + tl.program_id(0) * width + group * W + column
        tl.store(to, share, mask=column < W)


_FORWARD, _BACKWARD = Launcher(_norm_forward), Launcher(_norm_backward)
