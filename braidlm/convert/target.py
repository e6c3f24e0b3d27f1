"""The student's model: the teacher's, with a new mixer in the place of, or beside, an attention."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from braidlm.arch import Spec, Sublayer
from braidlm.arch.convert import ConvertConfig
from braidlm.arch.defaults import LETTERS
from braidlm.arch.mixers import AttentionConfig
from braidlm.arch.pattern import parse
from braidlm.arch.wiring import PLAIN, WIRING
from braidlm.errors import InputError

Fields = dict[str, Any]


class Change(NamedTuple):
    """A sublayer of the student that is not the teacher's."""

    index: int
    """Its number, in both models."""
    new: tuple[int, ...]
    """Branches that the teacher does not have; (0,) where the whole mixer is another one."""
    kept: int | None
    """The branch that is the teacher's attention; None: there is one mixer, and it is new."""


class Target(NamedTuple):
    """What the teacher is made into."""

    spec: Spec
    """The student's."""
    changes: tuple[Change, ...]
    """In order; every other sublayer is the teacher's."""


def attentions(spec: Spec) -> list[Sublayer]:
    """Return the sublayers that are one attention: what can be replaced."""
    return [s for s in spec.sublayers if _attention(s) is not None]


def pattern_of(teacher: Spec, config: ConvertConfig, kept: Collection[int] = ()) -> str:
    """Return the student's pattern.

    Args:
        teacher: its model.
        config: the declaration.
        kept: attentions that stay where their number alone is declared.

    Raises:
        InputError: a layer that the teacher does not have.
    """
    if config.pattern is not None:
        return config.pattern
    found = attentions(teacher)
    for layer in (kept := kept if config.keep_layers is None else config.keep_layers):
        if layer >= len(found):
            raise InputError(
                f"convert.keep_layers: {layer} is no attention of the teacher, which has "
                f"{len(found)}, from 0 to {len(found) - 1}"
            )
    staying = {found[layer].index for layer in kept}
    going = {s.index for s in found} - staying
    return "".join(config.into if s.index in going else s.symbol for s in teacher.sublayers)


def target(teacher: Spec, config: ConvertConfig, kept: Collection[int] = ()) -> Target:
    """Return the student's model, and where it differs; arguments as for `pattern_of`.

    Raises:
        InputError: a pattern that does not lie on the teacher's, or mixers that cannot be.
    """
    text = pattern_of(teacher, config, kept)
    try:
        places = parse(text).expand()
    except InputError as error:
        raise InputError(f"convert.pattern: {error}") from None
    if len(places) != teacher.n_layers:
        raise InputError(
            f"convert.pattern = '{text}': has {len(places)} sublayers, and must have one for each "
            f"of the teacher's {teacher.n_layers} ({teacher.pattern})"
        )
    pairs = list(zip(teacher.sublayers, places, strict=True))
    changes = tuple(_change(s, p) for s, p in pairs if s.letters != p or s.is_parallel)
    changes = tuple(change for change in changes if change.new)
    if not changes:
        raise InputError(f"convert.pattern = '{text}': is the teacher's, nothing is to be made")
    data = teacher.model_dump(exclude_none=True) | {"pattern": text}
    data["mixers"] = _mixers(teacher, pairs, config.mixers)
    if any(change.kept is not None for change in changes):
        data["fusion"] = {"norm": "none", "combine": "add", "scale": "learned"}
    try:
        spec = Spec.of(data)
    except InputError as error:
        raise InputError(f"convert: {error}") from None
    _check_roles(spec, changes)
    return Target(spec, changes)


def _attention(s: Sublayer) -> AttentionConfig | None:
    """Return the attention that a sublayer is, in the plain wiring; None: it is something else."""
    is_plain = all(
        getattr(s.wiring, f) == getattr(PLAIN, f) for f in WIRING if f != "norm_position"
    )
    mixer = s.branches[0]
    if not isinstance(mixer, AttentionConfig) or mixer.kv_from is not None:
        return None
    return mixer if is_plain and not s.is_parallel else None


