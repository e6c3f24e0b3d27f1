"""What the device itself reaches, measured in the same run: a copy and a large matrix product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from braidlm.bench.clock import seconds_of
from braidlm.bench.spread import Spread, spread

WARMUPS = 2


@dataclass(frozen=True)
class Sizes:
    """Of the operands."""

    copied_bytes: int
    """Of the source of the copy."""
    matrix: int
    """Rows and columns of both factors."""


GPU = Sizes(2**30, 8192)
CPU = Sizes(2**28, 2048)
"""Far beyond the caches, and long enough that a call's own cost is lost in it."""


@dataclass(frozen=True)
class Ceiling:
    """Seconds of each repeat."""

    dtype: str
    """"fp32" or "bf16", of the matrices."""
    sizes: Sizes
    copy_sec: Sequence[float]
    matmul_sec: Sequence[float]

    def bytes_per_sec(self, sec: float) -> float:
        """Return bytes read and written in a second, of a copy that took `sec`."""
        return 2 * self.sizes.copied_bytes / sec

    def flops_per_sec(self, sec: float) -> float:
        """Return FLOPs in a second, of a product that took `sec`."""
        return 2 * self.sizes.matrix**3 / sec

    def __add__(self, other: Ceiling) -> Ceiling:
        """Return the repeats of both together."""
        copies = [*self.copy_sec, *other.copy_sec]
        return Ceiling(self.dtype, self.sizes, copies, [*self.matmul_sec, *other.matmul_sec])

    @property
    def copy(self) -> Spread:
        """Bytes read and written in a second."""
        return spread(self.bytes_per_sec, self.copy_sec)

    @property
    def matmul(self) -> Spread:
        """FLOPs in a second."""
        return spread(self.flops_per_sec, self.matmul_sec)


class Probe:
    """A copy and a product (n, n) times (n, n) of random numbers, to be timed now and then.

    Args:
        device: where.
        dtype: "fp32" or "bf16".
        sizes: None: those of the device's kind.
    """

    def __init__(self, device: torch.device, dtype: str, sizes: Sizes | None = None) -> None:
        self.device, self.dtype = device, dtype
        self.sizes = sizes or (GPU if device.type == "cuda" else CPU)
        self._source = torch.ones(self.sizes.copied_bytes, dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        generator = torch.Generator(device).manual_seed(0)
        shape = (self.sizes.matrix, self.sizes.matrix)
        kind = torch.bfloat16 if dtype == "bf16" else torch.float32
        self._a, self._b = (
            torch.randn(shape, generator=generator, device=device).to(kind) for _ in range(2)
        )
        self._out = torch.empty_like(self._a)

    def measure(self, repeats: int) -> Ceiling:
        """Time both so many times, after a few calls that do not count."""
        with torch.no_grad():
            copies = self._timed(lambda: self._target.copy_(self._source), repeats)
            products = self._timed(lambda: torch.mm(self._a, self._b, out=self._out), repeats)
        return Ceiling(self.dtype, self.sizes, copies, products)

    def _timed(self, call: Callable[[], object], repeats: int) -> list[float]:
        for _ in range(WARMUPS):
            call()
        return [seconds_of(call, self.device) for _ in range(repeats)]
