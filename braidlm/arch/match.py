"""Two models made equal in one quantity: the second is resized until it agrees with the first.

Rungs are tried in this order, and the first that reaches the tolerance ends the search:

======== ================================================================
quantity what may change
======== ================================================================
flops    d_ff; inner widths of the mixers (heads) and d_ff; d_model and d_ff
params   the same
cache    n_kv_heads; with d_state; with window; heads, then with d_state
======== ================================================================

Within a rung sizes are multiples of 64 if those reach the tolerance, else of 8, else of 1 (heads:
of what keeps groups and queries per KV head; d_model: the largest of the three that divides it).
Of what is left the smallest change is taken: the least sum of |ln(new / old)| over the fields,
then the fewest fields, then the smaller values. So the result is a function of the two models.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import inf, log
from typing import Literal, NamedTuple, get_args

from braidlm.arch import knobs
from braidlm.arch.cost import cost
from braidlm.arch.knobs import STEPS, Setting, value_at
from braidlm.arch.spec import Spec
from braidlm.arch.toml import model_table
from braidlm.errors import InputError

Quantity = Literal["flops", "params", "cache"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
TOLERANCE = 0.01
"""Largest distance from the reference, as a share of it."""
FACTOR = 2.0
"""Each field stays between 1/FACTOR and FACTOR times its own value."""

_RUNGS: dict[Quantity, tuple[tuple[str, str], ...]] = {
    "flops": (("", "d_ff"), ("heads", "d_ff"), ("d_model", "d_ff")),
    "params": (("", "d_ff"), ("heads", "d_ff"), ("d_model", "d_ff")),
    "cache": (
        ("n_kv_heads", ""),
        ("n_kv_heads", "d_state"),
        ("n_kv_heads", "window"),
        ("heads", ""),
        ("heads", "d_state"),
    ),
}
"""Pairs of a coarse knob, of which every setting is tried, and a fine one, which is bisected."""

_COARSE = {"heads": knobs.heads, "n_kv_heads": knobs.kv_heads, "d_model": knobs.widths}


class Measures(NamedTuple):
    """What a model costs at one context."""

    training_flops_per_token: int
    """Canonical convention, forward and backward, on average over the context."""
    n_params: int
    n_active_params: int
    """Parameters that one token uses."""
    cache_bytes: int
    """KV caches (bf16) and states (fp32) of one sequence."""

    def of(self, on: Quantity) -> int:
        """Return the quantity by its short name."""
        return {
            "flops": self.training_flops_per_token,
            "params": self.n_params,
            "cache": self.cache_bytes,
        }[on]


class Change(NamedTuple):
    """One field of a model that has another value."""

    field: str
    old: int
    new: int


@dataclass(frozen=True)
class Match:
    """A model that agrees with a reference, and how it came about."""

    spec: Spec
    changes: tuple[Change, ...]
    reference: Measures
    before: Measures
    after: Measures


def measures(spec: Spec, context: int) -> Measures:
    """Return the quantities of one model.

    Raises:
        InputError: for a context below 1.
    """
    c = cost(spec, context)
    return Measures(c.training_flops_per_token, c.n_params, c.n_active_params, c.cache_bytes)


def match(
    reference: Spec,
    spec: Spec,
    on: Quantity,
    context: int,
    *,
    tolerance: float = TOLERANCE,
    factor: float = FACTOR,
) -> Match:
    """Resize `spec` until it agrees with `reference`; the reference stays as it is.

    Args:
        reference: the model that is not changed.
        spec: the model that is.
        on: what has to agree.
        context: tokens per sequence, for FLOPs and cache.
        tolerance: largest distance, as a share of the reference's value.
        factor: bounds of every field, from 1/factor to factor times its own value.

    Returns:
        The resized model; the same model where it agrees already.

    Raises:
        InputError: for a setting out of range, or when the bounds do not allow it; the nearest
            value that can be reached is named.
    """
    _check(on, tolerance, factor)
    goal = measures(reference, context)
    problem = _Problem(spec, on, context, goal.of(on), tolerance, Fraction(factor))
    setting = problem.solve()
    matched = spec if not setting else problem.spec_of(setting)
    assert matched is not None
    return Match(
        spec=matched,
        changes=tuple(Change(k, value_at(problem.data, k), v) for k, v in setting),
        reference=goal,
        before=measures(spec, context),
        after=measures(matched, context),
    )


def _check(on: str, tolerance: float, factor: float) -> None:
    if on not in QUANTITIES:
        raise InputError(f"on = {on!r}: allowed are {', '.join(QUANTITIES)}")
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance = {tolerance:g}: must be at least 0 and less than 1")
    if not 1 <= factor <= 64:
        raise InputError(f"factor = {factor:g}: must be between 1 and 64")


@dataclass(frozen=True)
class _Problem:
    """One model to be resized: what is asked, and what has been computed so far."""

    spec: Spec
    on: Quantity
    context: int
    goal: int
    tolerance: float
    factor: Fraction

    @cached_property
    def data(self) -> knobs.Data:
        return model_table(self.spec)

    @cached_property
    def seen(self) -> dict[Setting, int | None]:
        """Values of every setting that was tried; None for one that no model can have."""
        return {}

    def spec_of(self, setting: Setting) -> Spec | None:
        try:
            return Spec.of(knobs.with_setting(self.data, setting))
        except InputError:
            return None

    def value(self, setting: Setting) -> int | None:
        if setting not in self.seen:
            spec = self.spec_of(setting)
            self.seen[setting] = None if spec is None else measures(spec, self.context).of(self.on)
        return self.seen[setting]

    def agrees(self, value: int) -> bool:
        return abs(value - self.goal) <= self.tolerance * self.goal

    def solve(self) -> Setting:
        """Return the smallest change of the first rung that reaches the tolerance."""
        own = self.value(())
        assert own is not None
        if self.agrees(own):
            return ()
        for coarse, fine in _RUNGS[self.on]:
            starts = (coarse and _COARSE[coarse](self.data, self.factor)) or [()]
            for step in STEPS if fine else (1,):
                found = [s for start in starts for s in self._finer(start, fine, step)]
                if found:
                    return min(found, key=self._size)
        raise InputError(self._refusal())

    def _finer(self, start: Setting, fine: str, step: int) -> Iterator[Setting]:
        """Yield what agrees: `start` itself, and it with the smallest change of the fine knob."""
        if (value := self.value(start)) is None:
            return
        if self.agrees(value):
            yield start
        more = knobs.scaled(self.data, fine, step, self.factor) if fine else []
        ladder = [tuple(sorted((*start, *setting))) for setting in more]
        values = _Ladder(self, ladder)
        low, high = (self.goal * (1 + sign * self.tolerance) for sign in (-1, 1))
        if ladder and values[0] <= high and values[-1] >= low:
            inside = ladder[bisect_left(values, low) : bisect_right(values, high)]
            yield from [min(inside, key=self._size)] if inside else []

    def _size(self, setting: Setting) -> tuple[float, int, Setting]:
        """Order changes: by their sum of |ln ratio|, then by number, then by values."""
        ratios = (v / value_at(self.data, k) for k, v in setting)
        return round(sum(abs(log(r)) for r in ratios), 12), len(setting), setting

    def _refusal(self) -> str:
        near = min(
            ((s, v) for s, v in self.seen.items() if v is not None),
            key=lambda pair: (abs(pair[1] - self.goal), self._size(pair[0])),
        )
        made = ", ".join(f"{k} = {v}" for k, v in near[0]) or "nothing changed"
        share = f"{abs(near[1] / self.goal - 1):.2%} off" if self.goal else "instead of none"
        return (
            f"{WORDS[self.on]} cannot be matched: the reference has {self.goal:,}, and with "
            f"every field within a factor of {float(self.factor):g} the nearest is {near[1]:,} "
            f"({share}; {made}); allow a larger factor or tolerance, or start nearer"
        )


WORDS: dict[Quantity, str] = {
    "flops": "training FLOPs per token",
    "params": "parameters",
    "cache": "cache bytes",
}


class _Ladder:
    """Ascending values of settings, computed when bisection asks; none (inf) where none can be."""

    def __init__(self, problem: _Problem, settings: list[Setting]) -> None:
        self.problem, self.settings = problem, settings

    def __len__(self) -> int:
        return len(self.settings)

    def __getitem__(self, index: int) -> float:
        value = self.problem.value(self.settings[index])
        return inf if value is None else value
