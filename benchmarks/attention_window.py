"""A sliding window against full attention on this machine, forward, and forward and backward.

On a CPU it is process time on one thread, so that other work on the machine does not count.

python benchmarks/attention_window.py --window 128 --length 4096
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from braidlm.ops.attention import attention


def best_sec(call: Callable[[int | None], object], window: int | None, repeats: int) -> float:
    """The fastest of `repeats` calls after one that warms up."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(repeats + 1):
        start = clock()
        call(window)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


def main() -> None:
    """Print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shape = (1, args.length, args.heads, args.head_dim)
    given = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]

    def forward(window: int | None) -> torch.Tensor:
        return attention(*given, window=window, return_state=False)[0]

    def both(window: int | None) -> object:
        return torch.autograd.grad(forward(window).sum(), given)

    def inference(window: int | None) -> object:
        with torch.no_grad():
            return forward(window)

    print(f"{device}, {dtype}, T {args.length}, {args.heads} heads of {args.head_dim}")
    for name, call in (("forward", inference), ("forward and backward", both)):
        full, windowed = (best_sec(call, w, args.repeats) for w in (None, args.window))
        print(
            f"{name}: full {1e3 * full:.1f} ms, window {args.window} {1e3 * windowed:.1f} ms, "
            f"{full / windowed:.1f} times"
        )


if __name__ == "__main__":
    main()
