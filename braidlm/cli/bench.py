"""`braid bench RECIPE_OR_RUN`: how fast, how much memory, and what was predicted."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from braidlm.errors import InputError

MODES = ("train", "prefill", "decode")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed and memory beside what is predicted, and beside other libraries",
    )
    parser.add_argument(
        "model", metavar="RECIPE_OR_RUN", help="a recipe, a pattern such as 'M-*-', or a run"
    )
    for mode, what in (
        ("train", "updates as `braid train` makes them"),
        ("prefill", "prompts until the next token is known"),
        ("decode", "whole calls of generate: TTFT and TPOT"),
    ):
        parser.add_argument(f"--{mode}", action="store_true", help=f"{what} (default: all three)")
    parser.add_argument(
        "--contexts", metavar="N,N", help="tokens of a row or a prompt (default: 1024)"
    )
    parser.add_argument("--batch-sizes", metavar="N,N", help="rows at once (default: 1)")
    parser.add_argument(
        "--new-tokens", type=int, default=32, metavar="N", help="of a decode (default: 32)"
    )
    parser.add_argument(
        "--repeats", type=int, default=7, metavar="N", help="rounds that count (default: 7)"
    )
    parser.add_argument(
        "--peers", action="store_true", help="run other libraries that are installed in turn"
    )
    parser.add_argument(
        "--compile", action="store_true", help="ours with train.compile and a compiled step"
    )
    parser.add_argument(
        "--no-graph", action="store_true", help="decode without CUDA graphs on a GPU"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--dtype",
        metavar="NAME",
        help="fp32 or bf16 (default: training as the recipe says, answers bf16 on a GPU)",
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of a CPU")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random tokens")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a folder for the results of a recipe"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print a card and one JSON line; 1 if a prediction fails, 130 if interrupted."""
    contexts, sizes = _numbers("contexts", args.contexts), _numbers("batch-sizes", args.batch_sizes)
    from braidlm.bench import Plan, as_data, bench
    from braidlm.bench.measure import lines
    from braidlm.cli.bench_card import card, line

    plan = Plan(
        modes=tuple(mode for mode in MODES if getattr(args, mode)) or MODES,
        contexts=contexts or Plan.contexts,
        batch_sizes=sizes or Plan.batch_sizes,
        new_tokens=args.new_tokens,
        repeats=args.repeats,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        seed=args.seed,
        is_compiled=args.compile,
        is_recorded=not args.no_graph,
        with_peers=args.peers,
    )

    def told(row: dict[str, Any]) -> None:
        print(line(row), file=sys.stderr, flush=True)

    outcome = bench(args.model, plan, out=args.out, overrides=args.overrides, told=told)
    data = as_data(outcome)
    print(card(data))
    print(json.dumps(data, allow_nan=False))
    if outcome.is_interrupted:
        print("braid: interrupted; what was measured is told and kept", file=sys.stderr)
        return 130
    if not any(row["why_not"] is None for row in outcome.rows):
        raise InputError(
            f"nothing was measured: {next(lines(outcome.rows), 'no point was reached')}"
        )
    for fault in outcome.faults:
        print(f"braid: {fault}", file=sys.stderr)
    return 1 if outcome.faults else 0


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--{name} {text}: must be whole numbers of at least 1 such as 512,1024")
    return tuple(dict.fromkeys(int(word) for word in words))
