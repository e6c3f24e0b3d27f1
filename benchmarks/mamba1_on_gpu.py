"""The selective scan on one GPU: our Triton kernels, our chunked form and, if installed, mamba-ssm.

Medians of `triton.testing.do_bench`, milliseconds, forward and forward with backward, in one
process, in bf16. `triton` is the recurrence alone, with steps in fp32; `triton, fused` has bias and
softplus of the steps before it and the gate behind it too, as mamba-ssm's kernel has, and `triton,
gated` has them in PyTorch around the recurrence, compiled with `--compile`. Beside them the fewest
bytes of the fused form forward (inputs read once, outputs written once) over the rate of a device
copy measured in the same run. Errors are relative, against fp64 at 300 tokens, of y and of every
gradient of the fused form. The chunked form launches a few kernels a token: it is measured once, up
to 4096 tokens, and only with `--chunk`. Writes one JSON line last.

    python benchmarks/mamba1_on_gpu.py [--shapes 8x4096x2048x16 ...] [--packed] [--compile]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from braidlm.ops.selective_scan import selective_scan
from braidlm.segments import Segments

SHAPES = ("8x4096x2048x16", "1x131072x2048x16", "1x4096x2048x16")
LONGEST = 4096
"""Tokens of the longest row on which the chunked form is measured."""


def inputs(shape: tuple[int, ...]) -> list[Tensor]:
    """x, steps before bias and softplus, A, B, C, D, bias, z: steps near 0.01, rates 1 to N."""
    batch, length, width, state = shape
    kind = {"device": "cuda", "dtype": torch.bfloat16}
    x, raw, z = torch.randn(3, batch, length, width, **kind)
    b, c = torch.randn(2, batch, length, state, **kind)
    steps = torch.exp(torch.empty(width, device="cuda").uniform_(math.log(1e-3), math.log(0.1)))
    bias = steps + torch.log(-torch.expm1(-steps))
    a = -torch.arange(1.0, state + 1, device="cuda").repeat(width, 1)
    return [v.requires_grad_() for v in (x, raw, a, b, c, torch.ones_like(bias), bias, z)]


def documents(shape: tuple[int, ...]) -> Segments:
    """Documents of 100 to 1500 tokens that fill every row."""
    draw = torch.Generator().manual_seed(0)
    opens = torch.rand(shape[:2], generator=draw) < 1 / 800
    return Segments.from_doc_ids(opens.cumsum(1)).to("cuda")


def fused(segments: Segments | None, impl: str, *args: Tensor) -> Tensor:
    """The outputs, of what `inputs` gives."""
    around = {"dt_bias": args[6], "z": args[7], "segments": segments}
    return selective_scan(*args[:6], **around, dt_softplus=True, return_state=False, impl=impl)[0]


def forms(segments: Segments | None, is_compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """Every form that can run: alone on x, dt, A, B, C, D; the others on what `inputs` gives."""

    def alone(impl: str, *args: Tensor) -> Tensor:
        return selective_scan(*args, segments=segments, return_state=False, impl=impl)[0]

    def gated(x: Tensor, raw: Tensor, *rest: Tensor) -> Tensor:
        *rates, bias, z = rest
        return alone("triton", x, F.softplus(raw.float() + bias), *rates) * F.silu(z)

    found: dict[str, Any] = {"triton": partial(alone, "triton")}
    found["triton, fused"] = partial(fused, segments, "triton")
    found["triton, gated"] = torch.compile(gated) if is_compiled else gated
    found["chunk"] = partial(alone, "chunk")
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return found

    def peer(x: Tensor, raw: Tensor, a: Tensor, b: Tensor, c: Tensor, *rest: Tensor) -> Tensor:
        x, raw, b, c, z = (v.mT for v in (x, raw, b, c, rest[2]))
        return selective_scan_fn(x, raw, a, b, c, rest[0], z, rest[1], delta_softplus=True)

    return found if segments is not None else found | {"mamba_ssm, gated": peer}


def times(name: str, form: Callable[..., Tensor], every: list[Tensor]) -> tuple[float, float]:
    """Milliseconds of the forward pass, and of both passes."""
    from triton.testing import do_bench

    args = every
    if name in ("triton", "chunk"):
        step = F.softplus(every[1].detach().float() + every[6].detach()).requires_grad_()
        args = [every[0], step, *every[2:6]]
    with torch.no_grad():
        dy = torch.randn_like(form(*args)) if name != "chunk" else torch.ones_like(every[0])
    bench: Any = partial(do_bench, warmup=25, rep=100, return_mode="median")
    if name == "chunk":
        bench = once

    def both() -> None:
        torch.autograd.grad(form(*args), args, dy)

    with torch.no_grad():
        forward = bench(lambda: form(*args))
    return forward, bench(both)


def once(call: Callable[[], object]) -> float:
    """Milliseconds of one call, by the clock of the device."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def errors(shape: tuple[int, ...]) -> list[float]:
    """Relative errors of y and of the gradients of what `inputs` gives, at 300 tokens."""
    args = inputs((1, min(300, shape[1]), *shape[2:]))
    dy = torch.randn_like(args[0])
    wide = [v.detach().double().requires_grad_() for v in args]
    truth, y = fused(None, "chunk", *wide), fused(None, "triton", *args)
    ours = [y, *torch.autograd.grad(y, args, dy)]
    theirs = [truth, *torch.autograd.grad(truth, wide, dy.double())]
    pairs = zip(ours, theirs, strict=True)
    return [float(f"{(a.double() - b).norm() / b.norm():.1e}") for a, b in pairs]


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
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="BxTxDxN")
    parser.add_argument("--packed", action="store_true", help="documents of about 800 tokens")
    parser.add_argument("--compile", action="store_true", help="torch.compile what is gated")
    parser.add_argument("--chunk", action="store_true", help="measure the chunked form too")
    options = parser.parse_args()
    rate = copy_rate()
    card = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_tb_s": rate}
    rows = []
    for text in options.shapes:
        shape = tuple(int(n) for n in text.split("x"))
        every = inputs(shape)
        bytes_ = 4 * every[0].nbytes + every[3].nbytes + every[4].nbytes
        floor = bytes_ / rate / 1e9
        segments = documents(shape) if options.packed else None
        named = forms(segments, options.compile)
        if shape[1] > LONGEST or not options.chunk:
            del named["chunk"]
        measured = {name: times(name, form, every) for name, form in named.items()}
        rows.append({"shape": text, "floor_ms": floor, "ms": measured, "errors": errors(shape)})
        cells = (f"{name} {f:.3f}, {fb:.3f}" for name, (f, fb) in measured.items())
        print(f"{text}: {'; '.join(cells)} ms; floor forward {floor:.3f}", flush=True)
    print(json.dumps(card | {"packed": options.packed, "compiled": options.compile, "rows": rows}))


if __name__ == "__main__":
    main()
