"""Speed and memory on a CPU beside transformers: the same model and weights, alternating.

    python benchmarks/cpu_against_transformers.py            # half an hour on two cores
    python benchmarks/cpu_against_transformers.py --quick    # a look, in fifteen minutes

The peers are Bamba (a sequential hybrid) and Falcon-H1 (a parallel one) of transformers, on its
torch path. Ours gets their weights, and the logits are compared before anything is timed. Then each
round runs every variant once, one after the other in one process. A ratio is taken inside a round,
so that whatever else the machine does weighs on both sides; the median over rounds is printed, and
its quartiles.

- training: forward, loss, backward and a step of fused AdamW, as a user of each library writes it;
- forward: the logits of the batch, without gradients;
- both are also measured with ours as one graph, `torch.compile(model.loss, fullgraph=True)`;
- decode: greedy `generate` of each library, prefill excluded: a call with many new tokens less a
  call with one; `generate` is the whole call, prefill included;
- memory: the peak resident set of a process that trains, less what it had when both libraries were
  imported; one process per variant (Linux).

"bf16" is autocast on both sides; for the forward pass the faster of that and of weights cast to
bf16; for decoding it is weights cast to bf16 on ours, and the faster of both on theirs. Ours is the
faster of what stands there and what is compiled, for one to two minutes and outside the timed
rounds. Theirs is as it is by default; `--compile-both` compiles it too, for training and forward,
where torch can. `train_ratio`, `forward_ratio` and `decode_ratio` are our fastest precision over
their default, fp32. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch._inductor import config as inductor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from braidlm.checkpoint import cast_weights
from braidlm.generate import CompiledStep, generate
from braidlm.interop import weights
from braidlm.interop.families import FAMILIES
from braidlm.interop.names import entries
from braidlm.model import HybridLM
from braidlm.tensors import Held

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 8,
    "intermediate_size": 704,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "mamba_n_heads": 8,
    "mamba_d_head": 64,
    "mamba_d_state": 64,
    "mamba_n_groups": 1,
    "tie_word_embeddings": True,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("Bamba", {"attn_layer_indices": [3, 7], "mamba_expand": 2}),
    "falcon_h1": ("FalconH1", {"mamba_d_ssm": 512, "head_dim": 32}),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPILED = " compiled"
CAST = "bf16 cast"
"""Weights in bf16 instead of autocast."""
AGREE = 2e-5
"""Largest difference of fp32 logits that is allowed, relative to the largest logit."""
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
Thunk = Callable[[], object]


def build(peer: str, side: str, options: argparse.Namespace) -> Any:
    """Return one side's model with initial weights of its own."""
    family, fields = PEERS[peer]
    make_config = getattr(transformers, f"{family}Config")
    if side == "ours":
        # The chunk size changes no result: each side keeps its own default.
        config = make_config(**SHAPE, **fields, mamba_chunk_size=64)
        return HybridLM(FAMILIES[peer].spec(config.to_dict()))
    config = make_config(**SHAPE, **fields, mamba_chunk_size=options.their_chunk_size)
    return getattr(transformers, f"{family}ForCausalLM")(config)


def pair(peer: str, options: argparse.Namespace) -> tuple[HybridLM, Any]:
    """Return our model and theirs with the same weights.

    Raises:
        SystemExit: their logits are not ours.
    """
    torch.manual_seed(0)
    ours, theirs = (build(peer, side, options) for side in ("ours", "theirs"))
    weights.fill(ours, Held(theirs.state_dict()), entries(FAMILIES[peer], ours.spec))
    tokens = batch(2, 100)
    with torch.no_grad():
        expected = theirs.eval()(input_ids=tokens, use_cache=False).logits
        got = ours.head(ours(tokens, return_state=False).hidden)
    difference = float((got - expected).abs().max() / expected.abs().max())
    if difference > AGREE:
        raise SystemExit(f"{peer}: the logits differ by {difference:.1e} of the largest")
    n_params = sum(p.numel() for p in ours.parameters())
    print(f"{peer}: {n_params:,} parameters; logits differ by {difference:.1e} of the largest")
    return ours, theirs


def batch(n_rows: int, length: int) -> Tensor:
    """Return random tokens (n_rows, length)."""
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, SHAPE["vocab_size"], (n_rows, length), generator=draw)


def autocast(dtype: str) -> contextlib.AbstractContextManager[object]:
    """Return the context of a forward pass."""
    return torch.autocast(
        "cpu", dtype=torch.bfloat16, enabled=dtype.removesuffix(COMPILED) == "bf16"
    )


