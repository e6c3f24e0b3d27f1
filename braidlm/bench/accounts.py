"""Predicted bytes against those that are there, sublayer by sublayer."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm import state as states
from braidlm.bench.predicted import priced
from braidlm.generate.mode import inference
from braidlm.model import HybridLM


class Account(NamedTuple):
    """Bytes of the caches and states of some rows behind a prompt."""

    kv_bytes: int
    state_bytes: int
    faults: list[str]
    """A sentence for each sublayer whose bytes are not those that its declaration says."""


def accounts(model: HybridLM, tokens: Tensor, dtype: str) -> Account:
    """Run prompts (B, T) and count what the model remembers of them.

    The counters of a cache's length are left out: they do not grow with the model.
    """
    n_rows, context = tokens.shape
    with inference(model):
        memory = model(tokens).state
    predicted = priced(model.spec, context, dtype).sublayers
    kv = state = 0
    faults = []
    for expected, found in zip(predicted, memory, strict=True):
        held = split(found)
        for what, n, want in zip(
            ("KV cache", "state"), held, (expected.kv_bytes, expected.state_bytes), strict=True
        ):
            if n != n_rows * want:
                faults.append(
                    f"{what} of sublayer {expected.index} ({expected.symbol}) at {context:,} "
                    f"tokens x {n_rows}: predicted {n_rows * want:,} bytes, allocated {n:,}"
                )
        kv, state = kv + held[0], state + held[1]
    return Account(kv, state, faults)


def counted(model: HybridLM) -> list[str]:
    """Return a sentence if the parameters that are there are not those that are declared."""
    predicted = priced(model.spec, 1, "fp32").n_params
    there = sum(p.numel() for p in model.parameters())
    if there == predicted:
        return []
    return [f"parameters: predicted {predicted:,}, built {there:,}"]


def split(memory: Any) -> tuple[int, int]:
    """Return the bytes of KV caches and those of states of fixed size."""
    if memory is None or isinstance(memory, Tensor):
        return 0, _floats(memory)
    if "length" in getattr(memory, "_fields", ()):  # a cache counts its tokens
        return _floats(memory), 0
    parts = [split(part) for part in memory]
    return sum(kv for kv, _ in parts), sum(state for _, state in parts)


def _floats(memory: Any) -> int:
    found = [t for t in states.tensors(memory) if torch.is_floating_point(t)]
    return sum(t.numel() * t.element_size() for t in found)
