"""Launching Triton kernels again with little work for the host.

`kernel[grid](...)` looks at the dtype, alignment and value of every argument, each time, to find
what it compiled for them: tens of microseconds for 25 arguments, which short kernels do not hide.
An operator knows sooner: all of it follows from what it was called with, at which it looks once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import count
from typing import Any

from torch import Tensor

MOST = 4096
"""Calls of different sizes that a launcher remembers."""


def described(*tensors: Tensor | None) -> Hashable:
    """What a compiled kernel may depend on in these tensors, for the key of a launch."""
    return tuple(
        None if v is None else (v.dtype, v.shape, v.stride(), v.data_ptr() % 16) for v in tensors
    )


def known_as(key: Hashable) -> int:
    """A number that stands for this key alone: a long key is hashed once, not at every launch."""
    if len(_numbers) >= MOST:
        _numbers.clear()
    number = _numbers.get(key)
    if number is None:
        number = _numbers[key] = next(_fresh)
    return number


_numbers: dict[Hashable, int] = {}
_fresh = count()


class Launcher:
    """A Triton kernel that remembers what was compiled, by a key that the caller answers for.

    A key must be equal only where the device, every dtype and alignment, every number among the
    arguments, all constants and the warps are.
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.known: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}

    def run(
        self,
        key: Hashable,
        grid: tuple[int, int, int],
        args: tuple[Any, ...],
        constants: Mapping[str, Any],
        num_warps: int,
    ) -> None:
        """`again`, or `first` where nothing is known by this key and these constants."""
        key = (key, num_warps, *constants.values())
        if not self.again(key, grid, args):
            self.first(key, grid, args, constants, num_warps)

    def again(self, key: Hashable, grid: tuple[int, int, int], args: tuple[Any, ...]) -> bool:
        """Run what is known by this key on the current device and stream; False if nothing is."""
        found = self.known.get(key)
        if found is None:
            return False
        compiled, values = found
        compiled[grid](*args, *values)
        return True

    def first(
        self,
        key: Hashable,
        grid: tuple[int, int, int],
        args: tuple[Any, ...],
        constants: Mapping[str, Any],
        num_warps: int,
    ) -> None:
        """Compile if need be, run and remember.

        Args:
            key: under which `again` will find it.
            grid: programs along each axis.
            args: the arguments up to the first constant.
            constants: values of the parameters after them, by name; others are left out.
            num_warps: of each program.
        """
        values = tuple(constants[name] for name in self.kernel.arg_names[len(args) :])
        compiled = self.kernel[grid](*args, *values, num_warps=num_warps)
        if compiled is not None:  # Triton's interpreter compiles nothing
            if len(self.known) >= MOST:
                self.known.clear()
            self.known[key] = compiled, values
