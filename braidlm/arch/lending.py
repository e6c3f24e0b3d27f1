"""Keys and values that a later attention has of an earlier one: what must agree.

Source: Hymba (arXiv 2411.13676), section 2.3; Brandon et al. (arXiv 2405.12981).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from braidlm.arch.config import nearest
from braidlm.arch.mixers import AttentionConfig
from braidlm.arch.sublayer import Sublayer
from braidlm.errors import InputError

AGREEING = (
    "n_kv_heads",
    "head_dim",
    "v_head_dim",
    "window",
    "n_sinks",
    "position",
    "rope_theta",
    "rope_fraction",
    "rope_scaling",
)
"""Fields in which a borrower is as its lender; left out, they are the lender's."""


def lender_in(fields: dict[str, Any], mixers: dict[str, dict[str, Any]], where: str) -> str | None:
    """Return the letter whose keys a declared mixer has, or None.

    Raises:
        InputError: `kv_from` names no letter of an attention with keys of its own.
    """
    letter = fields.get("kv_from")
    if letter is None or fields.get("kind") != "attention":
        return None
    lender = mixers.get(letter) if isinstance(letter, str) else None
    if lender is None:
        hint = nearest(str(letter), sorted(mixers))
        raise InputError(f"{where}.kv_from = {letter!r}{hint}: names no letter of this model")
    if lender.get("kind") != "attention" or lender.get("kv_from") is not None:
        what = "borrows itself" if lender.get("kind") == "attention" else "is no attention"
        raise InputError(f"{where}.kv_from = '{letter}': letter '{letter}' {what}")
    return letter


def with_lenders_sizes(fields: dict[str, Any], lender: dict[str, Any]) -> dict[str, Any]:
    """Complete a borrower's declaration; its heads are the lender's too, unless it has a width."""
    names = AGREEING if "width" in fields else ("n_heads", *AGREEING)
    return {**{k: lender[k] for k in names if lender.get(k) is not None}, **fields}


def check(sublayers: Sequence[Sublayer]) -> None:
    """Refuse keys that are lent before they are made, or to an attention of another shape.

    Raises:
        InputError: naming the sublayer, the field, both values.
    """
    made: dict[str, AttentionConfig] = {}
    for s in sublayers:
        for branch in s.branches:
            if isinstance(branch, AttentionConfig) and branch.kv_from is not None:
                try:
                    _check_one(branch, branch.kv_from, made.get(branch.kv_from))
                except InputError as error:
                    raise InputError(f"sublayer {s.index} ({s.symbol}): {error}") from None
        pairs = zip(s.letters, s.branches, strict=True)
        made |= {k: b for k, b in pairs if isinstance(b, AttentionConfig)}


def _check_one(borrower: AttentionConfig, letter: str, lender: AttentionConfig | None) -> None:
    if lender is None:
        raise InputError(f"kv_from = '{letter}': no earlier sublayer has letter '{letter}'")
    for name in AGREEING:
        own, theirs = getattr(borrower, name), getattr(lender, name)
        if own != theirs:
            raise InputError(
                f"kv_from = '{letter}': needs {name} as letter '{letter}' has it, {theirs!r}, "
                f"not {own!r}"
            )
