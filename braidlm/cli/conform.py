"""`braid conform MODEL`: hold the laws against a run, or any causal model of transformers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from braidlm.errors import InputError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "conform",
        help="causality, caches, padding, packing, precision: what a model must obey",
        description="Hold the laws against a model. docs/conformance.md says what each one means.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, a checkpoint, a folder of transformers or a GGUF file; with "
        "--random-weights also a recipe, a pattern, a config.json or a family such as mamba2",
    )
    parser.add_argument(
        "--laws", type=_words, metavar="A,B", help="only these (default: every one)"
    )
    parser.add_argument(
        "--lengths",
        metavar="N,N",
        help="tokens of the sequences (default: below, at and beyond several chunks)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="fp32", metavar="NAME", help="fp32, fp64 or bf16")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="largest difference over the logits' spread (default: 1e-4 in fp32)",
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="draw the weights; needs only the declaration"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="shrink a configuration of transformers"
    )
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write an HTML page as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line per law; 1 if one of them fails."""
    from braidlm import conform
    from braidlm.report import conformance

    if args.out is not None:
        conformance.checked(args.out)
    found = conform.check(
        args.model,
        laws=args.laws,
        device=args.device,
        dtype=args.dtype,
        lengths=None if args.lengths is None else _numbers(args.lengths),
        seed=args.seed,
        tolerance=args.tolerance,
        random_weights=args.random_weights,
        tiny=args.tiny,
        on_law=None if args.json else lambda v: print(conform.sentence(v), flush=True),
    )
    data = found.to_dict()
    _show(args, data, conformance.summary(data))
    if args.out is not None:
        conformance.build(data, args.out)
    return 0 if found.ok else 1


def _show(args: argparse.Namespace, data: dict[str, Any], summary: str) -> None:
    if args.json:
        print(json.dumps(data, indent=2, allow_nan=False))
        return
    print(f"{data['model']}: {summary}")
    if args.out is not None:
        print(args.out)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise InputError(
            f"--lengths {text}: must be whole numbers with commas between them"
        ) from None
