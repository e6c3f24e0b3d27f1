"""torch.compile for the sublayers that compile as one graph each; the rest stays eager.

That is a sublayer of a mixer that says ``compiles = True`` (with its norm, projection and residual
sum), or such a mixer alone where the sublayer does more: a branch of a parallel one, or one whose
wiring reads and writes beside the stream. Attention inside packed documents reads their lengths as
Python numbers, and would be compiled anew for every batch.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch

from braidlm.blocks import Block, Stream
from braidlm.errors import InputError
from braidlm.segments import Segments


def compilable(model: nn.Module) -> list[str]:
    """Return the names of the sublayers, and of the mixers elsewhere, that compile as one graph."""
    found: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, Block):
            compiles = module.is_plain and _compiles(module.mix.mixer)
        else:
            compiles = _compiles(module) and not is_inside
        found += [name] * compiles
    return found


def _compiles(module: object) -> bool:
    return getattr(module, "compiles", False)


@contextlib.contextmanager
def compiled(
    model: nn.Module,
    is_on: bool = True,
    budget: float = 1.0,
    *,
    backend: str | Callable[..., Any] = "inductor",
) -> Iterator[None]:
    """While inside, the compilable modules of `model` run compiled when they train.

    Calls that take or give a state, or need no gradient, are of other shapes and stay eager.

    Args:
        model: what is trained.
        is_on: whether anything happens at all.
        budget: share of what a graph would keep for its backward pass that it may keep.
        backend: of `torch.compile`.

    Raises:
        InputError: nothing in the model compiles, or there is no compiler.
    """
    if not is_on:
        yield
        return
    modules = [model.get_submodule(name) for name in compilable(model)]
    _check(model, modules, backend)
    for module in modules:
        is_block = isinstance(module, Block)
        module.forward = _sublayer(module, backend) if is_block else _mixer(module, backend)
    try:
        # Around all calls: the first one compiles.
        with functorch.patch(activation_memory_budget=budget):
            yield
    finally:
        for module in modules:
            del module.forward


Backend = str | Callable[..., Any]


def _mixer(module: nn.Module, backend: Backend) -> Callable[..., Any]:
    eager = module.forward
    # One graph or an error: a graph that breaks in the middle would be slow in silence.
    fast = torch.compile(eager, fullgraph=True, backend=backend)

    def forward(x: Any, segments: Any, state: Any, return_state: bool) -> Any:
        if _is_eager(state, return_state):
            return eager(x, segments, state, return_state)
        return fast(x, _of_any_number(segments), state, return_state)

    return forward


def _sublayer(block: Block, backend: Backend) -> Callable[..., Any]:
    eager = block.forward
    fast = torch.compile(block.added, fullgraph=True, backend=backend)

    def forward(stream: Stream, segments: Any, state: Any, return_state: bool) -> Any:
        if _is_eager(state, return_state) or stream.handed is not None:
            return eager(stream, segments, state, return_state)
        stream = stream.settled()
        hidden = fast(stream.hidden, _of_any_number(segments))
        return stream._replace(hidden=hidden, aux=None if stream.aux is None else {}), None

    return forward


def _is_eager(state: object, return_state: bool) -> bool:
    return state is not None or return_state or not torch.is_grad_enabled()


def _of_any_number(segments: Segments | None) -> Segments | None:
    """Let one graph serve any number of documents."""
    if segments is not None:
        for tensor in (segments.rows, segments.starts, segments.lengths):
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return segments


def _check(model: nn.Module, modules: list[nn.Module], backend: Backend) -> None:
    if not modules:
        raise InputError(
            "train.compile = true: nothing in this model compiles; mixers that do: Mamba-2, MLP"
        )
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    if backend == "inductor" and on_cpu and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise InputError("train.compile = true: needs a C++ compiler such as g++ on a CPU")
