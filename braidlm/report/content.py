"""Everything that the page shows, as JSON-able data: the one place where numbers meet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import strict_json
from braidlm.report.analysis import analyses
from braidlm.report.checks import cautions, problems, unmatched
from braidlm.report.compare import leads
from braidlm.report.conversions import KIND as CONVERSION
from braidlm.report.conversions import conversions, tokens_of_stages
from braidlm.report.figures import arch_figures
from braidlm.report.inside import telemetry
from braidlm.report.load import Arm, Loaded, load
from braidlm.report.lookups import lookups
from braidlm.report.questions import questions
from braidlm.report.reproduce import reproduce
from braidlm.report.series import loss_points, row_estimates
from braidlm.report.speed import KIND as SPEED
from braidlm.report.speed import speed
from braidlm.report.spent import base_runs
from braidlm.report.stats import as_dict, better, estimate, number
from braidlm.report.sweeps import sweeps
from braidlm.report.treatments import treatments
from braidlm.report.words import notes, summary
from braidlm.runs import SCHEMA_VERSION

# kind -> (metric, title, unit, which is better)
_KNOWN = {
    "lm": (("bits_per_byte", "Bits per byte", "bits/byte", "lower"),),
    "longtext": (("bits_per_byte", "Long text, bits per byte", "bits/byte", "lower"),),
    "mqar": (
        ("accuracy", "MQAR accuracy", "share", "higher"),
        ("graded", "Graded recall", "nats", "higher"),
    ),
    "phonebook": (
        ("exact", "Phonebook, exact", "share", "higher"),
        ("digits", "Phonebook digits", "share", "higher"),
    ),
    "overlap": (("overlapping", "Overlap with the training text", "share of items", "lower"),),
}


@dataclass(frozen=True)
class Column:
    """One metric of one task."""

    task: str  # "<kind>-<name>"
    kind: str
    metric: str
    title: str
    unit: str
    better: str  # "lower" or "higher"

    @property
    def key(self) -> str:
        """The name under which `tables` gives the metric."""
        return f"{self.task}.{self.metric}"


def tables(dirs: Iterable[Path | str], *, context: int = 8192) -> dict[str, Any]:
    """The numbers of a report: JSON-able, without NaN.

    Args:
        dirs: run directories (one arm per configuration, one seed per run) or study directories.
        context: tokens at which cache bytes are stated.

    Returns:
        `title`, `description`, `context`, `seeds`, `matched`, `summary` and `notes` (sentences),
        `columns` (which metrics there are), `arms` (one row each: cost figures, and `metrics` with
        mean, seed_stderr, item_stderr, n_seeds, n_items, values, or null), `curves` (loss by
        step), `by_position`, `trained_lengths` (those that a long text exceeds), `by_pairs`,
        `in_context_chance`, `lookups`, `questions` (see `questions.questions`), `frontier`,
        `telemetry` (see `inside.telemetry`), `analyses` (see `analysis.analyses`), `speed` (see
        `speed.speed`), `sweeps` (see `sweeps.sweeps`), `treatments` (see `treatments.treatments`),
        `conversions` (see `conversions.conversions`),
        `leads` (see `compare.leads`), `problems`, `cautions` and `reproduce`.

    Raises:
        InputError: a directory is neither run nor study, no run can be read, `context` is below 1,
            or a file carries another schema version.
    """
    if context < 1:
        raise InputError(f"context = {context}: must be at least 1 token")
    loaded = load([Path(d) for d in dirs])
    columns = _columns(loaded.arms)
    arms = [_arm(arm, columns, context) for arm in loaded.arms]
    data = {
        "schema_version": SCHEMA_VERSION,
        "title": loaded.title,
        "description": loaded.description,
        "context": context,
        "seeds": sorted(
            {run.seed for arm in loaded.arms for run in arm.runs if run.seed is not None}
        ),
        "matched": list(loaded.matched),
        "columns": [asdict(column) | {"key": column.key} for column in columns],
        "arms": arms,
        **_curves(loaded),
        "frontier": _frontier(arms, columns),
        "telemetry": {arm.name: telemetry(arm) for arm in loaded.arms},
        "analyses": {arm.name: analyses(arm) for arm in loaded.arms},
        "speed": {arm.name: told for arm in loaded.arms if (told := speed(arm))},
        "sweeps": sweeps(loaded.arms),
        "treatments": treatments(loaded),
        "conversions": {arm.name: told for arm in loaded.arms if (told := conversions(arm))},
        "problems": problems(loaded, [arm for study in loaded.studies for arm in base_runs(study)]),
        "cautions": [*unmatched(arms, loaded.matched), *cautions(loaded.arms)],
        "reproduce": reproduce(loaded),
    }
    data["leads"] = leads(arms, data["columns"], loaded.arms)
    return strict_json(data | {"summary": summary(data), "notes": notes(data)})


def _columns(arms: list[Arm]) -> list[Column]:
    runs = [run for arm in arms for run in arm.runs]
    results = {stem: r for run in runs for stem, r in run.results.items() if not _looks(r)}
    kinds = [str(result.get("kind")) for result in results.values()]
    columns = []
    for stem, result in sorted(results.items(), key=lambda item: _rank(item[1])):
        kind = str(result.get("kind"))
        suffix = f" ({result.get('name') or stem})" if kinds.count(kind) > 1 else ""
        for metric, title, unit, good in _KNOWN.get(kind) or _other(result):
            columns.append(Column(stem, kind, metric, title + suffix, unit, good))
    return columns


def _looks(result: dict[str, Any]) -> bool:
    """Whether a result tells of one model alone: such have a section, and no column to compare."""
    return result.get("kind") in ("analysis", CONVERSION, SPEED)


def _rank(result: dict[str, Any]) -> tuple[int, str, str]:
    order = list(_KNOWN)
    kind = str(result.get("kind"))
    return (order.index(kind) if kind in order else len(order), kind, str(result.get("name")))


def _other(result: dict[str, Any]) -> tuple[tuple[str, str, str, str], ...]:
    """A kind that this page does not know: its primary metric, by its own name."""
    metric = str(result.get("metric") or "value")
    unit = str(((result.get("metrics") or {}).get(metric) or {}).get("unit") or "")
    return ((metric, f"{result.get('kind')} {metric}".replace("_", " "), unit, better(metric)),)


def _arm(arm: Arm, columns: list[Column], context: int) -> dict[str, Any]:
    figures, staged = arch_figures(arm.config, context), tokens_of_stages(arm)
    is_given = bool(arm.runs) and all(number(r.status.get("steps")) == 0 for r in arm.runs)
    if is_given or staged is not None:  # what was spent is not what the config says
        figures |= {"training_tokens": staged, "training_flops": None}
    return {
        "name": arm.name,
        "label": arm.label,
        "overrides": list(arm.overrides),
        "changes": list(arm.changes),
        "init_changes": _init_changes(arm),
        "seeds": [run.seed for run in arm.runs],
        "n_runs": len(arm.runs),
        **figures,
        "metrics": {column.key: _metric(arm, column) for column in columns},
    }


def _init_changes(arm: Arm) -> list[str]:
    """In what the arm's model differs from that of its init, e.g. "mixers.*.window 64 → 128"."""
    changes = next((run.origin.get("changes") for run in arm.runs if run.origin), None)
    rows = [c for c in changes if isinstance(c, dict)] if isinstance(changes, list) else []
    return [f"{c.get('field')} {_plainly(c.get('from'))} → {_plainly(c.get('to'))}" for c in rows]


