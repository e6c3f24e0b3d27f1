"""Pure functions that give patterns: how many layers of each kind, and where.

Each helper returns a pattern string for `Spec.parse`; `split` returns widths for its mixers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from braidlm.errors import InputError

Placement = Literal["front", "middle", "even", "end"]


def even_spread(
    n_layers: int,
    attention_ratio: float,
    mlp_ratio: float = 0.0,
    *,
    symbols: tuple[str, str, str] = ("M", "*", "-"),
) -> str:
    """Spread attention evenly, SSM first and last, then spread MLPs over what is left.

    Gives Megatron's own strings, e.g. ``(56, .08, .5)`` is the NVIDIA 8B hybrid.

    Args:
        n_layers: number of sublayers.
        attention_ratio: share of attention sublayers, 0 to 1.
        mlp_ratio: share of MLP sublayers, 0 to 1; together at most 1.
        symbols: letters of SSM, attention and MLP.

    Raises:
        InputError: for ratios outside these bounds.

    Source: Waleffe et al. 2024 (arXiv 2406.07887); Megatron-LM's hybrid layer allocation.
    """
    if n_layers < 1:
        raise InputError(f"n_layers = {n_layers}: at least 1 is needed")
    if min(attention_ratio, mlp_ratio) < 0 or attention_ratio + mlp_ratio > 1:
        raise InputError(
            f"attention_ratio = {attention_ratio}, mlp_ratio = {mlp_ratio}: "
            "both must be at least 0 and together at most 1"
        )
    ssm, attention, mlp = symbols
    n_attention = round(n_layers * attention_ratio)
    n_mlp = round(n_layers * mlp_ratio)
    n_ssm = n_layers - n_attention
    layers = _spread([ssm] * n_layers, ssm, attention, n_ssm / (n_attention + 1))
    if n_mlp > 0:
        layers = _spread(layers, ssm, mlp, (n_ssm - n_mlp) / n_mlp)
    return "".join(layers)


def _spread(layers: list[str], old: str, new: str, gap: float) -> list[str]:
    """Replace every `old` at which `gap` of them have been passed since the last `new`."""
    out, left = [], gap
    for layer in layers:
        if layer == old and left < 0.5:
            out.append(new)
            left += gap
        else:
            out.append(layer)
            left -= layer == old
    return out


def attention_positions(n_layers: int, n_attention: int, placement: Placement) -> tuple[int, ...]:
    """Return the 0-based layers that hold attention among `n_layers` mixers.

    - ``middle``: the middle of each of `n_attention` equal runs, away from both ends;
    - ``front``: as ``middle``, with the first one moved to the first layer, which costs quality;
    - ``end``: as ``middle``, with the last one moved to the last layer;
    - ``even``: the last layer of each of `n_attention` equal runs, as in Qwen3-Next.

    Three of 13 are 3, 7, 11 (middle), 1, 7, 11 (front) and 3, 7, 13 (end), counted from 1, as in
    the source; its two of 13 (4 and 8) follow no rule: `at_layers` takes such lists.

    Raises:
        InputError: if there are more attention layers than layers, or for an unknown placement.

    Source: Bae et al. 2025 (arXiv 2510.04800), section on placement.
    """
    if not 0 <= n_attention <= n_layers:
        raise InputError(
            f"n_attention = {n_attention}: must be between 0 and n_layers = {n_layers}"
        )
    if placement not in get_args(Placement):
        allowed = ", ".join(get_args(Placement))
        raise InputError(f"placement = {placement!r}: allowed are {allowed}")
    if n_attention == 0:
        return ()
    if placement == "even":
        return tuple((i + 1) * n_layers // n_attention - 1 for i in range(n_attention))
    middle = [(2 * i + 1) * n_layers // (2 * n_attention) for i in range(n_attention)]
    if placement == "front":
        middle[0] = 0
    if placement == "end":
        middle[-1] = n_layers - 1
    return tuple(middle)


def interleave(
    n_layers: int,
    n_attention: int,
    placement: Placement = "middle",
    *,
    ssm: str = "M",
    attention: str = "*",
    mlp: str = "-",
) -> str:
    """Return ``n_layers`` mixers, `n_attention` of them attention, each followed by an MLP.

    Args:
        mlp: the letter after each mixer; empty for none.

    Source: Bae et al. 2025 (arXiv 2510.04800): "inter" hybrids.
    """
    return at_layers(
        n_layers,
        attention_positions(n_layers, n_attention, placement),
        special=attention,
        other=ssm,
        mlp=mlp,
    )


def parallel(
    n_layers: int, layers: Sequence[int] | None = None, *, branches: str = "M*", mlp: str = "-"
) -> str:
    """Return `n_layers` mixers that are parallel sublayers at `layers` (everywhere if None).

    The first of `branches` stands alone at the other layers.

    Source: Bae et al. 2025 (arXiv 2510.04800): "intra" hybrids; Falcon-H1 and Hymba: everywhere.
    """
    chosen = range(n_layers) if layers is None else layers
    return at_layers(n_layers, chosen, special="{" + branches + "}", other=branches[0], mlp=mlp)


def at_layers(
    n_layers: int, layers: Sequence[int], *, special: str, other: str = "M", mlp: str = "-"
) -> str:
    """Return `n_layers` mixers: `special` at the 0-based `layers`, `other` elsewhere.

    Raises:
        InputError: if a layer is not between 0 and ``n_layers - 1``.
    """
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise InputError(f"layer {layer}: must be between 0 and {n_layers - 1}")
    chosen = set(layers)
    return "".join((special if i in chosen else other) + mlp for i in range(n_layers))


def split(
    total: int,
    attention_share: float,
    *,
    expand: int = 2,
    multiple: int = 64,
    symbols: tuple[str, str] = ("M", "*"),
) -> dict[str, dict[str, int]]:
    """Split the width of a parallel sublayer between its branches, for ``[model.mixers]``.

    Of `total` channels attention has its share, to the nearest `multiple`, and the SSM the rest,
    times `expand`: ``split(2304, 0.5)`` is the 1:1 layer "1152:1152" of Bae et al.

    Args:
        total: channels of both branches, the SSM's counted before expansion.
        attention_share: attention's share of them, between 0 and 1.
        expand: inner width of the SSM over its share.
        multiple: what both shares are rounded to, such as a head; divides `total`.
        symbols: letters of SSM and attention.

    Raises:
        InputError: for a share that leaves a branch without channels, or a total without multiple.

    Source: Bae et al. 2025 (arXiv 2510.04800), Table 20 (dimension split).
    """
    if min(total, expand, multiple) < 1 or total % multiple:
        raise InputError(
            f"total = {total}, expand = {expand}: must be at least 1, and total a multiple of "
            f"multiple = {multiple}"
        )
    attention = multiple * round(total * attention_share / multiple)
    if not 0 < attention < total:
        raise InputError(
            f"attention_share = {attention_share}: must leave each branch at least {multiple} "
            f"of {total} channels"
        )
    ssm, other = symbols
    return {ssm: {"width": expand * (total - attention)}, other: {"width": attention}}
