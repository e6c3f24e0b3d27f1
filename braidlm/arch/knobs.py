"""The sizes of a declared model that a solver may turn, and the settings each can take.

Data is a model as a recipe writes it (see `braidlm.arch.toml.model_table`); a path is a dotted
field of it, such as ``mixers.-.d_ff``. A setting gives new values to some paths.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import product
from math import ceil, floor
from typing import Any, NamedTuple

from braidlm.arch.pattern import parse

Data = dict[str, Any]
Setting = tuple[tuple[str, int], ...]
"""Pairs of path and value, sorted; only values that differ from the model's own."""

STEPS = (64, 8, 1)
"""Multiples that a size is kept to, in this order, as far as the tolerance allows."""


class Place(NamedTuple):
    """A table of the declaration with sizes in it."""

    path: str
    fields: Data


def places(data: Data) -> list[Place]:
    """Return every mixer, those inside of others, and every cross attention that is used."""
    groups = parse(data["pattern"]).expand()
    letters = {x for group in groups for x in group}
    named = {k: v for k, v in sorted(data.get("parallel", {}).items()) if k in letters}
    letters |= {x for row in named.values() for x in row["branches"]}
    found = [Place(f"mixers.{k}", v) for k, v in sorted(data["mixers"].items()) if k in letters]
    found += [Place(f"{p.path}.ssm", p.fields["ssm"]) for p in found if "ssm" in p.fields]
    fusions = [("fusion", data["fusion"])] if any(len(group) > 1 for group in groups) else []
    fusions += [(f"parallel.{k}", row) for k, row in named.items()]
    found += [Place(f"{k}.cross", v["cross"]) for k, v in fusions if v.get("cross")]
    return found


def step_of(size: int) -> int:
    """Return the largest of `STEPS` that divides a size."""
    return next(step for step in STEPS if size % step == 0)


def scaled(data: Data, field: str, step: int, factor: Fraction) -> list[Setting]:
    """Return settings of one field in every mixer that has it, ascending, at one ratio.

    Args:
        data: the model.
        field: `d_ff`, `d_state`, `window` and so on.
        step: values are multiples of it.
        factor: values lie between 1/factor and factor times the model's own.
    """
    sizes = {f"{p.path}.{field}": p.fields[field] for p in places(data) if p.fields.get(field)}
    if not sizes:
        return []
    widest = max(sizes.values())
    ratios = (Fraction(new, widest) for new in _multiples(widest, step, factor))
    found = (_setting(sizes, dict.fromkeys(sizes, step), ratio, factor) for ratio in ratios)
    return _distinct(s for s in found if s is not None)


def heads(data: Data, factor: Fraction) -> list[Setting]:
    """Return settings of the mixers' inner widths, ascending, all at one ratio.

    Heads change and their channels do not. Queries per KV head and value heads per key head stay
    as they are; so does the number of groups. A mixer that declares its width without heads keeps
    the step of that width.
    """
    sizes: dict[str, int] = {}
    units: dict[str, int] = {}
    for place in places(data):
        sizes |= (own := {f"{place.path}.{k}": v for k, v in _inner(place.fields).items()})
        units |= {path: _unit(path, place.fields) for path in own}
    finest = max(sizes, key=lambda path: (sizes[path] // units[path], path), default=None)
    if finest is None:
        return []
    ratios = (Fraction(n, sizes[finest]) for n in _multiples(sizes[finest], units[finest], factor))
    found = (_setting(sizes, units, ratio, factor) for ratio in ratios)
    return _distinct(_with_other_heads(data, s) for s in found if s is not None)


def widths(data: Data, factor: Fraction) -> list[Setting]:
    """Return settings of `d_model`, ascending, by the largest step that divides the model's own."""
    own = data["d_model"]
    return [_only(data, {"d_model": n}) for n in _multiples(own, step_of(own), factor)]


def kv_heads(data: Data, factor: Fraction) -> list[Setting]:
    """Return every combination of KV heads that divide their heads."""
    choices: dict[str, list[int]] = {}
    for path, fields in places(data):
        if own := fields.get("n_kv_heads"):
            every = _multiples(own, 1, factor)
            choices[f"{path}.n_kv_heads"] = [n for n in every if fields["n_heads"] % n == 0]
    if not choices:
        return []
    combined = (dict(zip(choices, pick, strict=True)) for pick in product(*choices.values()))
    return [_only(data, values) for values in combined]


def value_at(data: Data, path: str) -> Any:
    """Return the value at a path; a letter may itself be no dot, so a path splits cleanly."""
    for key in path.split("."):
        data = data[key]
    return data


def with_setting(data: Data, setting: Setting) -> Data:
    """Return a copy of the model with new values; an initial std at its default follows d_model."""
    for path, value in setting:
        is_default = not data["mup_base_width"] and data.get("init_std") == data["d_model"] ** -0.5
        if path == "d_model" and is_default:
            data = {k: v for k, v in data.items() if k != "init_std"}
        data = _replaced(data, path.split("."), value)
    return data


def _replaced(data: Data, keys: list[str], value: int) -> Data:
    key, rest = keys[0], keys[1:]
    return {**data, key: _replaced(data[key], rest, value) if rest else value}


def _inner(fields: Data) -> dict[str, int]:
    """Return the field that sets a mixer's inner width, if it has one beside d_ff."""
    for name in ("n_heads", "d_inner"):
        if isinstance(fields.get(name), int):
            return {name: fields[name]}
    return {}


def _unit(path: str, fields: Data) -> int:
    """Return the number that a mixer's heads, or inner width, must stay a multiple of."""
    if path.endswith("d_inner"):
        return step_of(fields["d_inner"])
    if "n_kv_heads" in fields:
        return fields["n_heads"] // fields["n_kv_heads"]
    return fields.get("n_groups", 1)


def _with_other_heads(data: Data, setting: Setting) -> Setting:
    """Add the heads that keep each mixer's queries per KV head and value heads per key head."""
    values = dict(setting)
    for path, fields in places(data):
        new = values.get(f"{path}.n_heads")
        for other in ("n_kv_heads", "n_v_heads"):
            if new is not None and other in fields:
                values[f"{path}.{other}"] = new * fields[other] // fields["n_heads"]
    return tuple(sorted(values.items()))


def _setting(
    sizes: dict[str, int], units: dict[str, int], ratio: Fraction, factor: Fraction
) -> Setting | None:
    """Scale every size to the nearest multiple of its unit; None where the bounds hold none."""
    out = []
    for path, size in sorted(sizes.items()):
        allowed = _multiples(size, units[path], factor)
        if not allowed:
            return None
        if (new := _nearest(allowed, size * ratio)) != size:
            out.append((path, new))
    return tuple(out)


def _nearest(ascending: list[int], goal: Fraction) -> int:
    at = bisect_left(ascending, goal)
    return min(ascending[max(at - 1, 0) : at + 1], key=lambda n: abs(n - goal))


def _multiples(size: int, step: int, factor: Fraction) -> list[int]:
    """Return the multiples of `step`, at least one, that lie within the factor of a size."""
    low, high = ceil(size / factor / step), floor(size * factor / step)
    return [n * step for n in range(max(low, 1), high + 1)]


def _only(data: Data, values: dict[str, int]) -> Setting:
    return tuple(sorted((k, v) for k, v in values.items() if value_at(data, k) != v))


def _distinct(settings: Iterable[Setting]) -> list[Setting]:
    def once() -> Iterator[Setting]:
        last = None
        for setting in settings:
            if setting != last:
                yield setting
            last = setting

    return list(once())
