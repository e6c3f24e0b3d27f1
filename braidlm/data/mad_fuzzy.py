"""MAD's fuzzy in-context recall: keys and values of one to three symbols.

    _ k1 k4 v2 v0 k3 v7 v1 k1 k4->v2 v2->v0 v0

Keys and values are drawn from different symbols, without repeats inside one, so that it is clear
where each ends. In training the keys' sizes are drawn; what is tested always has the longest keys.
Blanks stand on the left. Every value whose key stood before is asked; the last pair, the probe,
stands somewhere before with certainty (in mad-lab a short probe may be left out by chance).

Source: Poli et al. 2024 (arXiv 2403.17844), section 3; mad-lab `mad/data/instances.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from braidlm.data.packing import IGNORE
from braidlm.data.symbols import Alphabet, SymbolItems, distinct, first_places, shown_before


class _Pairs(NamedTuple):
    """S pairs of each of n items; symbols beyond a size mean nothing."""

    keys: np.ndarray
    """(n, S, K)."""
    key_sizes: np.ndarray
    """(n, S)."""
    values: np.ndarray
    """(n, S, W)."""
    value_sizes: np.ndarray
    """(n, S)."""

    def take(self, places: np.ndarray) -> _Pairs:
        """Return the pairs at `places` (n, S')."""
        rows = np.arange(len(places))[:, None]
        return _Pairs(*(part[rows, places] for part in self))

    def sizes(self) -> np.ndarray:
        """Tokens of each pair (n, S)."""
        return self.key_sizes + self.value_sizes


def fuzzy_in_context_recall(
    n: int,
    *,
    vocab_size: int,
    length: int,
    rng: np.random.Generator,
    key_size: int = 3,
    value_size: int = 3,
    is_training: bool = False,
) -> SymbolItems:
    """Return n items.

    Args:
        n: items.
        vocab_size: V: half of the symbols without the blank are keys, half values.
        length: L.
        rng: where the randomness comes from.
        key_size: symbols of a key at most.
        value_size: symbols of a value at most.
        is_training: whether keys are of every size; else all have `key_size` symbols.
    """
    blank, n_keys = vocab_size - 1, (vocab_size - 1) // 2
    most = length // (2 if is_training else key_size + 1) + 1
    pairs = _draw(rng, (n, most), n_keys, blank - n_keys, key_size, value_size, is_training)
    ids = _numbers(pairs, n_keys)
    # Equal keys have the value of the first of them; pair 0 is the probe.
    firsts, rows = first_places(ids), np.arange(n)[:, None]
    values, sizes = pairs.values[rows, firsts], pairs.value_sizes[rows, firsts]
    pairs = pairs._replace(values=values, value_sizes=sizes)
    order, counts = _laid_out(rng, pairs.sizes(), ids, length, key_size + value_size)
    is_asked = shown_before(ids[rows, order])
    return _written(pairs.take(order), is_asked, counts, length, (n_keys, blank))


def _draw(
    rng: np.random.Generator,
    shape: tuple[int, int],
    n_keys: int,
    n_values: int,
    key_size: int,
    value_size: int,
    is_training: bool,
) -> _Pairs:
    n = shape[0] * shape[1]
    keys = distinct(rng, n, key_size, n_keys).reshape(*shape, -1)
    values = n_keys + distinct(rng, n, value_size, n_values).reshape(*shape, -1)
    sizes = rng.integers(1, key_size + 1, size=shape) if is_training else np.full(shape, key_size)
    return _Pairs(keys, sizes, values, rng.integers(1, value_size + 1, size=shape))


def _numbers(pairs: _Pairs, n_keys: int) -> np.ndarray:
    """Return a number (n, S) for each key, equal for equal keys alone."""
    places = np.arange(pairs.keys.shape[-1])
    digits = np.where(places < pairs.key_sizes[..., None], pairs.keys + 1, 0)
    return (digits * (n_keys + 1) ** places).sum(-1)


def _laid_out(
    rng: np.random.Generator, sizes: np.ndarray, ids: np.ndarray, length: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the pairs (n, S + 1) and how many of them stand in each item (n,).

    Pairs 1, 2, ... follow each other while any pair and the last one would fit behind. The probe
    is put among them, at the first end of a pair behind a place drawn evenly, unless its key has
    come by chance; it is the last pair too.
    """
    columns, probe = np.arange(ids.shape[1]), sizes[:, :1]
    room = length - probe - longest  # a pair may begin before this place
    begins = np.cumsum(sizes, axis=1) - sizes - probe  # of the pairs 1, 2, ... without the probe
    wanted = rng.random(probe.shape) * np.minimum(length - 2 * probe, room)
    others = columns > 0
    slot = ((begins < np.floor(wanted)) & others).sum(1, keepdims=True)
    slot = np.minimum(slot, ((begins < room) & others).sum(1, keepdims=True) - 1)
    has_come = ((ids == ids[:, :1]) & others & (columns <= slot)).any(1)
    ranks = np.broadcast_to(columns.astype(float), ids.shape).copy()
    ranks[:, 0] = np.where(has_come, np.inf, slot[:, 0] + 0.5)
    order = np.argsort(ranks, axis=1)
    laid = np.take_along_axis(sizes, order, axis=1)
    counts = (np.cumsum(laid, axis=1) - laid < room).sum(1)
    order = np.concatenate([order, np.zeros_like(order[:, :1])], axis=1)
    np.put_along_axis(order, counts[:, None], 0, axis=1)
    return order, counts + 1


def _written(
    pairs: _Pairs, is_asked: np.ndarray, counts: np.ndarray, length: int, ends: tuple[int, int]
) -> SymbolItems:
    """Return the items: the first `counts` (n,) pairs of each, at the right end."""
    n_keys, blank = ends
    is_there = np.arange(is_asked.shape[1]) < counts[:, None]
    sizes = pairs.sizes() * is_there
    starts = length - sizes.sum(1, keepdims=True) + np.cumsum(sizes, axis=1) - sizes
    tokens = np.full((len(counts), length), blank)
    targets, classes = np.full_like(tokens, IGNORE), np.full_like(tokens, -1)
    value_size = pairs.values.shape[-1]
    for i in range(pairs.keys.shape[-1]):
        row, pair = np.nonzero(is_there & (i < pairs.key_sizes))
        tokens[row, starts[row, pair] + i] = pairs.keys[row, pair, i]
    for i in range(value_size):
        row, pair = np.nonzero(is_there & (i < pairs.value_sizes))
        at = starts[row, pair] + pairs.key_sizes[row, pair] + i
        tokens[row, at] = pairs.values[row, pair, i]
        asked = is_asked[row, pair]
        targets[row[asked], at[asked] - 1] = tokens[row[asked], at[asked]]
        classes[row[asked], at[asked] - 1] = i
    names = (("k", 0, n_keys), ("v", n_keys, blank), ("_", blank, blank + 1))
    return SymbolItems(
        tokens,
        targets,
        classes,
        class_names=tuple(f"symbol {i + 1}" for i in range(value_size)),
        alphabets=tuple(Alphabet(*name) for name in names),
        is_next_token=True,
    )
