"""`braid`: parse the arguments, run the command, turn what is wrong into one sentence.

Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from braidlm.cli import data, describe, eval, generate, report, study, train
from braidlm.errors import InputError

COMMANDS = (describe, data, train, eval, generate, study, report)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    parser = argparse.ArgumentParser(
        prog="braid",
        description="Declare, cost, train, test and compare hybrid state-space/attention models.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from importlib.metadata import version

        print(f"braidlm {version('braidlm')}")
        return 0
    if not hasattr(args, "run"):
        parser.print_help()
        return 2
    return _guarded(args)


def _guarded(args: argparse.Namespace) -> int:
    """Run a command; only a defect of the program itself may end in a traceback."""
    try:
        return args.run(args)
    except InputError as error:
        return _say(str(error))
    except BrokenPipeError:
        # The reader of our output has gone; what is left to write has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("braid: interrupted", file=sys.stderr)
        return 130


def _say(message: str) -> int:
    print(f"braid: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
