"""Rotary position embedding, on all or on the first channels of each head."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.dispatch import Call, Implementation, Operator, check_shape, state_dtype


class LinearScaling(NamedTuple):
    """Positions are divided by `factor`."""

    factor: float


class Llama3Scaling(NamedTuple):
    """Slow channels are divided by `factor`, fast ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    """Channels with fewer than this many turns over `original_length` are divided by `factor`."""
    high_freq_factor: float
    """Channels with more than this many turns over `original_length` are kept."""
    original_length: int
    """Tokens of the context that the model was first trained with."""


class YarnScaling(NamedTuple):
    """Slow channels are divided by `factor`, fast ones kept, those between by their number.

    Channel i of r turns ``n_i = original_length theta^(-i / r) / 2 pi`` times over the first
    context, so that ``c(n) = r ln(original_length / (2 pi n)) / ln(theta)`` is the channel that
    turns n times. With a = c(beta_fast) and b = c(beta_slow)::

        p_i = clamp((i - a) / (b - a), 0, 1)
        frequency_i = theta^(-i / r) (1 - p_i + p_i / factor)

    With `truncate` a is rounded down and b up; a is at least 0 and b at most 2r - 1, in that order
    (so the published code has it), and b is 0.001 more if it is a.
    """

    factor: float
    original_length: int
    """Tokens of the context that the model was first trained with."""
    beta_fast: float
    """Channels with more than this many turns over `original_length` are kept."""
    beta_slow: float
    """Channels with fewer than this many turns are divided by `factor`."""
    truncate: bool
    """Whether the bounds between channels are whole numbers."""


Scaling = LinearScaling | Llama3Scaling | YarnScaling


def rope_frequencies(dim: int, theta: float, scaling: Scaling | None = None) -> Tensor:
    """Radians per token of each rotated pair: theta^(-2i / dim), then scaled.

    Args:
        dim: channels that are rotated, even.
        theta: base of the geometric series (`rope_theta`).
        scaling: how the frequencies are stretched for longer contexts, or None.

    Returns:
        (dim / 2,) fp32.

    Raises:
        ValueError: an odd or non-positive `dim`, or a factor that is not positive.

    Source: Su et al., "RoFormer" (arXiv 2104.09864), eq. 15; linear scaling: Chen et al. (arXiv
        2306.15595); llama3 scaling: the published Llama 3.1 reference model; YaRN: Peng et al.
        (arXiv 2309.00071), section 3.2.
    """
    if dim < 2 or dim % 2 or theta <= 0:
        raise ValueError(f"rope: dim={dim} must be even and positive, and theta={theta} positive.")
    exponent = torch.arange(0, dim, 2, dtype=torch.float64) / dim
    frequency = theta**-exponent
    if isinstance(scaling, YarnScaling):
        frequency = frequency * _yarn(dim, theta, scaling)
    elif scaling is not None:
        frequency = _scaled(frequency, scaling)
    return frequency.to(torch.float32)


