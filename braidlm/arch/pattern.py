"""The pattern: one line that declares which sublayer follows which.

Grammar::

    pattern = item+
    item    = ( symbol | "(" pattern ")" | "{" symbol symbol+ "}" ) count?

A symbol is one residual sublayer; braces hold the branches of one parallel sublayer; a count
repeats what it follows. ``(MMM*-)4`` is four times ``MMM*-``; ``{M*}-`` is a parallel sublayer of
two mixers and then an MLP. A Megatron hybrid layer pattern (letters only) is a pattern as it is.

A printed pattern is canonical: parsing and printing it again changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from braidlm.errors import InputError

MAX_SUBLAYERS = 4096
_MEGATRON = {
    "|": "Megatron's pipeline-stage split; stages are not part of an architecture, leave it out",
    "/": "Megatron's multi-token-prediction part; declare the main pattern alone",
}


@dataclass(frozen=True)
class Symbols:
    """One sublayer: a single symbol, or the branches of a parallel sublayer."""

    names: tuple[str, ...]
    count: int = 1

    def __str__(self) -> str:
        body = self.names[0] if len(self.names) == 1 else "{" + "".join(self.names) + "}"
        return body + _count(self.count)


@dataclass(frozen=True)
class Group:
    """A repeated run of items."""

    items: tuple[Symbols | Group, ...]
    count: int

    def __str__(self) -> str:
        return "(" + "".join(map(str, self.items)) + ")" + _count(self.count)


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern. ``str()`` gives its canonical text."""

    items: tuple[Symbols | Group, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.items))

    def expand(self) -> tuple[tuple[str, ...], ...]:
        """Return one tuple of symbols per sublayer, in order; longer than one means parallel."""
        return tuple(_expand(self.items))


def parse(text: str) -> Pattern:
    """Parse a pattern string.

    Args:
        text: the pattern; blanks are ignored.

    Returns:
        The pattern. Symbols are not looked up here: which letters exist is the spec's knowledge.

    Raises:
        InputError: naming the character and its place.
    """
    parser = _Parser(re.sub(r"\s+", "", text))
    pattern = Pattern(parser.items(depth=0))
    if (n := _size(pattern.items)) > MAX_SUBLAYERS:
        raise InputError(
            f"pattern '{_short(text)}' has {n} sublayers; at most {MAX_SUBLAYERS} are allowed"
        )
    return pattern


def _short(text: str) -> str:
    """Cut a long pattern, so that a message stays one sentence."""
    return text if len(text) <= 80 else text[:77] + "..."


def _count(n: int) -> str:
    return str(n) if n > 1 else ""


def _size(items: tuple[Symbols | Group, ...]) -> int:
    return sum(i.count * (_size(i.items) if isinstance(i, Group) else 1) for i in items)


def _expand(items: tuple[Symbols | Group, ...]) -> list[tuple[str, ...]]:
    out: list[tuple[str, ...]] = []
    for item in items:
        once = _expand(item.items) if isinstance(item, Group) else [item.names]
        out.extend(once * item.count)
    return out


class _Parser:
    """Recursive descent over one string; `at` is the place of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def fail(self, message: str) -> InputError:
        return InputError(f"pattern '{_short(self.text)}', character {self.at + 1}: {message}")

    def items(self, depth: int) -> tuple[Symbols | Group, ...]:
        if depth > 16:
            raise self.fail("groups are nested deeper than 16")
        found: list[Symbols | Group] = []
        while self.peek() not in ("", ")"):
            found.extend(self.item(depth))
        if self.peek() == ")" and depth == 0:
            raise self.fail("')' closes no group")
        if not found:
            raise self.fail("a pattern needs at least one symbol, such as M, * or -")
        return tuple(found)

    def item(self, depth: int) -> tuple[Symbols | Group, ...]:
        """Read one item; a group that repeats nothing, or holds one item, is dissolved."""
        if self.peek() == "(":
            return self.group(depth)
        if self.peek() == "{":
            return (Symbols(self.branches(), self.count()),)
        return (Symbols((self.symbol(),), self.count()),)

    def group(self, depth: int) -> tuple[Symbols | Group, ...]:
        self.at += 1
        inner = self.items(depth + 1)
        if self.peek() != ")":
            raise self.fail("a '(' is not closed")
        self.at += 1
        count = self.count()
        if count == 1:
            return inner
        if len(inner) == 1:
            (only,) = inner
            if isinstance(only, Symbols):
                return (Symbols(only.names, only.count * count),)
            return (Group(only.items, only.count * count),)
        return (Group(inner, count),)

    def branches(self) -> tuple[str, ...]:
        self.at += 1
        names: list[str] = []
        while self.peek() not in ("}", ""):
            names.append(self.symbol())
        if self.peek() != "}":
            raise self.fail("a '{' is not closed")
        if len(names) < 2:
            raise self.fail("a parallel sublayer needs at least two symbols, such as {M*}")
        self.at += 1
        return tuple(names)

    def symbol(self) -> str:
        char = self.peek()
        if char in _MEGATRON and char:
            raise self.fail(f"'{char}' is {_MEGATRON[char]}")
        if not re.fullmatch(r"[A-Za-z*+-]", char):
            raise self.fail(f"'{char}' is no symbol; use a letter, '*', '+' or '-'")
        self.at += 1
        return char

    def count(self) -> int:
        digits = re.match(r"[0-9]*", self.text[self.at :])
        assert digits is not None
        if not digits[0]:
            return 1
        if not 1 <= int(digits[0][:9]) <= MAX_SUBLAYERS:
            raise self.fail(f"a count of {digits[0][:9]} is not between 1 and {MAX_SUBLAYERS}")
        self.at += len(digits[0])
        return int(digits[0])
