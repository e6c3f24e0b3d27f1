"""The forms of the experts beside an MLP of the same active width, forward, and with backward.

On a CPU it is process time on one thread, so that other work on the machine does not count. On a
GPU the forward pass is recorded as a CUDA graph too, where nothing in it asks the host.

python benchmarks/experts.py --tokens 1024 [--fp32]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.errors import InputError
from braidlm.ops.experts import EXPERTS, experts


def best_sec(call: Callable[[], object], repeats: int) -> float:
    """The fastest of `repeats` calls after two that warm up."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    times = []
    for _ in range(repeats + 2):
        start = clock()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[2:])


def recorded_sec(call: Callable[[], object], repeats: int) -> float:
    """The same of the call recorded as a graph."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        call()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    return best_sec(graph.replay, repeats)


def mlp(x: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """A SwiGLU MLP."""
    gate, up = F.linear(x, w_in).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, w_out)


def main() -> None:
    """Print milliseconds by form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--d-ff", type=int, default=704)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--fp32", action="store_true", help="on a GPU, instead of bf16")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" and not args.fp32 else torch.float32

    def leaf(*shape: int) -> Tensor:
        drawn = 0.05 * torch.randn(shape, device=device, dtype=dtype)
        return drawn.requires_grad_()

    width, inner = args.d_model, args.d_ff
    x = leaf(args.tokens, width)
    scores = torch.rand(args.tokens, args.experts, device=device)
    weight, index = scores.softmax(-1).topk(args.top_k)
    stacks = leaf(args.experts, 2 * inner, width), leaf(args.experts, width, inner)
    dense = leaf(2 * args.top_k * inner, width), leaf(width, args.top_k * inner)
    calls: dict[str, Callable[[], Tensor]] = {
        one.name: lambda name=one.name: experts(x, index, weight, *stacks, impl=name)
        for one in EXPERTS.implementations
    }
    calls["an mlp"] = lambda: mlp(x, *dense)
    print(
        f"{device}, {dtype}, torch {torch.__version__}, {args.tokens} tokens of {width}, "
        f"{args.top_k} of {args.experts} experts of {inner}"
    )
    for name, call in calls.items():
        needs = (x, *(dense if name == "an mlp" else stacks))
        try:
            with torch.no_grad():
                forward = best_sec(call, args.repeats)
                may_be = device == "cuda" and name != "sorted"
                graph = f"  recorded {1e3 * recorded_sec(call, args.repeats):.3f}" if may_be else ""
        except InputError as error:
            print(f"{name:>15}  {error}")
            continue
        both = best_sec(lambda c=call, n=needs: torch.autograd.grad(c().sum(), n), args.repeats)
        print(f"{name:>15}  {1e3 * forward:9.3f} ms  {1e3 * both:9.3f} ms{graph}")


if __name__ == "__main__":
    main()
