"""`braid study STUDY.toml --out DIR`: run arms x seeds side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("study", help="train and test many models, arms x seeds")
    parser.add_argument("study", metavar="STUDY.toml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue what DIR holds")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the state of every run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the study; 1 if a run failed."""
    from braidlm.study import run_study

    command = ["braid", *sys.argv[1:]]
    summary = run_study(
        args.study, args.out, resume=args.resume, is_silent=args.quiet, command=command
    )
    if args.json:
        print(json.dumps({"path": str(summary.path), "runs": summary.states}, indent=2))
    else:
        done = sum(state == "done" for state in summary.states.values())
        print(f"{done} of {len(summary.states)} runs done in {summary.path}")
    return 0 if summary.is_complete else 1
