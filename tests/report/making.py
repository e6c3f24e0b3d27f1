"""Writes small run and study directories with known numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from braidlm.arch.recipe import Recipe


def config(
    pattern: str = "M-*-", *, name: str = "arm", seed: int = 0, steps: int = 100, **model: Any
) -> dict[str, Any]:
    recipe = {
        "name": name,
        "seed": seed,
        "model": {"pattern": pattern, "d_model": 64, "vocab_size": 320, **model},
        "data": {"seq_len": 64, "sources": [{"kind": "text", "path": "python-docs"}]},
        "train": {"steps": steps, "batch_size": 4},
    }
    return Recipe.from_dict(recipe).to_dict()


def lm(
    bits: float, *, stderr: float = 0.01, name: str = "held-out", **fields: Any
) -> dict[str, Any]:
    rows = [
        {"start": i * 64, "end": (i + 1) * 64, "nll": bits + 0.5 / (i + 1), "stderr": 0.02, "n": 50}
        for i in range(6)
    ]
    metrics = {
        "nll_per_token": measured(bits * math.log(2), stderr, "nats"),
        "bits_per_byte": measured(bits, stderr, "bits/byte"),
    }
    tables = {"by_position": rows, "by_document": documents(bits)}
    return result("lm", name, "bits_per_byte", metrics, tables, **fields)


def documents(bits: float, *, noise: float = 0.0) -> list[dict[str, Any]]:
    """Six documents of very different difficulty whose bits per byte are `bits` together."""
    out = []
    for i in range(6):
        own = bits + 0.4 * (i - 2.5) + (noise if i % 2 else -noise)
        out.append({"document": f"d{i}", "n_tokens": 100, "n_bytes": 100, "nll": own * math.log(2)})
    return out


def mqar(
    accuracy: float, *, stderr: float = 0.01, name: str = "recall", **fields: Any
) -> dict[str, Any]:
    rows = [
        {
            "n_pairs": n,
            "accuracy": max(0.02, accuracy - 0.1 * i),
            "accuracy_stderr": 0.015,
            "graded": 6 * accuracy - i,
            "graded_stderr": 0.2,
            "in_context_chance": 1 / n,
            "n": 200,
        }
        for i, n in enumerate((4, 8, 16, 32))
    ]
    metrics = {
        "accuracy": measured(accuracy, stderr, "share"),
        "graded": measured(6 * accuracy, 0.1, "nats"),
        "chance": measured(1 / 32, None, "share"),
    }
    return result("mqar", name, "accuracy", metrics, {"by_pairs": rows}, **fields)


def phonebook(
    exact: float, *, orders: tuple[str, ...] = ("standard",), name: str = "lookup", **fields: Any
) -> dict[str, Any]:
    """Exact falls by 0.1 with each length and is 0 in the second half; digits are half right."""
    tables: dict[str, Any] = {"by_length": [], "by_depth": [], "by_digit": []}
    for order in orders:
        for i, length in enumerate((256, 512, 1024)):
            here = {"order": order, "length": length, "n": 50}
            value = {"exact": exact - 0.1 * i, "exact_stderr": 0.02}
            tables["by_length"].append(here | value | {"digits": 0.5, "digits_stderr": 0.01})
            for start, share in ((0.0, exact), (0.5, 0.0)):
                place = {"start": start, "end": start + 0.5, "exact": share, "exact_stderr": 0.03}
                tables["by_depth"].append(here | place)
        for digit in range(1, 8):
            row = {"order": order, "digit": digit, "right": 0.8 - 0.1 * digit, "stderr": 0.02}
            tables["by_digit"].append(row | {"n": 150})
    metrics = {
        "exact": measured(exact, 0.02, "share"),
        "digits": measured(0.5, 0.01, "share"),
    }
    return result("phonebook", name, "exact", metrics, tables, **fields)


def asked(
    value: float, levels: dict[str, tuple[Any, ...]], *, name: str = "fda", **fields: Any
) -> dict[str, Any]:
    """Questions whose score falls by 0.1 with each level, and is 0.1 without the text."""
    tables: dict[str, Any] = {}
    for key, found in levels.items():
        rows = [
            {key: level, "contains": value - 0.1 * i, "contains_stderr": 0.05, "n": 40}
            for i, level in enumerate(found)
        ]
        known = {"without_context": 0.1, "without_context_stderr": 0.01, "answer_nll": 3.0}
        tables[f"by_{key}"] = [row | known for row in rows]
    if len(levels) == 2 and "depth" in levels:
        [size] = {*levels} - {"depth"}
        tables["by_group"] = [
            {size: at, "depth": depth, "contains": value - 0.2 * i, "contains_stderr": 0.1}
            for at in levels[size]
            for i, depth in enumerate(levels["depth"])
        ]
    metrics = {
        "contains": measured(value, 0.05, "share"),
        "answer_nll": measured(3.0, 0.2, "nats"),
        "without_context": measured(0.1, 0.01, "share"),
    }
    return result("recall", name, "contains", metrics, tables, form="questions", **fields)


def measured(value: float | None, stderr: float | None, unit: str, n: int = 400) -> dict[str, Any]:
    return {"value": value, "stderr": stderr, "n": n, "unit": unit}


def result(
    kind: str,
    name: str,
    metric: str,
    metrics: dict[str, Any],
    tables: dict[str, Any],
    **fields: Any,
) -> dict[str, Any]:
    primary = {key: metrics[metric][key] for key in ("value", "stderr", "n")}
    return {
        "schema_version": 1,
        "kind": kind,
        "name": name,
        "metric": metric,
        **primary,
        "metrics": metrics,
        "tables": tables,
        "step": 100,
        "checkpoint": "step-00000100",
        "device": "cpu",
        "dtype": "float32",
        "ops": {"ssd": "chunk", "attention": "sdpa"},
        "code_version": "0.1.0",
        **fields,
    }


def losses(steps: int, final: float) -> list[dict[str, Any]]:
    return [
        {"step": s, "loss": final + 3.0 * s**-0.5, "lr": 1e-3, "tokens": 256 * s}
        for s in range(1, steps + 1)
    ]


def write_run(
    path: Path,
    recipe: dict[str, Any] | None = None,
    *,
    results: list[dict[str, Any]] | None = None,
    metrics: list[dict[str, Any]] | None = None,
    state: str = "done",
    error: str | None = None,
) -> Path:
    (path / "results").mkdir(parents=True)
    recipe = config() if recipe is None else recipe
    write(path / "config.json", recipe)
    write(
        path / "env.json",
        {
            "python": "3.11.9",
            "packages": {"torch": "2.13.0"},
            "code_version": "0.1.0+abc",
            "command": "braid train recipe.toml",
            "device": "cpu",
            "earlier": [],
        },
    )
    write(path / "status.json", {"state": state, "step": 100, "steps": 100, "error": error})
    rows = losses(100, 2.0) if metrics is None else metrics
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for entry in results or []:
        write(path / "results" / f"{entry['kind']}-{entry['name']}.json", entry)
    return path


def write_study(path: Path, names: list[str], **fields: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    study = {
        "schema_version": 1,
        "name": "placement",
        "description": "Where should attention stand?",
        "matched": ["training_flops"],
        "arms": [{"name": arm, "label": arm, "overrides": []} for arm in names],
        "seeds": [0, 1],
        "runs": {},
        "command": "braid study study.toml",
    }
    write(path / "study.json", study | fields)
    return path


def write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))
