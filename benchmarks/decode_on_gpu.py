"""Decoding on one GPU: milliseconds per token, first token, memory, and the share of its bandwidth.

The model is by default the hybrid of `training_on_gpu.py`, 401.7M parameters with bf16 weights.
Greedy; random prompts of one length; a step as it stands, recorded as a CUDA graph, and compiled
before it is recorded. A run is one call of `generate`, prefill included: the time to its first
token (TTFT), to its last, and of a step between them, as [median, least, greatest] over the runs.
Rows of figures as they come; one JSON line last.

    python benchmarks/decode_on_gpu.py [--batches 1 64] [--forms eager graph compiled]
        [--prefill 131072] [--profile 20]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from braidlm import HybridLM, Spec
from braidlm import state as states
from braidlm.generate import GraphStep, generate
from braidlm.generate.decode import prefill
from braidlm.generate.mode import inference
from braidlm.ops import dispatch

PATTERN = "(M-M-M-M-M-*-)4"
MIXERS = {"-": {"d_ff": 2816}, "*": {"n_kv_heads": 4, "head_dim": 64, "position": "none"}}
BANDWIDTH = 4.25e12
"""Bytes per second that one H200 copies."""
N_TIMES = 7
"""Runs of each form but the eager one."""


def seconds(function: Any) -> float:
    """Time one call, from an idle GPU to an idle GPU."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def timed(
    model: HybridLM, prompts: list[list[int]], settings: dict[str, Any]
) -> tuple[float, float]:
    """Seconds of one `generate`, its prefill included: to the first token, and to the last."""
    told: list[float] = []

    def stream(row: int, token: int) -> None:
        if not told:
            told.append(time.perf_counter())

    torch.cuda.synchronize()
    began = time.perf_counter()
    generate(model, prompts, stream=stream, **settings)
    torch.cuda.synchronize()
    return told[0] - began, time.perf_counter() - began


def summary(seconds_each: list[float]) -> list[float]:
    """Median, least and greatest, in milliseconds."""
    median = statistics.median(seconds_each)
    return [1e3 * x for x in (median, min(seconds_each), max(seconds_each))]


def moved_bytes(model: HybridLM, state: Any, n_tokens: int) -> int:
    """Bytes that a step has to move: weights, caches up to its token, other states both ways."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    found = 0
    for one in state:
        if hasattr(one, "length"):
            places = one.k.shape[1]
            found += states.n_bytes((one.k, one.v)) * min(n_tokens, places) // places
        else:
            found += 2 * states.n_bytes(one)
    return weights + found


def measure(model: HybridLM, form: str, prompts: list[list[int]], n_new: int) -> dict[str, Any]:
    """Figures of one form for one batch."""
    step = None if form == "eager" else GraphStep(model, compiled=form == "compiled")
    settings: dict[str, Any] = {"temperature": 0.0, "step": step, "max_new_tokens": n_new}
    torch.cuda.reset_peak_memory_stats()
    called = seconds(lambda: generate(model, prompts, **settings))
    n_times = 1 if form == "eager" else N_TIMES
    runs = [timed(model, prompts, settings) for _ in range(n_times)]
    first, whole = summary([run[0] for run in runs]), summary([run[1] for run in runs])
    with inference(model):
        state = prefill(model, prompts).state
    steps = summary([(last - begin) / (n_new - 1) for begin, last in runs])
    per_token = steps[0] / 1e3
    moved = moved_bytes(model, state, len(prompts[0]) + n_new // 2)
    return {
        "form": form,
        "batch": len(prompts),
        "prompt": len(prompts[0]),
        "ms_per_step": steps,
        "tokens_per_sec": len(prompts) / per_token,
        "ttft_ms": first,
        "whole_ms": whole,
        "first_call_sec": called,
        "moved_gb": moved / 1e9,
        "bandwidth_share": moved / per_token / BANDWIDTH,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def profiled(model: HybridLM, prompts: list[list[int]], n_rows: int) -> None:
    """Print the slowest kernels of 32 recorded steps, and what one launch of each takes."""
    step = GraphStep(model)
    settings: dict[str, Any] = {"temperature": 0.0, "step": step, "max_new_tokens": 33}
    generate(model, prompts, **settings)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        generate(model, prompts, **settings)
    kernels = [e for e in found.key_averages() if e.count >= 32]
    kernels.sort(key=lambda e: -e.device_time_total)
    total = sum(e.device_time_total for e in kernels) / 32
    n_launches = sum(e.count for e in kernels) / 32
    print(f"a step of batch {len(prompts)}: {n_launches:.0f} launches, {total:.0f} us in kernels")
    for e in kernels[:n_rows]:
        each = e.device_time_total / e.count
        print(f"{e.device_time_total / 32:8.1f} us {e.count / 32:6.1f} x {each:6.2f}  {e.key[:60]}")


def rounded(value: Any) -> Any:
    """Leave three digits of a number, or of each of a list."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    """Print the figures, the slowest kernels where asked, and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pattern", default=PATTERN)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--forms", nargs="+", default=["eager", "graph"])
    parser.add_argument("--prefill", type=int, default=0, metavar="T", help="tokens of one prompt")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="rows of a profile")
    options = parser.parse_args()
    torch.manual_seed(0)
    size = {"d_model": 1024, "vocab_size": 50304}
    spec = Spec.of({"pattern": options.pattern, "mixers": MIXERS, **size})
    with torch.device("cuda"):
        model = HybridLM(spec).eval().to(torch.bfloat16)
    found = []
    for batch in options.batches:
        prompts = torch.randint(spec.vocab_size, (batch, options.prompt)).tolist()
        for form in options.forms:
            dispatch.reset()
            found.append(measure(model, form, prompts, options.new) | {"ops": dispatch.used()})
            print({name: rounded(value) for name, value in found[-1].items()}, flush=True)
        if options.profile:
            profiled(model, prompts, options.profile)
    result: dict[str, Any] = {"decode": found}
    if options.prefill:
        prompt = torch.randint(spec.vocab_size, (1, options.prefill)).tolist()
        torch.cuda.reset_peak_memory_stats()
        taken = min(
            seconds(lambda: generate(model, prompt, max_new_tokens=1, temperature=0.0))
            for _ in range(3)
        )
        result["prefill"] = {
            "tokens": options.prefill,
            "ms": taken * 1e3,
            "tokens_per_sec": options.prefill / taken,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        }
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps(result | about))


if __name__ == "__main__":
    main()
