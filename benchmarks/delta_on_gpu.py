"""The gated delta rule on one GPU: our kernels, our chunked form and, if installed, fla-core.

Medians of `triton.testing.do_bench` in bf16, milliseconds, forward and forward with backward, in
one process, the forms in turn, ours first. Beside them two floors of the forward pass: the fewest
bytes (inputs read once, outputs written once) over the rate of a device copy, and the products of
chunks of 64 over the rate of a large product of matrices, both measured in the same run. Errors are
relative, against fp64 on a short cut of the same shape. Prints each form when it is through, and
one JSON line last. fla's kernels try all of their settings out in the first call; `--tuning-ms`
says for how long each, `--skip` leaves a form out.

    python benchmarks/delta_on_gpu.py [--shapes 8x4096x8x256x8x128 ...] [--packed] [--skip chunk]
        [--tuning-ms 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.gated_delta import gated_delta
from braidlm.segments import Segments

SHAPES = ("8x4096x8x256x8x128", "8x4096x32x128x16x128", "1x131072x8x256x8x128")
CHUNK = 64


def inputs(shape: tuple[int, ...]) -> list[Tensor]:
    """q, k, v, g, beta as a trained model has them: decays of 0.5 to 0.999 a token."""
    batch, length, heads, width, groups, keys = shape
    qk = torch.randn(2, batch, length, groups, keys, device="cuda")
    q, k = F.normalize(qk, dim=-1).bfloat16()
    v = torch.randn(batch, length, heads, width, device="cuda", dtype=torch.bfloat16)
    g = -F.softplus(torch.randn(batch, length, heads, device="cuda") - 3)
    beta = torch.rand(batch, length, heads, device="cuda")
    return [x.requires_grad_() for x in (q, k, v, g, beta)]


def flops(shape: tuple[int, ...]) -> int:
    """Products of the forward pass in chunks, as the operator's README counts them."""
    batch, length, heads, width, groups, keys = shape
    pairs = 4 * CHUNK * keys * groups
    inside = 2 * CHUNK * heads * (2 * width + keys)
    return batch * length * (pairs + inside + 6 * heads * keys * width)


def documents(shape: tuple[int, ...]) -> Segments:
    """Documents of 100 to 1500 tokens that fill every row."""
    draw = torch.Generator().manual_seed(0)
    opens = torch.rand(shape[:2], generator=draw) < 1 / 800
    return Segments.from_doc_ids(opens.cumsum(1)).to("cuda")


Form = Callable[..., Tensor]
"""A function of q, k, v, g, beta."""


def forms(segments: Segments | None) -> dict[str, Form]:
    """Every form that can run."""

    def ours(impl: str, *args: Tensor) -> Tensor:
        return gated_delta(*args, segments=segments, return_state=False, impl=impl)[0]

    found: dict[str, Form] = {n: partial(ours, n) for n in ("triton", "chunk")}
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore
    except ImportError as error:
        print(f"fla-core is left out: {error}")
        return found

    def fla(*args: Tensor) -> Tensor:
        if segments is None:
            return chunk_gated_delta_rule(*args)[0]
        rows = (v.flatten(0, 1)[None] for v in args)  # it takes documents of one row
        y = chunk_gated_delta_rule(*rows, cu_seqlens=segments.cu_seqlens.long())[0]
        return y.view(args[2].shape)

    return found | {"fla": fla}


@cache
def refusal(name: str, why: str) -> None:
    """Say once that a form has no backward pass here."""
    print(f"{name} has no backward pass: {why[:200]}")


def times(name: str, form: Form, args: list[Tensor]) -> tuple[float, float | None]:
    """Milliseconds of the forward pass, and of both passes, or None if the form refuses them."""
    from triton.testing import do_bench

    dy = torch.randn_like(args[2])
    bench: Any = partial(do_bench, warmup=10, rep=50, return_mode="median")

    def both() -> None:
        torch.autograd.grad(form(*args), args, dy)

    with torch.no_grad():
        forward = bench(lambda: form(*args))
    try:
        return forward, bench(both)
    except (RuntimeError, ValueError) as error:
        refusal(name, str(error))
        return forward, None


