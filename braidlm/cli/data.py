"""`braid data build` and `braid data inspect`: tokenised shards, and what is in a training row."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOWN_FILES = 8
TOO_LONG = {
    "cut_prompt": "their prompts are cut from the left",
    "drop": "they are left out",
    "refuse": "training is refused",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("data", help="tokenise corpora; look at training rows")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser("build", help="tokenise every text source of a recipe")
    build.add_argument("--out", type=Path, metavar="DIR", help="default: the recipe's cache_dir")
    build.add_argument(
        "--verify-all", action="store_true", help="read every shard, also those found whole before"
    )
    build.set_defaults(run=_build)
    inspect = actions.add_parser("inspect", help="decode training rows with their boundaries")
    inspect.add_argument("-n", type=int, default=3, metavar="ROWS")
    inspect.set_defaults(run=_inspect)
    for action in (build, inspect):
        action.add_argument("recipe", metavar="RECIPE.toml", type=Path)
        action.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
        action.add_argument("--json", action="store_true")


def _build(args: argparse.Namespace) -> int:
    from braidlm.arch import Recipe
    from braidlm.data.prepare import build

    recipe = Recipe.load(args.recipe, args.overrides)
    summary = build(recipe.data, args.out, verify="all" if args.verify_all else True)
    if args.json:
        print(json.dumps(summary, indent=2))
        return 0
    if t := summary["tokenizer"]:
        (first, opens), (last, closes) = t["bos"], t["eos"]
        print(
            f"tokenizer {t['name']}: {t['vocab_size']:,} ids; "
            f"a document is {opens} ({first}), its text, {closes} ({last})"
        )
    for source in summary["sources"]:
        print("\n".join(_card(source)))
    return 0


def _card(source: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that say what a source is made of."""
    yield f"{source['name']} ({source['kind']}): {source.get('folder', 'made on the fly')}"
    for split in ("train", "held_out"):
        if counts := source.get(split):
            yield f"  {split:<9}" + "".join(f"{v:>13,} {k}" for k, v in counts.items())
    if (long := source.get("too_long")) and long["pairs"]:
        done = TOO_LONG[long["policy"]]
        yield (
            f"  {'too long':<9} {long['pairs']:,} of {long['of']:,} pairs have more than seq_len = "
            f"{long['seq_len']} tokens: {done}"
        )
    if files := source.get("files"):
        more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
        yield f"  {'files':<9} {', '.join(files[:SHOWN_FILES])}{more}"


def _inspect(args: argparse.Namespace) -> int:
    from braidlm.arch import Recipe
    from braidlm.data.inspection import inspect

    recipe = Recipe.load(args.recipe, args.overrides)
    rows = inspect(recipe.data, args.n, seed=recipe.seed)
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(_drawn, rows)))
    return 0


def _drawn(row: dict[str, Any]) -> str:
    """Draw one row: a line per document, its place, its text and which tokens are scored."""
    lines = [
        f"row {row['row']} ({row['source']}): {row['n_tokens']} tokens, "
        f"{row['n_targets']} scored, {row['n_padding']} padding"
    ]
    for piece in row["pieces"]:
        scored = sum(stop - start for start, stop in piece["loss"])
        lines.append(
            f"  [{piece['start']}, {piece['stop']}) of '{piece['document']}', "
            f"from its token {piece['offset']}, {scored} scored"
        )
        lines.append(f"    {piece.get('masked', piece['text'])!r}")
    return "\n".join(lines)
