"""What does little but move numbers, on one GPU, beside a copy of as many bytes.

The convolution with its SiLU, the gated norm, and the norm in front of a sublayer, alone and with
the residual sum before it, at the sizes of the 401.7M hybrid: 8 rows of 4096 tokens. An operation
must read each input once and write each output once, and so its backward pass with the gradients
that it is given and those that it gives (of a residual sum it needs the sum alone); a device copy
of half of these bytes moves as many. Calls are recorded as CUDA graphs, so that no host is waited
for, and run in turn with their copies; a copy that is slower than one of 1 GiB is held to the rate
of that (copies inside graphs were seen at 2.6 and at 4.1 TB/s); medians over rounds of
`triton.testing.do_bench`, which clears the second cache. Beside them what the GPU works in each
kernel of both passes. One JSON line last.

    python benchmarks/pointwise_on_gpu.py [--rows 8x4096] [--rounds 5] [--limit 1.5]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from braidlm.ops import dispatch
from braidlm.ops.add_norm import add_rms_norm
from braidlm.ops.conv import causal_conv
from braidlm.ops.norm import gated_rms_norm, rms_norm

D_MODEL, D_INNER, CONV, D_CONV, HEADS = 1024, 2048, 2304, 4, 32
"""Of the hybrid of `training_on_gpu.py`."""
EPS = 1e-5


class Operation(NamedTuple):
    """A function of tensors that all want a gradient."""

    name: str
    function: Callable[..., tuple[Tensor, ...]]
    inputs: list[Tensor]
    reads: tuple[int, ...]
    """Which inputs, or what has their size, the backward pass cannot do without."""


def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random numbers on the GPU."""
    return torch.randn(shape, device="cuda", dtype=dtype)


def operations(batch: int, length: int) -> list[Operation]:
    """Activations in bf16, weights in fp32, as under autocast; the residual stream in both.

    What is convolved and the gate are slices of one projection, as in Mamba-2.
    """
    projected = drawn(batch, length, D_INNER + CONV + HEADS)
    z, xbc, _ = projected.split([D_INNER, CONV, HEADS], dim=-1)
    weights = drawn(CONV, D_CONV, dtype=torch.float32), drawn(CONV, dtype=torch.float32)
    y, scale = drawn(batch, length, D_INNER), drawn(D_INNER, dtype=torch.float32)
    stream, norm = drawn(batch, length, D_MODEL, dtype=torch.float32), scale[:D_MODEL].clone()

    def conv(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
        return (causal_conv(x, weight, bias, activation="silu", return_state=False)[0],)

    def gated(x: Tensor, gate: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (gated_rms_norm(x, gate, weight, EPS),)

    def normed(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (rms_norm(x, weight, EPS),)

    def summed(x: Tensor, added: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return add_rms_norm(x, added, weight, EPS, dtype=torch.bfloat16)

    half = stream.bfloat16()
    found = [
        Operation("conv + SiLU", conv, [xbc, *weights], (0, 1, 2)),
        Operation("gated norm", gated, [y, z, scale], (0, 1, 2)),
        Operation("residual sum + norm", summed, [stream, half, norm], (0, 2)),
        Operation("norm, bf16", normed, [half, norm], (0, 1)),
        Operation("norm, fp32", normed, [stream, norm], (0, 1)),
    ]
    return [o._replace(inputs=[v.detach().requires_grad_() for v in o.inputs]) for o in found]


def n_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the numbers themselves, however they lie."""
    return sum(v.numel() * v.element_size() for v in tensors)


def recorded(function: Callable[[], Any], stream: torch.cuda.Stream) -> Callable[[], None]:
    """A CUDA graph of one call, which was made before on the same stream."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        function()
    return partial(_replay, graph, function)


def _replay(graph: torch.cuda.CUDAGraph, function: Callable[[], Any]) -> None:
    """`function` is held for the tensors that it reads and writes: the graph knows addresses."""
    del function
    graph.replay()


def passes(operation: Operation) -> dict[str, tuple[Callable[[], None], int]]:
    """Each pass as one call, and the bytes that it must move."""
    _, function, inputs, reads = operation
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a gradient is found on the stream of its forward pass
        outputs = function(*inputs)
        given = [torch.randn_like(y) for y in outputs]
    torch.cuda.synchronize()

    def forward() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return function(*inputs)

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, inputs, given, retain_graph=True)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*inputs), inputs, given)

    one = n_bytes(inputs) + n_bytes(outputs)
    back = n_bytes(inputs[i] for i in reads) + n_bytes(given) + n_bytes(inputs)
    calls = (("forward", forward, one), ("backward", backward, back), ("both", both, one + back))
    return {name: (recorded(call, stream), moved) for name, call, moved in calls}


def copied(moved: int) -> Callable[[], Any]:
    """A copy that reads and writes this many bytes together."""
    source = torch.empty(moved // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def kernels(operation: Operation, repeats: int = 8) -> dict[str, float]:
    """Milliseconds that the GPU works in each kernel of both passes, the slowest first."""
    from torch.profiler import ProfilerActivity, profile

    _, function, inputs, _ = operation
    given = [torch.randn_like(y) for y in function(*inputs)]
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            torch.autograd.grad(function(*inputs), inputs, given)
        torch.cuda.synchronize()
    found = {e.key[:48]: e.device_time_total / 1e3 / repeats for e in seen.key_averages()}
    slowest = sorted(found.items(), key=lambda item: -item[1])
    return {name: ms for name, ms in slowest[:6] if ms > 1e-3}


def measure(operation: Operation, rounds: int) -> dict[str, Any]:
    """Milliseconds of each pass and of its copy, taken in turn, and how they compare."""
    from triton.testing import do_bench

    bench: Any = partial(do_bench, warmup=10, rep=40, return_mode="median")
    row: dict[str, Any] = {"operation": operation.name}
    per_byte = min(bench(copied(2**31)) for _ in range(3)) / 2**31
    for name, (call, moved) in passes(operation).items():
        copy = copied(moved)
        pairs = [(bench(call), min(bench(copy), moved * per_byte)) for _ in range(rounds)]
        ratios = [ours / theirs for ours, theirs in pairs]
        row[name] = {
            "bytes": moved,
            "ms": statistics.median(ours for ours, _ in pairs),
            "copy_ms": statistics.median(theirs for _, theirs in pairs),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
        }
    return row | {"kernels_ms": kernels(operation)}


def told(name: str, found: dict[str, Any]) -> str:
    """One pass in words."""
    low, high = found["ratios"]
    times = f"{found['ms']:.3f} ms, copy {found['copy_ms']:.3f}"
    return f"{name} {times}: {found['ratio']:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Print three lines for each operation, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="8x4096", metavar="BxT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.5, help="times the copy, of both passes")
    options = parser.parse_args()
    batch, length = (int(n) for n in options.rows.split("x"))
    found = []
    for operation in operations(batch, length):
        dispatch.reset()
        row = measure(operation, options.rounds) | {"ops": dispatch.used()}
        found.append(row)
        word = "within" if row["both"]["ratio"] <= options.limit else "beyond"
        print(f"{operation.name}: {told('both', row['both'])}, {word} {options.limit}", flush=True)
        print(f"  {'; '.join(told(name, row[name]) for name in ('forward', 'backward'))}")
        print("  " + ", ".join(f"{name} {ms:.3f}" for name, ms in row["kernels_ms"].items()))
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps(about | {"rows": options.rows, "limit": options.limit, "found": found}))


if __name__ == "__main__":
    main()
