"""What a result says of every single item: one JSON object a line, beside the result file.

    results/<kind>-<name>.items.jsonl   {"id": "4/17", "group": "4", "accuracy": 0.75, ...}

The result names the file, its number of lines and its checksum, so that the two cannot be mixed up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import atomic_write, strict_json


def write_items(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write the rows in one move; return what the result must say of the file.

    Returns:
        {"file": its name, "n": rows, "sha256": of its bytes}.

    Raises:
        OSError: see `atomic_write`.
    """
    lines = (
        json.dumps(strict_json(row), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        for row in rows
    )
    data = "".join(f"{line}\n" for line in lines).encode()
    atomic_write(path, data)
    return {"file": path.name, "n": len(rows), "sha256": hashlib.sha256(data).hexdigest()}


def read_items(folder: Path, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result file that lies in `folder`.

    Raises:
        InputError: the result has no items, their file is missing, or it is not the one that was
            written with the result.
    """
    about = result.get("items")
    stem = f"{result.get('kind')}-{result.get('name')}"
    if not isinstance(about, dict):
        raise InputError(f"{folder / stem}.json has no items: it was written by an earlier version")
    path = folder / Path(str(about.get("file"))).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise InputError(f"{path} does not belong to {stem}.json: its checksum is another one")
    rows = [json.loads(line) for line in data.decode().splitlines()]
    if not all(isinstance(row, dict) and "id" in row for row in rows):
        raise InputError(f"{path}: every line must be an object with an 'id'")
    return rows
