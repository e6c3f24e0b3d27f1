"""Updates of a whole model on one GPU: tokens per second, memory, and where the time goes.

The model is by default a hybrid of 401.7M parameters: 20 Mamba-2 and 4 attention sublayers, each
followed by a SwiGLU MLP. fp32 weights, bf16 autocast, fused AdamW; random tokens, one document a
row. The median over updates after those that warm up; one JSON line last.

    python benchmarks/training_on_gpu.py [--compile sublayers] [--cuda-graph] [--profile 30]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from braidlm import HybridLM, Spec
from braidlm.arch.cost import cost
from braidlm.arch.experiment import TrainConfig
from braidlm.segments import Segments
from braidlm.train.compile import compiled
from braidlm.train.optimizer import Optimizer, build_optimizer
from braidlm.train.precision import Precision, resolve_precision
from braidlm.train.record import Recorder
from braidlm.train.step import Place, accumulate

PATTERN = "(M-M-M-M-M-*-)4"
MIXERS = {"-": {"d_ff": 2816}, "*": {"n_kv_heads": 4, "head_dim": 64, "position": "none"}}


class Rows(NamedTuple):
    """One batch for ever."""

    tokens: Tensor
    targets: Tensor
    segments: Segments | None


class Trained(NamedTuple):
    """What an update changes, and how."""

    model: HybridLM
    optimizer: Optimizer
    recorder: Recorder | None
    place: Place
    precision: Precision


def update(trained: Trained, rows: Rows, step: int) -> None:
    """One step as `braid train` makes it, clipping included."""
    model, optimizer, recorder, place, precision = trained
    optimizer.zero_grad()
    accumulate(model, rows, 0, precision, place, 0, step, recorder=recorder)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def timed(trained: Trained, rows: Rows, n: int) -> list[float]:
    """Seconds of each update."""
    found = []
    for step in range(n):
        torch.cuda.synchronize()
        began = time.perf_counter()
        update(trained, rows, step)
        torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return found


def main() -> None:
    """Print the figures, the slowest kernels where asked, and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pattern", default=PATTERN)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", choices=["none", "sublayers", "loss"], default="none")
    parser.add_argument("--cuda-graph", action="store_true", help="record passes as a CUDA graph")
    parser.add_argument("--activation-budget", type=float, default=1.0)
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="rows of a profile")
    options = parser.parse_args()
    torch.manual_seed(0)
    size = {"d_model": 1024, "vocab_size": 50304}
    spec = Spec.of({"pattern": options.pattern, "mixers": MIXERS, **size})
    torch.set_float32_matmul_precision("high")
    with torch.device("cuda"):
        model = HybridLM(spec)
    place = Place(torch.device("cuda"))
    precision = resolve_precision("bf16", place.device)
    recorder = Recorder(model, precision, place.device) if options.cuda_graph else None
    trained = Trained(model, build_optimizer(model, TrainConfig()), recorder, place, precision)
    tokens = torch.randint(spec.vocab_size, (options.batch, options.length), device="cuda")
    rows = Rows(tokens, tokens.roll(-1, 1), None)
    if options.compile == "loss":  # attention of rows that are one document each
        model.loss = torch.compile(model.loss, fullgraph=True)
    with compiled(model, options.compile == "sublayers", options.activation_budget):
        timed(trained, rows, 3)
        torch.cuda.empty_cache()  # what is reserved from here on is what updates take
        torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(timed(trained, rows, options.steps))
        if options.profile:
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
                timed(trained, rows, 2)
            print(prof.key_averages().table("cuda_time_total", row_limit=options.profile))
    about = cost(spec, options.length)
    found = {
        "pattern": options.pattern,
        "n_params": about.n_params,
        "compile": options.compile,
        "cuda_graph": options.cuda_graph,
        "activation_budget": options.activation_budget,
        "ms": seconds * 1e3,
        "tokens_per_sec": tokens.numel() / seconds,
        # A graph's activations are no tensors: it keeps the memory that was reserved for them.
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "model_tflops": options.batch * about.training_flops / seconds / 1e12,
    }
    print(json.dumps(found | {"device": torch.cuda.get_device_name(), "torch": torch.__version__}))


if __name__ == "__main__":
    main()
