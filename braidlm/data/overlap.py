"""Does the training text hold what the tasks ask? N-grams that stand in both.

    item      ... the treaty was signed in the city of Vienna on 9 June 1815 by the ...
    training  ...     treaty was signed in the city of Vienna on 9 June 1815 and so ...
                      `------------ 13 words in a row: the item overlaps ------------'

Source: Brown et al. 2020 (arXiv 2005.14165), appendix C: N words, case and punctuation ignored,
where N is the 5th percentile of a task's item lengths, but 8 at least and 13 at most. With
characters: OpenAI 2023 (arXiv 2303.08774), appendix C, 50 of them without spaces and symbols;
every place of an item is compared here, not three drawn ones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from braidlm.data.near_duplicates import NearDuplicates
from braidlm.data.ngrams import Unit, blocks, grams, n_words
from braidlm.errors import InputError

WORDS, LEAST_WORDS, CHARACTERS = 13, 8, 50
SHOWN = 20
_FILTER_BITS = 24


class Item(NamedTuple):
    """One thing that a task asks: texts that are compared one by one."""

    id: str
    texts: tuple[str, ...]


class TrainingText(NamedTuple):
    """One document that is trained on."""

    id: str
    text: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was found of one task's items in the training text."""

    name: str
    unit: Unit
    n: int
    """Words or characters of the n-grams."""
    items: Sequence[Item]
    item_of: np.ndarray
    """(n_grams,) which item each n-gram is of, ascending."""
    hashes: np.ndarray
    """(n_grams,) uint64, as they stand in the items."""

    def spelled(self, gram: int) -> str:
        """Return an n-gram as it is compared."""
        item = self.items[self.item_of[gram]]
        at = gram - int(np.searchsorted(self.item_of, self.item_of[gram]))
        for text in item.texts:
            for block in blocks(text):
                found = grams(block, self.n, self.unit)
                if at < len(found.hashes):
                    return found.spelled(at)
                at -= len(found.hashes)
        raise IndexError(gram)


def comparison(
    name: str, items: Iterable[Item], unit: Unit = "words", n: int | None = None
) -> Comparison:
    """Return a task's items, ready to be looked for.

    Args:
        name: of the task.
        items: what it asks.
        unit: of the n-grams.
        n: their length; None: for words by the rule above, for characters 50.

    Raises:
        InputError: no items, or n-grams below one.
    """
    items = list(items)
    if not items:
        raise InputError(f"'{name}' has no item to compare")
    if n is not None and not 1 <= n <= 256:
        raise InputError(f"n = {n}: n-grams must have 1 to 256 {unit}")
    n = n or (CHARACTERS if unit == "characters" else _words_of(items))
    found = [_hashes(item, n, unit) for item in items]
    counts = [len(hashes) for hashes in found]
    item_of = np.repeat(np.arange(len(items)), counts)
    return Comparison(name, unit, n, items, item_of, np.concatenate(found))


class Search:
    """One pass through the training text, for the n-grams of all tasks at once."""

    def __init__(self, comparisons: Sequence[Comparison], duplicates: NearDuplicates | None):
        self._tables = [_Table(c) for c in comparisons]
        self._duplicates = duplicates
        self.ids: list[str] = []
        self.n_bytes = 0

    def run(self, documents: Iterable[TrainingText]) -> list[dict[str, Any]]:
        """Look through documents; return for each task what `_Table.summary` says."""
        for number, document in enumerate(documents):
            self.ids.append(document.id)
            self.n_bytes += len(document.text.encode("utf-8", "replace"))
            for block in blocks(document.text):
                self._look(block, number)
            if self._duplicates is not None:
                self._duplicates.add(document.id, document.text)
        return [table.summary(self.ids) for table in self._tables]

    def _look(self, block: str, number: int) -> None:
        hashes: dict[tuple[Unit, int], np.ndarray] = {}
        for table in self._tables:
            key = (table.of.unit, table.of.n)
            if key not in hashes:
                hashes[key] = grams(block, table.of.n, table.of.unit).hashes
            table.mark(hashes[key], number)


class _Table:
    """The n-grams of one task, sorted, behind a filter that most others do not pass."""

    def __init__(self, of: Comparison):
        self.of = of
        self._known, self._place = np.unique(of.hashes, return_inverse=True)
        self._first = np.full(len(self._known), -1, dtype=np.int64)
        self._may = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._may[self._known >> np.uint64(64 - _FILTER_BITS)] = True

    def mark(self, hashes: np.ndarray, document: int) -> None:
        """Note which of the task's n-grams are among those of a training document."""
        passed = hashes[self._may[hashes >> np.uint64(64 - _FILTER_BITS)]]
        if len(passed):
            at = np.minimum(np.searchsorted(self._known, passed), len(self._known) - 1)
            hit = at[self._known[at] == passed]
            self._first[hit[self._first[hit] < 0]] = document

    def summary(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return what was found of the task, ready for JSON.

        Returns:
            {"name", "unit", "n", "n_items", "n_too_short" (items of fewer than n words), "n_found"
            (items with an n-gram in the training text), "share" and "stderr" (of the items that
            are long enough), "n_grams_share", "worst": [{"item", "found", "of", "share", "ngram",
            "training"}]}, the items with the largest share of their n-grams first.
        """
        first = self._first[self._place]
        n = len(self.of.items)
        total = np.bincount(self.of.item_of, minlength=n)
        found = np.bincount(self.of.item_of, weights=first >= 0, minlength=n).astype(np.int64)
        n_long, n_found = int((total > 0).sum()), int((found > 0).sum())
        share = n_found / n_long if n_long else None
        return {
            "name": self.of.name,
            "unit": self.of.unit,
            "n": self.of.n,
            "n_items": n,
            "n_too_short": n - n_long,
            "n_found": n_found,
            "share": share,
            "stderr": None if share is None else (share * (1 - share) / n_long) ** 0.5,
            "n_grams_share": float((first >= 0).mean()) if len(first) else None,
            "worst": [self._worst(i, first, found, total, ids) for i in _order(found, total)],
        }

    def _worst(
        self,
        item: int,
        first: np.ndarray,
        found: np.ndarray,
        total: np.ndarray,
        ids: Sequence[str],
    ) -> dict[str, Any]:
        begin = int(np.searchsorted(self.of.item_of, item))
        gram = begin + int(np.flatnonzero(first[begin : begin + total[item]] >= 0)[0])
        return {
            "item": self.of.items[item].id,
            "found": int(found[item]),
            "of": int(total[item]),
            "share": float(found[item] / total[item]),
            "ngram": self.of.spelled(gram),
            "training": ids[int(first[gram])],
        }


def _order(found: np.ndarray, total: np.ndarray) -> list[int]:
    hit = np.flatnonzero(found)
    return hit[np.lexsort((hit, -found[hit], -found[hit] / total[hit]))][:SHOWN].tolist()


def _words_of(items: Sequence[Item]) -> int:
    """Return the 5th percentile of the items' words, but 8 at least and 13 at most."""
    words = [sum(n_words(block) for t in item.texts for block in blocks(t)) for item in items]
    return min(WORDS, max(LEAST_WORDS, int(np.percentile(words, 5))))


def _hashes(item: Item, n: int, unit: Unit) -> np.ndarray:
    found = [grams(block, n, unit).hashes for text in item.texts for block in blocks(text)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)
