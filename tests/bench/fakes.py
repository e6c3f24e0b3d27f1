"""A library of another's, of which every call is known."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from braidlm.bench.contender import Library, NoPeerError, Setting

Spoil = Callable[[Tensor], None]
"""Called with the tokens of every call; may raise."""


class Fake:
    """Takes `sec` for an update or a prefill, and for each token."""

    def __init__(self, name: str, sec: float, spoil: Spoil, heard: list[str]) -> None:
        self.name, self.about = name, {"library": name}
        self.faults: list[str] = []
        self.allocated: dict[str, int] = {}
        self._sec, self._spoil, self._heard = sec, spoil, heard

    def _call(self, tokens: Tensor) -> Callable[[], None]:
        def call() -> None:
            self._heard.append(self.name)
            self._spoil(tokens)
            time.sleep(self._sec)

        return call

    update = prefill = _call

    def generate(self, prompts: Tensor, new_tokens: int) -> Callable[[], list[float]]:
        def call() -> list[float]:
            self._call(prompts)()
            began = time.perf_counter()
            return [began + i * self._sec for i in range(new_tokens)]

        return call

    def close(self) -> None:
        self._heard.append(f"{self.name} closed")


def library(
    name: str = "fake",
    sec: float = 0.0,
    spoil: Spoil = lambda tokens: None,
    heard: list[str] | None = None,
    is_installed: bool = True,
) -> Library:
    def opened(setting: Setting) -> Any:
        return Fake(name, sec, spoil, [] if heard is None else heard)

    return Library(name, opened, opened, lambda: is_installed)


def absent(reason: str) -> Library:
    def refused(setting: Setting) -> Any:
        raise NoPeerError(reason)

    return Library("absent", refused, refused, lambda: True)


def too_large(limit: int) -> Spoil:
    """Memory ends at so many tokens."""

    def spoil(tokens: Tensor) -> None:
        if tokens.numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB. GPU 0 ...")

    return spoil
