"""Multi-query associative recall: the items of zoology's generator, vectorised.

An item is `n_pairs` key-value pairs (the whole list shown `num_passes` times), then a tail of
slots of two tokens each, where every key stands once more; the value that belongs to it is the
target there, and nowhere else is there a target. Example with two pairs and a fixed filler 0:

    tokens   2  8  4  7  0  0  4  0  0  0  2  0
    targets  .  .  .  .  .  .  7  .  .  .  8  .

Symbols are 0 (the filler), keys 1 .. V/2 - 1 and values V/2 .. V - 1, all moved by
`token_offset`. A key's slot g = 1, 2, ... is drawn without replacement from
p(g) ~ alpha g^(alpha - 1), so that near repeats are favoured.

Source: Arora et al. 2023 (arXiv 2312.04927), appendix on MQAR; zoology `multiquery_ar`.
"""

from dataclasses import dataclass, replace

import numpy as np

from braidlm.data.packing import IGNORE
from braidlm.errors import InputError


@dataclass(frozen=True, eq=False)
class MQARItems:
    """n items of L tokens with D pairs each. Symbols include `token_offset`."""

    tokens: np.ndarray
    """(n, L) int64."""
    targets: np.ndarray
    """(n, L) int64: the answer at each query, -100 elsewhere."""
    pair_positions: np.ndarray
    """(n, D, num_passes) int64: where each pair's key stands; its value is one further."""
    query_positions: np.ndarray
    """(n, D) int64: where each pair's key is asked again."""
    answers: np.ndarray
    """(n, D) int64: each pair's value."""
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
) -> MQARItems:
    """Return `n_items` items.

    Args:
        n_items: n.
        vocab_size: V, symbols: the lower half keys (and the filler), the upper half values.
        n_pairs: D.
        length: L, tokens of an item.
        rng: where the randomness comes from.
        alpha: exponent of the slot's distribution; 1 is uniform.
        token_offset: id of symbol 0 in the model's vocabulary.
        num_passes: how often the list of pairs is shown.
        random_non_queries: fill the tail with random symbols (any of the V) instead of symbol 0.

    Raises:
        InputError: the pairs do not fit into the length or into the vocabulary.
    """
    n_keys, context = vocab_size // 2, 2 * n_pairs * num_passes
    n_slots = (length - context) // 2
    _check(vocab_size, n_pairs, length, num_passes)
    keys = 1 + _distinct(rng, n_items, n_pairs, n_keys - 1)
    values = n_keys + _distinct(rng, n_items, n_pairs, vocab_size - n_keys)
    queries = context + 2 * _slots(rng, n_items, n_pairs, n_slots, alpha)
    tokens = np.zeros((n_items, length), dtype=np.int64)
    if random_non_queries:
        tokens[:, context:] = rng.integers(vocab_size, size=(n_items, length - context))
    tokens[:, 0:context:2] = np.tile(keys, num_passes)
    tokens[:, 1:context:2] = np.tile(values, num_passes)
    np.put_along_axis(tokens, queries, keys, axis=1)
    targets = np.full_like(tokens, IGNORE)
    np.put_along_axis(targets, queries, values + token_offset, axis=1)
    firsts = 2 * np.arange(n_pairs)[:, None] + 2 * n_pairs * np.arange(num_passes)
    return MQARItems(
        tokens=tokens + token_offset,
        targets=targets,
        pair_positions=np.broadcast_to(firsts, (n_items, n_pairs, num_passes)),
        query_positions=queries,
        answers=values + token_offset,
        values=(n_keys + token_offset, vocab_size + token_offset),
    )


def counterfactual(items: MQARItems, pairs: np.ndarray, rng: np.random.Generator) -> MQARItems:
    """Return the items with one pair's value replaced in the context, and nothing else.

    The new value is drawn evenly from the values that no pair of the item has. A tail symbol
    that happens to equal the old value stays: it is no pair. Answer and target follow the change.

    Args:
        items: n items of D pairs.
        pairs: (n,) the pair of each item that changes, 0 .. D - 1.
        rng: where the new values come from.
    """
    first, end = items.values
    rows = np.arange(len(pairs))
    drawn = rng.integers(end - first - items.n_pairs, size=len(pairs))
    new = first + _skip_used(drawn, np.sort(items.answers - first, axis=1))
    tokens, targets, answers = items.tokens.copy(), items.targets.copy(), items.answers.copy()
    tokens[rows[:, None], items.pair_positions[rows, pairs] + 1] = new[:, None]
    targets[rows, items.query_positions[rows, pairs]] = new
    answers[rows, pairs] = new
    return replace(items, tokens=tokens, targets=targets, answers=answers)


def _check(vocab_size: int, n_pairs: int, length: int, num_passes: int) -> None:
    most = vocab_size // 2 - 1
    if not 1 <= n_pairs <= most:
        raise InputError(f"n_pairs = {n_pairs} must be in 1 .. {most} for vocab_size {vocab_size}")
    if (needed := 2 * n_pairs * (num_passes + 1)) > length:
        raise InputError(
            f"length = {length} must be at least {needed} for n_pairs = {n_pairs} "
            f"and num_passes = {num_passes}"
        )


def _distinct(rng: np.random.Generator, n: int, count: int, total: int) -> np.ndarray:
    """Return (n, count) symbols of 0 .. total - 1, distinct in each row, in uniform order."""
    if 4 * count > total:
        return np.argsort(rng.random((n, total)), axis=1)[:, :count]
    # Redrawing whatever repeats treats all symbols alike, so the distinct rows stay uniform.
    drawn = rng.integers(total, size=(n, count))
    rows = np.arange(n)
    while len(rows):
        repeats = _repeats(drawn[rows])
        touched = repeats.any(axis=1)
        rows, repeats = rows[touched], repeats[touched]
        row, column = np.nonzero(repeats)
        drawn[rows[row], column] = rng.integers(total, size=len(row))
    return drawn


def _repeats(values: np.ndarray) -> np.ndarray:
    """Mark each entry that stands further left in its row too."""
    order = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, dtype=bool)
    again[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    marks = np.empty_like(again)
    np.put_along_axis(marks, order, again, axis=1)
    return marks


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
