"""`braid compare RUN_A RUN_B`: which of two is better, item by item, and is it more than luck."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("compare", help="compare two runs, or two arms, item by item")
    for name, metavar in (("a", "RUN_A"), ("b", "RUN_B")):
        parser.add_argument(name, metavar=metavar, help="a run, or an arm of a study (its folder)")
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME",
        help="a name, a kind or <kind>-<name>; several times for more (default: all common ones)",
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="refuse results of any other checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and print."""
    from braidlm.report.versus import compare

    found = compare(args.a, args.b, args.task, args.checkpoint)
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n\n".join(map(drawn, found)))
    return 0


def drawn(task: dict[str, Any]) -> str:
    """Draw one task: a line per metric, the primary one starred, then what it says in words."""
    from braidlm.cli.table import table

    heads = ("", task["task"], task["a"]["name"], task["b"]["name"], "difference", "95 %")
    rows = [
        ("*" if name == task["metric"] else "", name, *_cells(found))
        for name, found in task["metrics"].items()
    ]
    shown = table(heads, rows, left=heads[:2]).rstrip()
    lines = [shown, task["sentence"], f"({task['meaning']})"]
    return "\n".join([*lines, *(f"caution: {caution}" for caution in task["cautions"])])


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    from braidlm.report.units import decimals, fixed

    places = decimals(found["half_width"] or None)
    return (
        _mean(found["a"], found["seed_stderr_a"], places),
        _mean(found["b"], found["seed_stderr_b"], places),
        fixed(found["difference"], places),
        f"± {fixed(found['half_width'], places)}",
    )


def _mean(value: float, seed_stderr: float | None, places: int) -> str:
    """A mean, with its error over seeds where there are several."""
    from braidlm.report.units import fixed

    shown = fixed(value, places)
    return shown if seed_stderr is None else f"{shown} ± {fixed(seed_stderr, places)}"
