"""One way to name a random stream, so that no two streams ever share a seed."""

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

TRAIN, EVAL = "train", "eval"


class Named(Protocol):
    """What has a name of its own."""

    @property
    def id(self) -> str:
        """No other has it."""
        ...


_Item = TypeVar("_Item", bound=Named)


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


def some_by_name(items: Sequence[_Item], n: int) -> list[_Item]:
    """Return at most n items in their order, chosen by the hash of their names.

    Fewer items are some of more, whatever else is among them.
    """
    chosen = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:n]
    names = {item.id for item in chosen}
    return [item for item in items if item.id in names]
