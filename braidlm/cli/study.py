"""`braid study STUDY.toml --out DIR`: run arms x seeds side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from braidlm.study import StudySummary


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("study", help="train and test many models, arms x seeds")
    parser.add_argument("study", metavar="STUDY.toml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue what DIR holds")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at a time, instead of the study file's number; 0: one per GPU or per core",
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="try everything: one seed, two updates, four items"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the state of every run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the study; 1 if a run did not end well, 130 if the study was stopped."""
    from braidlm.study import run_study

    command = ["braid", *sys.argv[1:]]
    try:
        summary = run_study(
            args.study,
            args.out,
            resume=args.resume,
            jobs=args.jobs,
            is_silent=args.quiet,
            command=command,
            rehearse=args.rehearse,
        )
    except KeyboardInterrupt:
        print(f"braid: stopped; continue {args.out} with --resume", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(_as_json(summary), indent=2))
    else:
        print(_as_text(summary))
    return 0 if summary.is_complete else 1


def _as_json(summary: StudySummary) -> dict[str, object]:
    return {
        "path": str(summary.path),
        "runs": summary.states,
        "errors": summary.errors,
        "matched": list(summary.matched),
    }


def _as_text(summary: StudySummary) -> str:
    states = list(summary.states.values())
    others = [f", {states.count(s)} {s}" for s in ("failed", "interrupted") if s in states]
    lines = [f"{run}: {error}" for run, error in summary.errors.items()]
    lines.append(
        f"{states.count('done')} of {len(states)} runs done{''.join(others)} in {summary.path}"
    )
    lines.append(f"matched within 1 %: {', '.join(summary.matched) or 'nothing'}")
    return "\n".join(lines)
