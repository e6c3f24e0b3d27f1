"""`braid sweep RECIPE.toml --lr 1e-4..1e-2 --out DIR`: which learning rate is best."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.errors import InputError

if TYPE_CHECKING:
    from braidlm.study import StudySummary

RESULT = "sweep.json"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("sweep", help="train a recipe over a grid of learning rates")
    parser.add_argument("recipe", metavar="RECIPE.toml", type=Path)
    parser.add_argument("--lr", required=True, metavar="LOW..HIGH", help="e.g. 1e-4..1e-2")
    parser.add_argument("--n", type=int, default=5, metavar="N", help="rates (default 5)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds (default 1)")
    parser.add_argument(
        "--widths", metavar="N,N", help="values of d_model, every inner width in proportion"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue what DIR holds")
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="runs at a time")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change one field of the recipe",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print what sweep.json holds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, write `sweep.json`, print the table; 1 if a run neither ended nor diverged."""
    from braidlm.study.sweep import rates, run_sweep

    lrs, widths = rates(args.lr, args.n), _widths(args.widths)
    try:
        summary = run_sweep(
            args.recipe,
            args.out,
            lrs,
            n_seeds=args.seeds,
            widths=widths,
            overrides=args.overrides,
            resume=args.resume,
            jobs=args.jobs,
            is_silent=args.quiet,
            command=["braid", *sys.argv[1:]],
        )
    except KeyboardInterrupt:
        print(f"braid: stopped; continue {args.out} with --resume", file=sys.stderr)
        return 130
    return _conclude(summary, args.json)


def _conclude(summary: StudySummary, as_json: bool) -> int:
    from braidlm.files import write_json
    from braidlm.report.load import load
    from braidlm.report.sweeps import sweeps

    found = sweeps(load([summary.path]).arms)
    write_json(summary.path / RESULT, {"schema_version": 1, "sweeps": found})
    print(json.dumps(found, indent=2) if as_json else _as_text(found, summary))
    unfinished = sum(row["n_unfinished"] for entry in found for row in entry["rows"])
    return 1 if unfinished else 0


def _widths(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--widths {text}: must be whole numbers such as 64,128")
    found = tuple(int(word) for word in words)
    if len(set(found)) < len(found):
        raise InputError(f"--widths {text}: a width is given twice; they must differ")
    return found


def _as_text(found: list[dict[str, Any]], summary: StudySummary) -> str:
    from braidlm.cli.table import table

    rows = [
        (f"{entry['width']}", f"{row['lr']:.3g}", _loss(row), f"{row['n_seeds']}", _remark(row))
        for entry in found
        for row in entry["rows"]
    ]
    head = ("width", "rate", "loss (nats per token)", "seeds", "")
    lines = [f"{found[0]['measure']}, in {summary.path}\n", table(head, rows, ("",))]
    lines += [f"width {entry['width']}: {entry['verdict']}" for entry in found]
    return "\n".join(lines)


def _loss(row: dict[str, Any]) -> str:
    if row["loss"] is None:
        return "-"
    error = row["loss"]["seed_stderr"]
    return f"{row['loss']['mean']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _remark(row: dict[str, Any]) -> str:
    parts = [("diverged", row["n_diverged"]), ("unfinished", row["n_unfinished"])]
    return ", ".join(f"{word} ({n} of {row['n_seeds']})" for word, n in parts if n)
