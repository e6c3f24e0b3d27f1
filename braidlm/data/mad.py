"""The six synthetic tasks of MAD, as items for a language model, vectorised.

One item of each (k: keys, v: values, n: noise, x: symbols, _: blank, |: the sign to begin, an
answer behind its arrow):

    in_context_recall        k1 v2 k0 v5 k1->v2 v2 k0->v5 v5
    noisy_in_context_recall  k1 v2 n3 n0 k0 v5 n1 n1 k1->v2 v2
    fuzzy_in_context_recall  _ k1 k4 v2 v0 k3 v7 k1 k4->v2 v2->v0 v0   (see `mad_fuzzy`)
    selective_copying        x3 _ _ x1 _ x1 | _->x3 _->x1 _->x1        (blanks where it answers)
    memorization             k7 |->v2 k1 |->v9 k7 |->v2                (one map for all items)
    compression              x3 x1 x1 |->x3 |->x1 |->x1

Symbols are 0 .. V - 1. In the recall tasks every value whose key stood before is asked, and the
last pair is always such a one (MAD's `multi_query`, its published setting); keys repeat by chance
and their values are drawn with replacement, as there.

MAD's compression decodes the last hidden state with an MLP of its own. A language model has none,
so the symbols are asked one after the other here: a bottleneck for a fixed state, a copy for
attention.

Source: Poli et al. 2024 (arXiv 2403.17844), section 3; mad-lab `mad/data/instances.py` and
`configs/tasks` for the baselines.
"""

from __future__ import annotations

import numpy as np

from braidlm.data.packing import IGNORE
from braidlm.data.seeding import generator
from braidlm.data.symbols import Alphabet, SymbolItems, shown_before

QUARTERS = ("quarter 1", "quarter 2", "quarter 3", "quarter 4")


def in_context_recall(
    n: int,
    *,
    vocab_size: int,
    length: int,
    rng: np.random.Generator,
    noise_vocab_size: int = 0,
    frac_noise: float = 0.0,
) -> SymbolItems:
    """Return n items of `length` / 2 pairs, of which the last repeats a key of the others.

    Args:
        n: items.
        vocab_size: V: half of the symbols without noise are keys, half values, then noise.
        length: L, even.
        rng: where the randomness comes from.
        noise_vocab_size: symbols that are noise.
        frac_noise: chance of a pair to be two symbols of noise; one pair at least is none.
    """
    n_symbols, n_shown = vocab_size - noise_vocab_size, length // 2 - 1
    n_keys, rows = n_symbols // 2, np.arange(n)[:, None]
    value_of = n_keys + rng.integers(n_symbols - n_keys, size=(n, n_keys))
    keys = rng.integers(n_keys, size=(n, n_shown))
    is_noise = rng.random((n, n_shown)) < frac_noise
    np.put_along_axis(is_noise, rng.integers(n_shown, size=(n, 1)), False, axis=1)
    is_there = np.zeros((n, n_keys), dtype=bool)
    is_there[np.broadcast_to(rows, keys.shape)[~is_noise], keys[~is_noise]] = True
    probe = np.argmax(rng.random((n, n_keys)) * is_there, axis=1)
    keys, is_noise = np.c_[keys, probe], np.c_[is_noise, np.zeros(n, dtype=bool)]
    pairs = np.stack([keys, value_of[rows, keys]], axis=-1)
    noise = n_symbols + rng.integers(max(noise_vocab_size, 1), size=pairs.shape)
    pairs = np.where(is_noise[..., None], noise, pairs)
    # Noise gets numbers of its own, so that it repeats no key.
    is_asked = shown_before(np.where(is_noise, n_keys + np.arange(n_shown + 1), keys))
    targets = np.full(pairs.shape, IGNORE)
    targets[..., 0] = np.where(is_asked, pairs[..., 1], IGNORE)
    classes = np.full(pairs.shape, -1)
    classes[..., 0] = np.where(is_asked, 0, -1)
    classes[:, -1, 0] = 1
    names = [("k", 0, n_keys), ("v", n_keys, n_symbols), ("n", n_symbols, vocab_size)]
    return SymbolItems(
        *(part.reshape(n, -1) for part in (pairs, targets, classes)),
        class_names=("repeat", "last"),
        alphabets=tuple(Alphabet(*name) for name in names),
        is_next_token=True,
    )


