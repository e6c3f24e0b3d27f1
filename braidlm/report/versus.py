"""Two runs, or two arms of studies, compared item by item: what `braid compare` says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from braidlm.arch.config import differences, nearest
from braidlm.errors import InputError
from braidlm.report.load import is_study
from braidlm.report.pairs import Paired, pair, scores
from braidlm.report.run import UNASKED, Run, is_run, read_run, seed_folders
from braidlm.report.stats import better, mean
from braidlm.report.units import decimals, fixed, listing

Side = tuple[str, list[Run]]
"""How an arm is called, and its runs: one per seed."""


def compare(
    a: Path | str,
    b: Path | str,
    tasks: Sequence[str] | None = None,
    checkpoint: str | None = None,
) -> list[dict[str, Any]]:
    """Compare two runs, or two folders of runs that differ in their seed, task by task.

    Args:
        a: a run directory, or a study's arm (a folder of ``seed-*`` runs).
        b: the other.
        tasks: names, kinds or "<kind>-<name>"; None: all that every run has a result for.
        checkpoint: which checkpoint the results must be of; None: whichever they are of.

    Returns:
        For each task `task`, `kind`, `metric` (the primary one), `a` and `b` (`name`, `runs`,
        `checkpoints`, `seeds`), `metrics`, `sentence`, `meaning` and `cautions`. A metric has
        `a` and `b` (means over seeds), `difference` (a - b), `half_width` of its 95 % interval,
        `item_stderr`, `seed_stderr_a` and `seed_stderr_b` (null with one seed), `degrees`,
        `n_items`, `wins`, `ties`, `losses` (items on which a scores higher, the same, lower),
        `values_a` and `values_b` (by seed), `better`, and whether it `is_within_error`.

    Raises:
        InputError: no run, a result that is missing or has no items (with the command that makes
            them), or results of tasks that differ (with the first field in which they do).
    """
    sides = [_side(Path(path)) for path in (a, b)]
    if sides[0][0] == sides[1][0]:
        sides = [(str(path), runs) for path, (_, runs) in zip((a, b), sides, strict=True)]
    runs = [run for _, found in sides for run in found]
    return [_task(stem, (sides[0], sides[1])) for stem in _stems(runs, tasks, checkpoint)]


def _side(path: Path) -> Side:
    if is_run(path):
        whole = path.resolve()
        name = f"{whole.parent.name}/{whole.name}" if whole.name.startswith("seed-") else whole.name
        return name, [read_run(path)]
    if is_study(path):
        arms = [str(arm) for arm in sorted(path.iterdir()) if seed_folders(arm)]
        raise InputError(f"{path} is a study: give one of its arms, {listing(arms)}")
    if folders := seed_folders(path):
        return path.resolve().name, [read_run(folder) for folder in folders]
    raise InputError(f"{path} is neither a run (config.json) nor an arm of a study (seed-*)")


def _stems(runs: Sequence[Run], tasks: Sequence[str] | None, checkpoint: str | None) -> list[str]:
    """Which tasks are compared; every run has a fitting result of each."""
    told = {stem: result for run in runs for stem, result in run.results.items()}
    known = sorted(stem for stem, result in told.items() if result.get("kind") not in UNASKED)
    if tasks is None:
        chosen = [stem for stem in known if all(stem in run.results for run in runs)]
        if not chosen:
            chosen = known[:1] or _declared(runs[0])[:1]
        if not chosen:
            raise InputError(f"{runs[0].path} has no result, and its recipe no task to make one")
    else:
        chosen = [stem for name in tasks for stem in _named(name, known, runs)]
    for stem in chosen:
        for run in runs:
            _check(run, stem, checkpoint)
    return list(dict.fromkeys(chosen))


def _declared(run: Run) -> list[str]:
    return [f"{task.get('kind')}-{task.get('name')}" for task in run.config.get("tasks") or []]


def _named(name: str, known: list[str], runs: Sequence[Run]) -> list[str]:
    stems = sorted({*known, *(stem for run in runs for stem in _declared(run))})
    fits = [s for s in stems if name in (s, *s.split("-", 1))]
    if not fits:
        words = sorted({word for stem in stems for word in (stem, *stem.split("-", 1))})
        allowed = ", ".join(stems) or "none is there"
        raise InputError(f"no task '{name}'{nearest(name, words)}; allowed: {allowed}")
    return fits


def _check(run: Run, stem: str, checkpoint: str | None) -> None:
    at = f" --checkpoint {checkpoint}" if checkpoint else ""
    command = f"'braid eval {run.path} --tasks {stem}{at}' makes it"
    result = run.results.get(stem)
    if result is None:
        raise InputError(f"{run.path} has no result {stem}: {command}")
    if "items" not in result or "task" not in result:
        raise InputError(f"{run.path}: {stem} was written without its items: {command} anew")
    if checkpoint is not None and result.get("checkpoint") != checkpoint:
        raise InputError(
            f"{run.path}: {stem} is of {result.get('checkpoint')}, not of {checkpoint}: {command}"
        )


def _task(stem: str, sides: tuple[Side, Side]) -> dict[str, Any]:
    runs = [run for _, found in sides for run in found]
    first = runs[0].results[stem]
    for run in runs[1:]:
        _same(stem, runs[0], run)
    metrics = {
        metric: _metric(stem, metric, sides) for metric in first["items"].get("columns") or {}
    }
    primary = str(first["metric"])
    if primary not in metrics:
        raise InputError(f"{stem}: its metric '{primary}' is not kept by item")
    names = (sides[0][0], sides[1][0])
    return {
        "task": stem,
        "kind": first["kind"],
        "metric": primary,
        **{
            key: {
                "name": name,
                "runs": [str(run.path) for run in found],
                "seeds": [run.seed for run in found],
                "checkpoints": [run.results[stem].get("checkpoint") for run in found],
            }
            for key, (name, found) in zip("ab", sides, strict=True)
        },
        "metrics": metrics,
        "sentence": sentence(primary, names, metrics[primary]),
        "meaning": meaning(metrics[primary]),
        "cautions": _cautions(stem, runs),
    }


def _same(stem: str, one: Run, other: Run) -> None:
    """Refuse results of tasks that differ; the items come last, for what has no field."""
    ours, theirs = (run.results[stem]["task"] for run in (one, other))
    for path, first, second in differences(ours, theirs, "task"):
        what = "the items themselves differ" if path == "task.items" else path
        values = "" if path == "task.items" else f" = {first!r:.60} and {second!r:.60}"
        raise InputError(
            f"{stem} was asked differently of {one.path} and {other.path}: {what}{values}"
        )


def _metric(stem: str, metric: str, sides: tuple[Side, Side]) -> dict[str, Any]:
    a, b = (
        [scores(run.path / "results", run.results[stem], metric) for run in found]
        for _, found in sides
    )
    found = pair(a, b)
    if found is None:
        raise InputError(f"{stem}: two items of a kind are too few for an error")
    return _as_dict(metric, found, sides, stem)


def _as_dict(metric: str, found: Paired, sides: tuple[Side, Side], stem: str) -> dict[str, Any]:
    values = [[_value(run, stem, metric) for run in runs] for _, runs in sides]
    rest = asdict(found)
    gap = rest.pop("difference")
    errors = rest.pop("seed_stderrs")
    return {
        "a": mean(values[0]),
        "b": mean(values[1]),
        "difference": gap["value"],
        "half_width": gap["half_width"],
        "is_within_error": found.difference.is_within_error,
        "better": better(metric),
        **rest,
        "seed_stderr_a": errors[0],
        "seed_stderr_b": errors[1],
        "values_a": values[0],
        "values_b": values[1],
    }


def _value(run: Run, stem: str, metric: str) -> float:
    return float(run.results[stem]["metrics"][metric]["value"])


def sentence(metric: str, names: tuple[str, str], found: dict[str, Any]) -> str:
    """Say which of two arms is ahead in a metric, by how much, and on how many items."""
    places = decimals(found["half_width"] or None)
    a, b, gap, half = (
        fixed(value, places)
        for value in (found["a"], found["b"], abs(found["difference"]), found["half_width"])
    )
    start = f"{metric} is {a} for {names[0]} and {b} for {names[1]}"
    said = metric.replace("_", " ")
    counts = (
        f"of {found['n_items']} items {names[0]} has the higher {said} on {found['wins']}, "
        f"{names[1]} on {found['losses']}, and {found['ties']} are equal"
    )
    if found["is_within_error"]:
        return f"{start}: the difference, {gap} ± {half} (95 %), is within error; {counts}."
    a_leads = (found["difference"] > 0) == (found["better"] == "higher")
    ahead = names[0] if a_leads else names[1]
    return f"{start}: {ahead} is better by {gap} ± {half} (95 %); {counts}."


def meaning(found: dict[str, Any]) -> str:
    """Say what another draw would be: of items alone, or of seeds too."""
    n = [len(found["values_a"]), len(found["values_b"])]
    how = "paired t interval, clustered by item"
    if min(n) > 1:
        return f"{how} and by seed ({n[0]} and {n[1]} seeds): about other items and other trainings"
    if max(n) > 1:
        return (
            f"{how} and by the seeds of one side ({n[0]} and {n[1]}): the luck of the single "
            "training on the other side is not in it"
        )
    return f"{how} (one training each): about other items, not about other trainings"


def _cautions(stem: str, runs: Sequence[Run]) -> list[str]:
    """What was not the same beside the models."""
    found = []
    for field in ("dtype", "device", "code_version", "step"):
        values = sorted({str(run.results[stem].get(field)) for run in runs})
        if len(values) > 1:
            found.append(f"{field} differs: {listing(values)}")
    return found
