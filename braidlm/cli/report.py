"""`braid report DIR... -o report.html`: one page from run and study directories."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("report", help="one offline HTML page from runs and studies")
    parser.add_argument("dirs", metavar="DIR", nargs="+", type=Path, help="a run or a study")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), metavar="FILE")
    parser.add_argument(
        "--context", type=int, default=8192, metavar="N", help="tokens at which caches are compared"
    )
    parser.add_argument("--json", action="store_true", help="print the figures; write no page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build the page, or print what it would show."""
    from braidlm import report
    from braidlm.report.load import with_initial

    dirs = with_initial(args.dirs)
    if args.json:
        print(json.dumps(report.tables(dirs, context=args.context), indent=2))
    else:
        print(report.build(dirs, args.out, context=args.context))
    return 0