def _change(s: Sublayer, names: tuple[str, ...]) -> Change:
    """Compare one sublayer of the teacher with the letters that are to stand there."""
    shown = names[0] if len(names) == 1 else "{" + "".join(names) + "}"
    if s.symbol == shown:
        if s.is_parallel:
            raise InputError(f"sublayer {s.index} of the teacher, '{shown}', is no transformer's")
        return Change(s.index, (), None)
    if _attention(s) is None:
        raise InputError(
            f"convert.pattern: sublayer {s.index} is '{shown}' where the teacher has '{s.symbol}' "
            f"({s.branches[0].summary}): only a plain attention can become something else"
        )
    if len(names) == 1:
        return Change(s.index, (0,), None)
    if names.count(s.symbol) != 1:
        raise InputError(
            f"convert.pattern: sublayer {s.index} is '{shown}': one of its branches must be the "
            f"teacher's '{s.symbol}'"
        )
    if s.wiring.norm_position == "post":
        raise InputError(
            f"convert.pattern: sublayer {s.index} is '{shown}', and the teacher's '{s.symbol}' has "
            "norm_position = 'post', which a sublayer in braces cannot have"
        )
    kept = names.index(s.symbol)
    return Change(s.index, tuple(i for i in range(len(names)) if i != kept), kept)


def _mixers(
    teacher: Spec,
    pairs: list[tuple[Sublayer, tuple[str, ...]]],
    given: Mapping[str, Fields],
) -> Fields:
    """Return the table of letters: the teacher's that are used, and the new ones."""
    own: Fields = {x.letter: x.model_dump(exclude_none=True) for x in teacher.mixers}
    used = {name for _, names in pairs for name in names}
    for letter in given:
        if letter in own or letter not in used:
            why = "a letter of the teacher" if letter in own else "not in the pattern"
            raise InputError(f"convert.mixers.{letter}: is {why}; these fields are for new letters")
    table: Fields = {}
    for s, names in pairs:
        for name in names:
            if name in own:
                fields = dict(own[name])
                table[name] = fields.pop("mixer") | {k: fields[k] for k in WIRING if k in fields}
            elif name not in table:
                table[name] = _new(name, s, dict(given.get(name, {})))
    return table


def _new(letter: str, s: Sublayer, given: Fields) -> Fields:
    """Return the fields of a new letter: the shapes of the attention, unless others are given."""
    kind = given.get("kind", LETTERS.get(letter))
    if kind is not None:
        given["kind"] = kind
    attention = s.branches[0]
    assert isinstance(attention, AttentionConfig)
    wiring = {"norm_position": s.wiring.norm_position} if not s.is_parallel else {}
    shapes = _shapes(str(kind), attention)
    if {"expand", "width"} & set(given):
        shapes = {k: v for k, v in shapes.items() if k not in ("n_heads", "n_groups", "n_v_heads")}
    return wiring | {"out_bias": attention.out_bias} | shapes | given


def _shapes(kind: str, attention: AttentionConfig) -> Fields:
    """Sizes of a mixer in which the attention's matrices fit: a head for each of its own."""
    heads = {"n_heads": attention.n_heads, "head_dim": attention.head_dim}
    if kind == "mamba2":
        state = {"d_state": attention.head_dim, "n_groups": attention.n_heads}
        # The bias lets the gate begin open, see `copying`.
        return heads | state | {"head_dim": attention.v_head_dim, "in_bias": True}
    if kind in ("gated_deltanet", "kda"):
        return heads | {"v_head_dim": attention.v_head_dim}
    if kind == "mamba1":
        return {"width": attention.width}
    if kind == "attention":
        return attention.model_dump(exclude_none=True)
    return {}


def _check_roles(spec: Spec, changes: tuple[Change, ...]) -> None:
    for change in changes:
        s = spec.sublayers[change.index]
        for branch in change.new:
            mixer = s.branches[branch]
            if mixer.role == "channel" or mixer.has_own_output:
                raise InputError(
                    f"convert.pattern: sublayer {s.index} is '{s.letters[branch]}' "
                    f"({mixer.summary}) where the teacher has an attention: it must be a mixer of "
                    "tokens whose output projection is a matrix beside it"
                )
