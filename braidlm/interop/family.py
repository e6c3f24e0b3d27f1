"""What describes a family of foreign checkpoints: configuration and tensors, in both directions.

A family is data. `Family.spec` reads a configuration into our declaration; `Family.config` writes
one, and reads it again, so that a model is never exported as something else than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from braidlm.arch import Spec, Sublayer
from braidlm.arch.mixers import MixerConfig
from braidlm.arch.wiring import WIRING
from braidlm.errors import InputError
from braidlm.interop.compare import difference
from braidlm.interop.fields import Field, Flat, Foreign
from braidlm.interop.layout import Layout, UnfitError

KINDS = "kinds"
"""Of the layers of theirs, beside our fields where these are written."""


@dataclass(frozen=True)
class Rows:
    """Tensors of theirs whose rows, one below the other, are the rows of one tensor of ours."""

    names: tuple[str, ...]
    order: Callable[[MixerConfig], tuple[tuple[int, ...], list[int]]] | None = None
    """None: the same order, parted as the module's `row_parts`. Otherwise a function of the
    mixer's declaration: rows of each tensor of theirs, and for each row of ours its place there."""
    insert: tuple[int, ...] = ()
    """Axes that theirs has after the rows, as a convolution's (channels, 1, taps)."""
    lead: tuple[int, ...] = ()
    """Axes of one that theirs has before the rows."""
    or_evenly: bool = False
    """Whether a file may part the same rows evenly among its tensors, whatever they are of."""
    groups: Callable[[MixerConfig], int] | None = None
    """How many equal parts the rows have, if theirs has an axis for these parts before them."""


def rows(*names: str) -> Rows:
    """Return the plain case: the same rows in the same order."""
    return Rows(names)


@dataclass(frozen=True)
class Letter:
    """A letter of the pattern in one family."""

    kind: str
    """Kind of the mixer."""
    names: Mapping[str, Rows] | Callable[[MixerConfig], Mapping[str, Rows]]
    """Parameter of our mixer -> tensors of theirs, both relative to the mixer; or what gives that
    for a mixer's declaration. What a model does not have is passed over."""
    out: str = "out_proj"
    """Their name of the output projection."""
    when: Callable[[MixerConfig], bool] = field(default=lambda config: True)
    """Tells apart two letters of one kind."""
    is_shared: bool = False
    """Whether all its uses have one set of weights, which lie in the layer of the first."""
    adapters: Callable[[int], Mapping[str, Rows]] | None = None
    """Of a shared letter: what one use adds to its input projections -> tensors of theirs, which
    lie in the layer of the first use too, by the number of the use among all shared layers."""

    def names_of(self, config: MixerConfig) -> Mapping[str, Rows]:
        """Return the map of one mixer."""
        return self.names(config) if callable(self.names) else self.names


@dataclass(frozen=True)
class Place:
    """Where a sublayer lies inside a layer of theirs."""

    letters: str
    """One letter, or those of the branches."""
    norm: str
    """Their name of the norm before it."""
    mixers: tuple[str, ...]
    """Their name of each branch's mixer; "" if its tensors lie in the layer itself."""
    norm_position: str = "pre"
    """Whether the norm is before or after the mixer; "post" of a single letter alone."""
    use_proj: str = ""
    """Their name of the matrix that each use of a shared letter has for itself, in its layer."""

    @property
    def symbol(self) -> str:
        """The sublayer in a pattern."""
        return self.letters if len(self.letters) == 1 else "{" + self.letters + "}"


class Placed(NamedTuple):
    """Where a sublayer of a model lies."""

    layer: int
    """Of theirs."""
    place: Place
    home: int
    """The layer of theirs that holds its weights: of a shared letter that of the first use."""
    use: int
    """How many layers before hold a shared letter."""


@dataclass(frozen=True)
class Ends:
    """What lies outside the layers."""

    embedding: str
    norm: str
    layers: str
    """Of layer i is ``<layers>.<i>``."""
    head: str = "lm_head.weight"