def training(model: Any, side: str, dtype: str, options: argparse.Namespace) -> Thunk:
    """Return one training step of a copy of `model`."""
    tokens = batch(options.rows, options.length + 1)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def our_loss() -> Tensor:
        return model.loss(inputs, targets)

    def their_loss() -> Tensor:
        return model(input_ids=inputs, labels=inputs, use_cache=False).loss

    make_loss = our_loss if side == "ours" else their_loss
    if dtype.endswith(COMPILED):
        make_loss = torch.compile(make_loss, fullgraph=side == "ours")

    def step() -> None:
        with autocast(dtype):
            loss = make_loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def forward(model: Any, side: str, dtype: str, options: argparse.Namespace) -> Thunk:
    """Return the computation of a batch's logits."""
    tokens = batch(options.rows, options.length)
    model = copy.deepcopy(model).eval()
    if dtype.startswith(CAST):
        cast_weights(model, torch.bfloat16) if side == "ours" else model.to(torch.bfloat16)

    def our_logits() -> Tensor:
        return model.head(model(tokens, return_state=False).hidden)

    def their_logits() -> Tensor:
        return model(input_ids=tokens, use_cache=False).logits

    make_logits = our_logits if side == "ours" else their_logits
    if dtype.endswith(COMPILED):
        make_logits = torch.compile(make_logits, fullgraph=side == "ours")

    def run() -> None:
        # Packed weights: the option is read where the graph is captured, so it is set around it.
        with torch.no_grad(), autocast(dtype), inductor.patch(freezing=True):
            make_logits()

    return run


def decoding(
    ours: HybridLM, theirs: Any, n_rows: int, n_new: int, options: argparse.Namespace
) -> dict[str, Thunk]:
    """Return a greedy continuation of random prompts per variant."""
    prompts = batch(n_rows, options.prompt)
    cast = copy.deepcopy(theirs).to(torch.bfloat16).eval()
    ours_cast = copy.deepcopy(ours.eval())
    cast_weights(ours_cast, torch.bfloat16)
    steps = {id(model): CompiledStep(model) for model in (ours, ours_cast)}

    def our_tokens(model: HybridLM, step: CompiledStep | None = None) -> None:
        made = generate(model, prompts.tolist(), max_new_tokens=n_new, temperature=0, step=step)
        assert {len(row) for row in made} == {n_new}

    def their_tokens(model: Any, dtype: str) -> None:
        with autocast(dtype):
            made = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=n_new,
                max_new_tokens=n_new,
            )
        assert made.shape[1] == options.prompt + n_new

    return {
        "ours fp32": lambda: our_tokens(ours),
        "ours bf16": lambda: our_tokens(ours_cast),
        "ours fp32 compiled": lambda: our_tokens(ours, steps[id(ours)]),
        "ours bf16 compiled": lambda: our_tokens(ours_cast, steps[id(ours_cast)]),
        "theirs fp32": lambda: their_tokens(theirs, "fp32"),
        "theirs bf16": lambda: their_tokens(cast, "fp32"),
        "theirs bf16 autocast": lambda: their_tokens(theirs, "bf16"),
    }


