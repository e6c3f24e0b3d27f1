"""The items of every source of symbols: drawn for training, and apart from it for evaluation."""

from __future__ import annotations

import numpy as np

from braidlm.arch.symbols import CopyingSource, MADSource, MQARSource, SymbolSource
from braidlm.data import mad
from braidlm.data.copying import copying, lookup
from braidlm.data.mad_fuzzy import fuzzy_in_context_recall
from braidlm.data.mqar import MQARItems, generate_mqar
from braidlm.data.seeding import EVAL, generator
from braidlm.data.symbols import Alphabet, SymbolItems


def levels_of(source: SymbolSource) -> tuple[int, ...]:
    """Return what items of a source differ by: pairs, or symbols of a string; else one level."""
    match source:
        case MQARSource():
            return source.n_pairs
        case CopyingSource():
            return source.n_symbols
        case MADSource():
            return (0,)


def training_items(
    source: SymbolSource, n_items: int, level: int, rng: np.random.Generator
) -> MQARItems | SymbolItems:
    """Return items of one level, as they are trained on: all of the source's length."""
    match source:
        case MQARSource():
            return mqar_items(source, n_items, level, source.length, rng)
        case CopyingSource():
            return _copies(source, n_items, level, source.length, rng)
        case MADSource():
            items = _mad(source, n_items, source.length, rng, is_training=True)
            is_all = source.learn_all and items.is_next_token
            items = items.with_every_token_learnt() if is_all else items
            return items.shifted(source.token_offset)


def eval_symbols(
    source: MADSource | CopyingSource, n_items: int, level: int, seed: int = 0
) -> SymbolItems:
    """Return items from a stream that no training seed reaches, the same ones for every run.

    Args:
        source: the distribution.
        n_items: how many.
        level: tokens of an item (MAD), or symbols of a string.
        seed: of the evaluation.

    Raises:
        InputError: as the generators.
    """
    rng = generator(seed, EVAL, source.kind, source.name, level)
    if isinstance(source, MADSource):
        return _mad(source, n_items, level, rng, is_training=False).shifted(source.token_offset)
    return _copies(source, n_items, level, source.length_of(level), rng)


def mqar_items(
    source: MQARSource, n_items: int, n_pairs: int, length: int, rng: np.random.Generator
) -> MQARItems:
    """Return items of a source with so many pairs and tokens."""
    return generate_mqar(
        n_items,
        vocab_size=source.vocab_size,
        n_pairs=n_pairs,
        length=length,
        rng=rng,
        alpha=source.alpha,
        token_offset=source.token_offset,
        num_passes=source.num_passes,
        random_non_queries=source.random_non_queries,
        n_updates=source.n_updates,
        key_parts=source.key_parts,
        shuffle_passes=source.shuffle_passes,
    )


def eval_mqar_items(
    source: MQARSource, n_items: int, *, n_pairs: int, length: int | None = None, seed: int = 0
) -> MQARItems:
    """Return items of a source's distribution from a stream that no training seed reaches.

    Args:
        source: the distribution.
        n_items: how many.
        n_pairs: pairs of each item.
        length: tokens of an item; by default the source's.
        seed: of the evaluation.
    """
    length = source.length if length is None else length
    rng = generator(seed, EVAL, source.name, n_pairs, length)
    return mqar_items(source, n_items, n_pairs, length, rng)


def alphabets_of(source: SymbolSource) -> tuple[Alphabet, ...]:
    """Return how the symbols of a source are drawn."""
    if not isinstance(source, MQARSource):
        level = source.length if isinstance(source, MADSource) else min(source.n_symbols)
        return eval_symbols(source, 1, level).alphabets
    first, value, end = (
        source.token_offset + i for i in (0, source.first_value, source.vocab_size)
    )
    keys = Alphabet("k", first, value)  # the filler is the first of them
    return Alphabet("_", first, first + 1), keys, Alphabet("v", value, end)


def _copies(
    source: CopyingSource, n_items: int, n_symbols: int, length: int, rng: np.random.Generator
) -> SymbolItems:
    sizes = {"vocab_size": source.vocab_size, "n_symbols": n_symbols, "length": length, "rng": rng}
    if source.n_gram == 0:
        items = copying(n_items, **sizes)
    else:
        items = lookup(n_items, **sizes, n_gram=source.n_gram, n_answer=source.n_answer)
    return items.shifted(source.token_offset)


def _mad(
    source: MADSource, n_items: int, length: int, rng: np.random.Generator, *, is_training: bool
) -> SymbolItems:
    sizes = {"vocab_size": source.vocab_size, "length": length, "rng": rng}
    match source.task:
        case "in_context_recall" | "noisy_in_context_recall":
            noise = {"noise_vocab_size": source.noise_vocab_size, "frac_noise": source.frac_noise}
            return mad.in_context_recall(n_items, **sizes, **noise)
        case "fuzzy_in_context_recall":
            return fuzzy_in_context_recall(
                n_items,
                **sizes,
                key_size=source.key_size,
                value_size=source.value_size,
                is_training=is_training,
            )
        case "selective_copying":
            return mad.selective_copying(n_items, **sizes, n_copy=source.n_copy)
        case "memorization":
            return mad.memorization(n_items, **sizes, map_seed=source.map_seed)
        case "compression":
            return mad.compression(n_items, **sizes)