@dataclass(frozen=True)
class Family:
    """One kind of foreign checkpoint."""

    model_type: str
    """What `config.json` calls it."""
    architecture: str
    """The class that their library loads it with."""
    ends: Ends
    letters: Mapping[str, Letter]
    layers: Mapping[str, tuple[Place, ...]]
    """Kind of a layer of theirs -> its sublayers."""
    layout: Layout
    """How the configuration tells the kinds of the layers."""
    fields: tuple[Field, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What a field means where the file does not name it; a function of the configuration."""
    harmless: frozenset[str] = frozenset()
    """Fields that decide nothing, beside those of every family."""
    skipped: tuple[str, ...] = ()
    """Patterns of tensors that a checkpoint may hold and that are not part of the model."""
    respelled: tuple[tuple[str, str], ...] = ()
    """Patterns of other names that tensors of a checkpoint may have -> the names given here."""

    def spec(self, data: Mapping[str, Any], where: str = "config.json") -> Spec:
        """Read a configuration.

        Raises:
            InputError: naming the first field that no field of ours expresses.
        """
        config = Foreign(data, self.defaults, where)
        kinds = self.layout.read(config)
        flat: Flat = {}
        for f in self.fields:
            flat |= f.read(config)
        config.check_all_read(self.harmless)
        places = [place for kind in kinds for place in self.layers[kind]]
        flat |= {f"{p.letters}.norm_position": "post" for p in places if p.norm_position == "post"}
        symbols = [place.symbol for place in places]
        try:
            return Spec.of(_nested(flat, self.letters, _folded(symbols)))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None

    def config(self, spec: Spec) -> dict[str, Any]:
        """Write a configuration that reads back as this model.

        Raises:
            UnfitError: this family cannot express the model, naming the sublayer or the field.
        """
        kinds, places = self.match(spec)
        try:
            ours = self._flat(spec, [placed.place for placed in places]) | {KINDS: kinds}
            written: dict[str, Any] = self.layout.write(kinds)
            for f in self.fields:
                written |= f.write(ours)
            again = self.spec(written)
        except UnfitError:
            raise
        except InputError as error:
            raise UnfitError(str(error), len(spec.sublayers)) from None
        if found := difference(spec, again):
            raise UnfitError(found[1], found[0])
        head = {"architectures": [self.architecture], "model_type": self.model_type}
        return head | written

    def match(self, spec: Spec) -> tuple[list[str], list[Placed]]:
        """Return the kinds of the layers of theirs, and where each sublayer lies.

        Raises:
            UnfitError: naming the first sublayer that begins no layer of theirs.
        """
        kinds: list[str] = []
        found: list[Placed] = []
        owners: dict[str, int] = {}
        use = 0
        while len(found) < len(spec.sublayers):
            kind = self._layer_at(spec, len(found), owners)
            shared = [p.letters for p in self.layers[kind] if self._is_shared(p)]
            for place in self.layers[kind]:
                sublayer, layer = spec.sublayers[len(found)], len(kinds)
                home = layer if sublayer.owns_weights else found[sublayer.owner].layer
                found.append(Placed(layer, place, home, use))
                if place.letters in shared:
                    owners[place.letters] = sublayer.owner
            use += bool(shared)
            kinds.append(kind)
        return kinds, found

    def _layer_at(self, spec: Spec, start: int, owners: Mapping[str, int]) -> str:
        for is_normed_there in (True, False):  # else the field is what does not fit
            for kind, places in self.layers.items():
                here = spec.sublayers[start : start + len(places)]
                if len(here) == len(places) and all(
                    self._fits(a, b, is_normed_there) and self._is_of(a, b, owners)
                    for a, b in zip(here, places, strict=True)
                ):
                    return kind
        shown = " ".join(s.symbol for s in spec.sublayers[start : start + 3])
        layers = ", ".join("".join(p.symbol for p in places) for places in self.layers.values())
        reason = f"sublayer {start} ({shown} ...) begins no layer of it: {layers}"
        raise UnfitError(reason, start, has_layers=False)

    def _is_shared(self, place: Place) -> bool:
        return any(self.letters[x].is_shared for x in place.letters)

    def _is_of(self, sublayer: Sublayer, place: Place, owners: Mapping[str, int]) -> bool:
        """Two shared letters may be alike but for whose weights they are."""
        owner = owners.get(place.letters, sublayer.index)
        return not self._is_shared(place) or sublayer.owner == owner

    def _fits(self, sublayer: Sublayer, place: Place, is_normed_there: bool) -> bool:
        if len(sublayer.branches) != len(place.letters):
            return False
        if is_normed_there and sublayer.wiring.norm_position != place.norm_position:
            return False
        letters = [self.letters[x] for x in place.letters]
        pairs = zip(letters, sublayer.branches, strict=True)
        return all(x.kind == b.kind and x.when(b) for x, b in pairs)  # pyright: ignore

    def _flat(self, spec: Spec, places: list[Place]) -> Flat:
        """Our fields; of a letter those of its first mixer, since the others are compared later."""
        own = spec.model_dump(exclude={"mixers", "parallel", "fusion", "pattern"})
        flat: Flat = own | {"logits_multiplier": spec.logits_scale, "mup_base_width": 0}
        for sublayer, place in zip(spec.sublayers, places, strict=True):
            wiring = {name: getattr(sublayer.wiring, name) for name in WIRING}
            for letter, branch in zip(place.letters, sublayer.branches, strict=True):
                fields = wiring | branch.model_dump()
                flat = {f"{letter}.{k}": v for k, v in fields.items()} | flat
            if sublayer.fusion is not None:
                flat = {f"fusion.{k}": v for k, v in sublayer.fusion.model_dump().items()} | flat
        return flat


def _folded(symbols: list[str]) -> str:
    """Return a pattern of these sublayers: once with a count, if it repeats as a whole."""
    n = len(symbols)
    for length in range(1, n // 2 + 1):
        if n % length == 0 and symbols == symbols[:length] * (n // length):
            return f"({''.join(symbols[:length])}){n // length}"
    return "".join(symbols)


def _nested(flat: Flat, letters: Mapping[str, Letter], pattern: str) -> dict[str, Any]:
    """Our flat fields as a declaration; letters that the pattern does not use are left out."""
    used: dict[str, dict[str, Any]] = {}
    for x, letter in letters.items():
        if x in pattern:
            used[x] = {"kind": letter.kind, **({"shared": True} if letter.is_shared else {})}
    data: dict[str, Any] = {"pattern": pattern, "mixers": used}
    for path, value in flat.items():
        place, dot, name = path.rpartition(".")
        if not dot:
            data[name] = value
        elif place == "fusion" and "{" in pattern:
            data.setdefault("fusion", {})[name] = value
        elif place in used and value is not None:
            used[place][name] = value
    return data
