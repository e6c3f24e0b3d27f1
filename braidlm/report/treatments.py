"""What arms did to the models that they began with, and arms against arms, seed by seed.

Everything here is about one study with bases, or with comparisons that were declared before it
ran: what each task gave before and after, the declared differences with their intervals, and how
many of them there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from braidlm.arch.config import differences
from braidlm.errors import InputError
from braidlm.report.contrast import Contrast, contrast
from braidlm.report.load import Arm, Loaded, Study
from braidlm.report.pairs import Scores, scores
from braidlm.report.run import UNASKED, Run, is_run, read_run
from braidlm.report.spent import base_runs, matching, tokens
from braidlm.report.stats import as_dict, better, estimate
from braidlm.report.student import holm

Asked = dict[int, tuple[Run, dict[str, Any]]]
"""Seed -> a run and what it gave for one task."""

READS = "task.config.reads"
FREE = (READS, "task.config.token_filter")
"""How a task may be asked differently of two arms that are compared: by how the text is read."""


@dataclass(frozen=True)
class _Parts:
    """A study's arms with the runs of what they began with."""

    study: Study
    base_of: dict[str, str]
    before: dict[str, dict[int, list[Run]]]
    """Base -> seed -> runs of its weights, one for each arm that asked them."""
    given: frozenset[str]
    """Bases whose weights the study did not train: the same for every seed, and asked once."""


def treatments(loaded: Loaded) -> list[dict[str, Any]]:
    """Return what there is to say of each study with bases or comparisons; [] without one.

    Returns:
        For each `study` (name), `bases` (`name`, `label`, `is_given`), `arms` (`name`, `label`,
        `base`, `tokens`: see `spent.tokens`), `matching` (see `spent.matching`), `n_outcomes` and
        `n_others` (how many comparisons Holm's correction counts) and `tasks`: `task`, `metric`,
        `unit`, `better`, `is_outcome`, `arms` (arm -> `before` and `after`, estimates or null, and
        `change`, a contrast or null) and `comparisons`, each with `arm`, `control`, `note` and
        either the fields of `contrast.Contrast` and `p_holm`, or a note that says why not.
    """
    return [
        _one(study)
        for study in loaded.studies
        if study.book.get("bases") or study.book.get("comparisons")
    ]


def _one(study: Study) -> dict[str, Any]:
    parts, bases = _parts(study), base_runs(study)
    asked = _measures(study, [str(name) for name in study.book.get("outcomes") or []])
    tasks = [_task(parts, stem, metric, is_outcome) for stem, metric, is_outcome in asked]
    counts = [
        _correct([task for task in tasks if task["is_outcome"] is is_it]) for is_it in (True, False)
    ]
    return {
        "study": str(study.book.get("name")),
        "bases": [
            {
                "name": str(row.get("name")),
                "label": str(row.get("label") or row.get("name")),
                "is_given": bool(row.get("init")),
            }
            for row in study.book.get("bases") or []
        ],
        "arms": [
            {
                "name": arm.name,
                "label": arm.label,
                "base": parts.base_of.get(own),
                "tokens": tokens(study, own, bases),
            }
            for own, arm in study.arms.items()
        ],
        "matching": matching(study, parts.base_of),
        "n_outcomes": counts[0],
        "n_others": counts[1],
        "tasks": tasks,
    }


