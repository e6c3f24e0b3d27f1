"""Ways to damage a file: its bytes, its lines, or a value inside its JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

ODD = (
    *("", "0", "-1", "1e999", "nan", "true", '""', "[]", "{}", "null", "9" * 400, "-" + "9" * 30),
    *('"\\u0000"', '"\\ud800"', "1e308", "-0.0", "0.1", "18446744073709551616", "'x'", "\x00"),
    *('"' + "x" * 100_000 + '"', "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "0" + "}" * 2000),
    *('"/"', '"../x"', '"."', '["a"]', '{"kind": "x"}', "2026-11-22", "0x10", "inf"),
)
"""Values to stand where another stood: text of JSON and of TOML, good and bad."""


def flip(data: bytes, chance: random.Random) -> bytes:
    """One bit."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def overwrite(data: bytes, chance: random.Random) -> bytes:
    """A few bytes, with noise, zeros or ones."""
    at, n = chance.randrange(len(data)), chance.choice((1, 2, 8, 64))
    new = chance.choice((chance.randbytes(n), b"\0" * n, b"\xff" * n))
    return data[:at] + new + data[at + n :]


def cut(data: bytes, chance: random.Random) -> bytes:
    """The end is missing, as after a crash; sometimes everything."""
    return data[: chance.choice((0, 1, len(data) - 1, chance.randrange(len(data))))]


def remove(data: bytes, chance: random.Random) -> bytes:
    """A span in the middle."""
    at, n = chance.randrange(len(data)), chance.choice((1, 7, 100))
    return data[:at] + data[at + n :]


def repeat(data: bytes, chance: random.Random) -> bytes:
    """A span, or all of it, stands twice."""
    at, n = chance.randrange(len(data)), chance.choice((1, 16, 1000, len(data)))
    return data[: at + n] + data[at : at + n] + data[at + n :]


def insert(data: bytes, chance: random.Random) -> bytes:
    """Something foreign in the middle, or at either end."""
    new = chance.choice((b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b'"', b"[", b"{", b"\xc3"))
    at = chance.choice((0, len(data), chance.randrange(len(data))))
    return data[:at] + new * chance.choice((1, 1, 1000)) + data[at:]


def encode(data: bytes, chance: random.Random) -> bytes:
    """Another encoding, or other ends of lines."""
    text = data.decode("latin-1")
    ways = (text.encode("utf-16"), text.encode("utf-32-be"), data.replace(b"\n", b"\r\n"))
    return chance.choice((*ways, data[::-1], b"\x1f\x8b" + data))


BYTES = (flip, flip, overwrite, cut, remove, repeat, insert, encode)


def lines(data: bytes, chance: random.Random) -> bytes:
    """One line less, twice, moved, or with another value behind its `=` or `:`."""
    rows = data.decode("utf-8", "replace").split("\n")
    at = chance.randrange(len(rows))
    way = chance.randrange(5)
    if way == 0:
        del rows[at]
    elif way == 1:
        rows.insert(at, rows[at])
    elif way == 2:
        rows.insert(chance.randrange(len(rows)), rows.pop(at))
    else:
        for sign in (" = ", ": "):
            name, found, _ = rows[at].partition(sign)
            if found:
                rows[at] = name + sign + chance.choice(ODD)
                break
    return "\n".join(rows).encode()


def structure(data: bytes, chance: random.Random) -> bytes:
    """A key or an entry less, renamed or twice, or another value, somewhere in a JSON file."""
    value = json.loads(data)
    places = list(_places(value))
    if not places:
        return chance.choice(ODD).encode()
    node, key = chance.choice(places)
    mark = "\x01here\x01"
    way = chance.randrange(6)
    if way == 0:
        del node[key]
    elif way == 1 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif way == 2 and isinstance(node, list):
        node.append(node[key])
    elif way == 3:
        other, there = chance.choice(places)
        node[key], other[there] = other[there], node[key]
    else:
        node[key] = mark
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # two swapped values that lie inside each other
        return data[::-1]
    return text.replace(json.dumps(mark), chance.choice(ODD) or "null").encode("utf-8", "replace")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items) if isinstance(value, dict | list) else ():
        yield value, key
        if isinstance(item, dict | list):
            yield from _places(item)


def of(name: str) -> tuple[Callable[[bytes, random.Random], bytes], ...]:
    """The ways that make sense for a file of this name."""
    if name.endswith((".toml", ".jsonl", ".ids")):
        return (*BYTES, *[lines] * 8)
    return (*BYTES, *[structure] * 8) if name.endswith(".json") else BYTES
