"""Fading attention against a window twice as long, which sees as many entries, and full attention.

Forward, forward and backward, and one step of decoding over full caches. On a CPU it is process
time on one thread, so that other work on the machine does not count.

python benchmarks/fading_attention.py --window 512 --length 4096
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from braidlm.ops.attention import attention
from braidlm.ops.fading import Entries, fading_attention

Form = Callable[[list[Tensor], Any], tuple[Tensor, Any]]
"""A function of q, k, v and faded k, v (B, T, ...) and a cache."""


def best_ms(call: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of `repeats` calls after one that warms up."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 1e3 * min(times[1:])


def forms(window: int) -> dict[str, Form]:
    """What is compared, by name."""

    def fading(x: list[Tensor], cache: Any) -> tuple[Tensor, Any]:
        own, faded = Entries(x[1], x[2]), Entries(x[3], x[4])
        return fading_attention(x[0], own, faded, window=window, cache=cache)

    def plain(x: list[Tensor], cache: Any, window: int | None) -> tuple[Tensor, Any]:
        return attention(x[0], x[1], x[2], window=window, cache=cache)

    twice = 2 * window
    return {
        f"fading {window} + {window}": fading,
        f"window {twice}": lambda x, cache: plain(x, cache, twice),
        "full": lambda x, cache: plain(x, cache, None),
    }


def main() -> None:
    """Print milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    heads = (8, 2, 2, 2, 2)
    x = [torch.randn(1, args.length, h, 64, device=device, dtype=dtype) for h in heads]
    one = [t[:, :1] for t in x]
    print(f"{device}, {dtype}, T {args.length}, 8 heads of 64, 2 for keys; ms")
    for name, form in forms(args.window).items():
        leaves = [t.clone().requires_grad_() for t in x]
        both = best_ms(lambda f=form, g=leaves: f(g, None)[0].sum().backward(), args.repeats)
        with torch.no_grad():
            ahead = best_ms(lambda f=form: f(x, None), args.repeats)
            cache = form(x, None)[1]
            step = best_ms(lambda f=form, c=cache: f(one, c), 50)
        print(f"{name}: forward {ahead:.1f}, and backward {both:.1f}; step {step:.3f}")


if __name__ == "__main__":
    main()
