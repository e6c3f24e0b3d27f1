"""Multi-query associative recall: the items of zoology's generators, vectorised.

An item is `n_pairs` key-value pairs (the whole list shown `num_passes` times), then a tail of
slots of two tokens each, where every key stands once more; the value that belongs to it is the
target there, and nowhere else is there a target. Example with two pairs and a fixed filler 0:

    tokens   2  8  4  7  0  0  4  0  0  0  2  0
    targets  .  .  .  .  .  .  7  .  .  .  8  .

Symbols are 0 (the filler), keys 1 .. V/2 - 1 and values V/2 .. V - 1, all moved by
`token_offset`. A key's slot g = 1, 2, ... is drawn without replacement from
p(g) ~ alpha g^(alpha - 1), so that near repeats are favoured.

Forgetting (`n_updates`): after the list so many of the keys stand once more with another value,
and the last value is the right one. Here key 2 is updated from 8 to 6:

    tokens   2  8  4  7  2  6  0  0  4  0  2  0
    targets  .  .  .  .  .  .  .  .  7  .  6  .

Composition (`key_parts` = 2): a key is two symbols of a square grid, so that neither tells the
value by itself; slots have three tokens. Symbols are 0, first parts 1 .. V/3 - 1, second parts
V/3 .. 2V/3 - 1, values from there. Keys (1, 4), (1, 5), (2, 4), (2, 5):

    tokens   1  4  8  2  5  7  1  5  6  2  4  9  1  5  0 ...
    targets  .  .  .  .  .  .  .  .  .  .  .  .  .  6  . ...

Source: Arora et al. 2023 (arXiv 2312.04927), appendix on MQAR; zoology `multiquery_ar`,
`forgetting_mqar` (there an update may by chance repeat the old value, here all values of an item
differ), `compositional_ar`, and `stacked_mqar` for passes in an order of their own.
"""

from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from braidlm.arch.symbols import check_pairs
from braidlm.data.packing import IGNORE
from braidlm.data.symbols import distinct
from braidlm.errors import InputError


@dataclass(frozen=True, eq=False)
class MQARItems:
    """n items of L tokens with D pairs each. Symbols include `token_offset`."""

    tokens: np.ndarray
    """(n, L) int64."""
    targets: np.ndarray
    """(n, L) int64: the answer at each query, -100 elsewhere."""
    pair_positions: np.ndarray
    """(n, D, num_passes) int64: where each pair's key ends with its right value behind it: in every
    pass, or for an updated key that one place, repeated."""
    query_positions: np.ndarray
    """(n, D) int64: where each pair's key is asked again, its last symbol."""
    answers: np.ndarray
    """(n, D) int64: each pair's value, the last one if it was updated."""
    old_answers: np.ndarray
    """(n, D) int64: the value before the update, -1 for a pair without."""
    values: tuple[int, int]
    """First value symbol, and one past the last."""

    @property
    def n_pairs(self) -> int:
        """D, pairs of an item."""
        return self.answers.shape[1]


