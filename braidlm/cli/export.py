"""`braid export RUN --out DIR`: write a run's weights as a folder that transformers loads."""

from __future__ import annotations

import argparse
import json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("export", help="write a checkpoint that transformers loads")
    parser.add_argument("path", metavar="RUN", help="a run directory or a checkpoint folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new, empty folder")
    parser.add_argument(
        "--format",
        default="hf",
        metavar="NAME",
        help="hf: classes of transformers (default); braid-hf: any model, with 'import braidlm.hf'",
    )
    parser.add_argument(
        "--family", metavar="NAME", help="such as bamba (default: the first that can)"
    )
    parser.add_argument(
        "--shard-bytes",
        type=int,
        default=5 * 10**9,
        metavar="N",
        help="largest file of weights (default: 5e9)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from braidlm.errors import InputError
    from braidlm.interop import export_run

    if args.shard_bytes < 1:
        raise InputError(f"shard-bytes = {args.shard_bytes}: must be at least 1")
    made = export_run(
        args.path,
        args.out,
        format=args.format,
        family=args.family,
        max_shard_bytes=args.shard_bytes,
    )
    if args.json:
        print(json.dumps(made, indent=2))
        return 0
    print(f"{made['family']}: step {made['step']} of {made['checkpoint']}")
    print(f"along with it: {', '.join(made['files']) or 'no tokenizer files'}")
    print(args.out)
    return 0
