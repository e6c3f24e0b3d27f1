"""Which words come most often: in a numbered list, and in a coded text.

    cwe  Below is a numbered list of words. ...
         1. river 2. calm 3. river 4. stone ...
         Question: What are the 10 most common words in the above list? Answer: The top 10 words
         that appear most often in the list are: [river ...]
    fwe  Read the following coded text and track the frequency of each coded word. ... qwerty ...
         zxcvbn ... qwerty ... Question: ... Answer: According to the coded text above, the three
         most frequently appeared words are: [qwerty ...]

Common words (cwe): 10 words 30 times and all others 3 times; below 4096 tokens 6 times and once. A
worked example of 40 words (10 times and 3 times; below 4096 tokens 20, 3 and 1) stands before it.
Frequent words (fwe): the k-th of length / 50 words comes N k^-2 / zeta(2) times, rounded down, and
the first one is written as dots.

Source: NVIDIA/RULER `common_words_extraction.py`, `freq_words_extraction.py`.
"""

from __future__ import annotations

import math
import string

import numpy as np

from braidlm.data.ruler.items import HiddenItem, Sizes
from braidlm.data.ruler.needles import SHORT
from braidlm.data.ruler.words import Words

CWE_TEXT = (
    "Below is a numbered list of words. In these words, some appear more often than others. "
    "Memorize the ones that appear most often.\n{context}\nQuestion: What are the 10 most common "
    "words in the above list?"
)
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
FWE_TEXT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most "
    "frequently appeared coded words. {context}\nQuestion: Do not provide any explanation. Please "
    "ignore the dots '....'. What are the three most frequently appeared words in the above coded "
    "text?"
)
FWE_PREFIX = (
    " Answer: According to the coded text above, the three most frequently appeared words are:"
)
N_COMMON = 10
ZETA_2 = math.pi**2 / 6
N_LETTERS = 6


class CommonWords:
    """Draws items of cwe.

    Args:
        words: of the list.
        length: tokens of an item; decides how often words come.
    """

    def __init__(self, words: Words, length: int) -> None:
        self._words = words.all()
        self._is_short = length < SHORT

    def sizes(self, length: int) -> Sizes:
        """Return how the list grows, in different words."""
        return Sizes(N_COMMON + 1, 1 if self._is_short else 10, min(len(self._words), length))

    def draw(self, rng: np.random.Generator, size: int) -> HiddenItem:
        """Return an item with `size` different words."""
        example = (20, 3, 1) if self._is_short else (40, 10, 3)
        often, seldom = (6, 1) if self._is_short else (30, 3)
        shown, answer = self._list(rng, *example)
        context, common = self._list(rng, size, often, seldom)
        before = CWE_TEXT.format(context=shown) + CWE_PREFIX + _numbered(answer)
        text = f"{before}\n{CWE_TEXT.format(context=context)}"
        return HiddenItem(text, CWE_PREFIX, tuple(common), "all", 120)

    def _list(
        self, rng: np.random.Generator, n: int, often: int, seldom: int
    ) -> tuple[str, list[str]]:
        chosen = [self._words[i] for i in rng.choice(len(self._words), n, replace=False)]
        common, rest = chosen[:N_COMMON], chosen[N_COMMON:]
        said = common * often + rest * seldom
        return _numbered([said[i] for i in rng.permutation(len(said))]), common


class FrequentWords:
    """Draws items of fwe.

    Args:
        length: tokens of an item; decides how many words there are.
    """

    def __init__(self, length: int) -> None:
        self._n_words = max(length // 50, 5)
        self._step = max(length // 32, 1)

    def sizes(self, length: int) -> Sizes:
        """Return how the text grows, in words, from where the first five always differ."""
        unclear = [n for n in range(200) if len(set(_counts(n, 5).tolist())) < 5]
        return Sizes(unclear[-1] + 1, self._step if length >= SHORT else 1, 2 * length)

    def draw(self, rng: np.random.Generator, size: int) -> HiddenItem:
        """Return an item of about `size` words."""
        names = _coded(rng, self._n_words)
        said = np.repeat(np.arange(self._n_words), _counts(size, self._n_words))
        shown = ["...", *names[1:]]
        context = " ".join(shown[i] for i in rng.permutation(said))
        return HiddenItem(
            FWE_TEXT.format(context=context), FWE_PREFIX, tuple(names[1:4]), "all", 50
        )


def _counts(size: int, n_words: int) -> np.ndarray:
    return (size * np.arange(1, n_words + 1, dtype=np.float64) ** -2 / ZETA_2).astype(np.int64)


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i + 1}. {word}" for i, word in enumerate(words))


def _coded(rng: np.random.Generator, n: int) -> list[str]:
    """Return different words of six random letters."""
    numbers = rng.choice(26**N_LETTERS, n, replace=False)
    letters = np.array(list(string.ascii_lowercase))
    digits = numbers[:, None] // 26 ** np.arange(N_LETTERS) % 26
    return ["".join(row) for row in letters[digits]]