def _plainly(value: Any) -> str:
    return "none" if value is None else str(value)


def _metric(arm: Arm, column: Column) -> dict[str, Any] | None:
    found = estimate(_measured(run.results.get(column.task), column.metric) for run in arm.runs)
    return as_dict(found) if found else None


def _measured(result: dict[str, Any] | None, metric: str) -> tuple[Any, Any, Any]:
    if result is None:
        return None, None, None
    entry = (result.get("metrics") or {}).get(metric)
    if entry is None and result.get("metric") in (metric, None):
        entry = result
    return (entry["value"], entry.get("stderr"), entry.get("n")) if entry else (None, None, None)


def _curves(loaded: Loaded) -> dict[str, Any]:
    arms = loaded.arms
    return {
        "curves": {
            "whole": {arm.name: loss_points(arm) for arm in arms},
            "tail": {arm.name: loss_points(arm, tail=True) for arm in arms},
        },
        "by_position": _by_task(arms, "lm", _position_rows)
        | _by_task(arms, "longtext", _position_rows),
        "trained_lengths": {task: _trained(arms, task) for task in _tasks(arms, "longtext")},
        "by_pairs": _by_task(arms, "mqar", _pair_rows),
        "in_context_chance": {task: _guesses(arms, task) for task in _tasks(arms, "mqar")},
        "chance": {task: _chance(arms, task) for task in _tasks(arms, "mqar")},
        "questions": questions(arms),
        "lookups": {task: lookups(arms, task) for task in _tasks(arms, "phonebook")},
    }


