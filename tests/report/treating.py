"""Writes a study of two bases and three treatments, with items whose effects are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from braidlm.items import write_items
from tests.report.making import config, write, write_run, write_study

BASES = ("hybrid", "attention")
EFFECTS = {"plain": 0.0, "repeat": 0.02, "after": 0.3}
SEEDS = (0, 1, 2)
N_ITEMS = 60


def treated(
    path: Path, *, seeds: tuple[int, ...] = SEEDS, noise: float = 0.05, **fields: Any
) -> Path:
    """A study at `path`; recall rises by `EFFECTS`, the loss by a tenth of it."""
    names = [f"{base}-{arm}" for base in BASES for arm in EFFECTS]
    random = np.random.default_rng(0)
    hard = random.normal(0.4, 0.2, N_ITEMS)
    for place, base in enumerate(BASES):
        for seed in seeds:
            recipe = config("M-*-" if base == "hybrid" else "*-*-", seed=seed, steps=50)
            write_run(path / base / f"seed-{seed}", recipe)
            luck = random.normal(0, 0.1)
            begun = hard + luck + 0.1 * place
            for arm, effect in EFFECTS.items():
                run = path / f"{base}-{arm}" / f"seed-{seed}"
                counts = {"input": 20000, "loss": 15000, "unique": 9000}
                made = {"input": 5600, "loss": 5000, "unique": None}
                lines = [{"step": 100, "loss": 2.0, "source_tokens": {"a": counts, "b": made}}]
                write_run(run, recipe | {"name": run.parent.name}, metrics=lines)
                add(run, begun + effect + random.normal(0, noise, N_ITEMS), effect)
                if arm == "plain":
                    write_run(run / "init", recipe, metrics=[])
                    add(run / "init", begun - 0.2, 0.0)
    known: dict[str, Any] = {
        "bases": [
            {"name": "hybrid", "label": "Hybrid", "init": None, "overrides": []},
            {"name": "attention", "label": "Attention", "init": None, "overrides": []},
        ],
        "comparisons": [
            {"arm": f"{base}-{arm}", "control": f"{base}-plain"}
            for base in BASES
            for arm in ("repeat", "after")
        ]
        + [{"arm": "hybrid-after", "control": "attention-plain"}],
        "outcomes": ["mqar-recall"],
        "arms": [
            {
                "name": name,
                "label": f"{name.split('-')[0].capitalize()}, {name.split('-')[1]}",
                "overrides": [],
                "base": name.split("-")[0],
            }
            for name in names
        ],
        "match": {"on": "params", "reference": "hybrid", "on_of": {"attention": "cache"}},
        "seeds": list(seeds),
        "matched": [],
    }
    return write_study(path, [], **known | fields)


def add(run: Path, values: np.ndarray, worse: float) -> None:
    """Write the items of a recall task, and of a loss that is a tenth of `worse` higher."""
    recall = [{"id": str(i), "accuracy": float(v)} for i, v in enumerate(values)]
    loss = [{"id": str(i), "bits": 2 + 0.1 * worse + 0.01 * (i % 7)} for i in range(20)]
    put(run, "mqar", "recall", "accuracy", recall, "share", {"value": "accuracy"})
    put(run, "lm", "held-out", "bits_per_byte", loss, "bits/byte", {"value": "bits"})


def put(
    run: Path,
    kind: str,
    name: str,
    metric: str,
    rows: list[dict[str, Any]],
    unit: str,
    column: dict[str, str],
    **task: Any,
) -> None:
    """Write one result with its items."""
    values = np.array([row[column["value"]] for row in rows])
    found = {
        "value": float(values.mean()),
        "stderr": float(values.std(ddof=1) / len(values) ** 0.5),
        "n": len(values),
    }
    path = run / "results" / f"{kind}-{name}.json"
    about = write_items(path.with_name(f"{path.stem}.items.jsonl"), rows)
    write(
        path,
        {
            "schema_version": 1,
            "kind": kind,
            "name": name,
            "metric": metric,
            **found,
            "metrics": {metric: {**found, "unit": unit}},
            "tables": {},
            "task": {"kind": kind, "name": name, "n_items": len(rows)} | task,
            "items": {**about, "columns": {metric: column}},
            "step": 100,
            "device": "cpu",
            "dtype": "float32",
        },
    )
