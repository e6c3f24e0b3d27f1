"""The table at the end: teacher, student after every stage, on the same tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braidlm.convert.folder import Folder
from braidlm.errors import InputError
from braidlm.report.versus import compare
from braidlm.runs import Run

Row = dict[str, Any]
Told = list[Row]
"""Rows: stage, task, metric, unit, value, stderr, n; of all but the teacher's change and half_width
(95 %, paired by item), better; of a training steps, tokens, loss, train_sec."""


def tell_stages(folder: Folder) -> Told:
    """Gather what was asked, and write it as the result `convert-stages` of the student.

    Returns:
        A row for each stage and task, the teacher's first; no row where nothing was asked.
    """
    labels = ["copy", *(stage.label for stage in folder.conversion.convert.stages)]
    rows = _rows("teacher", folder.teacher, None)
    for label, path in zip(labels, folder.stages, strict=True):
        rows += _rows(label, path, folder.teacher)
    if rows:
        _write(folder, rows)
    return rows


def _rows(label: str, path: Path, teacher: Path | None) -> list[Row]:
    run = Run(path)
    training = {} if teacher is None else _training(run)
    return [
        {
            "stage": label,
            "task": f"{result['kind']}-{result['name']}",
            "metric": result["metric"],
            "unit": result["metrics"].get(result["metric"], {}).get("unit", ""),
            **{key: result[key] for key in ("value", "stderr", "n")},
            **({} if teacher is None else _change(path, teacher, result)),
            **training,
        }
        for result in run.results()
        if result["kind"] != "convert"
    ]


def _training(run: Run) -> Row:
    """What the stage's training came to; {} of copied weights."""
    rows = run.metrics()
    if not rows:
        return {}
    names = {"step": "steps", "tokens": "tokens", "loss": "loss", "wall_sec": "train_sec"}
    return {name: rows[-1].get(key) for key, name in names.items()}


def _change(path: Path, teacher: Path, result: Row) -> Row:
    """Compare with the teacher item by item; {} where that cannot be."""
    try:
        (found,) = compare(path, teacher, [f"{result['kind']}-{result['name']}"])
    except InputError:
        return {}
    metric = found["metrics"][result["metric"]]
    return {
        "change": metric["difference"],
        "half_width": metric["half_width"],
        "better": metric["better"],
    }


def _write(folder: Folder, rows: list[Row]) -> None:
    """The figure is the student's first."""
    first = [row for row in rows if row["task"] == rows[0]["task"]][-1]
    result = Run(folder.stages[-1]).results(rows[0]["task"].partition("-")[0])[0]
    found = {key: first[key] for key in ("value", "stderr", "n", "unit")}
    about = {"metric": first["metric"], "metrics": {first["metric"]: found}}
    about |= {"tables": {"stages": rows}, "ops": {}}
    about |= {key: result[key] for key in ("step", "checkpoint", "device", "dtype", "wall_sec")}
    Run(folder.path).write_result("convert", "stages", about)
