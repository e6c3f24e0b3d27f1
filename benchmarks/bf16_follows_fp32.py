"""Whether training under bf16 autocast follows training in fp32: same seeds, same batches.

    python benchmarks/bf16_follows_fp32.py recipes/demo.toml --steps 300 --seeds 0 1 2 3

Every seed trains twice from the same weights on the same rows. The table shows, for windows of
steps, the mean training loss in fp32, how far seeds lie apart (standard deviation), and what bf16
adds to a seed's own loss (mean, and largest over seeds). It should be small beside the spread. The
last line printed is one JSON object. Finished runs in `--out` are read and not trained again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from braidlm.cli.main import main as braid
from braidlm.runs import Run


def losses(options: argparse.Namespace, seed: int, precision: str) -> list[float]:
    """Return the logged losses of one run, in nats per target token."""
    out = options.out / f"{precision}-{seed}"
    if not out.exists():
        fixed = [f"seed={seed}", f"train.precision={precision}", f"train.steps={options.steps}"]
        settings = [*fixed, "train.log_every=1", *options.set]
        flags = [word for setting in settings for word in ("--set", setting)]
        quiet = ["--progress", "none"]
        code = braid(["train", options.recipe, "--out", str(out), "--no-eval", *quiet, *flags])
        if code:
            raise SystemExit(code)
    rows = [row["loss"] for row in Run.open(out).metrics() if "loss" in row]
    if len(rows) != options.steps:
        raise SystemExit(f"{out} holds {len(rows)} losses, not {options.steps}")
    return rows


def windows(curve: list[float], n_windows: int) -> list[float]:
    """Return the mean loss of equal parts of a curve."""
    size = len(curve) // n_windows
    return [statistics.fmean(curve[i * size : (i + 1) * size]) for i in range(n_windows)]


def table(options: argparse.Namespace) -> list[dict[str, float]]:
    """Return one row per window of steps."""
    curves = {
        precision: [windows(losses(options, s, precision), options.windows) for s in options.seeds]
        for precision in ("fp32", "bf16")
    }
    rows = []
    for i in range(options.windows):
        wide, narrow = ([curve[i] for curve in curves[p]] for p in ("fp32", "bf16"))
        added = [n - w for n, w in zip(narrow, wide, strict=True)]
        rows.append(
            {
                "until_step": (i + 1) * (options.steps // options.windows),
                "fp32": statistics.fmean(wide),
                "seed_std": statistics.stdev(wide),
                "bf16_adds": statistics.fmean(added),
                "bf16_adds_at_most": max(added, key=abs),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> dict[str, object]:
    """Train, print the table, and return what was printed last."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/bf16_follows_fp32"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--windows", type=int, default=6)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    rows = table(options)
    for row in rows:
        print("  ".join(f"{name} {value:.4f}" for name, value in row.items()))
    card = {
        "benchmark": "bf16_follows_fp32",
        "recipe": options.recipe,
        "set": options.set,
        "seeds": options.seeds,
        "rows": rows,
        "torch": torch.__version__,
    }
    print(json.dumps(card))
    return card


if __name__ == "__main__":
    main()
