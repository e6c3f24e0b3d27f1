"""`braid describe PATTERN_OR_RECIPE`: the exact cost of a model that does not exist yet."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from braidlm.errors import InputError

if TYPE_CHECKING:
    from braidlm.arch import Spec

EXACT = "exact"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser(
        "describe",
        help="parameters, FLOPs, cache and decode bytes of a declared model",
        description="Print the exact cost of a model. docs/cost.md defines every figure.",
    )
    parser.add_argument(
        "model",
        metavar="PATTERN_OR_RECIPE",
        nargs="?",
        help="a pattern such as '(M-M-M*-)4', a .toml file with a [model] table, a run, or a "
        "folder of transformers or a GGUF file, of which no weight is read",
    )
    parser.add_argument("--d-model", type=int, metavar="N", help="width of the residual stream")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="rows of the embedding")
    parser.add_argument(
        "--context", type=int, default=8192, metavar="N", help="tokens per sequence (default 8192)"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change one field, e.g. model.mixers.M.d_state=64",
    )
    parser.add_argument(
        "--convention",
        default=EXACT,
        metavar="NAME",
        help="exact (default), or a paper's own way of counting: bae, nvidia",
    )
    parser.add_argument("--each", action="store_true", help="one row per sublayer")
    parser.add_argument("--defaults", action="store_true", help="print the table of defaults")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of a recipe")
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    print(_answer(args), end="")
    return 0


def _answer(args: argparse.Namespace) -> str:
    if args.schema:
        from braidlm.arch import schema

        return schema.text()
    if args.defaults:
        return _defaults(args.json)
    if args.model is None:
        raise InputError("describe: needs a pattern such as '(M-M-M*-)4', or a recipe file")
    return _model(args)


def _defaults(as_json: bool) -> str:
    from braidlm.arch import defaults
    from braidlm.cli.table import table

    if as_json:
        rows = [{"what": w, "field": f, "default": d} for w, f, d in defaults.TABLE]
        return json.dumps({"letters": defaults.LETTERS, "defaults": rows}, indent=2) + "\n"
    letters = [
        (letter, ", ".join([kind, *(f"{k} {v}" for k, v in fields.items())]))
        for letter, kind in defaults.LETTERS.items()
        for fields in [defaults.LETTER_FIELDS.get(letter, {})]
    ]
    head = ("of", "field", "default")
    return (
        table(("letter", "mixer"), letters, ("letter", "mixer"))
        + "\n"
        + table(head, defaults.TABLE, head)
        + "\nEvery other field has a fixed default: see `braid describe --schema`.\n"
    )


def _model(args: argparse.Namespace) -> str:
    from braidlm.arch.published import CONVENTIONS
    from braidlm.cli import card

    allowed = (EXACT, *CONVENTIONS)
    if args.convention not in allowed:
        raise InputError(f"--convention {args.convention}: allowed are {', '.join(allowed)}")
    spec, changes = _declared(args)
    if args.convention == EXACT and args.json:
        told: dict[str, object] = {"changes": changes} if changes else {}
        return _json(card.exact(spec, args.context) | told)
    if args.convention == EXACT:
        return card.exact_text(spec, args.context, args.each) + card.changes_text(changes)
    figures = card.published_figures(args.convention, spec, args.context)
    if args.json:
        return _json(figures)
    return card.published_text(args.convention, spec, args.context, args.each)


def _declared(args: argparse.Namespace) -> tuple[Spec, list[dict[str, Any]]]:
    """Return the model, and in what it differs from that of its init as far as a run knows."""
    from braidlm.arch.init_changes import changed
    from braidlm.arch.recipe import Recipe
    from braidlm.cli.declared import declaration
    from braidlm.runs import Run

    sizes = {"d_model": args.d_model, "vocab_size": args.vocab_size}
    given = [f"model.{name}={size}" for name, size in sizes.items() if size is not None]
    declared = declaration(args.model, [*given, *args.overrides])
    if not isinstance(declared, Recipe) or declared.init_changes is None:
        return declared.spec, []
    changes = Run(args.model).origin.get("changes") or declared.init_changes.as_rows()
    return changed(declared.spec, declared.init_changes), changes


def _json(figures: dict[str, object]) -> str:
    return json.dumps(figures, indent=2) + "\n"