def selective_copying(
    n: int, *, vocab_size: int, length: int, rng: np.random.Generator, n_copy: int
) -> SymbolItems:
    """Return n items whose `n_copy` symbols stand among blanks, each gap as likely.

    Args:
        n: items.
        vocab_size: V: V - 2 symbols, the blank and the sign to begin.
        length: L, more than 2 `n_copy`.
        rng: where the randomness comes from.
        n_copy: symbols that are copied in their order.
    """
    blank, sign, begin = vocab_size - 2, vocab_size - 1, length - n_copy - 1
    symbols = rng.integers(blank, size=(n, n_copy))
    # No blank follows the last symbol, as there.
    gaps = rng.multinomial(begin - n_copy, [1 / n_copy] * n_copy, size=n)
    tokens = np.full((n, length), blank)
    np.put_along_axis(tokens, np.cumsum(gaps + 1, axis=1) - 1, symbols, axis=1)
    tokens[:, begin] = sign
    return _asked_at_the_end(tokens, symbols, (("x", 0, blank), ("_", blank, sign)), sign)


def compression(n: int, *, vocab_size: int, length: int, rng: np.random.Generator) -> SymbolItems:
    """Return n items of `length` / 2 uniform symbols, and as many signs that ask for them.

    Args:
        n: items.
        vocab_size: V: V - 1 symbols and the sign.
        length: L, even.
        rng: where the randomness comes from.
    """
    sign, m = vocab_size - 1, length // 2
    symbols = rng.integers(sign, size=(n, m))
    tokens = np.concatenate([symbols, np.full((n, m), sign)], axis=1)
    return _asked_at_the_end(tokens, symbols, (("x", 0, sign),), sign)


def memorization(
    n: int, *, vocab_size: int, length: int, rng: np.random.Generator, map_seed: int
) -> SymbolItems:
    """Return n items of keys whose values stand nowhere: one map, the same in every item.

    Args:
        n: items.
        vocab_size: V: V - 1 keys and values, and the sign that asks.
        length: L, even.
        rng: where the keys come from.
        map_seed: names the map.
    """
    sign, n_keys = vocab_size - 1, (vocab_size - 1) // 2
    mapped = generator(map_seed, "memorization").permutation(np.arange(n_keys, sign))
    keys = rng.integers(n_keys, size=(n, length // 2))
    tokens = np.stack([keys, np.full_like(keys, sign)], axis=-1)
    targets = np.stack([np.full_like(keys, IGNORE), mapped[keys]], axis=-1)
    names = (("k", 0, n_keys), ("v", n_keys, sign), ("|", sign, vocab_size))
    return SymbolItems(
        tokens.reshape(n, -1),
        targets.reshape(n, -1),
        np.where(targets == IGNORE, -1, 0).reshape(n, -1),
        class_names=("value",),
        alphabets=tuple(Alphabet(*name) for name in names),
        is_next_token=False,
    )


def _asked_at_the_end(
    tokens: np.ndarray, symbols: np.ndarray, names: tuple[tuple[str, int, int], ...], sign: int
) -> SymbolItems:
    """Return items (n, L) whose last places ask for `symbols` (n, m) in their order."""
    m = symbols.shape[1]
    targets, classes = np.full_like(tokens, IGNORE), np.full_like(tokens, -1)
    targets[:, -m:] = symbols
    classes[:, -m:] = np.arange(m) * 4 // m
    alphabets = (*(Alphabet(*name) for name in names), Alphabet("|", sign, sign + 1))
    return SymbolItems(tokens, targets, classes, QUARTERS, alphabets, is_next_token=False)
