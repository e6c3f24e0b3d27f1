"""Tensors of theirs into ours and back, checked by name and shape, one at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from braidlm.checkpoint import unique_tensors
from braidlm.errors import InputError
from braidlm.interop.names import Entry
from braidlm.tensors import About, Source


class Renamed:
    """A source of which some tensors are asked for by other names than they are stored under."""

    def __init__(self, source: Source, stored: Mapping[str, str]) -> None:
        self.source, self.stored = source, stored
        hidden = set(stored.values())
        kept = {name: about for name, about in source.about.items() if name not in hidden}
        self.about = kept | {name: source.about[old] for name, old in stored.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return self.source.read(self.stored.get(name, name))


def respelled(source: Source, patterns: Sequence[tuple[str, str]], where: str) -> Source:
    """Return tensors by the names that a map uses, for patterns of names and what they become.

    Raises:
        InputError: two tensors have one name then.
    """
    stored: dict[str, str] = {}
    for old in source.about:
        name = old
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        if name in stored:
            raise InputError(f"{where}: tensors '{stored[name]}' and '{old}' are both '{name}'")
        stored[name] = old
    return Renamed(source, stored)


def by_first_use(source: Source, entries: Sequence[Entry]) -> Source:
    """Return tensors of shared letters by their names at the first use, wherever they are stored.

    Files of other versions of transformers hold them at the last use, or at every one.
    """
    stored = {}
    for first, others in ((k, v) for entry in entries for k, v in entry.also.items()):
        there = [name for name in others if name in source.about]
        if first not in source.about and there:
            stored[first] = there[0]
    return Renamed(source, stored)


def check(
    source: Source, entries: Sequence[Entry], skipped: Sequence[str], where: str
) -> list[str]:
    """Compare what is there with what the map needs.

    Args:
        source: the tensors.
        entries: the map.
        skipped: patterns of names that are no part of the model.
        where: of the tensors, for messages.

    Returns:
        The tensors that are passed over, by name.

    Raises:
        InputError: naming the first tensor that is missing, has another shape, or is unexpected.
    """
    shapes = (entry.shapes_in(source.about) for entry in entries)
    needed = {name: shape for theirs in shapes for name, shape in theirs.items()}
    for name, shape in needed.items():
        found = source.about.get(name)
        if found is None:
            raise InputError(f"{where}: tensor '{name}' of shape {shape} is missing")
        if found.shape != shape:
            raise InputError(f"{where}: tensor '{name}' has shape {found.shape}, expected {shape}")
        if not found.dtype.is_floating_point:
            raise InputError(f"{where}: tensor '{name}' has dtype {found.dtype}, expected floats")
    firsts = {name: k for entry in entries for k, v in entry.also.items() for name in v}
    extra = [name for name in source.about if name not in needed]
    for name in extra:
        if name in firsts:
            _check_copy(source, name, firsts[name], where)
        elif not any(re.fullmatch(pattern, name) for pattern in skipped):
            shape = source.about[name].shape
            raise InputError(f"{where}: tensor '{name}' of shape {shape} is unexpected")
    return extra


def _check_copy(source: Source, name: str, first: str, where: str) -> None:
    """One tensor may be stored at several uses of it; numbers of their own have no place."""
    if source.about[name] == source.about[first]:
        a, b = (source.read(x).contiguous().view(torch.uint8) for x in (name, first))
        if torch.equal(a, b):
            return
    raise InputError(f"{where}: tensor '{name}' differs from '{first}', whose weights it shares")


def check_tied(source: Source, head: str, embedding: str, where: str) -> None:
    """Refuse a head that is stored beside the embedding, is said to be it, and is not.

    Raises:
        InputError: naming both.
    """
    if head in source.about:
        _check_copy(source, head, embedding, where)


def ours_about(source: Source, entries: Sequence[Entry]) -> dict[str, About]:
    """Return shape and dtype of each tensor of ours; of several dtypes the widest."""
    return {
        e.ours: About(
            e.shape, reduce(torch.promote_types, (source.about[n].dtype for n in e.theirs))
        )
        for e in entries
    }


def theirs_about(source: Source, entries: Sequence[Entry]) -> dict[str, About]:
    """Return shape and dtype of each tensor of theirs."""
    return {
        name: About(shape, source.about[e.ours].dtype)
        for e in entries
        for first, shape in e.theirs.items()
        for name in e.written(first)
    }


def to_ours(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield our tensors, by name.

    Raises:
        InputError: a tensor of theirs holds NaN or infinity.
    """
    for entry in entries:
        yield entry.ours, entry.gather(lambda name: finite(name, source.read(name)))


def to_theirs(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield their tensors, by name.

    Raises:
        InputError: a tensor of ours holds NaN or infinity.
    """
    for entry in entries:
        ours = finite(entry.ours, source.read(entry.ours))
        for first, tensor in entry.scatter(ours).items():
            yield from ((name, tensor) for name in entry.written(first))


def finite(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor whose every number is finite; no copy of it is made.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if tensor.numel() and not all(bound.isfinite() for bound in tensor.detach().aminmax()):
        raise InputError(f"tensor '{name}' holds NaN or infinity; no model has such a weight")
    return tensor


@torch.no_grad()
def fill(model: nn.Module, source: Source, entries: Sequence[Entry]) -> None:
    """Copy their tensors into a model, cast to its dtypes."""
    parameters: Mapping[str, Tensor] = unique_tensors(model)
    for name, tensor in to_ours(source, entries):
        parameters[name].copy_(tensor)
