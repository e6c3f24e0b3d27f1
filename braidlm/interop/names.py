"""Which tensors of theirs make which tensor of ours: one map for both directions.

Each entry stacks tensors of theirs along their rows, puts the rows into our order, and views the
result in our shape. Reversed, it takes the rows apart again; no number changes either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from braidlm.arch import Spec
from braidlm.arch.mixers import MixerConfig
from braidlm.checkpoint import unique_tensors
from braidlm.errors import InputError
from braidlm.interop.family import Family, Letter, Placed, Rows
from braidlm.model import HybridLM
from braidlm.tensors import About

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and the tensors of theirs that make it."""

    ours: str
    shape: Shape
    """Of ours."""
    theirs: dict[str, Shape]
    """Names and shapes, in the order in which their rows are stacked."""
    order: list[int] | None = None
    """For each row of ours its place among the stacked rows; None: the same."""
    n_lead: int = 0
    """Axes of theirs before the rows."""
    or_evenly: bool = False
    """Whether a file may part the same rows evenly instead."""
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of theirs -> names of the same tensor, at other uses of a shared letter."""
    is_repeated: bool = False
    """Whether it is written under those names too; it may be read from any of them."""

    def shapes_in(self, about: Mapping[str, About]) -> dict[str, Shape]:
        """Return the shapes that tensors must have: as parted there, if that is allowed."""
        evenly = self._evenly() if self.or_evenly else {}
        found = {name: about[name].shape for name in evenly if name in about}
        return evenly if evenly and found == evenly else self.theirs

    def gather(self, read: Callable[[str], Tensor]) -> Tensor:
        """Return our tensor from theirs."""
        width = math.prod(self.shape) // sum(self._n_rows)
        parts = [read(name).reshape(-1, width) for name in self.theirs]
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.order is not None:
            stacked = stacked[torch.tensor(self.order)]
        return stacked.reshape(self.shape)

    def scatter(self, ours: Tensor) -> dict[str, Tensor]:
        """Return their tensors from ours."""
        n_rows = self._n_rows
        stacked = ours.reshape(sum(n_rows), -1)
        if self.order is not None:
            back = torch.empty(len(self.order), dtype=torch.int64)
            back[torch.tensor(self.order)] = torch.arange(len(self.order))
            stacked = stacked[back]
        pairs = zip(self.theirs.items(), stacked.split(n_rows), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in pairs}

    def written(self, name: str) -> tuple[str, ...]:
        """Return the names under which a tensor of theirs is written."""
        return (name, *(self.also.get(name, ()) if self.is_repeated else ()))

    def _evenly(self) -> dict[str, Shape]:
        """As many rows for each as for the others, the last with fewer: as `torch.chunk` parts."""
        total, at = sum(self._n_rows), self.n_lead
        size = -(-total // len(self.theirs))
        sizes = [min(size, max(0, total - i * size)) for i in range(len(self.theirs))]
        named = zip(self.theirs.items(), sizes, strict=True)
        return {name: (*shape[:at], n, *shape[at + 1 :]) for (name, shape), n in named}

    @property
    def _n_rows(self) -> list[int]:
        return [shape[self.n_lead] for shape in self.theirs.values()]


def entries(family: Family, spec: Spec, model: HybridLM | None = None) -> list[Entry]:
    """Return the map of a model that this family expresses; every tensor of ours has an entry.

    Args:
        family: the description.
        spec: the declaration.
        model: of that declaration, if there is one already; its names and shapes are read.

    Raises:
        InputError: a parameter of ours that the family has no tensor for.
    """
    model = shell(spec) if model is None else model
    wanted = {name: tuple(t.shape) for name, t in unique_tensors(model).items()}
    parts = _row_parts(model)
    found: dict[str, Entry] = {}
    for ours, rows, mixer in _all_rows(family, spec):
        if ours in wanted:
            found[ours] = _entry(ours, wanted[ours], rows, mixer, parts.get(ours))
    absent = next((name for name in wanted if name not in found), None)
    if absent is not None:
        raise InputError(f"{family.model_type} has no tensor for our '{absent}'")
    others = _other_uses(family, spec)
    return [_with_others(found[name], others, not spec.tie_embeddings) for name in wanted]


def mixer_entries(names: Mapping[str, Rows], mixer: nn.Module, config: MixerConfig) -> list[Entry]:
    """Return the map of one mixer by itself, without an output projection.

    Args:
        names: a letter's, relative to the mixer on both sides.
        mixer: ours.
        config: its declaration.

    Raises:
        InputError: a parameter of ours that `names` leaves out.
    """
    parts = _row_parts(mixer)
    found = []
    for ours, tensor in mixer.named_parameters():
        if ours not in names:
            raise InputError(f"there is no tensor for our '{ours}'")
        shape = tuple(tensor.shape)
        found.append(_entry(ours, shape, names[ours], config, parts.get(ours)))
    return found


def shell(spec: Spec) -> HybridLM:
    """Return the model without memory for its weights: names and shapes only."""
    with torch.device("meta"), Undrawn():
        return HybridLM(spec)


class Undrawn(TorchFunctionMode):
    """Leave weight matrices as they are allocated: they are overwritten, and drawing takes time."""

    DRAWS = frozenset({"normal_", "uniform_", "kaiming_uniform_"})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Pass over what draws; do everything else."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _row_parts(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Our stacked matrices by full name, with the rows of each part."""
    found = {}
    for name, module in model.named_modules():
        tell = getattr(module, "row_parts", None)
        if tell is not None:
            told = {f"{name}.{k}".removeprefix("."): v for k, v in tell().items()}
            found |= told | {k.replace(".weight", ".bias"): v for k, v in told.items()}
    return found


