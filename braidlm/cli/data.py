"""`braid data`: tokenised shards, training rows, tokenizers, and overlap with the tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.cli.table import table
from braidlm.errors import InputError

if TYPE_CHECKING:
    from braidlm.arch import Recipe
    from braidlm.data.replay import Record

SHOWN_FILES, SHOWN_WORST = 8, 3
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
    _add_tokenizer(actions)
    overlap = _add_overlap(actions)
    for action in (build, inspect, overlap):
        action.add_argument("recipe", metavar="RECIPE_OR_RUN", type=Path)
        action.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
        action.add_argument("--json", action="store_true")


def _add_tokenizer(actions: Any) -> None:
    train = actions.add_parser("tokenizer", help="train a byte-level BPE tokenizer on text")
    train.add_argument("texts", metavar="TEXT", nargs="+", help="what a source's path may be")
    train.add_argument("--vocab-size", type=int, required=True, metavar="N")
    train.add_argument("--out", type=Path, required=True, metavar="FILE")
    train.add_argument("--field", default="text", metavar="NAME")
    train.add_argument("--special", action="append", metavar="TOKEN")
    train.add_argument("--against", action="append", default=[], metavar="TOKENIZER")
    train.add_argument("--json", action="store_true")
    train.set_defaults(run=_tokenizer)


def _add_overlap(actions: Any) -> argparse.ArgumentParser:
    overlap = actions.add_parser(
        "overlap", help="look for the tasks' text, and for duplicates, in the training text"
    )
    overlap.add_argument("--against", action="append", default=[], type=Path, metavar="FILE")
    overlap.add_argument("--characters", action="store_true", help="n-grams of characters")
    overlap.add_argument("--ngram", type=int, metavar="N")
    overlap.add_argument("--no-duplicates", action="store_true")
    overlap.set_defaults(run=_overlap)
    return overlap


def _recipe(args: argparse.Namespace) -> Recipe:
    """Return the recipe of a file, or the one that a run keeps."""
    from braidlm.arch.kept import kept_recipe
    from braidlm.cli.declared import recipe_of
    from braidlm.runs import Run

    if not args.recipe.is_dir():
        return recipe_of(args.recipe, args.overrides)
    if args.overrides:
        raise InputError(f"--set {args.overrides[0]}: {args.recipe} is a run; its recipe stands")
    run = Run.open(args.recipe)
    return kept_recipe(run.path / "config.json", run.path)


def _build(args: argparse.Namespace) -> int:
    from braidlm.data.prepare import build

    recipe = _recipe(args)
    verify = "all" if args.verify_all else True
    summary = build(recipe.data, args.out, verify=verify, seed=recipe.seed)
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
    if windows := source.get("windows"):
        yield from _windows(windows)
    if epoch := source.get("epoch"):
        yield (
            f"  {'epoch':<9} {epoch['input']:>12,} tokens read, {epoch['loss']:,} learnt, "
            f"{epoch['unique']:,} different"
        )
    if files := source.get("files"):
        more = f" and {len(files) - SHOWN_FILES} more" if len(files) > SHOWN_FILES else ""
        yield f"  {'files':<9} {', '.join(files[:SHOWN_FILES])}{more}"


def _windows(windows: dict[str, Any]) -> Iterator[str]:
    """Yield what stands in windows of texts and paraphrases, and what of them does not."""
    yield (
        f"  {'windows':<9} {windows['texts']:>12,} texts with {windows['paraphrases']:,} "
        f"paraphrases, at most {windows['share']} tokens of each in a window of {windows['length']}"
    )
    if (long := windows["too_long"])["texts"]:
        what = "are left out" if long["policy"] == "drop" else "are cut off"
        yield (
            f"  {'too long':<9} {long['texts']:>12,} texts, or their paraphrases, have more: "
            f"{long['tokens']:,} tokens {what}"
        )
    if windows["padding"]:
        yield f"  {'padding':<9} {windows['padding']:>12,} tokens of each row are left empty"


def _tokenizer(args: argparse.Namespace) -> int:
    from braidlm.arch.sources import TextSource
    from braidlm.data.bpe_train import END, train_tokenizer
    from braidlm.data.tokenizer import load_tokenizer

    sources = [TextSource.of({"path": text, "field": args.field}, "TEXT") for text in args.texts]
    others = [load_tokenizer(name) for name in args.against]
    found = train_tokenizer(
        sources, args.vocab_size, args.out, special=args.special or [END], against=others
    )
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    held = "held out" if found["is_held_out"] else "of the text itself: too little to hold out any"
    print(
        f"{found['out']}: {found['vocab_size']:,} tokens from {found['trained_bytes']:,} bytes; "
        f"measured on {found['held_out_bytes']:,} bytes {held}"
    )
    rows = [
        (r["tokenizer"], f"{r['vocab_size']:,}", f"{r['tokens']:,}", f"{r['bytes_per_token']:.3f}")
        for r in found["compression"]
    ]
    print(table(("tokenizer", "ids", "tokens", "bytes/token"), rows, left=("tokenizer",)), end="")
    return 0


def _overlap(args: argparse.Namespace) -> int:
    from braidlm.data.contamination import as_result, check_overlap
    from braidlm.runs import Run

    run = Run.open(args.recipe) if args.recipe.is_dir() else None
    recipe = _recipe(args)
    found = check_overlap(
        recipe,
        args.against,
        unit="characters" if args.characters else "words",
        n=args.ngram,
        duplicates=not args.no_duplicates,
    )
    if run is not None:
        for task in found["tasks"]:
            run.write_result("overlap", task["name"], as_result(found, task))
    print(json.dumps(found, indent=2) if args.json else "\n".join(_overlap_lines(found)))
    return 0


def _overlap_lines(found: dict[str, Any]) -> Iterator[str]:
    speed = found["n_bytes"] / 1e6 / max(found["search_sec"], 1e-9)
    yield (
        f"training text: {found['n_documents']:,} documents, {found['n_bytes']:,} bytes "
        f"({found['search_sec']:.1f} s, {speed:.1f} MB/s)"
    )
    for task in found["tasks"]:
        long = task["n_items"] - task["n_too_short"]
        share = "" if task["share"] is None else f" ({100 * task['share']:.2f} %)"
        yield (
            f"{task['name']}: {task['n_found']:,} of {long:,} items{share} share {task['n']} "
            f"{task['unit']} in a row with it; {task['n_too_short']:,} are shorter"
        )
        for worst in task["worst"][:SHOWN_WORST]:
            yield (
                f"  {worst['item']}: {worst['found']} of {worst['of']} n-grams, first in "
                f"{worst['training']}: {worst['ngram']!r}"
            )
    for task in found["skipped"]:
        yield f"{task['name']}: not compared, {task['why']}"
    if twice := found["duplicates"]:
        yield (
            f"duplicates: {twice['exact']:,} of {twice['documents']:,} documents stood there "
            f"before, {twice['near']:,} more nearly so"
        )
        for pair in twice["examples"][:SHOWN_WORST]:
            yield f"  {pair['first']} and {pair['second']}: similarity {pair['similarity']:.2f}"


def _inspect(args: argparse.Namespace) -> int:
    from braidlm.data.inspection import inspect

    recipe = _recipe(args)
    rows = inspect(recipe.data, args.n, seed=recipe.seed, record=_record(recipe, args.recipe))
    if args.json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(map(_drawn, rows)))
    return 0


def _record(recipe: Recipe, source: Path) -> Record | None:
    """Return what the init has read, if the recipe replays it; `source` may be a run."""
    if recipe.data.replay is None:
        return None
    from braidlm.train.start import start_of

    start = start_of(recipe, source if source.is_dir() else None)
    return None if start is None else start.record(recipe)


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
            f"from its token {piece['offset']}, {scored} scored{_replayed(piece)}"
        )
        lines.append(f"    {piece.get('masked', piece['text'])!r}")
    return "\n".join(lines)


def _replayed(piece: dict[str, Any]) -> str:
    told = piece.get("replayed")
    return f"; row {told['row']} of the init's training, {told['source']}" if told else ""
