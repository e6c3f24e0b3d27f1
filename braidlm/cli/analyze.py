"""`braid analyze RUN`: which layer remembers what, by instruments over a run's model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from braidlm.cli.eval import Failures, card
from braidlm.cli.progress import progress


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("analyze", help="show which layer of a model remembers what")
    parser.add_argument("path", metavar="RUN", help="a run directory, trained or imported")
    parser.add_argument(
        "--text", metavar="FILE", help="read this text (default: held-out documents of the run)"
    )
    parser.add_argument("--task", metavar="NAME", help="read the prompts of this recall task")
    parser.add_argument(
        "--tasks-file", metavar="FILE", help="a TOML file of [[tasks]] that the recipe lacks"
    )
    parser.add_argument(
        "--context", type=int, metavar="N", help="tokens of a document (default: as trained)"
    )
    parser.add_argument(
        "--documents",
        type=int,
        metavar="N",
        help="documents at most (default: 16, of long ones 65,536 tokens in all but at least 4)",
    )
    parser.add_argument("--instruments", metavar="A,B", help="names (default: all)")
    parser.add_argument("--layers", metavar="A,B-C", help="sublayers from 0 on (default: all)")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="such as step-00000100 (default: the newest)"
    )
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda (default: the recipe's)")
    parser.add_argument(
        "--dtype", metavar="NAME", help="fp32 or bf16 (default: fp32 on a CPU, else as trained)"
    )
    parser.add_argument("--force", action="store_true", help="measure again what is there already")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="draw a page of the results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and say what was found in a few lines or on a page."""
    from braidlm.analysis import analyze

    if args.out is not None:
        from braidlm.report.page import checked

        checked(args.out)  # before anything is measured
    names, failures = args.instruments, Failures()
    results = analyze(
        args.path,
        None if names is None else [name for name in names.split(",") if name],
        text=args.text,
        task=args.task,
        tasks_file=args.tasks_file,
        context=args.context,
        n_documents=args.documents,
        layers=args.layers,
        checkpoint=args.checkpoint,
        device=args.device,
        dtype=args.dtype,
        force=args.force,
        progress=progress(args.json),
        kept=_say_kept,
        failed=failures,
    )
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        print("\n".join(map(_said, results)))
    if args.out is not None:
        from braidlm import report

        print(report.build_analysis(args.path, args.out), file=sys.stderr if args.json else None)
    return failures.say()


def _said(result: dict[str, Any]) -> str:
    if result["why_not"] is None:
        return card(result)
    return f"{result['kind']}-{result['name']}  not applicable: {result['why_not']}"


def _say_kept(name: str) -> None:
    print(
        f"{name}: measured already with these documents, weights and code; --force does it again",
        file=sys.stderr,
    )
