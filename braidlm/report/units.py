"""Numbers as a reader wants them: few digits, a unit, as many decimals as the error allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

MISSING = "–"


def count(value: float | None) -> str:
    """A count with a decimal prefix: 1234567 -> '1.23 M'."""
    return _scaled(value, 1000.0, ("", "k", "M", "B", "T"))


def flops(value: float | None) -> str:
    """Floating-point operations in scientific form: 1.25e15 -> '1.25 × 10¹⁵'."""
    if value is None:
        return MISSING
    if value < 1e4:
        return f"{value:.0f}"
    power = math.floor(math.log10(value))
    lead = f"{value / 10.0**power:.2f}"
    if lead == "10.00":
        power, lead = power + 1, "1.00"
    return f"{lead} × 10{str(power).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"


def size(value: float | None) -> str:
    """Bytes with a binary prefix: 1536 -> '1.50 KiB'."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def short_size(value: float) -> str:
    """Bytes for an axis: 1536 -> '1.5 KiB', 2048 -> '2 KiB'."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"), trim=True)


def _scaled(value: float | None, base: float, names: tuple[str, ...], *, trim: bool = False) -> str:
    if value is None:
        return MISSING
    power = 0
    while abs(value) >= base * 0.9995 and power < len(names) - 1:
        value, power = value / base, power + 1
    text = f"{value:.{_decimals_for(value)}f}" if power or value % 1 else f"{value:.0f}"
    if trim and "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text} {names[power]}".rstrip()


def _decimals_for(value: float) -> int:
    return 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0


def decimals(error: float | None) -> int:
    """Decimals that show two digits of an error; 4 when there is none."""
    if not error or not math.isfinite(error):
        return 4
    return min(8, max(0, 1 - math.floor(math.log10(error))))


def fixed(value: float | None, places: int) -> str:
    """A value with so many decimals, with a true minus sign; never minus zero."""
    if value is None:
        return MISSING
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def plain(value: float | None) -> str:
    """Up to four significant digits, without trailing zeros: for ticks and tooltips."""
    if value is None:
        return MISSING
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    text = f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if value else "0"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def even(ticks: list[float]) -> Callable[[float], str]:
    """A format that gives all ticks of a linear axis the decimals that their spacing needs."""
    gaps = [b - a for a, b in pairwise(sorted(ticks))]
    if not gaps or max(map(abs, ticks)) >= 1e6 or min(gaps) < 1e-6:
        return plain
    places = max(0, -math.floor(math.log10(min(gaps)) + 1e-9))
    return lambda value: fixed(value, places)


def steps(value: float) -> str:
    """A step count for an axis: 20000 -> '20k'."""
    for base, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= base:
            return f"{plain(value / base)}{name}"
    return plain(value)


def listing(words: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