def _tasks(arms: list[Arm], kind: str) -> list[str]:
    runs = [run for arm in arms for run in arm.runs]
    return sorted({s for run in runs for s, r in run.results.items() if r.get("kind") == kind})


def _by_task(
    arms: list[Arm], kind: str, rows_of: Any
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    return {
        task: {
            arm.name: rows_of([run.results[task] for run in arm.runs if task in run.results])
            for arm in arms
        }
        for task in _tasks(arms, kind)
    }


def _position_rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[tuple[float, ...], dict[str, Any]] = {}
    for column, error in (("nll", "stderr"), ("bits_per_byte", "bits_per_byte_stderr")):
        for at, found in row_estimates(results, "by_position", ("start", "end"), column, error):
            merged.setdefault(at, {"start": at[0], "end": at[1]})[column] = as_dict(found)
    return [merged[at] for at in sorted(merged) if "nll" in merged[at]]


def _trained(arms: list[Arm], task: str) -> list[float]:
    """Every trained length that a task goes beyond, once."""
    results = [run.results[task] for arm in arms for run in arm.runs if task in run.results]
    found = {number(r.get("trained_seq_len")) for r in results if r.get("is_extrapolated")}
    return sorted(length for length in found if length is not None)


def _pair_rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    merged: dict[float, dict[str, Any]] = {}
    for metric in ("accuracy", "graded"):
        rows = row_estimates(results, "by_pairs", ("n_pairs",), metric, f"{metric}_stderr")
        for at, found in rows:
            merged.setdefault(at[0], {"n_pairs": at[0]})[metric] = as_dict(found)
    return [merged[key] for key in sorted(merged)]


def _chance(arms: list[Arm], task: str) -> float | None:
    results = [run.results[task] for arm in arms for run in arm.runs if task in run.results]
    found = [number(_measured(result, "chance")[0]) for result in results]
    return next((value for value in found if value is not None), None)


def _guesses(arms: list[Arm], task: str) -> list[dict[str, float]]:
    """Accuracy of guessing among the pairs in context, by their number."""
    results = [run.results[task] for arm in arms for run in arm.runs if task in run.results]
    found: dict[float, float] = {}
    for row in (row for r in results for row in (r.get("tables") or {}).get("by_pairs") or []):
        n_pairs, share = number(row.get("n_pairs")), number(row.get("in_context_chance"))
        if n_pairs is not None and share is not None:
            found[n_pairs] = share
    return [{"n_pairs": key, "in_context_chance": found[key]} for key in sorted(found)]


def _frontier(arms: list[dict[str, Any]], columns: list[Column]) -> dict[str, list[dict[str, Any]]]:
    """Recall against cache bytes, one list per recall task; arms that lack either are left out."""
    return {
        column.task: [
            {
                "arm": arm["name"],
                "cache_bytes": arm["cache_bytes"],
                "recall": arm["metrics"][column.key],
            }
            for arm in arms
            if arm["cache_bytes"] is not None and arm["metrics"][column.key]
        ]
        for column in columns
        if column.kind == "mqar" and column.metric == "accuracy"
    }