def alternate(thunks: dict[str, Thunk], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round, after one round that does not count."""
    clock = CLOCKS[options.clock]
    seconds: dict[str, list[float]] = {name: [] for name in thunks}
    for index in range(options.rounds + 1):
        for name, run in thunks.items():
            start = clock()
            run()
            if index:
                seconds[name].append(clock() - start)
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Return the median and the quartiles of how many times faster ours was, round by round."""
    each = [t / o for t, o in zip(theirs, ours, strict=True)]
    low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
    return {"median": round(middle, 3), "low": round(low, 3), "high": round(high, 3)}


def compare(name: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Print one line and return the ratios of one measurement."""

    def fastest(kind: str) -> str:
        sides = [side for side in seconds if side.startswith(kind)]
        return min(sides, key=lambda side: statistics.median(seconds[side]))

    best, fp32, bf16 = fastest("ours"), fastest("ours fp32"), fastest("ours bf16")
    theirs = [side for side in seconds if side.startswith("theirs") and side.endswith(COMPILED)]
    theirs.sort(key=lambda side: statistics.median(seconds[side]))
    both = ratio(seconds[theirs[0]], seconds[best]) if theirs else None
    ratios: dict[str, Any] = {
        "best": best.removeprefix("ours "),
        "best_over_fp32": ratio(seconds["theirs fp32"], seconds[best]),
        "fp32_over_fp32": ratio(seconds["theirs fp32"], seconds[fp32]),
        "bf16_over_bf16": ratio(seconds[fastest("theirs bf16")], seconds[bf16]),
        **({"compiled_over_compiled": both} if both else {}),
        "median_sec": {side: statistics.median(times) for side, times in seconds.items()},
    }
    shown = "  ".join(
        f"{key} {r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})"
        for key, r in ratios.items()
        if isinstance(r, dict) and key != "median_sec"
    )
    print(f"{name:<22} {shown}", flush=True)
    return ratios


def measure_decoding(
    peer: str, ours: HybridLM, theirs: Any, n_rows: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Time whole calls of generate, and what the tokens after the first one cost."""
    whole = decoding(ours, theirs, n_rows, options.new, options)
    first = decoding(ours, theirs, n_rows, 1, options)
    both = {f"{name}|{n}": run for name in whole for n, run in ((1, first[name]), (2, whole[name]))}
    seconds = alternate(both, options)
    total = {name: seconds[f"{name}|2"] for name in whole}
    steps = {
        name: [t - f for t, f in zip(total[name], seconds[f"{name}|1"], strict=True)]
        for name in whole
    }
    return {
        f"decode_batch_{n_rows}": compare(f"{peer} decode {n_rows}", steps),
        f"generate_batch_{n_rows}": compare(f"{peer} generate {n_rows}", total),
    }


def peak_bytes(peer: str, variant: str, options: argparse.Namespace) -> int:
    """Return the peak resident bytes of a process that trains, above what imports took."""
    command = [sys.executable, __file__, "--peers", peer, "--train-alone", variant]
    sizes = ["--rows", str(options.rows), "--length", str(options.length)]
    sizes += ["--threads", str(options.threads)]
    done = subprocess.run([*command, *sizes], check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def train_alone(variant: str, options: argparse.Namespace) -> None:
    """Train a few steps and print the peak of the resident set, less what it is now."""
    before = _status("VmRSS")
    side, dtype = variant.split(maxsplit=1)
    step = training(build(options.peers[0], side, options), side, dtype, options)
    for _ in range(3):
        step()
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure(peer: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, for one peer."""
    ours, theirs = pair(peer, options)
    card: dict[str, Any] = {}
    if "train" in options.what:
        steps = prepared(training, ours, theirs, options)
        card["train"] = compare(f"{peer} training", alternate(steps, options))
    if "forward" in options.what:
        calls = prepared(forward, ours, theirs, options)
        card["forward"] = compare(f"{peer} forward", alternate(calls, options))
    if "decode" in options.what:
        for n_rows in options.decode_rows:
            card |= measure_decoding(peer, ours, theirs, n_rows, options)
    if "memory" in options.what:
        plain = [f"{side} {dtype}" for side in ("ours", "theirs") for dtype in DTYPES]
        names = [*plain, *(f"ours {dtype}{COMPILED}" for dtype in DTYPES)]
        card["memory"] = {name: peak_bytes(peer, name, options) for name in names}
        shown = "  ".join(f"{v} {n / 2**20:.0f} MiB" for v, n in card["memory"].items())
        print(f"{peer} peak of training  {shown}", flush=True)
    return card


def prepared(
    make: Callable[[Any, str, str, argparse.Namespace], Thunk],
    ours: HybridLM,
    theirs: Any,
    options: argparse.Namespace,
) -> dict[str, Thunk]:
    """Return the call of each variant: side, precision, and whether it is compiled."""
    dtypes = [*DTYPES, *([CAST] if make is forward else [])]
    sides: list[tuple[str, Any, str]] = [("ours", ours, ""), ("theirs", theirs, "")]
    sides.append(("ours", ours, COMPILED))
    if options.compile_both:
        sides.append(("theirs", theirs, COMPILED))
    return {
        f"{side} {dtype}{how}": make(model, side, f"{dtype}{how}", options)
        for side, model, how in sides
        for dtype in dtypes
    }


def summary(peer: str, card: dict[str, Any]) -> dict[str, Any]:
    """Return the ratios that are quoted, under their names."""
    short = {"train": "train", "forward": "forward", "decode_batch_1": "decode"}
    found = {}
    for part, name in short.items():
        if part in card:
            found[f"{name}_ratio"] = card[part]["best_over_fp32"]["median"]
            found[f"{name}_ratio_fp32"] = card[part]["fp32_over_fp32"]["median"]
            found[f"{name}_ratio_bf16"] = card[part]["bf16_over_bf16"]["median"]
    return {"peer": peer, **found, "measured": card}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["train", "forward", "decode", "memory"]
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--what", nargs="+", choices=parts, default=parts)
    parser.add_argument("--quick", action="store_true", help="3 rounds, 24 new tokens")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=96, help="new tokens")
    parser.add_argument("--decode-rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--their-chunk-size", type=int, default=256, help="256 is their default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="processor: what a busy machine leaves comparable; with --threads 1",
    )
    parser.add_argument("--compile-both", action="store_true", help="compile theirs too")
    parser.add_argument("--train-alone", metavar="VARIANT", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.new = 3, 24
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and return what was printed last."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    if options.train_alone:
        train_alone(options.train_alone, options)
        return {}
    card = {
        "benchmark": "cpu_against_transformers",
        "peers": [summary(peer, measure(peer, options)) for peer in options.peers],
        "options": {k: v for k, v in vars(options).items() if k != "train_alone"},
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    print(json.dumps(card))
    return card


if __name__ == "__main__":
    main()
