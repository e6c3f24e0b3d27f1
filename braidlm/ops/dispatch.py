"""The one dispatch point: which implementation an operator runs, why not another, and a record.

An operator lists its implementations in order of preference. "auto" takes the first that has no
objection to the call; a name takes that one or raises with its objection. Nothing falls back in
silence, and removing an entry from a list leaves the others working.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.errors import InputError

HAS_TRITON = find_spec("triton") is not None
"""It comes with PyTorch for NVIDIA GPUs, and is not needed elsewhere."""


class Call(NamedTuple):
    """What an implementation may look at before it accepts a call."""

    device: str
    """Device type of the inputs, such as "cpu" or "cuda"."""
    dtype: torch.dtype
    """Dtype of the main input."""
    shapes: Mapping[str, int]
    """Sizes by the operator's own axis letters, such as {"B": 4, "T": 512}."""
    needs_grad: bool
    """Whether gradients will flow through the result."""
    is_packed: bool = False
    """Whether `segments` is given."""
    has_state: bool = False
    """Whether a state or cache is passed in."""
    returns_state: bool = False
    """Whether the states after the call are asked for."""
    options: tuple[str, ...] = ()
    """What is asked beyond the operator's plain form, in words, such as "cap"."""

    @classmethod
    def of(
        cls,
        main: Tensor,
        shapes: Mapping[str, int],
        inputs: Iterable[Tensor | None],
        segments: object = None,
        state: object = None,
        returns_state: bool = False,
        options: tuple[str, ...] = (),
    ) -> Call:
        """Describe a call.

        Args:
            main: the input whose device and dtype count.
            shapes: sizes by axis letters.
            inputs: all tensors that the result depends on, those of the state too.
            segments: where documents lie, or None.
            state: the state or cache that is passed in, or None.
            returns_state: whether the states after the call are asked for.
            options: what is asked beyond the plain form.
        """
        grad = needs_grad(*inputs)
        packed, stated = segments is not None, state is not None
        kind = main.device.type
        return cls(kind, main.dtype, shapes, grad, packed, stated, returns_state, options)


class Implementation(NamedTuple):
    """One way to run an operator."""

    name: str
    """What users write as `impl=` and what results record."""
    function: Callable[..., Any]
    """The operator itself."""
    why_not: Callable[[Call], str | None]
    """None if the call can run, otherwise the reason why it cannot."""


@dataclass(frozen=True)
class Operator:
    """An operator's name and its implementations in order of preference."""

    name: str
    implementations: tuple[Implementation, ...]

    def choose(self, impl: str, call: Call) -> Implementation:
        """The implementation that runs `call`; the choice is recorded.

        Raises:
            InputError: an unknown name, a named implementation that cannot run, or none that can.
        """
        chosen = self._first(call) if impl == "auto" else self._named(impl, call)
        self.note(chosen.name)
        return chosen

    def note(self, name: str) -> None:
        """Record that implementation `name` runs, where a mixer's step calls it directly."""
        if not torch.compiler.is_compiling():  # a graph would depend on what was recorded before
            _record.setdefault(self.name, {})[name] = True

    def _first(self, call: Call) -> Implementation:
        reasons = []
        for one in self.implementations:
            reason = one.why_not(call)
            if reason is None:
                return one
            reasons.append(f"{one.name}: {reason}")
        raise InputError(f"{self.name} has no implementation for this call ({'; '.join(reasons)}).")

    def _named(self, impl: str, call: Call) -> Implementation:
        for one in self.implementations:
            if one.name == impl:
                reason = one.why_not(call)
                if reason is not None:
                    raise InputError(f"impl={impl!r} of {self.name} cannot run here: {reason}.")
                return one
        names = ", ".join(["auto", *(one.name for one in self.implementations)])
        raise InputError(f"impl={impl!r} of {self.name} is unknown; it must be one of {names}.")


_record: dict[str, dict[str, bool]] = {}


def used() -> dict[str, str]:
    """The implementations that each operator ran since `reset`, such as {"ssd": "chunk+step"}."""
    return {name: "+".join(chosen) for name, chosen in _record.items()}


def reset() -> None:
    """Forget which implementations ran."""
    _record.clear()


def always(call: Call) -> str | None:
    """The `why_not` of an implementation that runs everywhere."""
    return None


def why_not_triton(call: Call) -> str | None:
    """What speaks against any Triton kernel of ours."""
    if call.device != "cuda":
        return "it needs an NVIDIA GPU"
    if not HAS_TRITON:
        return "the package triton is not installed"
    return "it computes in fp32 or less" if call.dtype == torch.float64 else None


def takes_one_token(call: Call) -> str | None:
    """The `why_not` of a step."""
    if call.shapes["T"] != 1 or call.is_packed:
        return "a step takes one token per row and no segments"
    return None


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether a result computed from `tensors` now would carry gradients."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def is_plain(tensor: Tensor) -> bool:
    """Whether neither gradients nor autocast are on: where a mixer may take its lean step."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(tensor.device.type)


def own_precision(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A context without autocast: operators choose the dtype of each of their steps themselves."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of recurrent and convolution states: at least fp32."""
    return torch.promote_types(dtype, torch.float32)


def check_shape(operator: str, name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape.

    Raises:
        ValueError: names the operator, the argument, its shape and the shape that is allowed.
    """
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"{operator}: {name} has shape {tuple(tensor.shape)}; it must be {expected}."
        )
