"""`braid train RECIPE --out DIR`: train a model, then ask it what its recipe asks."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braidlm.cli.began import began, said
from braidlm.cli.compare import drawn
from braidlm.cli.declared import recipe_of
from braidlm.cli.eval import Failures, card
from braidlm.cli.progress import TaskBar

if TYPE_CHECKING:
    from braidlm.train.progress import Progress

_EVENT_SECONDS = 0.5


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command's arguments."""
    parser = subparsers.add_parser("train", help="train a model and run its recipe's tasks")
    parser.add_argument("recipe", metavar="RECIPE.toml", type=Path)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the run directory")
    parser.add_argument(
        "--init",
        metavar="DIR",
        help="begin with weights of a run, a checkpoint, a folder of transformers or a GGUF file",
    )
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    parser.add_argument("--resume", action="store_true", help="continue the run that DIR holds")
    parser.add_argument("--no-eval", action="store_true", help="leave out the recipe's tasks")
    parser.add_argument(
        "--no-before", action="store_true", help="do not ask the weights of --init the tasks too"
    )
    parser.add_argument(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="a line for people, JSON lines for programs, or nothing",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train and evaluate; 130 if interrupted after saving, 1 if the loss was not finite."""
    recipe = recipe_of(args.recipe, args.overrides, args.init, args.out)
    from braidlm.train import NonFiniteLossError, train

    try:
        summary = train(recipe, args.out, resume=args.resume, progress=progress_of(args.progress))
    except NonFiniteLossError as error:
        print(f"braid: {error}", file=sys.stderr)
        return 1
    if summary.state == "interrupted":
        print(f"braid: stopped at step {summary.step}; continue with --resume", file=sys.stderr)
        return 130
    failures, results, found = Failures(), [], []
    if recipe.tasks and not args.no_eval:
        results = _evaluate(args.out, args, failures)
        if recipe.init is not None and not args.no_before:
            found = _changes(args, results)
    if args.json:
        told: dict[str, Any] = {"results": results, "changes": found}
        if recipe.init is not None:
            told["began_with"] = began(args.out)
        print(json.dumps({"out": str(args.out), **asdict(summary), **told}))
    elif args.progress != "json":
        print(
            f"{args.out}: {summary.step} steps, {summary.tokens:,} tokens, loss {summary.loss:.4f}"
        )
        if recipe.init is not None:
            print(said(began(args.out)))
        for result in results:
            print(card(result))
        if found:
            print("\n" + "\n\n".join(map(drawn, found)))
    return failures.say()


def _changes(args: argparse.Namespace, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask the initial weights the same, and compare; a task that fails has said so already."""
    from braidlm.cli.changes import changes
    from braidlm.train.start import INIT

    before = args.out / INIT
    _evaluate(before, args, Failures())
    return changes(args.out, before, results)


def _evaluate(run: Path, args: argparse.Namespace, failed: Failures) -> list[dict[str, Any]]:
    from braidlm.tasks import evaluate

    if args.progress == "json":
        return evaluate(run, progress=_task_event, failed=failed)
    shows = args.progress == "auto" and sys.stderr.isatty()
    return evaluate(run, progress=TaskBar() if shows else None, failed=failed)


def _task_event(task: str, done: int, total: int) -> None:
    _say({"task": task, "step": done, "steps": total})


def _say(event: dict[str, Any]) -> None:
    """Print one event. Where nobody listens any more the run is asked to save and stop."""
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGTERM)


class JsonLines:
    """Reports as JSON lines on standard output, at most two a second."""

    def __init__(self) -> None:
        self.steps = self.first = 0
        self.said = self.began = 0.0
        self.n_tokens = 0

    def start(self, name: str, step: int, steps: int) -> None:
        """Remember where the run begins."""
        self.first, self.steps = step, steps
        self.began = time.monotonic()
        _say({"step": step, "steps": steps})

    def update(self, step: int, loss: float, n_tokens: int) -> None:
        """Report a step."""
        self.n_tokens += n_tokens
        now = time.monotonic()
        if now - self.said >= _EVENT_SECONDS or step == self.steps:
            self.said = now
            speed = self.n_tokens / max(now - self.began, 1e-9)
            event = {"step": step, "steps": self.steps, "loss": loss, "tokens_per_sec": speed}
            _say(event)

    def close(self, state: str) -> None:
        """Report the end."""
        _say({"state": state})


def progress_of(kind: str) -> Progress:
    """Return who is told of a training: a person, a program or nobody."""
    from braidlm.train.progress import Silent, Terminal

    return {"auto": Terminal, "json": JsonLines, "none": Silent}[kind]()
