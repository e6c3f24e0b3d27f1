"""Launches that may begin before the one in front of them has ended."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda

gdc: Any = cuda
triton_jit: Any = triton.jit  # no type checker knows what a launch takes

MAY_BE_EARLY = True
"""Whether kernels that can wait for the launch in front of them are launched before its end."""


def early(tensor: Tensor) -> dict[str, Any]:
    """Return the launch options of a kernel that calls `after_launch` (programmatic launch).

    It takes Hopper or later; elsewhere the kernel is launched as usual. So it is in compiled code:
    the compiler knows nothing of these instructions, and would take every argument of a kernel
    that has them for one that it writes.
    """
    may_be = MAY_BE_EARLY and not torch.compiler.is_compiling()
    able = may_be and tensor.is_cuda and torch.cuda.get_device_capability()[0] >= 9
    return {"EARLY": True, "launch_pdl": True} if able else {"EARLY": False}


@triton_jit
def after_launch(EARLY: tl.constexpr):
    """Wait for all launches in front; then let the next one begin to wait.

    In this order at most two launches overlap, so that what the one before the last wrote may be
    read before the wait. To let the next one begin first gains nothing (docs/log.md).
    """
    if EARLY:
        gdc.gdc_wait()
        gdc.gdc_launch_dependents()


@triton_jit
def to_cache(at):
    """Have the lines of memory at these addresses brought near, whatever they will hold."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [at.to(tl.int64)],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip
