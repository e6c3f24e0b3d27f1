"""Which memories a state is made of, and states that take some of them from another document.

A memory is the part of a state that can be exchanged by itself: the KV cache of one attention, or
all that one recurrent mixer holds (its matrix and its convolution's last inputs). Its
place is that of its mixer: "2" in sublayer 2, "2.1" as its branch 1, "2.fusion", "2.ssm" of
a recurrence inside an attention.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from braidlm import state as states
from braidlm.arch import Spec
from braidlm.mixers.bmojo_f import BMojoFState
from braidlm.ops.attention import KVCache
from braidlm.parallel import ParallelState

Kind = Literal["kv", "recurrent"]
KINDS: tuple[Kind, ...] = ("kv", "recurrent")


class Memory(NamedTuple):
    """One exchangeable part of a state."""

    place: str
    """Of the mixer that holds it, such as "2" or "2.1"."""
    kind: Kind
    """kv: grows with the context. recurrent: has a fixed size."""

    @property
    def layer(self) -> int:
        """The sublayer that holds it."""
        return int(self.place.partition(".")[0])


Change = Callable[..., Any]
"""Called with a memory and its part (a `KVCache` or a tensor) of each state; returns a part."""


def memories(state: Sequence[Any]) -> list[Memory]:
    """Return every memory of a model's state, in the order of the sublayers."""
    found: dict[Memory, None] = {}

    def note(memory: Memory, part: Any) -> Any:
        found[memory] = None
        return part

    change(note, state)
    return list(found)


def change(function: Change, state: Sequence[Any], *others: Sequence[Any]) -> tuple[Any, ...]:
    """Return a model's state, `function` applied to each part of each memory.

    Args:
        function: takes the memory, and its part in each state.
        state: what a `HybridLM` returned: one entry per sublayer.
        others: states of the same model and the same number of documents.
    """
    rows = zip(state, *others, strict=True)
    return tuple(_change(function, str(i), *parts) for i, parts in enumerate(rows))


def exchange(
    receiver: Sequence[Any], donor: Sequence[Any], taken: Collection[Memory]
) -> tuple[Any, ...]:
    """Return a copy of `receiver` whose memories in `taken` are copies of the donor's.

    Both states stay as they are, whatever is done with the copy. Their documents must have read
    equally many tokens: a cache is taken with its length, from which positions are counted.
    """

    def choose(memory: Memory, own: Any, given: Any) -> Any:
        return copied(given if memory in taken else own)

    return change(choose, receiver, donor)


def emptied(state: Sequence[Any], dropped: Collection[Memory]) -> tuple[Any, ...]:
    """Return a copy of `state` whose memories in `dropped` hold nothing: zeros, caches of length 0.

    A model that was not trained to begin in the middle of a text has never seen such a state.
    """

    def drop(memory: Memory, part: Any) -> Any:
        return states.map_tensors(Tensor.clone if memory not in dropped else _zeros, part)

    return change(drop, state)


def scrambled(
    state: Sequence[Any], chosen: Collection[Memory], rng: torch.Generator
) -> tuple[Any, ...]:
    """Return a copy of `state` whose memories in `chosen` are random vectors of the same lengths.

    Args:
        state: any.
        chosen: memories whose every vector, along the last axis, is replaced.
        rng: on the CPU.
    """

    def noise(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x.clone()
        drawn = torch.randn(x.shape, generator=rng, dtype=torch.float64)
        drawn = drawn / drawn.norm(dim=-1, keepdim=True)
        return (drawn.to(x.device) * x.double().norm(dim=-1, keepdim=True)).to(x.dtype)

    def scramble(memory: Memory, part: Any) -> Any:
        return states.map_tensors(noise if memory in chosen else Tensor.clone, part)

    return change(scramble, state)


def copied(state: Any) -> Any:
    """Return a copy that shares no memory with `state`."""
    return states.map_tensors(Tensor.clone, state)


def _zeros(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape)


def _change(function: Change, place: str, part: Any, *others: Any) -> Any:
    if part is None:
        return None
    if isinstance(part, KVCache):
        return function(Memory(place, "kv"), part, *others)
    if isinstance(part, Tensor):
        return function(Memory(place, "recurrent"), part, *others)
    places = [place] * len(part)
    if isinstance(part, ParallelState):
        whole = [f"{place}.{i}" for i in range(len(part.branches))]
        rows = zip(whole, part.branches, *(o.branches for o in others), strict=True)
        branches = tuple(_change(function, *row) for row in rows)
        cache = _change(function, f"{place}.fusion", part.fusion, *(o.fusion for o in others))
        return ParallelState(branches, cache)
    if isinstance(part, BMojoFState):
        places[0] = f"{place}.ssm"
    found = [_change(function, *row) for row in zip(places, part, *others, strict=True)]
    return type(part)(*found) if hasattr(part, "_fields") else tuple(found)


def about(place: str, spec: Spec) -> dict[str, Any]:
    """Return the columns that tell rows of a table apart, as `capture.Part.about` does."""
    layer, *inner = place.split(".")
    sublayer = spec.sublayers[int(layer)]
    found: dict[str, Any] = {"layer": int(layer), "place": place}
    if inner == ["fusion"]:
        return found | {"letter": "", "kind": "fusion"}
    branch = int(inner.pop(0)) if inner and inner[0].isdigit() else 0
    config: Any = sublayer.branches[branch]
    kind = config.ssm.kind if inner else config.kind
    return found | {"letter": sublayer.letters[branch], "kind": kind}
