"""A step of decoding as one compiled graph, its weights in it."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from braidlm import state as states
from braidlm.errors import InputError
from braidlm.generate.mode import device_of, precise_logits
from braidlm.model import HybridLM


class CompiledStep:
    """One token per row, compiled for a number of rows and a room of the state.

    On a CPU the weights become constants of the graph, packed as its products want them; they are
    those of the moment when this was made. The first step compiles, which takes a minute or two;
    other numbers of rows, and rooms, are compiled anew when they come.

    Args:
        model: in evaluation mode whenever a step runs.
        backend: of ``torch.compile``.
    """

    def __init__(self, model: HybridLM, backend: str | Callable[..., Any] = "inductor") -> None:
        self.model = model
        self.versions = versions(model)
        self.is_frozen = device_of(model).type == "cpu"

        def step(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
            out = model(tokens, None, state)
            return precise_logits(model, out.hidden[:, 0]), plain(out.state)

        self._step = torch.compile(
            _apart(step),
            fullgraph=True,
            dynamic=False,
            backend=backend,
            # `check` watches the weights once a call; asking at every step costs a tenth of it.
            options={"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe},
        )

    def check(self, model: HybridLM) -> None:
        """Refuse another model, and weights and hooks that are no longer those in the graph.

        Raises:
            InputError: make a new `CompiledStep`.
        """
        if model is not self.model or versions(model) != self.versions:
            raise InputError(
                "the compiled step holds other weights or hooks than the model: make a new one"
            )

    def __call__(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the logits (n, V) after tokens (n, 1), and the state, written in place.

        Args:
            tokens: (n, 1) int64.
            state: of `HybridLM.reserve`, `plain`.

        Raises:
            InputError: a model whose step is not one graph.
        """
        from torch._dynamo.exc import Unsupported
        from torch._inductor import config

        try:
            with config.patch(freezing=self.is_frozen):
                return self._step(tokens, state)
        except Unsupported as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"the step of '{self.model.spec.pattern}' cannot be compiled ({why}); "
                "known to be so: a merge_attention with a window"
            ) from None


def plain(state: Any) -> Any:
    """Return a state whose tensors lie in memory as their shapes say: a graph knows one form."""

    def laid_out(t: Tensor) -> Tensor:
        expected, size = [], 1
        for n in reversed(t.shape):
            expected.append(size)
            size *= max(n, 1)
        is_plain = list(t.stride()) == expected[::-1]
        return t if is_plain else t.clone(memory_format=torch.contiguous_format)

    return states.map_tensors(laid_out, state)


def _apart(function: FunctionType) -> FunctionType:
    """Return a copy with code of its own: torch allows one code only so many graphs in all."""
    code = function.__code__.replace()
    return FunctionType(code, function.__globals__, closure=function.__closure__)


def versions(model: HybridLM) -> tuple[list[tuple[int, int]], list[int]]:
    """Tell where each weight lies and how often it was written, and which hooks there are."""
    weights = [(p.data_ptr(), p._version) for p in (*model.parameters(), *model.buffers())]
    parts = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    return weights, [number for both in parts for hooks in both for number in hooks]
