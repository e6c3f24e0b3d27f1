"""Tokens of one epoch of a source of text: read, learnt, and different ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from braidlm.data.shards import LEARNT, ShardSet


class Counts(NamedTuple):
    """Tokens of some rows."""

    input: int
    """Tokens that are read: all that are no padding."""
    loss: int
    """Tokens that are learnt."""
    unique: int
    """Tokens of text that are read at least once; what stands twice in a corpus counts twice."""


def of_texts(shards: ShardSet) -> Counts:
    """Return the tokens of an epoch of documents: all but each first one are learnt."""
    n = int(shards.train.lengths.sum())
    return Counts(n, n - len(shards.train), n)


def of_pairs(shards: ShardSet, seq_len: int, too_long: str) -> Counts:
    """Return the tokens of an epoch of prompts and answers, as `PairStream` lays them out."""
    split = shards.train
    used = split.lengths <= seq_len if too_long == "drop" else np.ones(len(split), dtype=bool)
    sizes = np.minimum(split.lengths, seq_len)
    n_loss = 0
    for pair in np.flatnonzero(used).tolist():
        size = int(split.lengths[pair])
        mask = split.read_mask(pair, size - int(sizes[pair]) + 1, size)
        n_loss += int(np.count_nonzero(mask & LEARNT))
    n = int(sizes[used].sum())
    return Counts(n, n_loss, n)
