"""`braid match A B`: resize B until it agrees with A in parameters, FLOPs or cache bytes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.errors import InputError

if TYPE_CHECKING:
    from braidlm.arch.match import Match, Measures


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "match",
        help="resize one model until it costs what another costs",
        description="A is the reference and stays as it is; B is resized. docs/matching.md says "
        "which fields may change, in which order, and what the smallest change is.",
    )
    parser.add_argument("reference", metavar="A", help="a recipe, a run, or a pattern")
    parser.add_argument("model", metavar="B", help="likewise; this one is resized")
    parser.add_argument(
        "--on", default="params", metavar="NAME", help="flops, params (default) or cache"
    )
    parser.add_argument(
        "--context", type=int, default=8192, metavar="N", help="tokens per sequence (default 8192)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="X", help="share of A (default 0.01)"
    )
    parser.add_argument(
        "--factor", type=float, default=2.0, metavar="X", help="bound of every field (default 2)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write B as it is then, in TOML")
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Match the two, print what they cost and what was changed."""
    from braidlm.arch.match import match
    from braidlm.cli.declared import declaration

    _check_new(args.out)
    declared = declaration(args.model)
    found = match(
        declaration(args.reference).spec,
        declared.spec,
        args.on,
        args.context,
        tolerance=args.tolerance,
        factor=args.factor,
    )
    if args.out is not None:
        _write(args.out, declared.to_dict(), found)
    print(_as_json(found, args) if args.json else _as_text(found, args))
    return 0


def _check_new(out: Path | None) -> None:
    """Refuse to write over a file: it may be somebody's recipe."""
    if out is not None and out.exists():
        raise InputError(f"--out {out}: exists already; choose a new name")
    if out is not None and out.suffix != ".toml":
        raise InputError(f"--out {out}: must end in .toml")


def _write(path: Path, declared: dict[str, Any], found: Match) -> None:
    from braidlm.arch.toml import document, model_table
    from braidlm.files import atomic_write

    atomic_write(path, document({**declared, "model": model_table(found.spec)}).encode())


def _as_json(found: Match, args: argparse.Namespace) -> str:
    from braidlm.arch.toml import model_table

    figures = {
        "on": args.on,
        "context": args.context,
        "tolerance": args.tolerance,
        "factor": args.factor,
        "reference": found.reference._asdict(),
        "before": found.before._asdict(),
        "after": found.after._asdict(),
        "changes": [c._asdict() for c in found.changes],
        "model": model_table(found.spec),
    }
    return json.dumps(figures, indent=2)


def _as_text(found: Match, args: argparse.Namespace) -> str:
    from braidlm.arch.match import WORDS
    from braidlm.cli.table import table

    rows = [
        (name, *cells, _share(old, goal), _share(new, goal))
        for name, goal, old, new, cells in _rows(found)
    ]
    head = (f"at {args.context:,} tokens", "A", "B before", "B after", "before / A", "after / A")
    changes = [f"  {c.field}  {c.old:,} -> {c.new:,}" for c in found.changes]
    return "\n".join(
        (
            f"B matched to A on {WORDS[args.on]}, within {args.tolerance:.3g} of A\n",
            table(head, rows, head[:1]),
            "\n".join(["changed in B", *changes] if changes else ["nothing had to change"]),
        )
    )


def _rows(found: Match) -> list[tuple[str, int, int, int, tuple[str, ...]]]:
    from braidlm.cli.table import count, flops, size

    shown = {
        "training_flops_per_token": ("training per token", flops),
        "n_params": ("parameters", count),
        "n_active_params": ("  active", count),
        "cache_bytes": ("cache", size),
    }
    parts: tuple[Measures, ...] = (found.reference, found.before, found.after)
    out = []
    for field, (name, say) in shown.items():
        values = [getattr(part, field) for part in parts]
        out.append((name, *values, tuple(map(say, values))))
    return out


def _share(value: int, goal: int) -> str:
    return f"{value / goal:.4f}" if goal else "-"
