"""`braid`: parse the arguments, run the command, turn what is wrong into one sentence.

Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence

from braidlm.cli import (
    analyze,
    bench,
    compare,
    conform,
    convert,
    data,
    describe,
    eval,
    export,
    generate,
    import_,
    match,
    paraphrase,
    report,
    study,
    sweep,
    train,
)
from braidlm.cli.parser import Parser
from braidlm.errors import InputError

COMMANDS = (
    *(
        describe,
        match,
        data,
        paraphrase,
        train,
        convert,
        eval,
        analyze,
        conform,
        bench,
        generate,
        study,
        sweep,
        compare,
        report,
    ),
    *(import_, export),
)
TOO_LARGE = re.compile(r"allocate memory|out of memory|overflow", re.IGNORECASE)


def build_parser() -> Parser:
    """Return the parser of every command."""
    parser = Parser(
        prog="braid",
        description="Declare, cost, train, test and compare hybrid state-space/attention models.",
        epilog="Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands", dest="command")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _accept_every_character()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()  # at exit it would be too late to say what went wrong
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except InputError as error:
        return _say(str(error))
    except BrokenPipeError:
        # The reader of our output has gone; what is left to write has nowhere to go.
        _drop_output()
        return 0
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}")
    except (MemoryError, OverflowError, RuntimeError) as error:
        return _say_too_large(error)
    except KeyboardInterrupt:
        print("braid: interrupted", file=sys.stderr)
        return 130
    return code


def _run(words: list[str]) -> int:
    parser = build_parser()
    args, unknown = parser.parse_known_args(words)
    if unknown:
        parser.refuse(unknown, args.command or "")
    if args.version:
        return _version()
    if args.command is None:
        names = ", ".join(c.__name__.rpartition(".")[2].rstrip("_") for c in COMMANDS)
        raise InputError(f"no command is given; allowed: {names}; see 'braid --help'")
    return args.run(args)


def _version() -> int:
    from importlib.metadata import version

    print(f"braidlm {version('braidlm')}")
    return 0


def _accept_every_character() -> None:
    """Let a character that the terminal cannot show become '?' or an escape, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore


def _drop_output() -> None:
    """Send what standard output still holds nowhere, so that the exit does not fail on it."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str) -> int:
    print(f"braid: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _say_too_large(error: Exception) -> int:
    """Explain a request beyond the machine; any other error is a defect and keeps its traceback."""
    is_torch = isinstance(error, RuntimeError)
    if is_torch and not TOO_LARGE.search(f"{type(error).__name__} {error}"):
        raise error
    first = str(error).strip().partition("\n")[0] or type(error).__name__
    return _say(f"what was asked for is too large for this machine: {_of_a_gpu(first)}")


def _of_a_gpu(text: str) -> str:
    """Of what torch says about a full GPU, what was free and what other programs hold of it."""
    told = re.match(r"(CUDA out of memory\..*? is free)\.", text)
    if told is None:
        return text
    held = re.findall(r"Process \d+ has ([\d.]+) ([KMG])iB memory in use", text)
    others = sum(float(size) * {"K": 2**-20, "M": 2**-10, "G": 1}[unit] for size, unit in held)
    return told[1] + (f", and other programs hold {others:.1f} GiB of it" if held else "")


if __name__ == "__main__":
    sys.exit(main())
