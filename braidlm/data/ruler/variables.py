"""Variable tracking: assignments hidden in noise, and a question for all variables of one value.

    The grass is green. ... There and back again.
     VAR XKQPD = 48213 The grass is green. ... VAR MMBTA = VAR XKQPD  The grass is green. ...
    Question: Find all variables that are assigned the value 48213 in the text above. Answer:
    According to the chain(s) of variable assignment in the text above, 5 variables are assgined the
    value 48213, they are:  [XKQPD MMBTA ...]

One worked example, with names of three letters, stands before it. The words and their spelling are
RULER's.

Source: NVIDIA/RULER `variable_tracking.py`; 1 chain of 4 hops.
"""

from __future__ import annotations

import itertools
import string

import numpy as np

from braidlm.data.ruler.items import Counter, HiddenItem, Sizes
from braidlm.data.ruler.needles import NOISE, SHORT
from braidlm.errors import InputError

TEXT = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    "{context}\nQuestion: Find all variables that are assigned the value {query} in the text above."
)
PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {num_v} "
    "variables are assgined the value {query}, they are: "
)
N_NEW = 30
EXAMPLE_TOKENS = 500
"""Tokens that the worked example has at most, where the smallest one has not more."""


class Variables:
    """Draws items.

    Args:
        count: tokens of a text; decides how long the worked example is.
        n_hops: assignments after the first one.
    """

    def __init__(self, count: Counter, n_hops: int = 4) -> None:
        self._n_hops = n_hops
        self._n_example = self._example_size(count)

    def sizes(self, length: int) -> Sizes:
        """Return how the text grows, in lines of noise."""
        step = 10 if length >= SHORT else 1
        return Sizes(max(step, self._n_hops + 2), step, length)

    def draw(self, rng: np.random.Generator, size: int) -> HiddenItem:
        """Return an item of `size` lines of noise, after its worked example."""
        example, shown = self._one(rng, self._n_example, 3)
        item, names = self._one(rng, size, 5)
        before = f"{''.join(example)} {' '.join(shown)}\n\n\n\n"
        return HiddenItem(before + item[0], item[1], tuple(names), "all", N_NEW)

    def _one(
        self, rng: np.random.Generator, size: int, n_letters: int
    ) -> tuple[tuple[str, str], list[str]]:
        names = _names(rng, self._n_hops + 1, n_letters)
        value = str(rng.integers(10_000, 99_999))
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {b} = VAR {a} " for a, b in itertools.pairwise(names)]
        places = np.sort(rng.choice(size, len(chain), replace=False)).tolist()
        lines = [NOISE + "\n"] * size
        for i, (place, link) in enumerate(zip(places, chain, strict=True)):
            lines.insert(place + i, link)
        context = " ".join(lines).replace(". \n", ".\n")
        prefix = PREFIX.format(num_v=len(names), query=value)
        return (TEXT.format(context=context, query=value), prefix), names

    def _example_size(self, count: Counter) -> int:
        """Return the lines of the worked example: as RULER finds them, by fives."""
        rng, size = np.random.default_rng(0), 5
        while count("".join(self._one(rng, size + 5, 3)[0])) + N_NEW <= EXAMPLE_TOKENS:
            size += 5
        return max(size, self._n_hops + 2)


def _names(rng: np.random.Generator, n: int, n_letters: int) -> list[str]:
    """Return different names of capital letters."""
    total = len(string.ascii_uppercase) ** n_letters
    if n > total:
        raise InputError(f"n_hops = {n - 1}: there are only {total} names of {n_letters} letters")
    found = []
    for number in rng.choice(total, n, replace=False).tolist():
        letters = []
        for _ in range(n_letters):
            number, letter = divmod(number, 26)
            letters.append(string.ascii_uppercase[letter])
        found.append("".join(letters))
    return found