def tune_for(ms: int) -> None:
    """Have Triton time each setting of a kernel that chooses among several for so long."""
    from triton.runtime import driver
    from triton.testing import do_bench

    active: Any = driver.active
    active.get_benchmarker = lambda: partial(do_bench, warmup=max(1, ms // 4), rep=ms)


def in_turn(
    found: Mapping[str, Form], args: list[Tensor], rounds: int
) -> dict[str, list[list[float] | None]]:
    """Milliseconds of the forward pass and of both of each form: median, least, most of rounds."""
    taken: dict[str, list[tuple[float, float | None]]] = {name: [] for name in found}
    for turn in range(rounds):
        for name, form in found.items():
            began = time.perf_counter()
            taken[name].append(times(name, form, args))
            sec = time.perf_counter() - began
            print(f"  round {turn}: {name} {taken[name][-1]} ms ({sec:.1f} s)", flush=True)
    return {
        name: [spread(passes) for passes in zip(*pairs, strict=True)]
        for name, pairs in taken.items()
    }


def spread(ms: Sequence[float | None]) -> list[float] | None:
    """Median, least and most; None of what a form refused."""
    known = [t for t in ms if t is not None]
    return [statistics.median(known), min(known), max(known)] if known else None


def errors(shape: tuple[int, ...], skip: Sequence[str]) -> dict[str, list[float]]:
    """Relative errors of y, and of every gradient a form has, at 1000 tokens."""
    args = inputs((1, min(1000, shape[1]), *shape[2:]))
    dy = torch.randn_like(args[2])
    wide = [v.detach().double().requires_grad_() for v in args]
    truth = gated_delta(*wide, return_state=False, impl="chunk")[0]
    truths = [truth, *torch.autograd.grad(truth, wide, dy.double())]
    found = {}
    for name, form in forms(None).items():
        if name in skip:
            continue
        with torch.no_grad():
            results = [form(*args)]
        try:
            results += torch.autograd.grad(form(*args), args, dy)
        except (RuntimeError, ValueError) as error:
            refusal(name, str(error))
        found[name] = [
            float(f"{((a.double() - b).norm() / b.norm()).item():.1e}")
            for a, b in zip(results, truths, strict=False)
        ]
    return found


def rates() -> dict[str, float]:
    """TB/s of a device copy, bytes read and written, and TFLOP/s of a product in bf16."""
    from triton.testing import do_bench

    a = torch.randn(8192, 8192, device="cuda").bfloat16()
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy: Any = do_bench(lambda: target.copy_(source), return_mode="median")
    product: Any = do_bench(lambda: a @ a, return_mode="median")
    return {"copy_tb_s": 2 * source.numel() / copy / 1e9, "tflop_s": 2 * 8192**3 / product / 1e9}


def main() -> None:
    """Print a line for each shape, and all of it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="BxTxHxVxGxD")
    parser.add_argument("--packed", action="store_true", help="documents of about 800 tokens")
    parser.add_argument("--skip", nargs="+", default=(), metavar="FORM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tuning-ms", type=int, metavar="MS", help="default: Triton's own 100")
    options = parser.parse_args()
    if options.tuning_ms is not None:
        tune_for(options.tuning_ms)
    rate = rates()
    card = {"device": torch.cuda.get_device_name(), "torch": torch.__version__} | rate
    rows = []
    for text in options.shapes:
        shape = tuple(int(n) for n in text.split("x"))
        args = inputs(shape)
        floor = (args[2].nbytes + sum(v.nbytes for v in args)) / rate["copy_tb_s"] / 1e9
        floors = {"bytes": floor, "flops": flops(shape) / rate["tflop_s"] / 1e9}
        found = forms(documents(shape) if options.packed else None)
        print(f"{text}: floors forward {floors} ms", flush=True)
        wanted = {name: form for name, form in found.items() if name not in options.skip}
        measured = in_turn(wanted, args, options.rounds)
        print(f"{text}: {measured} ms", flush=True)
        row = {"shape": text, "floor_ms": floors, "ms": measured}
        rows.append(row | {"errors": errors(shape, options.skip)})
        print(f"  errors {rows[-1]['errors']}", flush=True)
    print(json.dumps(card | {"packed": options.packed, "rows": rows}))


if __name__ == "__main__":
    main()
