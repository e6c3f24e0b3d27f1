"""One way to name a random stream, so that no two streams ever share a seed."""

import hashlib

import numpy as np

TRAIN, EVAL = "train", "eval"


def key_of(text: str) -> int:
    """Return a 64-bit integer that depends on `text` alone (Python's `hash` differs by process)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def generator(seed: int, *keys: int | str) -> np.random.Generator:
    """Return the numpy generator of the stream named by `seed` and `keys`.

    Different keys give independent streams; the same keys give the same stream in every
    process and on every machine.
    """
    spawn_key = tuple(key_of(key) if isinstance(key, str) else key for key in keys)
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=spawn_key)
    return np.random.Generator(np.random.PCG64(sequence))
