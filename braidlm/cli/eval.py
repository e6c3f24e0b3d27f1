"""`braid eval RUN`: run the recipe's tasks on a checkpoint and write result files."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from braidlm.cli.progress import progress
from braidlm.errors import InputError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("eval", help="run the recipe's tasks on a trained model")
    parser.add_argument("path", metavar="RUN", nargs="?", help="a run directory")
    parser.add_argument(
        "--tasks",
        metavar="A,B",
        help="names, kinds or <kind>-<name>, of built-in tasks too (default: all of the recipe)",
    )
    parser.add_argument(
        "--tasks-file", metavar="FILE", help="a TOML file of [[tasks]] that the recipe lacks"
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--force", action="store_true", help="ask again what is measured already")
    parser.add_argument(
        "--list",
        action="store_true",
        help="show the tasks, one example each (without RUN: names of the built-in ones)",
    )
    parser.add_argument("--lengths", metavar="N,N", help="tokens, for tasks that have lengths")
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="files of data sets, for tasks of real documents (default: where they were published)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="items at once at most")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="such as step-00000100 (default: the newest)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="look at N documents or items; writes nothing",
    )
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda (default: the recipe's)")
    parser.add_argument(
        "--dtype", metavar="NAME", help="fp32 or bf16 (default: fp32 on a CPU, else as trained)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate, or list what would be evaluated."""
    names = None if args.tasks is None else [n for n in args.tasks.split(",") if n]
    lengths = _lengths(args.lengths)
    if args.path is None:
        return _list_built_in(args.list, args.tasks, args.tasks_file)
    if args.list:
        return _list(args, names, lengths)
    from braidlm.tasks import evaluate

    failures = Failures()
    results = evaluate(
        args.path,
        names,
        args.checkpoint,
        progress(args.json),
        device=args.device,
        dtype=args.dtype,
        limit=args.limit,
        tasks_file=args.tasks_file,
        overrides=args.overrides,
        force=args.force,
        kept=_say_kept,
        lengths=lengths,
        data=args.data,
        batch_size=args.batch_size,
        failed=failures,
    )
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            print(card(result))
        if args.limit is not None:
            print(f"(a look at {args.limit} documents or items: nothing was written)")
    return failures.say()


class Failures:
    """Tasks that could not be asked; called as `evaluate` tells of them."""

    def __init__(self) -> None:
        self._sentences: list[str] = []

    def __call__(self, task: str, error: InputError) -> None:
        """Remember one."""
        self._sentences.append(f"{task}: {' '.join(str(error).split())}")

    def say(self) -> int:
        """Print a sentence for each on standard error; return the exit code."""
        for sentence in self._sentences:
            print(f"braid: {sentence}", file=sys.stderr)
        return 2 if self._sentences else 0


def _lengths(text: str | None) -> list[int]:
    words = [] if text is None else text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise InputError(f"--lengths {text}: must be numbers of tokens such as 512,1024")
    return [int(word) for word in words]


def _say_kept(task: str) -> None:
    print(
        f"{task}: measured already with these items, weights and code; --force asks again",
        file=sys.stderr,
    )


def _list(args: argparse.Namespace, names: list[str] | None, lengths: list[int]) -> int:
    from braidlm.runs import Run
    from braidlm.tasks import choose_tasks, describe, with_data, with_lengths, with_tasks

    recipe, added = with_tasks(Run.open(args.path), args.tasks_file, args.overrides, names)
    wanted = names if names is not None or not added else added
    tasks = choose_tasks(recipe, wanted) if recipe.tasks or wanted is not None else []
    tasks = with_data(with_lengths(tasks, lengths), args.data)
    if args.json:
        print(json.dumps([task.model_dump(mode="json") for task in tasks], indent=2))
        return 0
    failures = Failures()
    for task in tasks:
        name = f"{task.kind}-{task.name}"
        try:
            print(f"{name}\n{describe(task, recipe)}\n")
        except InputError as error:
            failures(name, error)
    if wanted is None:
        print(_built_in())
    return failures.say()


def _list_built_in(is_listed: bool, *asked: str | None) -> int:
    """Show what can be asked of any run; an example takes a run's tokenizer."""
    if not is_listed or any(asked):
        raise InputError(
            "RUN is missing: a run directory; without one --list names the built-in tasks"
        )
    print(_built_in())
    return 0


def _built_in() -> str:
    """Say in a line each what can be asked by name."""
    from braidlm.arch.tasks.builtin import BUILTIN

    width = max(map(len, BUILTIN))
    lines = [f"  {name:<{width}}  {entry.line}" for name, entry in BUILTIN.items()]
    return "\n".join(["built in (--tasks NAME --list draws one):", *lines])


def card(result: dict[str, Any]) -> str:
    """Draw one result: every metric with its error; the primary one is starred."""
    lines = [
        f"{result['kind']}-{result['name']}  {result['checkpoint']}, {result['device']} "
        f"{result['dtype']}, {result['wall_sec']:.1f} s"
    ]
    width = max(14, *map(len, result["metrics"]))
    for name, found in result["metrics"].items():
        mark = "*" if name == result["metric"] else " "
        lines.append(f"  {mark} {name:<{width}} {_number(found)} {found['unit']}")
    if (kept := result.get("token_filter")) is not None:
        lines.append(_filtered(kept))
    return "\n".join(lines)


def _filtered(kept: dict[str, Any]) -> str:
    """Say what a token filter kept."""
    share = "" if kept["kept"] is None else f"; they keep {100 * kept['kept']:.1f} % of the tokens"
    return f"    token filter: {kept['global']} of {kept['channels']} channels are global{share}"


def _number(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "unknown"
    if found["stderr"] is None:
        return f"{found['value']:.6g}"
    told = f"{found['value']:z.4f} ± {found['stderr']:.4f} (n = {found['n']})"
    if found.get("low") is None:
        return told
    return f"{told} [{found['low']:z.4f}, {found['high']:z.4f}]"
