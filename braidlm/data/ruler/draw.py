"""The items of every task of RULER, by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from braidlm.arch.tasks.ruler import PUBLISHED, RulerTask
from braidlm.data.ruler.documents import Library, read_library
from braidlm.data.ruler.frequency import CommonWords, FrequentWords
from braidlm.data.ruler.haystack import read_haystack
from braidlm.data.ruler.items import Draw, HiddenItem, Sizes, count_with, fill
from braidlm.data.ruler.needles import KINDS, Needles
from braidlm.data.ruler.variables import Variables
from braidlm.data.ruler.words import load_words
from braidlm.data.seeding import EVAL, generator
from braidlm.data.tokenizer import Tokenizer

Generate = Callable[[np.random.Generator, int], HiddenItem]


class Hidden:
    """Draws the items of a task; each is a pure function of tokenizer, length, depth and number.

    Args:
        task: which one.
        tokenizer: counts the tokens.

    Raises:
        InputError: a haystack, documents or words that cannot be read.
    """

    def __init__(self, task: RulerTask, tokenizer: Tokenizer) -> None:
        self.task, self._count = task, count_with(tokenizer)
        kind = KINDS.get(task.task)
        has_words = task.task == "cwe" or (kind is not None and kind.keys == "words")
        self._words = load_words(task.words if has_words else "built-in")
        is_essay = kind is not None and kind.haystack == "essay"
        self._haystack = read_haystack(task.haystack, task.haystack_field) if is_essay else None
        self._library = (
            read_library(task.documents, task.documents_config) if task.task in PUBLISHED else None
        )

    def items(self, length: int, depth: float | None = None, seed: int = 0) -> list[HiddenItem]:
        """Return `n_items` items of at most `length` tokens, the same ones for every run.

        Args:
            length: tokens of prompt and answer.
            depth: of the needle, from 0 to 100 percent; None: anywhere.
            seed: of the evaluation.

        Raises:
            InputError: not even the smallest item fits, or there are too few questions.
        """
        name, n = self.task.task, self.task.n_items
        keys = ("ruler", name, length, "any" if depth is None else f"{depth:g}")
        rngs = [partial(generator, seed, EVAL, *keys, i) for i in range(n)]
        if self._library is not None:
            numbers = self._library.that_fit(self._count, length, n)
            draws = [_asked(self._library, rng, i) for rng, i in zip(rngs, numbers, strict=True)]
            return self._filled(draws, self._library.sizes(length), length)
        generate, sizes = self._generator(length, None if depth is None else depth / 100)
        return self._filled([_drawn(generate, rng) for rng in rngs], sizes, length)

    def _generator(self, length: int, depth: float | None) -> tuple[Generate, Sizes]:
        match self.task.task:
            case "vt":
                made = Variables(self._count)
            case "cwe":
                made = CommonWords(self._words, length)
            case "fwe":
                made = FrequentWords(length)
            case name:
                made = Needles(KINDS[name], self._words, self._haystack, depth)
        return made.draw, made.sizes(length)

    def _filled(self, draws: Sequence[Draw], sizes: Sizes, length: int) -> list[HiddenItem]:
        return fill(draws, sizes, self._count, length, self.task.task)


def _drawn(generate: Generate, rng: Callable[[], np.random.Generator]) -> Draw:
    return lambda size: generate(rng(), size)


def _asked(library: Library, rng: Callable[[], np.random.Generator], number: int) -> Draw:
    return lambda size: library.draw(rng(), size, number)
