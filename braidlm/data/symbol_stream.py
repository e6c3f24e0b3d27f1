"""Endless rows of generated symbols."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from braidlm.arch.symbols import SymbolSource
from braidlm.data.packing import IGNORE, Piece, Row
from braidlm.data.seeding import TRAIN, generator
from braidlm.data.symbol_items import levels_of, training_items
from braidlm.errors import InputError

_BLOCK_ITEMS = 256


class SymbolStream:
    """Items of symbols, as many whole ones in a row as fit; each is a document by itself.

    Raises:
        InputError: one item is longer than a row.
    """

    def __init__(self, source: SymbolSource, seq_len: int, seed: int):
        if source.length > seq_len:
            raise InputError(
                f"source '{source.name}': length = {source.length} is longer than "
                f"seq_len = {seq_len}, and an item is never cut"
            )
        self.source = source
        self.vocab_size = source.token_offset + source.vocab_size
        self._seq_len, self._seed = seq_len, seed
        self._per_row = seq_len // source.length
        self._block = lru_cache(maxsize=2)(self._new_block)

    def row(self, number: int) -> Row:
        """Return a row: items `number * per_row` and those after it."""
        length, used = self.source.length, self._per_row * self.source.length
        items = range(number * self._per_row, (number + 1) * self._per_row)
        found = [self._item(i) for i in items]
        tokens = np.full(self._seq_len, self.source.token_offset, dtype=np.int64)
        targets = np.full(self._seq_len, IGNORE, dtype=np.int64)
        tokens[:used] = np.concatenate([t for t, _ in found])
        targets[:used] = np.concatenate([t for _, t in found])
        return Row(tokens, targets, tuple(Piece(i, 0, length) for i in items))

    def _item(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        block, place = divmod(item, _BLOCK_ITEMS)
        tokens, targets = self._block(block)
        return tokens[place], targets[place]

    def _new_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Generate many items at once: one by one is a hundred times slower."""
        choices, keys = levels_of(self.source), (TRAIN, self.source.name, block)
        drawn = generator(self._seed, *keys).integers(len(choices), size=_BLOCK_ITEMS)
        tokens = np.empty((_BLOCK_ITEMS, self.source.length), dtype=np.int64)
        targets = np.empty_like(tokens)
        for i, level in enumerate(choices):
            mine = np.flatnonzero(drawn == i)
            rng = generator(self._seed, *keys, i)
            items = training_items(self.source, len(mine), level, rng)
            tokens[mine], targets[mine] = items.tokens, items.targets
        return tokens, targets
