"""SSD on one GPU: our Triton kernels beside our chunked form and, if installed, mamba-ssm.

Medians of `triton.testing.do_bench` in bf16, milliseconds, forward and forward with backward, in
one process, the forms in turn; beside them the fewest bytes (inputs read once, outputs written
once) over the rate of a device copy measured in the same run. For our kernels also what the GPU
works in both passes, kernel by kernel, and what the host does for them, which is all that one sees
where rows are short, and how long the GPU works for the others. Errors are relative, against fp64
on a short cut of the same shape. Writes one JSON line last.

    python benchmarks/ssd_on_gpu.py [--shapes 8x4096x32x64x1x128 ...] [--packed] [--skip chunk]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.ssd import ssd
from braidlm.segments import Segments

OURS = ("prepare", "forward", "accumulate", "carry", "d_inputs", "d_projections", "finish")
"""Our kernels, in the order in which they run."""
SHAPES = ("8x4096x32x64x1x128", "8x4096x64x64x8x128", "1x131072x32x64x1x128", "1x4096x32x64x1x128")


def inputs(shape: tuple[int, ...]) -> list[Tensor]:
    """x, dt, A, B, C as a trained Mamba-2 has them: steps near 0.05, rates 1 to 16."""
    batch, length, heads, width, groups, state = shape
    x = torch.randn(batch, length, heads, width, device="cuda", dtype=torch.bfloat16)
    dt = F.softplus(torch.randn(batch, length, heads, device="cuda") - 3)
    a = -torch.rand(heads, device="cuda") * 15 - 1
    b, c = torch.randn(2, batch, length, groups, state, device="cuda", dtype=torch.bfloat16)
    return [v.requires_grad_() for v in (x, dt, a, b, c)]


def documents(shape: tuple[int, ...]) -> Segments:
    """Documents of 100 to 1500 tokens that fill every row."""
    draw = torch.Generator().manual_seed(0)
    opens = torch.rand(shape[:2], generator=draw) < 1 / 800
    return Segments.from_doc_ids(opens.cumsum(1)).to("cuda")


Form = Callable[..., Tensor]
"""A function of x, dt, A, B, C."""


def forms(segments: Segments | None) -> dict[str, Form]:
    """Every form that can run."""

    def ours(impl: str, *args: Tensor) -> Tensor:
        return ssd(*args, segments=segments, return_state=False, impl=impl)[0]

    found: dict[str, Form] = {n: partial(ours, n) for n in ("triton", "chunk")}
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        print(f"mamba-ssm is left out: {error}")
        return found
    index = None if segments is None else segments.doc.to(torch.int32)
    return found | {"mamba_ssm": lambda *args: mamba_chunk_scan_combined(*args, 256, seq_idx=index)}


def times(form: Form, args: list[Tensor]) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of both passes."""
    from triton.testing import do_bench

    dy = torch.randn_like(args[0])
    bench: Any = partial(do_bench, warmup=10, rep=50, return_mode="median")

    def both() -> None:
        torch.autograd.grad(form(*args), args, dy)

    with torch.no_grad():
        forward = bench(lambda: form(*args))
    return forward, bench(both)


def in_turn(
    found: Mapping[str, Form], args: list[Tensor], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each pass of each form: the median over rounds, the least and the most."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, form in found.items():
            taken[name].append(times(form, args))
    return {
        name: {
            one: [statistics.median(ms), min(ms), max(ms)]
            for one, ms in zip(("forward", "both"), zip(*pairs, strict=True), strict=True)
        }
        for name, pairs in taken.items()
    }


def kernels(form: Form, args: list[Tensor], repeats: int = 8) -> dict[str, float]:
    """Milliseconds that the GPU works in each kernel of both passes."""
    from torch.profiler import ProfilerActivity, profile

    dy = torch.randn_like(args[0])
    torch.autograd.grad(form(*args), args, dy)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for _ in range(repeats):
            torch.autograd.grad(form(*args), args, dy)
        torch.cuda.synchronize()
    found: dict[str, float] = {}
    for event in seen.key_averages():
        name = event.key if event.key in OURS else "others"
        found[name] = found.get(name, 0.0) + event.device_time_total / 1e3 / repeats
    return found


def host(form: Form, shape: tuple[int, ...], repeats: int = 100) -> float:
    """Milliseconds that the host takes for both passes over rows too short to keep a GPU busy."""
    args = inputs((1, 128, *shape[2:]))
    dy = torch.randn_like(args[0])
    for _ in range(5):
        torch.autograd.grad(form(*args), args, dy)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        torch.autograd.grad(form(*args), args, dy)
    return (time.perf_counter() - begin) / repeats * 1e3


def errors(shape: tuple[int, ...], packed: bool, skip: list[str]) -> dict[str, list[float]]:
    """Relative errors of y and of every gradient at 1000 tokens, for each form."""
    short = (1, min(1000, shape[1]), *shape[2:])
    args = inputs(short)
    segments = documents(short) if packed else None
    dy = torch.randn_like(args[0])
    wide = [v.detach().double().requires_grad_() for v in args]
    truth = ssd(*wide, segments=segments, return_state=False, impl="chunk")[0]
    truths = [truth, *torch.autograd.grad(truth, wide, dy.double())]
    found = {}
    for name, form in forms(segments).items():
        if name in skip:
            continue
        y = form(*args)
        results = [y, *torch.autograd.grad(y, args, dy)]
        found[name] = [
            float(f"{((a.double() - b).norm() / b.norm()).item():.1e}")
            for a, b in zip(results, truths, strict=True)
        ]
    return found


def copy_rate() -> float:
    """Bytes read and written by a device copy, in TB/s."""
    from triton.testing import do_bench

    a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    ms: Any = do_bench(lambda: b.copy_(a), return_mode="median")
    return 2 * a.numel() / ms / 1e9


def main() -> None:
    """Print a line for each shape, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="BxTxHxPxGxN")
    parser.add_argument("--packed", action="store_true", help="documents of about 800 tokens")
    parser.add_argument("--skip", nargs="+", default=[], metavar="FORM")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rate = copy_rate()
    card = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_tb_s": rate}
    rows = []
    for text in options.shapes:
        shape = tuple(int(n) for n in text.split("x"))
        args = inputs(shape)
        floor = (2 * args[0].nbytes + sum(v.nbytes for v in args[1:])) / rate / 1e9
        segments = documents(shape) if options.packed else None
        found = forms(segments)
        wanted = {name: form for name, form in found.items() if name not in options.skip}
        measured = in_turn(wanted, args, options.rounds)
        for name, ms in measured.items():
            words = (f"{one} {m:.3f} [{low:.3f}, {high:.3f}]" for one, (m, low, high) in ms.items())
            print(f"{text}: {name} {', '.join(words)} ms", flush=True)
        works = kernels(wanted.pop("triton"), args)
        others = {name: sum(kernels(form, args).values()) for name, form in wanted.items()}
        waits = host(forms(None)["triton"], shape)
        wrong = errors(shape, options.packed, options.skip)
        row = {"shape": text, "floor_ms": floor, "ms": measured, "kernels_ms": works}
        rows.append(row | {"others_ms": others, "host_ms": waits, "errors": wrong})
        parts = ", ".join(f"{name} {ms:.3f}" for name, ms in works.items())
        print(f"  floor forward {floor:.3f}; kernels {sum(works.values()):.3f}: {parts}")
        print(f"  host {waits:.3f}; kernels of others {others}; errors {wrong}", flush=True)
    print(json.dumps(card | {"packed": options.packed, "rows": rows}))


if __name__ == "__main__":
    main()