def _entry(
    ours: str, shape: Shape, rows: Rows, mixer: MixerConfig | None, parts: Shape | None
) -> Entry:
    """Tensors of theirs hold rows of ours; those of a stack of matrices hold matrices of it."""
    order, tail = None, shape[1:]
    if rows.order is not None and mixer is not None:
        n_rows, order = rows.order(mixer)
    elif len(rows.names) == 1:
        n_rows = (shape[0],)
    else:
        assert parts is not None
        assert len(parts) == len(rows.names), (ours, parts, rows.names)
        n_rows, tail = parts, shape[1:][-1:]
    n_groups = rows.groups(mixer) if rows.groups is not None and mixer is not None else None
    parted = [(n,) if n_groups is None else (n_groups, n // n_groups) for n in n_rows]
    shapes = [(*rows.lead, *axes, *rows.insert, *tail) for axes in parted]
    assert math.prod(shape) == sum(map(math.prod, shapes))
    theirs = dict(zip(rows.names, shapes, strict=True))
    return Entry(ours, shape, theirs, order, len(rows.lead), rows.or_evenly)


def _all_rows(family: Family, spec: Spec) -> list[tuple[str, Rows, MixerConfig | None]]:
    """Return every line of the map with full names, those of absent parameters included."""
    ends = family.ends
    found: list[tuple[str, Rows, MixerConfig | None]] = [
        ("embedding.weight", Rows((ends.embedding,)), None),
        ("norm.weight", Rows((ends.norm,)), None),
        ("lm_head.weight", Rows((ends.head,)), None),
    ]
    _, places = family.match(spec)
    for sublayer, placed in zip(spec.sublayers, places, strict=True):
        block, place = f"blocks.{sublayer.index}", placed.place
        home = f"{ends.layers}.{placed.home}"
        found.append((f"{block}.norm.weight", Rows((f"{home}.{place.norm}.weight",)), None))
        for i, branch in enumerate(sublayer.branches):
            letter = family.letters[place.letters[i]]
            lines = _mixer_rows(letter, branch, placed, i, sublayer.is_parallel)
            found += [(f"{block}.{a}", _under(home, b), branch) for a, b in lines]
        if place.use_proj:
            own = f"{ends.layers}.{placed.layer}.{place.use_proj}.weight"
            found.append((f"{block}.use_proj.weight", Rows((own,)), None))
    return found


def _mixer_rows(
    letter: Letter, branch: MixerConfig, placed: Placed, i: int, is_parallel: bool
) -> list[tuple[str, Rows]]:
    """Return the lines of one branch, relative to our block and to the layer of its weights."""
    mixer = f"mix.branches.{i}" if is_parallel else "mix.mixer"
    out = f"mix.combine.out_projs.{i}" if is_parallel else "mix.out_proj"
    where = placed.place.mixers[i]
    lines = letter.names_of(branch).items()
    found = [(f"{mixer}.{name}", _under(where, rows)) for name, rows in lines]
    for kind in ("weight", "bias"):
        found.append((f"{out}.{kind}", _under(where, Rows((f"{letter.out}.{kind}",)))))
    if letter.adapters is not None:
        added = letter.adapters(placed.use).items()
        found += [(f"adapters.{name}", _under(where, rows)) for name, rows in added]
    return found


def _other_uses(family: Family, spec: Spec) -> list[tuple[str, str]]:
    """Return where weights lie, and where those of another use of the same letter lie."""
    found = []
    for placed in family.match(spec)[1]:
        if placed.home != placed.layer:
            home, here = (f"{family.ends.layers}.{i}." for i in (placed.home, placed.layer))
            parts = (placed.place.norm, *placed.place.mixers)
            found += [(f"{home}{part}.", f"{here}{part}.") for part in parts]
    return found


def _with_others(entry: Entry, uses: list[tuple[str, str]], is_repeated: bool) -> Entry:
    """transformers ties shared letters where it ties the embedding; else it stores each use."""
    also = {
        name: tuple(here + name[len(home) :] for home, here in uses if name.startswith(home))
        for name in entry.theirs
    }
    return replace(entry, also={k: v for k, v in also.items() if v}, is_repeated=is_repeated)


def _under(place: str, rows: Rows) -> Rows:
    names = tuple(f"{place}.{name}" if place else name for name in rows.names)
    return replace(rows, names=names)
