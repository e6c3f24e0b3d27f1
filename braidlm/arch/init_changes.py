"""Changes of a pretrained model that leave every weight as it is: positions, and what is seen.

Source: adjusted base frequency: Xiong et al. 2023 (arXiv 2309.16039); linear scaling: Chen et al.
    (arXiv 2306.15595); YaRN: Peng et al. (arXiv 2309.00071); dropping RoPE for long contexts: Yang
    et al. 2025 (arXiv 2501.18795), HypeNet (arXiv 2601.22156).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from braidlm.arch.config import Config, differences
from braidlm.arch.mixers import RopeScaling
from braidlm.arch.mixers.attention import PositionScale
from braidlm.arch.spec import Spec
from braidlm.errors import InputError


class CrossChange(Config):
    """What may change in the attention that a fusion owns."""

    position: Literal["rope", "none"] | None = None
    """none drops RoPE. Default: as it is."""
    rope_theta: float | None = Field(default=None, gt=0)
    """Another base of the rotary frequencies. Default: as it is."""
    window: int | None = Field(default=None, gt=0)
    """Tokens that a query sees, itself included. Default: as it is."""
    n_sinks: int | None = Field(default=None, ge=0)
    """First tokens that stay visible under the window. Default: as it is."""


class PositionChange(CrossChange):
    """What may change in a mixer, as far as it has these fields."""

    rope_scaling: RopeScaling | None = None
    """Stretching of the frequencies, instead of any that is there. Default: as it is."""
    position_scale: PositionScale | None = None
    """A factor on the scores that grows with the position. Default: as it is."""


class LetterChange(PositionChange):
    """What changes in a letter that names a mixer."""

    letter: str = Field(min_length=1, max_length=1)
    """The letter."""


class ParallelChange(CrossChange):
    """What changes in the fusion of a letter that names a parallel sublayer."""

    letter: str = Field(min_length=1, max_length=1)
    """The letter."""


class InitChanges(Config):
    """How the model differs from that of its init; every weight is the same."""

    mixers: tuple[LetterChange, ...] = ()
    """In a recipe file a table by letter: ``[init_changes.mixers."*"]``."""
    parallel: tuple[ParallelChange, ...] = ()
    """The same for parallel sublayers with letters: the attention of their fusions."""
    fusion: CrossChange | None = None
    """The attention that the fusion of ``{...}`` owns. Default: as it is."""

    @model_validator(mode="before")
    @classmethod
    def _by_letter(cls, data: Any) -> Any:
        """Read a table by letter as the tuple that is stored."""
        if not isinstance(data, dict):
            return data
        read = dict(data)
        for name in ("mixers", "parallel"):
            table = data.get(name)
            if isinstance(table, dict):
                for letter, fields in table.items():
                    if not isinstance(fields, dict):
                        raise ValueError(f"{name}.{letter} = {fields!r}: must be a table of fields")
                read[name] = tuple({**fields, "letter": k} for k, fields in sorted(table.items()))
        return read

    def as_rows(self) -> list[dict[str, Any]]:
        """Return what is declared as `told` returns what has changed, without the old values."""
        named: list[tuple[str, CrossChange]] = [(f"mixers.{c.letter}", c) for c in self.mixers]
        named += [(f"parallel.{c.letter}", c) for c in self.parallel]
        named += [] if self.fusion is None else [("fusion", self.fusion)]
        return [
            {"field": f"{where}.{name}", "to": value}
            for where, change in named
            for name, value in change.model_dump(mode="json", exclude_none=True).items()
            if name != "letter"
        ]


def changed(spec: Spec, changes: InitChanges | None) -> Spec:
    """Return the spec with the changes made; its weights have the names and shapes they had.

    Raises:
        InputError: a letter or a fusion that the spec does not have, a field that its mixer does
            not have, or a model that cannot be.
    """
    if changes is None:
        return spec
    plain = spec.model_dump(mode="json", exclude_none=True)
    for name, inside in (("mixers", "mixer"), ("parallel", "fusion")):
        rows = {row["letter"]: row for row in plain[name]}
        for change in getattr(changes, name):
            where = f"init_changes.{name}.{change.letter}"
            if change.letter not in rows:
                known = ", ".join(rows) or "none is declared"
                raise InputError(f"{where}: the init has no such letter; allowed: {known}")
            fields = rows[change.letter][inside]
            _change(fields if name == "mixers" else _cross(fields, where), change, where, spec)
    if changes.fusion is not None:
        where = "init_changes.fusion"
        _change(_cross(plain["fusion"], where), changes.fusion, where, spec)
    try:
        return Spec.of(plain)
    except InputError as error:
        raise InputError(f"init_changes: {error}") from None


def told(before: Spec, after: Spec) -> list[dict[str, Any]]:
    """Return every field that differs: [{"field": "mixers.*.rope_theta", "from", "to"}]."""
    pairs: list[tuple[Any, Any, str]] = []
    one, other = (s.model_dump(mode="json", exclude_none=True) for s in (before, after))
    for name, inside in (("mixers", "mixer"), ("parallel", "fusion")):
        for old, new in zip(one.pop(name), other.pop(name), strict=True):
            pairs.append((old[inside], new[inside], f"{name}.{old['letter']}"))
    pairs.append((one["fusion"], other["fusion"], "fusion"))
    return [
        {"field": field.replace(".cross.", "."), "from": old, "to": new}
        for old_fields, new_fields, path in pairs
        for field, old, new in differences(old_fields, new_fields, path)
    ]


def _cross(fusion: dict[str, Any], where: str) -> dict[str, Any]:
    if fusion.get("cross") is None:
        raise InputError(f"{where}: combine = '{fusion['combine']}' has no attention of its own")
    return fusion["cross"]


def _change(fields: dict[str, Any], change: CrossChange, where: str, spec: Spec) -> None:
    """Put what is declared into the plain fields of a mixer."""
    kind = fields.get("kind")
    known = _fields_of(spec, kind)
    for name, value in change.model_dump(mode="json", exclude_none=True).items():
        if name == "letter":
            continue
        if kind is not None and name not in known:
            can = ", ".join(n for n in type(change).model_fields if n in known) or "nothing"
            raise InputError(f"{where}.{name}: '{kind}' has no such field; may change: {can}")
        fields[name] = value


def _fields_of(spec: Spec, kind: str | None) -> frozenset[str]:
    mixers = [x.mixer for x in spec.mixers if x.mixer.kind == kind]
    return frozenset(type(mixers[0]).model_fields) if mixers else frozenset()
