"""Aligned text: columns of a table, and numbers short enough to read."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = ()) -> str:
    """Return the rows under their head; columns are flush right but for those named in `left`."""
    cells = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = (
        "  ".join(
            cell.ljust(w) if name in left else cell.rjust(w)
            for cell, w, name in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in cells
    )
    return "\n".join(lines) + "\n"


def count(value: int) -> str:
    """Return a count with four digits and a decimal prefix: 10485760 -> '10.49 M'."""
    return _scaled(value, 1000, ("", " k", " M", " B", " T"))


def flops(value: int) -> str:
    """Return FLOPs with four digits and a decimal prefix."""
    return _scaled(value, 1000, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"))


def size(value: int) -> str:
    """Return bytes with four digits and a binary prefix: 16384 -> '16 KiB'."""
    return _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def tokens(value: int) -> str:
    """Return a context the way people say it: 65536 -> '64K', 1000 -> '1,000'."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if value % unit == 0:
            return f"{value // unit}{name}"
    return f"{value:,}"


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in short: (0, 1, 2, 5) -> '0-2, 5'."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def shorten(text: str, width: int = 40) -> str:
    """Cut what is longer than `width` characters."""
    return text if len(text) <= width else text[: width - 4].rstrip(", -") + " ..."


def _scaled(value: int, base: int, names: Sequence[str]) -> str:
    if not value:
        return "-"
    number, power = float(value), 0
    while number >= base * 0.99995 and power < len(names) - 1:
        number, power = number / base, power + 1
    digits = max(0, 3 - len(str(int(number))) + 1) if power else 0
    text = f"{number:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + names[power]
