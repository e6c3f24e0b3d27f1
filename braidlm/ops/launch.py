"""Launching Triton kernels again with little work for the host.

`kernel[grid](...)` looks at the dtype, alignment and value of every argument, each time, to find
what it compiled for them: tens of microseconds for 25 arguments, which short kernels do not hide.
An operator knows sooner: all of it follows from what it was called with, at which it looks once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor

MOST = 4096
"""Calls of different sizes that a launcher remembers."""


def described(*tensors: Tensor | None) -> Hashable:
    """What a compiled kernel may depend on in these tensors, for the key of a launch."""
    return tuple(
        None if v is None else (v.dtype, v.shape, v.stride(), v.data_ptr() % 16) for v in tensors
    )


class Launcher:
    """A Triton kernel that remembers what was compiled, by a key that the caller answers for."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.known: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}

    def __call__(
        self,
        key: Hashable,
        grid: tuple[int, int, int],
        args: tuple[Any, ...],
        constants: Mapping[str, Any],
        num_warps: int,
    ) -> None:
        """Run the kernel on the current device and stream.

        Args:
            key: equal only where the device, every dtype and alignment, every number in `args`, all
                `constants` and `num_warps` are.
            grid: programs along each axis.
            args: the arguments up to the first constant.
            constants: values of the parameters after them, by name; others are left out.
            num_warps: of each program.
        """
        found = self.known.get(key)
        if found is not None:
            compiled, values = found
            compiled[grid](*args, *values)
            return
        values = tuple(constants[name] for name in self.kernel.arg_names[len(args) :])
        compiled = self.kernel[grid](*args, *values, num_warps=num_warps)
        if compiled is not None:  # Triton's interpreter compiles nothing
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[key] = compiled, values
