"""torch.compile for the mixers that compile as one graph each; the rest of the model stays eager.

Attention inside packed documents reads their lengths as Python numbers: it would be compiled
anew for every batch. It, and everything outside the mixers, runs as without `train.compile`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from braidlm.errors import InputError


def compilable(model: nn.Module) -> list[str]:
    """Return the names of the modules that say ``compiles = True`` of themselves."""
    return [name for name, module in model.named_modules() if getattr(module, "compiles", False)]


@contextlib.contextmanager
def compiled(
    model: nn.Module, is_on: bool = True, *, backend: str | Callable[..., Any] = "inductor"
) -> Iterator[None]:
    """While inside, the compilable modules of `model` run compiled when they train.

    Calls that take or give a state, or need no gradient, are of other shapes and stay eager.

    Args:
        model: what is trained.
        is_on: whether anything happens at all.
        backend: of `torch.compile`.

    Raises:
        InputError: nothing in the model compiles, or there is no compiler.
    """
    modules = [model.get_submodule(name) for name in compilable(model)] if is_on else []
    if is_on:
        _check(model, modules, backend)
    for module in modules:
        module.forward = _training_only(module.forward, backend)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _training_only(
    eager: Callable[..., Any], backend: str | Callable[..., Any]
) -> Callable[..., Any]:
    # One graph or an error: a graph that breaks in the middle would be slow in silence.
    fast = torch.compile(eager, fullgraph=True, backend=backend)

    def forward(x: Any, segments: Any, state: Any, return_state: bool) -> Any:
        if state is not None or return_state or not torch.is_grad_enabled():
            return eager(x, segments, state, return_state)
        if segments is not None:  # one graph for any number of documents
            for tensor in (segments.rows, segments.starts, segments.lengths):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return fast(x, segments, state, return_state)

    return forward


def _check(model: nn.Module, modules: list[nn.Module], backend: object) -> None:
    if not modules:
        raise InputError(
            "train.compile = true: nothing in this model compiles; mixers that do: Mamba-2, MLP"
        )
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    if backend == "inductor" and on_cpu and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise InputError("train.compile = true: needs a C++ compiler such as g++ on a CPU")
