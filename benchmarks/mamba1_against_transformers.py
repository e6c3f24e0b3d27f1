"""Time of one Mamba-1 mixer on a CPU beside transformers' torch path: same weights, same input.

    python benchmarks/mamba1_against_transformers.py --threads 1

Outputs and gradients are compared before anything is timed. Then each round runs both sides, one
after the other; processor time is taken, which other programs disturb less, and the median over
rounds is printed. Their training step makes a gradient of the size of all states for each token, so
that it grows with the square of the length: it is timed once. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.mamba.modeling_mamba import MambaMixer

from braidlm.arch.mixers import Mamba1Config
from braidlm.interop.scan_tables import MAMBA1
from braidlm.mixers import Mamba1

AGREE = 1e-3
"""Largest difference allowed of outputs and gradients, relative to the largest entry (fp32)."""


def pair(d_model: int) -> tuple[Mamba1, nn.Linear, Any]:
    """Return our mixer and output projection, and theirs, with the same weights."""
    torch.manual_seed(0)
    theirs = MambaMixer(transformers.MambaConfig(hidden_size=d_model, num_hidden_layers=1), 0)
    config = Mamba1Config(d_inner=2 * d_model, dt_rank=theirs.time_step_rank)
    ours = Mamba1(config, d_model)
    given = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            (other,) = MAMBA1[name].names
            parameter.copy_(given[other].reshape(parameter.shape))
    return ours, theirs.out_proj, theirs


def calls(d_model: int, rows: int, length: int) -> tuple[list[Callable[[], Tensor]], Tensor]:
    """Return both sides as functions of one input, ours first."""
    ours, out, theirs = pair(d_model)
    x = torch.randn(rows, length, d_model, requires_grad=True)
    return [lambda: out(ours(x, None, None, False)[0]), lambda: theirs(x)], x


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def agree(made: list[Tensor], x: Tensor) -> None:
    """Refuse to time what is not the same.

    Raises:
        SystemExit: outputs or gradients of the input differ.
    """
    grads = [torch.autograd.grad(y, x, torch.cos(y.detach()))[0] for y in made]
    for mine, yours in ([v.detach() for v in made], grads):
        if float((mine - yours).abs().max()) > AGREE * float(yours.abs().max()):
            raise SystemExit("the two sides differ")


def measure(options: argparse.Namespace, length: int) -> dict[str, Any]:
    """Return the medians of one length, and print them."""
    both, x = calls(options.d_model, options.rows, length)
    agree([run() for run in both], x)

    def forward(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    rounds = [[seconds(lambda r=r: forward(r)) for r in both] for _ in range(options.rounds + 1)]
    ahead = [statistics.median(side) for side in zip(*rounds[1:], strict=True)]
    train = [seconds(lambda r=r: r().sum().backward()) for r in both]
    mine = [seconds(lambda: both[0]().sum().backward()) for _ in range(options.rounds)]
    train[0] = statistics.median(mine)
    found = {
        "length": length,
        "forward_sec": ahead,
        "forward_ratio": ahead[1] / ahead[0],
        "train_sec": train,
        "train_ratio": train[1] / train[0],
    }
    print(
        f"T {length:>5}  forward {1e3 * ahead[0]:8.1f} ms, theirs {1e3 * ahead[1]:9.1f} "
        f"({found['forward_ratio']:.1f}x)  training {1e3 * train[0]:8.1f} ms, theirs "
        f"{1e3 * train[1]:9.1f} ({found['train_ratio']:.1f}x)",
        flush=True,
    )
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return what was printed last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    card = {
        "benchmark": "mamba1_against_transformers",
        "lengths": [measure(options, length) for length in options.lengths],
        "options": vars(options),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
    print(json.dumps(card))
    return card


if __name__ == "__main__":
    main()
