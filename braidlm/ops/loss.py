"""Cross-entropy of a linear head that never holds the logits of more than a few tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from braidlm.errors import InputError
from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, state_dtype

LOGITS_AT_ONCE = 2**24
"""Elements of the largest block of logits, by default: 64 MiB in fp32."""
LOGITS_IN_CACHE = 2**22
"""The same on a CPU: 16 MiB, which its last cache holds."""
LOGITS_ON_GPU = 2**28
"""The same where a kernel writes gradients over logits: at most 512 MiB in bf16."""

Reduction = Literal["mean", "sum", "none"]


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    """-log softmax(logit_scale * hidden @ weight^T)[target] per token, in nats.

    Logits are computed for `chunk_size` tokens at a time, in the dtype of `hidden` (or that of
    autocast), and their statistics in at least fp32. For "mean" and "sum" gradients are computed in
    the same pass; for "none" the backward pass computes the logits again.

    Args:
        hidden: (..., d).
        weight: (V, d), the head's weight.
        targets: (...) int64 in 0..V-1, or `ignore_index`. On the CPU a target out of range is
            refused; on other devices, and when compiled, it is not looked for.
        ignore_index: targets of this value have loss 0 and do not count in the mean.
        reduction: "mean" over the counted tokens (0 if there are none), "sum", or "none".
        chunk_size: tokens per block; by default about `LOGITS_AT_ONCE` / V, on a CPU
            `LOGITS_IN_CACHE` / V, by Triton's kernel the power of two below `LOGITS_ON_GPU` / V.
        logit_scale: multiplies the logits.

    Returns:
        A scalar, or (...) for "none", at least fp32.

    Raises:
        InputError: an unknown reduction, a `chunk_size` below 1, or a target out of range.
        ValueError: shapes that do not fit.
    """
    _check(hidden, weight, targets, ignore_index, reduction, chunk_size)
    dtype = hidden.dtype
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    flat = targets.reshape(-1)
    size = chunk_size or _tokens_at_once(hidden, weight, dtype)
    rows = hidden.reshape(-1, hidden.shape[-1])
    with torch.autocast(kind, enabled=False):
        if reduction == "none":
            nll = _PerToken.apply(rows, weight, flat, ignore_index, size, logit_scale, dtype)
            return nll.view(targets.shape)  # type: ignore[union-attr]
        counts = flat != ignore_index
        if kind == "cpu" and not torch.compiler.is_compiling():
            # Elsewhere the number of counted tokens would have to be waited for.
            rows, flat = rows[counts], flat[counts]
        total = _Total.apply(rows, weight, flat, ignore_index, size, logit_scale, dtype)
        if reduction == "mean":
            total = total / counts.sum().clamp_min(1)  # type: ignore[operator]
        return total  # type: ignore[return-value]


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    ignore_index: int,
    reduction: str,
    chunk_size: int | None,
) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise InputError(f"reduction={reduction!r} is unknown; it must be mean, sum or none.")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size={chunk_size} must be at least 1.")
    if weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: hidden has shape {tuple(hidden.shape)} and weight "
            f"{tuple(weight.shape)}; they must be (..., d) and (V, d)."
        )
    if targets.shape != hidden.shape[:-1] or targets.dtype != torch.int64:
        raise ValueError(
            f"linear_cross_entropy: targets are {targets.dtype} of shape {tuple(targets.shape)}; "
            f"they must be int64 of shape {tuple(hidden.shape[:-1])}."
        )
    if targets.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_range(targets[targets != ignore_index], weight.shape[0], ignore_index)


def _check_range(counted: Tensor, vocab_size: int, ignore_index: int) -> None:
    if not counted.numel():
        return
    low, high = int(counted.min()), int(counted.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"targets range from {low} to {high}; they must be in 0..{vocab_size - 1} "
            f"or ignore_index={ignore_index}."
        )


def _tokens_at_once(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> int:
    """Tokens of a block; on a GPU a power of two, which products take in whole tiles."""
    if hidden.device.type == "cpu":
        return max(64, LOGITS_IN_CACHE // weight.shape[0])
    if _form(hidden, weight, dtype).name != "triton":
        return max(64, LOGITS_AT_ONCE // weight.shape[0])
    return 1 << max(64, LOGITS_ON_GPU // weight.shape[0]).bit_length() - 1


def _form(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Implementation:
    sizes = {"V": weight.shape[0]}
    return LOSS.choose("auto", Call(hidden.device.type, dtype, sizes, dispatch.needs_grad(hidden)))


def _triton(
    logits: Tensor, targets: Tensor, weights: Tensor | None, ignore_index: int, scale: float
) -> tuple[Tensor, Tensor]:
    from braidlm.ops.triton_loss import cross_entropy_triton  # a CPU does without triton

    return cross_entropy_triton(logits, targets, weights, ignore_index, scale), logits


def _torch(
    logits: Tensor, targets: Tensor, weights: Tensor | None, ignore_index: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Losses (n,) of logits (n, V), and the gradient of sum(weights * losses) if they are given."""
    logits = logits.to(state_dtype(logits.dtype))
    if scale != 1.0:
        logits.mul_(scale)
    log_p = torch.log_softmax(logits, dim=-1)
    counts = targets != ignore_index
    picked = log_p.gather(1, torch.where(counts, targets, 0)[:, None])[:, 0]
    losses = -picked * counts
    if weights is None:
        return losses, log_p
    weights = weights * counts
    probability = log_p.exp_()
    at_target = torch.where(weights != 0, targets, 0)[:, None]
    probability.scatter_add_(1, at_target, torch.full_like(probability[:, :1], -1.0))
    return losses, probability.mul_((weights * scale)[:, None])


