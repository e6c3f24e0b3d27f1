"""Tensors of a GGUF file as floats, one at a time; what is quantised is read by PyPI's `gguf`."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braidlm.errors import InputError
from braidlm.gguf.header import Header, Stored
from braidlm.tensors import About

FLOATS = {
    0: torch.float32,
    1: torch.float16,
    28: torch.float64,
    30: torch.bfloat16,
}
"""Types of ggml that are floats already, and are given as they are."""


class Quantised:
    """The tensors of a file; those that are quantised come as fp32.

    Raises:
        InputError: a type that cannot be read, or a file that ends within a tensor.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.about = {name: self._about(name, t) for name, t in header.tensors.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        stored = self.header.tensors[name]
        n_bytes = _n_bytes(stored)
        data = np.fromfile(self.header.path, np.uint8, n_bytes, offset=stored.start)
        if len(data) != n_bytes:
            raise self._cut(name)
        if stored.kind in FLOATS:
            return torch.from_numpy(data).view(FLOATS[stored.kind]).reshape(stored.shape)
        kind = _package().GGMLQuantizationType(stored.kind)
        with np.errstate(all="ignore"):  # who takes a tensor looks for NaN and infinity
            blocks = data.reshape(*stored.shape[:-1], -1)
            floats = _package().quants.dequantize(blocks, kind)
        return torch.from_numpy(floats.reshape(stored.shape))

    def _about(self, name: str, stored: Stored) -> About:
        if stored.kind not in FLOATS:
            self._check_kind(name, stored)
        if min(stored.shape) < 1 or stored.start + _n_bytes(stored) > self.header.n_bytes:
            raise self._cut(name)
        return About(stored.shape, FLOATS.get(stored.kind, torch.float32))

    def _check_kind(self, name: str, stored: Stored) -> None:
        where = f"{self.header.path}: tensor '{name:.80}'"
        kinds = _package().GGMLQuantizationType
        if stored.kind not in {int(kind) for kind in kinds}:
            raise InputError(f"{where} is of type {stored.kind}, which the package 'gguf' lacks")
        kind = kinds(stored.kind)
        if not _is_dequantised(kind):
            raise InputError(f"{where} is of type {kind.name}, which 'gguf' does not dequantise")
        block = _package().GGML_QUANT_SIZES[kind][0]
        if stored.shape[-1] % block:
            raise InputError(
                f"{where} has rows of {stored.shape[-1]}; {kind.name} has blocks of {block}"
            )

    def _cut(self, name: str) -> InputError:
        return InputError(
            f"{self.header.path} is cut short: its {self.header.n_bytes:,} bytes end before "
            f"tensor '{name:.80}' does"
        )


def _n_bytes(stored: Stored) -> int:
    n = math.prod(stored.shape)
    if stored.kind in FLOATS:
        return n * FLOATS[stored.kind].itemsize
    block, size = _package().GGML_QUANT_SIZES[_package().GGMLQuantizationType(stored.kind)]
    return n // block * size


@cache
def _is_dequantised(kind: Any) -> bool:
    """Try it on one block of zeros: the package has no list of what it reads."""
    size = _package().GGML_QUANT_SIZES[kind][1]
    try:
        _package().quants.dequantize(np.zeros((1, size), np.uint8), kind)
    except RuntimeError:  # of which "not yet implemented" is a kind
        return False
    return True


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise InputError(
            "quantised tensors of a GGUF file need the package 'gguf', which is not installed: "
            "pip install 'braidlm[gguf]'"
        ) from None
    return gguf