def _measures(study: Study, outcomes: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Return task, metric and whether it is an outcome: outcomes first, in their order.

    An outcome is "<kind>-<name>", for the task's primary metric, or that, ":" and a metric.
    """
    primary = {
        stem: str(result.get("metric") or "value")
        for arm in study.arms.values()
        for run in arm.runs
        for stem, result in run.results.items()
        if result.get("kind") not in UNASKED
    }
    named = [(stem, metric) for stem, _, metric in (name.partition(":") for name in outcomes)]
    known = [(stem, metric or primary[stem]) for stem, metric in named if stem in primary]
    rest = [(stem, primary[stem]) for stem in sorted(primary) if (stem, primary[stem]) not in known]
    found = [(*asked, True) for asked in dict.fromkeys(known)]
    return found + [(*asked, not outcomes) for asked in rest]


def _parts(study: Study) -> _Parts:
    rows = [row for row in study.book.get("arms") or [] if isinstance(row, dict)]
    base_of = {str(row.get("name")): str(row["base"]) for row in rows if row.get("base")}
    before: dict[str, dict[int, list[Run]]] = {}
    for name, base in base_of.items():
        for run in study.arms[name].runs if name in study.arms else ():
            if run.seed is not None and is_run(run.path / "init"):
                kept = before.setdefault(base, {}).setdefault(run.seed, [])
                kept.append(read_run(run.path / "init"))
    given = [str(row.get("name")) for row in study.book.get("bases") or [] if row.get("init")]
    return _Parts(study, base_of, before, frozenset(given))


def _asked(runs: Sequence[Run], stem: str) -> Asked:
    """What runs gave for a task, by their seed; runs that did not end are left out."""
    return {
        run.seed: (run, run.results[stem])
        for run in reversed(runs)
        if run.seed is not None and stem in run.results and run.status.get("state") == "done"
    }


def _begun(parts: _Parts, base: str, stem: str) -> Asked:
    """What a base gave for a task, by seed; what is given is one model, so it counts once."""
    found = _asked([run for kept in parts.before[base].values() for run in kept], stem)
    return dict(list(found.items())[:1]) if base in parts.given else found


def _task(parts: _Parts, stem: str, metric: str, is_outcome: bool) -> dict[str, Any]:
    arms = parts.study.arms
    after = {own: _asked(arm.runs, stem) for own, arm in arms.items()}
    before = {base: _begun(parts, base, stem) for base in parts.before}
    first = next(r for arm in arms.values() for run in arm.runs if (r := run.results.get(stem)))
    rows = {}
    for own, arm in arms.items():
        base = parts.base_of.get(own, "")
        begun = paired = before.get(base, {})
        if base in parts.given:
            paired = {seed: one for one in begun.values() for seed in after[own]}
        found, _ = _contrast(after[own], paired, stem, metric)
        rows[arm.name] = {
            "before": _estimate(begun, metric),
            "after": _estimate(after[own], metric),
            "change": None if found is None else asdict(found),
        }
    return {
        "task": stem,
        "metric": metric,
        "unit": str(((first.get("metrics") or {}).get(metric) or {}).get("unit") or ""),
        "better": better(metric),
        "is_outcome": is_outcome,
        "arms": rows,
        "comparisons": [
            _compared(row, arms, after, stem, metric)
            for row in parts.study.book.get("comparisons") or []
            if str(row.get("arm")) in arms and str(row.get("control")) in arms
        ],
    }


def _compared(
    row: dict[str, Any], arms: dict[str, Arm], after: dict[str, Asked], stem: str, metric: str
) -> dict[str, Any]:
    a, b = str(row["arm"]), str(row["control"])
    found, note = _contrast(after[a], after[b], stem, metric)
    named = {"arm": arms[a].name, "control": arms[b].name, "note": note}
    return named if found is None else {**named, **asdict(found)}


def _estimate(asked: Asked, metric: str) -> dict[str, Any] | None:
    cells = [(result.get("metrics") or {}).get(metric) or {} for _, result in asked.values()]
    found = estimate((c.get("value"), c.get("stderr"), c.get("n")) for c in cells)
    return None if found is None else as_dict(found)


def _contrast(a: Asked, b: Asked, stem: str, metric: str) -> tuple[Contrast | None, str]:
    """Return the difference of two sides, or why there is none, and what to know of it."""
    shared = sorted(a.keys() & b.keys())
    if not shared:
        return None, "no seed has both results"
    tasks = [side[seed][1].get("task") for seed in shared for side in (a, b)]
    unlike = [path for task in tasks[1:] for path, _, _ in differences(tasks[0], task, "task")]
    free = [field for field in FREE if any(f"{path}.".startswith(f"{field}.") for path in unlike)]
    # A text that is read twice makes another prompt of the same question.
    free += ["task.items"] if READS in free else []
    if strange := [p for p in unlike if not any(f"{p}.".startswith(f"{f}.") for f in free)]:
        return None, f"asked differently: {strange[0]}"
    note = f"asked differently: {free[0]}" if unlike else ""
    with suppress(InputError):
        sides = [{seed: _scores(side[seed], metric) for seed in shared} for side in (a, b)]
        found = contrast(sides[0], sides[1])
        return found, note if found else "too few items, or not the same ones"
    return None, "not kept item by item"


def _scores(asked: tuple[Run, dict[str, Any]], metric: str) -> Scores:
    run, result = asked
    return scores(run.path / "results", result, metric)


def _correct(tasks: list[dict[str, Any]]) -> int:
    """Give each comparison its p-value corrected for all of these tasks; return their number."""
    rows = [row for task in tasks for row in task["comparisons"] if "p" in row]
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return len(rows)
