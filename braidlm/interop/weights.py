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


class Respelled:
    """A source whose tensors are called by the names that a map uses.

    Raises:
        InputError: two tensors have one name then.
    """

    def __init__(self, source: Source, respelled: Sequence[tuple[str, str]], where: str) -> None:
        self.source, self.names = source, dict[str, str]()
        self.about: dict[str, About] = {}
        for stored, about in source.about.items():
            name = stored
            for pattern, replacement in respelled:
                name = re.sub(pattern, replacement, name)
            if name in self.names:
                both = f"'{self.names[name]}' and '{stored}'"
                raise InputError(f"{where}: tensors {both} are both '{name}'")
            self.names[name], self.about[name] = stored, about

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return self.source.read(self.names[name])


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
    extra = [name for name in source.about if name not in needed]
    for name in extra:
        if not any(re.fullmatch(pattern, name) for pattern in skipped):
            shape = source.about[name].shape
            raise InputError(f"{where}: tensor '{name}' of shape {shape} is unexpected")
    return extra


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
        for name, shape in e.theirs.items()
    }


def to_ours(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield our tensors, by name."""
    for entry in entries:
        yield entry.ours, entry.gather(source.read)


def to_theirs(source: Source, entries: Sequence[Entry]) -> Iterator[tuple[str, Tensor]]:
    """Yield their tensors, by name."""
    for entry in entries:
        yield from entry.scatter(source.read(entry.ours)).items()


@torch.no_grad()
def fill(model: nn.Module, source: Source, entries: Sequence[Entry]) -> None:
    """Copy their tensors into a model, cast to its dtypes."""
    parameters: Mapping[str, Tensor] = unique_tensors(model)
    for name, tensor in to_ours(source, entries):
        parameters[name].copy_(tensor)
