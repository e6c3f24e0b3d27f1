"""What every sublayer reads of one document, one sublayer at a time.

The walk holds the residual stream and nothing of the layers before, so that its memory does not
grow with depth. What a layer tells is computed when it is asked for, and what nobody asks for is
not; the way to the next layer is the model's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor, nn

from braidlm.arch import Sublayer
from braidlm.arch.mixers import BMojoFConfig, MixerConfig
from braidlm.blocks import Block, Stream
from braidlm.combine import CrossAttention
from braidlm.mixers import BMojoF
from braidlm.mixers.reading import Attends, Forgets, Forgetting, Scores
from braidlm.model import HybridLM
from braidlm.ops.attention import Lent
from braidlm.ops.scaled import scaled
from braidlm.parallel import Parallel
from braidlm.segments import Segments


class Part(NamedTuple):
    """One mixer of a sublayer, or the attention of a fusion, and what it reads.

    T' counts the model's meta tokens too, which come first.
    """

    place: str
    """ "3" in sublayer 3, "3.1" as its branch 1, "3.fusion"; ".ssm" behind it: a mixer inside."""
    layer: int
    letter: str
    """ "" for a fusion's own attention."""
    kind: str
    """The declaration's, such as "mamba2"; "fusion"."""
    module: nn.Module
    x: Tensor
    """(1, T', width): the sublayer's normed input, times the mixer's factor."""
    keys: Mapping[str, Lent]
    added: Tensor | None
    """(1, T', projected width): what this use of shared weights adds to the projection of x."""
    heard: tuple[Tensor, ...] = ()
    """Of a fusion: v_i (1, T', w_i), what it combines."""

    def scores(self) -> Scores | None:
        """Return what the mixer compares; None if it does not attend."""
        if self.heard:
            return self.module.scores(list(self.heard), self.x, None)  # pyright: ignore
        if not isinstance(self.module, Attends):
            return None
        return self.module.scores(self.x, None, self.keys, self.added)

    def forgetting(self) -> Forgetting | None:
        """Return how the mixer forgets; None if it has no decaying state."""
        return self.module.forgetting(self.x, None) if isinstance(self.module, Forgets) else None

    def about(self) -> dict[str, str | int]:
        """Return the columns that tell rows of a table apart."""
        return {"layer": self.layer, "place": self.place, "letter": self.letter, "kind": self.kind}


class Voices(NamedTuple):
    """What the branches of a parallel sublayer give."""

    u: list[Tensor]
    """(1, T', w_i) of each, before norm and scale."""
    v: list[Tensor]
    """The same after norm and scale: what is combined."""


@dataclass(frozen=True)
class Layer:
    """One sublayer, before it runs."""

    index: int
    sublayer: Sublayer
    block: Block
    stream: Stream
    segments: Segments | None
    n_meta: int
    """Meta tokens at the front of every tensor."""

    @cached_property
    def x(self) -> Tensor:
        """(1, T', input width): what the mixers read, normed unless the norm is behind them."""
        return self.block.read(self.stream)

    @property
    def parallel(self) -> Parallel | None:
        """The branches and their fusion; None for a single mixer."""
        return self.block.mix if isinstance(self.block.mix, Parallel) else None

    @cached_property
    def voices(self) -> Voices:
        """What the branches give.

        Raises:
            ValueError: a single mixer.
        """
        if self.parallel is None:
            raise ValueError(f"sublayer {self.index} has one mixer: only branches have voices")
        u = self.parallel.given(self.x, self.segments, self._keys)
        return Voices(u, self.parallel.voiced(list(u)))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The mixers of the sublayer, and the fusion if it attends."""
        mix, s = self.block.mix, self.sublayer
        if isinstance(mix, Parallel):
            return self._branches(mix)
        added = None if self.block.adapters is None else self.block.adapters(self.x)
        x, place = scaled(self.x, mix.factors[0]), str(self.index)
        kind = _kind(s.branches[0])
        part = Part(place, self.index, s.symbol, kind, mix.mixer, x, self._keys, added)
        return (part, *_inside(part, s.branches[0]))

    def _branches(self, mix: Parallel) -> tuple[Part, ...]:
        s, found = self.sublayer, []
        if mix.shares_keys:
            _ = self.voices  # a branch may borrow what an earlier one lends in this very sublayer
        rows = zip(mix.branches, mix.in_multipliers, s.letters, s.branches, strict=True)
        for i, (branch, factor, letter, config) in enumerate(rows):
            place, x = f"{self.index}.{i}", scaled(self.x, factor)
            kind = _kind(config)
            part = Part(place, self.index, letter, kind, branch, x, self._keys, None)
            found += [part, *_inside(part, config)]
        if isinstance(mix.combine, CrossAttention):
            place, heard = f"{self.index}.fusion", tuple(self.voices.v)
            found.append(
                Part(place, self.index, "", "fusion", mix.combine, self.x, {}, None, heard)
            )
        return tuple(found)

    @cached_property
    def _keys(self) -> dict[str, Lent]:
        """A copy: what is computed again must not change what the walk goes on with."""
        return dict(self.stream.keys)


def _inside(part: Part, config: MixerConfig) -> tuple[Part, ...]:
    """The recurrence inside a mixer, as a part of its own."""
    if not isinstance(part.module, BMojoF) or not isinstance(config, BMojoFConfig):
        return ()
    x, kind = part.module.heard(part.x), _kind(config.ssm)
    inner = part._replace(place=f"{part.place}.ssm", kind=kind, module=part.module.ssm, x=x)
    return (inner,)


def _kind(config: MixerConfig) -> str:
    return config.kind  # pyright: ignore[reportAttributeAccessIssue]


def walk(model: HybridLM, tokens: Tensor, layers: Collection[int] | None = None) -> Iterator[Layer]:
    """Yield the sublayers in order, each with what it reads, for one document from its beginning.

    Args:
        model: in evaluation mode.
        tokens: (1, T) int64.
        layers: indices of those that are yielded; None: all. Later ones are not run.
    """
    stream, segments = model.begin(tokens, None)
    last = model.spec.n_layers - 1 if layers is None else max(layers, default=-1)
    n_meta = model.spec.n_meta_tokens
    for sublayer, block in zip(model.spec.sublayers, model.blocks, strict=True):
        assert isinstance(block, Block)
        if sublayer.index > last:
            return
        if layers is None or sublayer.index in layers:
            yield Layer(sublayer.index, sublayer, block, stream, segments, n_meta)
        if sublayer.index < last:
            stream, _ = block(stream, segments, None, False)
