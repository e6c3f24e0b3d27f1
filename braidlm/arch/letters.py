"""The letters of a pattern: what each names, and how a file writes that."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from braidlm.arch import defaults
from braidlm.arch.config import Config
from braidlm.arch.fusion import Fusion
from braidlm.arch.mixers import AnyMixer
from braidlm.arch.wiring import WIRING, Wiring
from braidlm.errors import InputError

Fields = dict[str, Any]


class Letter(Wiring):
    """A letter of the pattern and the mixer it names."""

    letter: str = Field(min_length=1, max_length=1)
    """One of A-Z, a-z, "*", "+", "-"."""
    mixer: AnyMixer
    """The mixer."""


class ParallelLetter(Wiring):
    """A letter of the pattern that names a parallel sublayer with a fusion of its own."""

    letter: str = Field(min_length=1, max_length=1)
    """One of A-Z, a-z, "*", "+", "-"."""
    branches: str = Field(min_length=2)
    """Letters of the branches, e.g. "M*"."""
    fusion: Fusion
    """How its branches are combined."""


def mixer_table(given: Any) -> tuple[dict[str, Wiring], dict[str, Fields]]:
    """Read ``{"A": {...}}`` (TOML) or the stored tuple of letters: wirings, and mixers' fields.

    Raises:
        InputError: for what is no table of letters, or a wiring that cannot be.
    """
    wirings, table = {}, {}
    for letter, row in _rows(given, "mixers").items():
        wirings[letter] = _take_wiring(row, f"mixers.{letter}")
        _refuse_beside(row, "mixer", {"letter"}, f"mixers.{letter}")
        fields = row.get("mixer", row)
        if not isinstance(fields, dict):
            raise InputError(f"mixers.{letter}.mixer = {fields!r}: must be a table of fields")
        table[letter] = {k: v for k, v in fields.items() if k != "letter"}
        if "kind" not in fields:
            table[letter]["kind"] = default_kind(letter, [])
    return wirings, table


def parallel_table(given: Any) -> dict[str, Fields]:
    """Read ``{"P": {"branches": "M*", "combine": ...}}`` (TOML) or the stored tuple.

    Returns:
        By letter: `branches`, `wiring`, and the fields of the `fusion`.

    Raises:
        InputError: for what is no table of letters, or a wiring that cannot be.
    """
    out = {}
    for letter, row in _rows(given, "parallel").items():
        branches = row.pop("branches", None)
        if not isinstance(branches, str) or len(branches) < 2:
            raise InputError(
                f"parallel.{letter}.branches = {branches!r}: must name at least two letters"
            )
        row.pop("letter", None)
        wiring = _take_wiring(row, f"parallel.{letter}")
        _refuse_beside(row, "fusion", set(), f"parallel.{letter}")
        out[letter] = {"branches": branches, "wiring": wiring, "fusion": row.get("fusion", row)}
    return out


def _take_wiring(row: Fields, where: str) -> Wiring:
    return Wiring.of({k: row.pop(k) for k in WIRING if k in row}, where)


def _refuse_beside(row: Fields, stored: str, known: set[str], where: str) -> None:
    """Refuse fields beside a stored part, which would otherwise be lost without a word."""
    beside = sorted(map(str, set(row) - {stored} - known))
    if stored in row and beside:
        raise InputError(f"{where}: '{beside[0]}' belongs inside '{stored}'")


def _rows(given: Any, where: str) -> dict[str, Fields]:
    if isinstance(given, dict):
        rows = dict(given)
    elif isinstance(given, (list, tuple)):
        stored = [x.model_dump() if isinstance(x, Config) else x for x in given]
        rows = {}
        for row in stored:
            letter = row.get("letter") if isinstance(row, dict) else None
            if not isinstance(letter, str) or letter in rows:
                raise InputError(f"{where}: every entry must have a letter of its own, not {row!r}")
            rows[letter] = row
    else:
        raise InputError(f"{where} = {given!r}: must be a table of letters")
    for letter, row in rows.items():
        if not isinstance(row, dict):
            raise InputError(f"{where}.{letter} = {row!r}: must be a table of fields")
        if not re.fullmatch(r"[A-Za-z*+-]", str(letter)):
            raise InputError(f"{where}.{letter}: a letter is one of A-Z, a-z, '*', '+', '-'")
    return {letter: dict(row) for letter, row in rows.items()}


def default_kind(letter: str, declared: list[str]) -> str:
    """Return the kind that a letter stands for without a declaration.

    Raises:
        InputError: it stands for none; `declared` are other letters to name.
    """
    if letter in defaults.REFUSED:
        raise InputError(f"letter '{letter}' is {defaults.REFUSED[letter]}")
    if letter not in defaults.LETTERS:
        known = ", ".join(sorted({*defaults.LETTERS, *declared}))
        raise InputError(
            f"letter '{letter}' names no mixer: declare [mixers.{letter}] with a kind, "
            f"or use one of {known}"
        )
    return defaults.LETTERS[letter]
