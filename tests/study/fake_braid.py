"""Stands for `braid train`: no torch, no training, the same files, signals and exit codes.

What it does after half of its steps follows from the arm's name:
raise, die (SIGKILL), sleep (report the same step until a signal comes), deaf (the same, but
SIGTERM is ignored), mute (deaf, and it reports nothing). Continued runs behave.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from braidlm.arch import Recipe
from braidlm.files import write_json
from braidlm.runs import Run

ASKED: list[int] = []
SLEEP_SEC = 20.0


def main() -> int:
    arguments = sys.argv[2:]
    out = Path(arguments[arguments.index("--out") + 1])
    sets = [arguments[i + 1] for i, word in enumerate(arguments) if word == "--set"]
    recipe = Recipe.load(arguments[0], sets)
    run = Run.create(out, recipe.to_dict(), resume="--resume" in arguments)
    with (out / "calls.txt").open("a") as file:
        file.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES', '-')} {' '.join(arguments)}\n")
    with run.lock():
        if not train(run, recipe):
            return 130
    if "--no-eval" not in arguments:
        evaluate(run, recipe)
    return 0


def train(run: Run, recipe: Recipe) -> bool:
    is_deaf = recipe.name in ("deaf", "mute")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if is_deaf else lambda number, _: ASKED.append(1))
    status, steps = run.path / "status.json", recipe.train.steps
    first = json.loads(status.read_text())["step"] if status.exists() else 0
    say({"step": first, "steps": steps})
    for step in range(first + 1, steps + 1):
        if first == 0 and step == 1 + steps // 2:
            misbehave(recipe.name)
        if ASKED:
            run.set_status("interrupted", step - 1, steps)
            return False
        say({"step": step, "steps": steps, "loss": 1 / step, "tokens_per_sec": 9.0})
        run.set_status("running", step, steps)
    run.set_status("done", steps, steps)
    say({"state": "done"})
    return True


def misbehave(kind: str) -> None:
    if kind == "raise":
        raise RuntimeError("out of luck")
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in ("sleep", "deaf", "mute"):
        began = time.monotonic()
        while not ASKED and time.monotonic() - began < SLEEP_SEC:
            time.sleep(0.01)
            if kind != "mute":
                say({"step": 3, "steps": 6})


def evaluate(run: Run, recipe: Recipe) -> None:
    for task in recipe.tasks:
        say({"task": f"{task.kind}-{task.name}", "step": 1, "steps": 1})
        result = {"step": recipe.train.steps, "config": recipe.to_dict(), "value": recipe.seed}
        write_json(run.results_dir / f"{task.kind}-{task.name}.json", result)


def say(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
