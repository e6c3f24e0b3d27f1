"""Plain copying of uniform strings, and the look-up of an n-gram in one.

Of 4 symbols (x: symbols, |: the sign to begin, an answer behind its arrow), and with the n-gram
"x1 x0" asked, of which two symbols more are wanted:

    copy     x3 x1 x0 x1 |->x3 x3->x1 x1->x0 x0->x1 x1
    look-up  x3 x1 x0 x1 x2 | x1 x0->x1 x1->x2 x2

The n-gram stands in its string once, so that the answer is clear. After the item come blanks.

Source: Jelassi et al. 2024 (arXiv 2402.01032), sections 3 and 4.
"""

from __future__ import annotations

import numpy as np

from braidlm.data.mad import QUARTERS
from braidlm.data.packing import IGNORE
from braidlm.data.symbols import Alphabet, SymbolItems
from braidlm.errors import InputError

_TRIES = 1000


def copying(
    n: int, *, vocab_size: int, n_symbols: int, length: int, rng: np.random.Generator
) -> SymbolItems:
    """Return n strings with their copies.

    Args:
        n: items.
        vocab_size: V: V - 2 symbols, the blank and the sign.
        n_symbols: of a string.
        length: L, at least 2 `n_symbols` + 1.
        rng: where the randomness comes from.
    """
    strings = rng.integers(vocab_size - 2, size=(n, n_symbols))
    return _written(strings, strings[:, :0], strings, vocab_size, length)


def lookup(
    n: int,
    *,
    vocab_size: int,
    n_symbols: int,
    length: int,
    rng: np.random.Generator,
    n_gram: int,
    n_answer: int = 1,
    depth: float | None = None,
) -> SymbolItems:
    """Return n strings, each with an n-gram of it and the symbols that follow there.

    Args:
        n: items.
        vocab_size: V: V - 2 symbols, the blank and the sign.
        n_symbols: of a string.
        length: L, at least `n_symbols` + 1 + `n_gram` + `n_answer`.
        rng: where the randomness comes from.
        n_gram: symbols that are asked.
        n_answer: symbols that follow them.
        depth: where the n-gram stands, from 0 (first place) to 1 (last); None: drawn evenly.

    Raises:
        InputError: strings in which hardly an n-gram stands once.
    """
    last = n_symbols - n_gram - n_answer
    strings = np.empty((n, n_symbols), dtype=np.int64)
    places, left = np.empty(n, dtype=np.int64), np.arange(n)
    for _ in range(_TRIES):
        strings[left] = rng.integers(vocab_size - 2, size=(len(left), n_symbols))
        places[left] = (
            rng.integers(last + 1, size=len(left)) if depth is None else round(depth * last)
        )
        grams = np.lib.stride_tricks.sliding_window_view(strings[left], n_gram, axis=1)
        asked = grams[np.arange(len(left)), places[left]]
        left = left[(grams == asked[:, None]).all(-1).sum(1) > 1]
        if not len(left):
            break
    else:
        raise InputError(
            f"n_gram = {n_gram}: too few for strings of {n_symbols} out of {vocab_size - 2} "
            "symbols, in which it must stand once"
        )
    at = places[:, None] + np.arange(n_gram + n_answer)
    found = np.take_along_axis(strings, at, axis=1)
    return _written(strings, found[:, :n_gram], found[:, n_gram:], vocab_size, length)


def _written(
    strings: np.ndarray, asked: np.ndarray, answers: np.ndarray, vocab_size: int, length: int
) -> SymbolItems:
    n, m = answers.shape
    blank, sign = vocab_size - 2, vocab_size - 1
    tokens = np.full((n, length), blank)
    parts = np.concatenate([strings, np.full((n, 1), sign), asked, answers], axis=1)
    stop = parts.shape[1]
    tokens[:, :stop] = parts
    targets, classes = np.full_like(tokens, IGNORE), np.full_like(tokens, -1)
    targets[:, stop - m - 1 : stop - 1] = answers
    classes[:, stop - m - 1 : stop - 1] = np.arange(m) * 4 // m
    names = (("x", 0, blank), ("_", blank, sign), ("|", sign, vocab_size))
    alphabets = tuple(Alphabet(*name) for name in names)
    return SymbolItems(tokens, targets, classes, QUARTERS, alphabets, is_next_token=True)
