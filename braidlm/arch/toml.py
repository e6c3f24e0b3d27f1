"""Plain data as TOML text, and a model as a recipe writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from braidlm.arch.spec import Spec
from braidlm.arch.wiring import WIRING


def model_table(spec: Spec) -> dict[str, Any]:
    """Return a model as the ``[model]`` table of a recipe, every size explicit."""
    data = spec.model_dump(mode="json", exclude_none=True)

    def wiring(row: dict[str, Any]) -> dict[str, Any]:
        return {k: row[k] for k in WIRING if k in row}

    return {
        **{k: v for k, v in data.items() if k not in ("mixers", "parallel")},
        "mixers": {row["letter"]: {**row["mixer"], **wiring(row)} for row in data["mixers"]},
        "parallel": {
            row["letter"]: {"branches": row["branches"], **row["fusion"], **wiring(row)}
            for row in data["parallel"]
        },
    }


def inline(value: Any) -> str:
    """Return one value as TOML on one line.

    Raises:
        ValueError: for a value that TOML cannot hold, such as None.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {inline(v)}" for k, v in value.items()) + "}"
    raise ValueError(f"{value!r}: TOML has no such value")


def document(data: Mapping[str, Any]) -> str:
    """Return a table of tables as a TOML file; empty tables are left out."""
    return "\n".join(_blocks(data, ())).lstrip("\n")


def _blocks(data: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Return the lines of one table: its plain values first, then the tables inside it."""
    plain = {k: v for k, v in data.items() if not isinstance(v, Mapping) and not _is_array(v)}
    lines = [f"{_key(k)} = {inline(v)}" for k, v in plain.items()]
    for name, value in data.items():
        inner = (*path, name)
        dotted = ".".join(map(_key, inner))
        if isinstance(value, Mapping) and value:
            only_tables = all(isinstance(v, Mapping) for v in value.values())
            lines += [] if only_tables else ["", f"[{dotted}]"]
            lines += _blocks(value, inner)
        elif _is_array(value):
            for row in value:
                lines += ["", f"[[{dotted}]]", *_blocks(row, inner)]
    return lines if path else [*lines, ""]


def _is_array(value: Any) -> bool:
    """Whether a value is a list of tables, which has blocks of its own."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and bool(value) and all(isinstance(row, Mapping) for row in value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else inline(name)