LOSS = Operator(
    "cross_entropy",
    (
        Implementation("triton", _triton, dispatch.why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)


def _gradients(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    per_token: Tensor,
    needs: tuple[bool, bool],
    settings: tuple[int, int, float, torch.dtype],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses (n,) and the gradients of sum(per_token * loss) that `needs` asks for."""
    ignore_index, size, scale, dtype = settings
    wide = state_dtype(dtype)
    w, form = weight.to(dtype), _form(rows, weight, dtype).function
    losses = torch.empty(len(rows), dtype=wide, device=rows.device)
    d_rows = torch.empty_like(rows) if needs[0] else None
    d_weight = torch.zeros(weight.shape, dtype=wide, device=rows.device) if needs[1] else None
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        h = rows[part].to(dtype)
        weights = None if d_rows is None and d_weight is None else per_token[part]
        losses[part], d_logits = form(h @ w.t(), targets[part], weights, ignore_index, scale)
        if weights is None:
            continue
        d_logits = d_logits.to(dtype)
        if d_rows is not None:
            d_rows[part] = torch.mm(d_logits, w)
        if d_weight is not None and dtype == wide:
            d_weight.addmm_(d_logits.t(), h)
        elif d_weight is not None:
            _add_product(d_weight, d_logits.t(), h)
    return losses, d_rows, None if d_weight is None else d_weight.to(weight.dtype)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where total is wider than a and b."""
    if total.is_cuda and not torch.compiler.is_compiling():
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)  # type: ignore[call-overload]
    else:
        total += torch.mm(a, b).to(total.dtype)


class _Total(torch.autograd.Function):
    """Sum of the losses; the gradients are ready when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        size: int,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ones = torch.ones(len(rows), dtype=state_dtype(dtype), device=rows.device)
        settings = (ignore_index, size, scale, dtype)
        needs = ctx.needs_input_grad[:2]
        losses, d_rows, d_weight = _gradients(rows, weight, targets, ones, needs, settings)
        ctx.save_for_backward(d_rows, d_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        scaled = (g if g is None else g * d_total.to(g.dtype) for g in ctx.saved_tensors)
        return (*scaled, None, None, None, None, None)


class _PerToken(torch.autograd.Function):
    """Losses of all tokens; the backward pass computes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        ignore_index: int,
        size: int,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, targets)
        ctx.settings = (ignore_index, size, scale, dtype)
        none = torch.empty(0, device=rows.device)
        return _gradients(rows, weight, targets, none, (False, False), ctx.settings)[0]

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        rows, weight, targets = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        _, d_rows, d_weight = _gradients(rows, weight, targets, d_losses, needs, ctx.settings)
        return d_rows, d_weight, None, None, None, None, None