def _yarn(dim: int, theta: float, s: YarnScaling) -> Tensor:
    """Return what each frequency is multiplied by, (dim / 2,)."""
    if s.factor <= 0 or s.original_length < 1 or not 0 < s.beta_slow < s.beta_fast or theta <= 1:
        raise ValueError(
            f"rope: yarn needs a positive factor={s.factor} and original_length="
            f"{s.original_length}, 0 < beta_slow={s.beta_slow} < beta_fast={s.beta_fast}, and "
            f"theta={theta} above 1."
        )

    def channel(turns: float) -> float:
        return dim * math.log(s.original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = channel(s.beta_fast), channel(s.beta_slow)
    if s.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = 0.001 if first == last else last - first
    slow = ((torch.arange(dim // 2, dtype=torch.float64) - first) / width).clamp(0.0, 1.0)
    return 1.0 - slow + slow / s.factor


def _scaled(frequency: Tensor, scaling: LinearScaling | Llama3Scaling) -> Tensor:
    if scaling.factor <= 0:
        raise ValueError(f"rope: scaling factor={scaling.factor} must be positive.")
    if isinstance(scaling, LinearScaling):
        return frequency / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if not 0 < low < high or scaling.original_length < 1:
        raise ValueError(
            f"rope: low_freq_factor={low} must be positive and below high_freq_factor={high}, "
            f"and original_length={scaling.original_length} positive."
        )
    turns = scaling.original_length * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return frequency * (kept + (1.0 - kept) / scaling.factor)


class Angles(NamedTuple):
    """What rotates every pair of channels of each token."""

    cos: Tensor
    """(B, T, r), at least fp32."""
    sin: Tensor
    """(B, T, r), at least fp32."""


def rope_angles(
    positions: Tensor, inv_freq: Tensor, dtype: torch.dtype, magnitude: float = 1.0
) -> Angles:
    """Cosine and sine of positions * inv_freq[i], times `magnitude`.

    Args:
        positions: (B, T) integers, tokens since the start of the document.
        inv_freq: (r,) radians per token, r = half the rotated channels.
        dtype: of what will be rotated.
        magnitude: factor on the rotated channels (YaRN, section 3.4).
    """
    with dispatch.own_precision(positions):
        wide = state_dtype(dtype)
        angle = positions[..., None].to(wide) * inv_freq.to(wide)
        cos, sin = angle.cos(), angle.sin()
        return Angles(cos, sin) if magnitude == 1.0 else Angles(magnitude * cos, magnitude * sin)


def apply_rope(x: Tensor, positions: Tensor, inv_freq: Tensor, magnitude: float = 1.0) -> Tensor:
    """Rotate pairs (i, i + r) of the first 2r channels by positions * inv_freq[i].

    Args:
        x: (B, T, H, D) queries or keys.
        positions: (B, T) integers, tokens since the start of the document.
        inv_freq: (r,) radians per token, r = half the rotated channels, 2r <= D.
        magnitude: factor on the rotated channels (YaRN, section 3.4).

    Returns:
        (B, T, H, D) in the dtype of `x`; channels from 2r on are unchanged.

    Raises:
        ValueError: shapes that do not fit.

    Source: Su et al., "RoFormer" (arXiv 2104.09864), eq. 34, with halves instead of neighbours.
    """
    if x.dim() != 4 or inv_freq.dim() != 1 or 2 * len(inv_freq) > x.shape[-1]:
        raise ValueError(
            f"rope: x has shape {tuple(x.shape)} and inv_freq {tuple(inv_freq.shape)}; "
            "they must be (B, T, H, D) and (r,) with 2r <= D."
        )
    check_shape("rope", "positions", positions, tuple(x.shape[:2]))
    return rotate(x, rope_angles(positions, inv_freq, x.dtype, magnitude))


def rotate(x: Tensor, angles: Angles, impl: str = "auto") -> Tensor:
    """Rotate pairs (i, i + r) of the first 2r channels of every head by the same angles.

    Args:
        x: (B, T, H, D) queries or keys.
        angles: of `rope_angles`.
        impl: "auto", "triton" or "torch".

    Returns:
        (B, T, H, D) in the dtype of `x`; channels from 2r on are unchanged.

    Raises:
        ValueError: shapes that do not fit.
        InputError: an unknown `impl`, or one that cannot run here.
    """
    pairs = angles.cos.shape[-1]
    if x.dim() != 4 or 2 * pairs > x.shape[-1]:
        raise ValueError(
            f"rope: x has shape {tuple(x.shape)}; it must be (B, T, H, D) with D of at least "
            f"{2 * pairs}, the channels that are rotated."
        )
    check_shape("rope", "angles.cos", angles.cos, (*x.shape[:2], pairs))
    if x.is_cuda or impl != "auto":  # on a CPU, where steps are short, there is one way
        call = Call.of(x, dict(zip("BTHD", x.shape, strict=True)), (x,))
        return ROPE.choose(impl, call).function(x, *angles)
    return _torch(x, *angles)


def _torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    with dispatch.own_precision(x):
        half = cos.shape[-1]
        cos, sin = cos[:, :, None], sin[:, :, None]
        first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
        first, second = first.to(cos.dtype), second.to(cos.dtype)
        turned = (
            torch.addcmul(first * cos, second, sin, value=-1),
            torch.addcmul(second * cos, first, sin),
        )
        return torch.cat((*(v.to(x.dtype) for v in turned), rest), dim=-1)


def _triton(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    from braidlm.ops.triton_rope import rope_triton  # a CPU does without triton

    return rope_triton(x, cos, sin)


def _why_not_triton(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "in a graph the compiler makes one kernel of it, and of what stands around it"
    return dispatch.why_not_triton(call)


ROPE = Operator(
    "rope",
    (
        Implementation("triton", _triton, _why_not_triton),
        Implementation("torch", _torch, dispatch.always),
    ),
)
