"""Time of SSD's forward and backward pass against the length of the row: it must be linear.

    python benchmarks/ssd_linear_in_t.py --longest 65536

Prints a table and ends in one JSON line. `growth` is the time per token at the longest row divided
by that at the shortest: 1 is linear, and a quadratic part would make it rise with the length.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.ssd import ssd


def inputs(length: int, dtype: torch.dtype, sizes: argparse.Namespace) -> list[Tensor]:
    """x, dt, A, B, C of one row, asking for gradients."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, sizes.heads, sizes.head_dim, generator=draw).to(dtype)
    dt = 0.1 * torch.rand(1, length, sizes.heads, generator=draw)
    a = -16 * torch.rand(sizes.heads, generator=draw)
    b, c = torch.randn(2, 1, length, 1, sizes.d_state, generator=draw).to(dtype)
    return [v.clone().requires_grad_() for v in (x, dt, a, b, c)]


def seconds(args: list[Tensor], chunk_size: int, repeats: int) -> float:
    """The fastest of `repeats` forward and backward passes."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        y, _ = ssd(*args, chunk_size=chunk_size, return_state=False)
        torch.autograd.grad(y, args, torch.ones_like(y))
        best = min(best, time.perf_counter() - start)
    return best


def measure(options: argparse.Namespace) -> dict[str, object]:
    """One row of the table per length, doubling from the shortest to the longest."""
    dtype = getattr(torch, options.dtype)
    rows = []
    length = options.shortest
    while length <= options.longest:
        repeats = max(options.repeats, options.repeats * options.shortest * 4 // length)
        taken = seconds(inputs(length, dtype, options), options.chunk_size, repeats)
        rows.append({"length": length, "sec": taken, "usec_per_token": 1e6 * taken / length})
        print(f"{length:>8} {1e3 * taken:>10.2f} ms {1e6 * taken / length:>8.2f} us/token")
        length *= 2
    return {
        "benchmark": "ssd_linear_in_t",
        "rows": rows,
        "growth": rows[-1]["usec_per_token"] / rows[0]["usec_per_token"],
        "implementation": dispatch.used()["ssd"],
        "dtype": options.dtype,
        "chunk_size": options.chunk_size,
        "heads": options.heads,
        "head_dim": options.head_dim,
        "d_state": options.d_state,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Measure, print, and return what was printed last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shortest", type=int, default=1024)
    parser.add_argument("--longest", type=int, default=65536)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--d-state", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    card = measure(parser.parse_args(arguments))
    print(json.dumps(card))
    return card


if __name__ == "__main__":
    main()
