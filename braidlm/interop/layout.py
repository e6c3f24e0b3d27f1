"""How a configuration says of which kind each layer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from braidlm.errors import InputError
from braidlm.interop.fields import Foreign

MAX_LAYERS = 10_000
"""More is a damaged file."""


class UnfitError(InputError):
    """A family cannot express a model."""

    def __init__(self, reason: str, sublayer: int, *, has_layers: bool = True) -> None:
        super().__init__(reason)
        self.nearness = (sublayer, has_layers)
        """Sublayers before the one that does not fit, and whether it differs only in a field."""


class Layout(Protocol):
    """The kinds of all layers, in both directions."""

    def read(self, config: Foreign) -> list[str]:
        """Return the kind of each layer."""
        ...

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the fields that say so."""
        ...


@dataclass(frozen=True)
class Uniform:
    """All layers are of one kind; a field counts them."""

    kind: str = "layer"
    count: str = "num_hidden_layers"

    def read(self, config: Foreign) -> list[str]:
        """Return as many kinds as are counted."""
        return [self.kind] * n_layers(config, self.count)

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the count."""
        return {self.count: len(kinds)}


@dataclass(frozen=True)
class Listed:
    """A list names the kind of each layer, in words of theirs."""

    key: str
    words: Mapping[str, str]
    """Word of theirs -> kind; the first word of a kind is written."""
    also: tuple[str, ...] = ()
    """Older names of the list."""
    count: str | None = "num_hidden_layers"

    def read(self, config: Foreign) -> list[str]:
        """Return the kinds, which must be as many as are counted."""
        given = [k for k in (self.key, *self.also) if config.data.get(k) is not None]
        config.used |= {self.key, *self.also}
        return self.kinds(config, config.get(given[0] if given else self.key))

    def kinds(self, config: Foreign, words: Any) -> list[str]:
        """Return the kinds that a list of words names, which must be as many as are counted."""
        config.used |= {*filter(None, [self.count])}
        if not isinstance(words, list) or not words:
            raise config.error(self.key, words, "a list of layers")
        for word in words:
            if word not in self.words:
                raise config.error(self.key, word, ", ".join(self.words))
        count = len(words) if self.count is None else config.data.get(self.count, len(words))
        if count != len(words):
            raise config.error(str(self.count), count, f"{len(words)}, the length of {self.key}")
        return [self.words[word] for word in words]

    def write(self, kinds: list[str]) -> dict[str, Any]:
        """Return the list and its length."""
        first = {kind: word for word, kind in reversed(list(self.words.items()))}
        count = {self.count: len(kinds)} if self.count else {}
        return {self.key: [first[kind] for kind in kinds], **count}


def n_layers(config: Foreign, key: str = "num_hidden_layers") -> int:
    """Return a number of layers, within reason.

    Raises:
        InputError: it is not one.
    """
    n = config.whole(key)
    if n > MAX_LAYERS:
        raise config.error(key, n, f"at most {MAX_LAYERS}")
    return n
