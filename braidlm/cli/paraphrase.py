"""`braid paraphrase IN --method NAME --out DIR`: other words for every text of an input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.cli.progress import Counter
from braidlm.errors import InputError
from braidlm.files import atomic_write

if TYPE_CHECKING:
    from braidlm.data.paraphrase.make import Made

_PARTS = ("gate", "source")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "paraphrase",
        help="write, or take from a collection, paraphrases of texts",
        description="Run again with the same arguments, it goes on where it was. "
        "docs/paraphrases.md says what each method makes, and what its settings are.",
    )
    parser.add_argument(
        "input", metavar="IN", nargs="?", help="what a source's path may be; some methods need none"
    )
    parser.add_argument(
        "--method",
        required=True,
        metavar="NAME",
        help="what writes them: hf, openai, pairs, rules or biographies",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is random")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A=B",
        help="a setting of the method; gate.A=B one of the gate, source.A=B one of the input",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="ask once more for paraphrases that had no answer in earlier runs",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument("--json", action="store_true", help="print the manifest's counts")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make or go on with a folder, print what it holds; 2 if it had to stop before the end."""
    from braidlm.arch.recipe import override
    from braidlm.data.paraphrase.gate import Gate, GateConfig
    from braidlm.data.paraphrase.make import make
    from braidlm.data.paraphrase.methods import open_method
    from braidlm.report.paraphrases import build

    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must be at least 0")
    settings = override({}, args.overrides)
    gate = Gate(GateConfig.of(_table(settings, "gate"), "gate"))
    source = _table(settings, "source")
    own = {key: value for key, value in settings.items() if key not in _PARTS}
    if args.method == "hf":
        _know_our_models()
    opened = open_method(args.method, args.input, own, source, args.seed)
    header = {
        "method": args.method,
        "settings": opened.settings,
        "seed": args.seed,
        "source": opened.source,
        "gate": gate.described(),
    }
    with Counter() if not args.quiet else nullcontext() as progress:
        made = make(
            opened.method, gate, args.out, header, retry_failed=args.retry_failed, progress=progress
        )
    if not made.counts["read"] and not made.stopped:
        raise InputError(f"IN = '{args.input}': holds no text")
    for name, records in opened.beside.items():
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        atomic_write(args.out / name, "".join(lines).encode())
    build(args.out)
    print(json.dumps(made.counts, indent=2) if args.json else _as_text(made, args.out))
    if made.stopped:
        print(f"braid: {made.stopped}; run it again to go on", file=sys.stderr)
    return 2 if made.stopped else 0


def _know_our_models() -> None:
    """Teach transformers, where it is installed, the models that `braid export` writes for it."""
    from importlib.util import find_spec

    if find_spec("transformers"):
        import braidlm.hf  # noqa: F401


def _table(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = settings.get(name, {})
    if not isinstance(found, dict):
        raise InputError(f"--set {name}={found}: must name a field, as {name}.FIELD=VALUE")
    return found


def _as_text(made: Made, out: Path) -> str:
    counts = made.counts
    lines = [
        f"{out}: {counts['accepted']:,} paraphrases of {counts['texts']:,} texts, "
        f"{counts['read']:,} read"
    ]
    lines += [f"  rejected, {why}: {n:,}" for why, n in counts["rejected"].items()]
    return "\n".join(lines)
