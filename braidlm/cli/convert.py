"""`braid convert TEACHER --pattern P --out DIR`: make a hybrid of a transformer."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.cli.eval import Failures
from braidlm.cli.progress import TaskBar
from braidlm.cli.table import table
from braidlm.cli.train import progress_of

if TYPE_CHECKING:
    from braidlm.convert import Converted

HEADS = ("stage", "task", "metric", "value", "±", "change", "95 %", "steps", "tokens", "loss")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("convert", help="make a hybrid of a trained transformer")
    parser.add_argument(
        "teacher",
        metavar="TEACHER",
        nargs="?",
        help="a run, a checkpoint of one, or a folder of transformers (default: the recipe's)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the student's run")
    parser.add_argument(
        "--recipe",
        type=Path,
        metavar="FILE",
        help="stages, data and tasks; else weights are copied",
    )
    parser.add_argument("--pattern", metavar="P", help="the student, sublayer by sublayer")
    parser.add_argument("--keep", type=int, metavar="N", help="attentions that stay, by their use")
    parser.add_argument("--keep-layers", metavar="I,J", help="attentions that stay, from 0")
    parser.add_argument("--into", metavar="X", help="what the others become, such as G or {*M}")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--minutes", type=float, metavar="N", help="save and stop after so many")
    parser.add_argument("--resume", action="store_true", help="continue what DIR holds")
    parser.add_argument("--no-eval", action="store_true", help="leave out the tasks")
    parser.add_argument(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="a line for people, JSON lines for programs, or nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert; 130 if stopped, by a signal or by --minutes, after saving; 1 if a loss was nan."""
    from braidlm.convert import convert
    from braidlm.convert.declare import load_conversion
    from braidlm.train import NonFiniteLossError

    conversion, start = load_conversion(args.recipe, args.overrides, _flags(args), args.out)
    failures = Failures()
    shows = args.progress == "auto" and sys.stderr.isatty()
    try:
        made = convert(
            conversion,
            start,
            args.out,
            resume=args.resume,
            minutes=args.minutes,
            asks=not args.no_eval,
            progress=lambda: progress_of(args.progress),
            tasks=TaskBar() if shows else None,
            failed=failures,
        )
    except NonFiniteLossError as error:
        print(f"braid: {error}", file=sys.stderr)
        return 1
    if made.state != "done":
        print(f"braid: stopped at stage {made.stage}; continue with --resume", file=sys.stderr)
        return 130
    print(json.dumps(_told(args, made)) if args.json else _text(args, made))
    return failures.say()


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    from braidlm.errors import InputError

    layers = None
    if args.keep_layers is not None:
        words = [word for word in args.keep_layers.split(",") if word.strip()]
        if not all(word.strip().isdecimal() for word in words):
            raise InputError(f"--keep-layers {args.keep_layers}: must be numbers such as 2,5,8")
        layers = [int(word) for word in words]
    if args.minutes is not None and not 0 < args.minutes < 10**6:
        raise InputError(f"--minutes {args.minutes:g}: must be above 0 and below a million")
    return {
        "teacher": args.teacher,
        "pattern": args.pattern,
        "keep": args.keep,
        "keep_layers": layers,
        "into": args.into,
    }


def _told(args: argparse.Namespace, made: Converted) -> dict[str, Any]:
    return {"out": str(args.out), "pattern": made.pattern, "stages": made.table}


def _text(args: argparse.Namespace, made: Converted) -> str:
    rows = [_row(row) for row in made.table or []]
    shown = table(HEADS, rows, left=HEADS[:3]) if rows else ""
    return f"{shown}{args.out}: {made.pattern}"


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    def number(name: str, form: str = ".4f") -> str:
        value = row.get(name)
        return "" if value is None else format(value, form)

    return (
        row["stage"],
        row["task"],
        f"{row['metric']}, {row['unit']}" if row["unit"] else row["metric"],
        number("value"),
        number("stderr"),
        number("change", "+.4f"),
        number("half_width"),
        number("steps", ",d"),
        number("tokens", ",d"),
        number("loss"),
    )
