"""What a declaration predicts of a model of transformers, and what is there: weights and cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from braidlm.arch import Spec
from braidlm.arch.cost import cost
from braidlm.arch.mixers import MixerConfig
from braidlm.laws.subject import Account

KEYS = frozenset({"keys", "values"})
"""Attributes of a layer of their caches that grow with every token."""
FP32_BYTES = 4


def predicted(spec: Spec, model: nn.Module, cache: Any, n_tokens: int) -> Iterator[Account]:
    """Yield parameters, and the bytes of KV caches and of states after one row of `n_tokens`.

    Of a convolution they hold `d_conv` columns, and of a window all tokens but the next one's.
    Recurrent states are in fp32 beside narrower weights.
    """
    n_params = cost(spec, n_tokens).n_params
    yield Account("parameters", n_params, sum(p.numel() for p in model.parameters()))
    width = next(model.parameters()).element_size()
    branches = [b for sublayer in spec.sublayers for b in sublayer.branches]
    held = list(_held(cache, "", set()))
    for what, is_grown, expected in (
        ("bytes of KV caches", True, sum(_kv_bytes(b, n_tokens, width) for b in branches)),
        ("bytes of states", False, sum(_state_bytes(b, width) for b in branches)),
    ):
        found = sum(t.numel() * t.element_size() for name, t in held if (name in KEYS) == is_grown)
        yield Account(what, expected, found)


def _kv_bytes(branch: MixerConfig, n_tokens: int, width: int) -> int:
    window = getattr(branch, "window", None)
    n_held = n_tokens if window is None else min(n_tokens, window - 1)
    return n_held * branch.kv_bytes_per_token(width)


def _state_bytes(branch: MixerConfig, width: int) -> int:
    """Columns of the convolution in the weights' dtype, the rest in fp32 or wider."""
    recurrent = branch.state_bytes(max(width, FP32_BYTES), conv_columns=0)
    columns = getattr(branch, "d_conv", 0)
    return recurrent + branch.state_bytes(width, columns) - branch.state_bytes(width, 0)


def _held(part: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Walk a cache; each tensor of floats once, with the last attribute that leads to it."""
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, Tensor):
        if part.is_floating_point():
            yield name, part
        return
    is_mapping = isinstance(part, dict)
    if is_mapping or isinstance(part, list | tuple):
        inner = [(name, x) for x in (part.values() if is_mapping else part)]
    else:
        inner = list(getattr(part, "__dict__", {}).items())
    for attribute, x in inner:
        yield from _held(x, attribute, seen)
