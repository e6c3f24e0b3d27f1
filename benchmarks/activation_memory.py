"""Memory and time of one forward and backward pass against `train.activation_checkpointing`.

    python benchmarks/activation_memory.py --pattern '(M-M-M*-)2' --d-model 128

Prints a table and ends in one JSON line. `kept` is what lies between forward and backward beyond
weights and tokens, `peak` the most that is allocated at once; both are the allocator's own count.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from braidlm import HybridLM, Segments, Spec
from braidlm.train.recompute import recomputed


def allocations(prof: profile) -> tuple[int, int]:
    """Bytes held when the forward pass ends, and the most bytes held at once."""
    assert prof.profiler is not None
    assert prof.profiler.kineto_results is not None
    events: list[Any] = list(prof.profiler.kineto_results.events())
    events.sort(key=lambda event: event.start_ns())
    held = peak = kept = 0
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
        elif event.name() == "backward begins":
            kept = held
    return kept, peak


def measure(model: HybridLM, rows: torch.Tensor, segments: Segments, every: int) -> dict[str, Any]:
    """One row of the table."""

    def update() -> None:
        model.zero_grad(set_to_none=True)
        loss = model.loss(rows, rows, segments)
        with record_function("backward begins"):
            pass
        loss.backward()

    with recomputed(model, every):
        update()
        start = time.process_time()
        update()
        sec = time.process_time() - start
        model.zero_grad(set_to_none=True)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
            update()
    kept, peak = allocations(prof)
    return {"every": every, "kept_bytes": kept, "peak_bytes": peak, "cpu_sec": sec}


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pattern", default="(M-M-M*-)2")
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--every", type=int, nargs="+", default=[0, 4, 2, 1])
    options = parser.parse_args()
    torch.manual_seed(0)
    model = HybridLM(Spec.parse(options.pattern, d_model=options.d_model, vocab_size=8192))
    rows = torch.randint(8192, (options.batch, options.length))
    half = options.length // 2
    segments = Segments.from_lengths([[half, options.length - half]] * options.batch)
    found = []
    for every in options.every:
        row = measure(model, rows, segments, every)
        found.append(row)
        kept, peak = row["kept_bytes"] / 2**20, row["peak_bytes"] / 2**20
        print(f"{every:>4} {kept:>9.1f} MiB kept {peak:>9.1f} MiB peak {row['cpu_sec']:>7.2f} s")
    surroundings = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    print(json.dumps({"benchmark": "activation_memory", "rows": found, **surroundings}))


if __name__ == "__main__":
    main()
