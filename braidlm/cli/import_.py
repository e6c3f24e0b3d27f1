"""`braid import PATH --out DIR`: make a run of a checkpoint of another library."""

from __future__ import annotations

import argparse
import json
from typing import Any

ADVICE = "; tasks in text need one: import with --tokenizer NAME"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "import", help="make a run of a checkpoint in the form of transformers or of llama.cpp"
    )
    parser.add_argument(
        "path", metavar="PATH", help="a folder with config.json and weights, or a .gguf file"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the run: a new, empty folder")
    parser.add_argument(
        "--dtype", default="as-stored", metavar="NAME", help="of the weights: as-stored, fp32, bf16"
    )
    parser.add_argument(
        "--weights-only-pickle",
        action="store_true",
        help="read pickled weights too, by an unpickler that makes nothing but tensors",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="instead of the one that comes along: bytes, a tokenizer.json, hf:NAME, or none",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import, and say what was made."""
    from braidlm.generate.mode import weights_dtype
    from braidlm.interop import import_run

    dtype = None if args.dtype == "as-stored" else weights_dtype(args.dtype)
    made = import_run(
        args.path,
        args.out,
        dtype=dtype,
        weights_only_pickle=args.weights_only_pickle,
        tokenizer=args.tokenizer,
    )
    print(json.dumps(made, indent=2) if args.json else _text(made))
    return 0


def _text(made: dict[str, Any]) -> str:
    skipped = made["skipped"]
    lines = [
        f"{made['family']}: {made['pattern']}",
        f"{made['n_params']:,} parameters in {', '.join(made['dtypes'])}",
        f"tokenizer: {made['tokenizer']}{ADVICE if made['tokenizer'] == 'none' else ''}",
        *([f"passed over: {', '.join(skipped)}"] if skipped else []),
        made["checkpoint"],
    ]
    return "\n".join(lines)