def generate_mqar(
    n_items: int,
    *,
    vocab_size: int,
    n_pairs: int,
    length: int,
    rng: np.random.Generator,
    alpha: float = 0.01,
    token_offset: int = 0,
    num_passes: int = 1,
    random_non_queries: bool = True,
    n_updates: int = 0,
    key_parts: int = 1,
    shuffle_passes: bool = False,
) -> MQARItems:
    """Return `n_items` items.

    Args:
        n_items: n.
        vocab_size: V, symbols.
        n_pairs: D; a square number for keys of two parts.
        length: L, tokens of an item.
        rng: where the randomness comes from.
        alpha: exponent of the slot's distribution; 1 is uniform.
        token_offset: id of symbol 0 in the model's vocabulary.
        num_passes: how often the list of pairs is shown.
        random_non_queries: fill the tail with random symbols (any of the V) instead of symbol 0.
        n_updates: keys that stand after the list once more, with a new value.
        key_parts: symbols of a key, 1 or 2.
        shuffle_passes: whether every pass after the first has an order of its own.

    Raises:
        InputError: the pairs do not fit into the length or into the vocabulary.
    """
    try:
        check_pairs(vocab_size, n_pairs, length, num_passes, n_updates, key_parts)
    except ValueError as error:
        raise InputError(str(error)) from None
    n_shown, width = n_pairs * num_passes + n_updates, key_parts + 1
    context, first_value = width * n_shown, key_parts * (vocab_size // width)
    keys = _keys(rng, n_items, n_pairs, vocab_size, key_parts)
    values = first_value + distinct(rng, n_items, n_pairs + n_updates, vocab_size - first_value)
    queries = context + width * _slots(rng, n_items, n_pairs, (length - context) // width, alpha)
    tokens = np.zeros((n_items, length), dtype=np.int64)
    if random_non_queries:
        tokens[:, context:] = rng.integers(vocab_size, size=(n_items, length - context))
    shown, places = _order(rng, n_items, n_pairs, num_passes, n_updates, shuffle_passes)
    # Values n_pairs .. n_pairs + n_updates - 1 are those of the updates, in their order.
    said = np.concatenate([shown[:, : n_pairs * num_passes], _tail(n_items, n_pairs, n_updates)], 1)
    blocks = [np.take_along_axis(part, shown, axis=1) for part in keys]
    blocks.append(np.take_along_axis(values, said, axis=1))
    tokens[:, :context] = np.stack(blocks, -1).reshape(n_items, context)
    for i, part in enumerate(keys):
        np.put_along_axis(tokens, queries + i, part, axis=1)
    answers, old = _after_updates(values, shown[:, n_pairs * num_passes :], n_pairs)
    targets = np.full_like(tokens, IGNORE)
    np.put_along_axis(targets, queries + key_parts - 1, answers + token_offset, axis=1)
    return MQARItems(
        tokens=tokens + token_offset,
        targets=targets,
        pair_positions=width * places + key_parts - 1,
        query_positions=queries + key_parts - 1,
        answers=answers + token_offset,
        old_answers=np.where(old < 0, -1, old + token_offset),
        values=(first_value + token_offset, vocab_size + token_offset),
    )


def counterfactual(items: MQARItems, pairs: np.ndarray, rng: np.random.Generator) -> MQARItems:
    """Return the items with one pair's value replaced in the context, and nothing else.

    The new value is drawn evenly from the values that no pair of the item has or had. A tail
    symbol that happens to equal the old value stays: it is no pair. Answer and target follow the
    change. Of an updated pair the last value is replaced.

    Args:
        items: n items of D pairs.
        pairs: (n,) the pair of each item that changes, 0 .. D - 1.
        rng: where the new values come from.
    """
    first, end = items.values
    rows = np.arange(len(pairs))
    old = items.old_answers
    used = [items.answers - first, old[old >= 0].reshape(len(old), -1) - first]
    taken = np.sort(np.concatenate(used, axis=1), axis=1)
    drawn = rng.integers(end - first - taken.shape[1], size=len(pairs))
    new = first + _skip_used(drawn, taken)
    tokens, targets, answers = items.tokens.copy(), items.targets.copy(), items.answers.copy()
    tokens[rows[:, None], items.pair_positions[rows, pairs] + 1] = new[:, None]
    targets[rows, items.query_positions[rows, pairs]] = new
    answers[rows, pairs] = new
    return replace(items, tokens=tokens, targets=targets, answers=answers)


def _keys(
    rng: np.random.Generator, n: int, n_pairs: int, vocab_size: int, key_parts: int
) -> list[np.ndarray]:
    """Return the parts of the keys, each (n, D); two parts are a square grid in random order."""
    if key_parts == 1:
        return [1 + distinct(rng, n, n_pairs, vocab_size // 2 - 1)]
    third, side = vocab_size // 3, isqrt(n_pairs)
    first = 1 + distinct(rng, n, side, third - 1)
    second = third + distinct(rng, n, side, third)
    order = np.argsort(rng.random((n, n_pairs)), axis=1)
    grids = np.repeat(first, side, axis=1), np.tile(second, side)
    return [np.take_along_axis(grid, order, axis=1) for grid in grids]


def _order(
    rng: np.random.Generator, n: int, n_pairs: int, num_passes: int, n_updates: int, shuffle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair of each place (n, D * passes + U), and each pair's places (n, D, passes).

    Of an updated pair every place is that of its update.
    """
    passes = [np.broadcast_to(np.arange(n_pairs), (n, n_pairs))]
    for _ in range(num_passes - 1):
        passes.append(np.argsort(rng.random((n, n_pairs)), 1) if shuffle else passes[0])
    places = [i * n_pairs + np.argsort(order, axis=1) for i, order in enumerate(passes)]
    at = np.stack(places, axis=-1)
    if n_updates:
        updated = distinct(rng, n, n_updates, n_pairs)
        passes.append(updated)
        stands = n_pairs * num_passes + np.arange(n_updates)
        at[np.arange(n)[:, None], updated] = stands[:, None]
    return np.concatenate(passes, axis=1), at


def _tail(n: int, n_pairs: int, n_updates: int) -> np.ndarray:
    return np.broadcast_to(np.arange(n_pairs, n_pairs + n_updates), (n, n_updates))


def _after_updates(
    values: np.ndarray, updated: np.ndarray, n_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return every pair's last value (n, D), and the one before its update or -1."""
    last, old = values[:, :n_pairs].copy(), np.full_like(values[:, :n_pairs], -1)
    np.put_along_axis(old, updated, np.take_along_axis(last, updated, axis=1), axis=1)
    np.put_along_axis(last, updated, values[:, n_pairs:], axis=1)
    return last, old


def _slots(rng: np.random.Generator, n: int, count: int, total: int, alpha: float) -> np.ndarray:
    """Return (n, count) slots, drawn one after the other without replacement.

    The slots with the smallest of exponential clocks of rate p, in the order of their ringing,
    are such a draw.
    """
    rate = np.arange(1, total + 1, dtype=np.float64) ** (alpha - 1.0)
    clocks = rng.standard_exponential((n, total)) / rate
    return np.argsort(clocks, axis=1)[:, :count]


def _skip_used(rank: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Return the rank-th (from 0) number that is not among the row's sorted `used` ones."""
    free_below = used - np.arange(used.shape[1])
    return rank + (free_below <= rank[:, None]).sum(axis=1)
