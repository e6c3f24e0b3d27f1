"""How other libraries lay a model out: layers of one mixer, an MLP in all of them or in none."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from braidlm.arch import Spec, Sublayer
from braidlm.arch.mixers import MixerConfig, MLPConfig
from braidlm.bench.contender import NoPeerError
from braidlm.interop.compare import difference

Kind = TypeVar("Kind", bound=MixerConfig)


class Layers(NamedTuple):
    """A pattern as layers."""

    mixers: list[MixerConfig]
    """One of each layer."""
    mlp: MLPConfig | None
    """Of every layer; None: of none."""

    def places(self, kind: type[Kind]) -> list[int]:
        """Return the numbers of the layers whose mixer is of this kind."""
        return [i for i, mixer in enumerate(self.mixers) if isinstance(mixer, kind)]

    def first(self, kind: type[Kind]) -> Kind | None:
        """Return the first mixer of this kind."""
        return next((mixer for mixer in self.mixers if isinstance(mixer, kind)), None)


def layers(spec: Spec) -> Layers:
    """Return the layers of a model.

    Raises:
        NoPeerError: a parallel sublayer, or MLPs behind some mixers alone.
    """
    branches = [_alone(sublayer) for sublayer in spec.sublayers]
    mlps = [branch for branch in branches if isinstance(branch, MLPConfig)]
    if not mlps:
        return Layers(branches, None)
    mixers = branches[::2]
    is_even = len(branches) == 2 * len(mlps) and not any(isinstance(m, MLPConfig) for m in mixers)
    if not is_even:
        raise NoPeerError(f"an MLP follows every mixer or none, not so in '{spec.pattern}'")
    return Layers(mixers, mlps[0])


def _alone(sublayer: Sublayer) -> MixerConfig:
    if sublayer.is_parallel:
        raise NoPeerError(f"it has no parallel sublayer such as {sublayer.symbol}")
    return sublayer.branches[0]


def check_same(spec: Spec, read: Spec) -> None:
    """Hold what a configuration reads back as to what it was made of.

    Raises:
        NoPeerError: it says another function, and of which sublayer.
    """
    if len(spec.sublayers) != len(read.sublayers):
        raise NoPeerError(f"'{spec.pattern}' would become '{read.pattern}'")
    if found := difference(spec, read):
        raise NoPeerError(found[1])
