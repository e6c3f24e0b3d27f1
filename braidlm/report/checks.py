"""What a reader must know first: which runs failed, and what was not measured or matched alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from braidlm.report.conversions import KIND as CONVERSION
from braidlm.report.load import Arm, Loaded
from braidlm.report.run import Run
from braidlm.report.series import first_bad_step
from braidlm.report.speed import KIND as SPEED
from braidlm.report.stats import number
from braidlm.report.units import listing
from braidlm.report.words import MATCHED_WITHIN, declared_words

# A word in what a study says it matches -> the figure of an arm that it means.
_MATCHED = {
    "flop": "training_flops",
    "token": "training_tokens",
    "param": "n_params",
    "cache": "cache_bytes",
}
_ALIKE = ("dtype", "device", "code_version", "n", "seq_len", "ops")


def problems(loaded: Loaded, bases: Sequence[Arm] = ()) -> list[dict[str, Any]]:
    """Rows of arm, seed, state, step, steps, error: runs that did not end, or ended damaged.

    `bases` are what arms started from; they are asked no task of their own.
    """
    rows = [row for arm in loaded.arms for run in arm.runs for row in _of_run(arm, run)]
    rows += [row for arm in bases for run in arm.runs for row in _of_run(arm, run, is_asked=False)]
    lost = [
        {
            "arm": missing.arm,
            "seed": missing.seed,
            "state": missing.state,
            "step": None,
            "steps": None,
            "error": missing.error or "left no run directory",
        }
        for missing in loaded.missing
    ]
    return rows + lost


def _of_run(arm: Arm, run: Run, *, is_asked: bool = True) -> Iterator[dict[str, Any]]:
    state = str(run.status.get("state") or "unknown")
    reasons = [str(run.status["error"])] if run.status.get("error") else []
    reasons += run.notes
    bad = first_bad_step(run.metrics)
    if bad is not None:
        reasons.append(f"the training loss is not finite from step {bad:.0f} on")
    if is_asked and not run.results and state == "done":
        reasons.append("no result file")
    if not run.status:
        reasons.append("no status.json, so whether the run ended is unknown")
    if reasons or state != "done":
        yield {
            "arm": arm.label,
            "seed": "–" if run.seed is None else str(run.seed),
            "state": state,
            "step": number(run.status.get("step")),
            "steps": number(run.status.get("steps")),
            "error": "; ".join(reasons) or "no error was recorded",
        }


def cautions(arms: list[Arm]) -> list[str]:
    """One sentence for each way in which results of one task were not measured alike."""
    out = []
    for task in sorted({stem for arm in arms for run in arm.runs for stem in run.results}):
        found = [
            (arm, run, run.results[task]) for arm in arms for run in arm.runs if task in run.results
        ]
        for name in _ALIKE:
            out += _unlike(task, name, [(arm, result.get(name)) for arm, _, result in found])
        out += _early(task, found) + _beyond(task, found)
    return out


def _unlike(task: str, name: str, values: list[tuple[Arm, Any]]) -> list[str]:
    by_value: dict[str, list[str]] = {}
    for arm, value in values:
        shown = json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
        by_value.setdefault(shown, []).append(arm.label)
    if name == "ops":
        by_value = _clashing_ops(values)
    if len(by_value) < 2:
        return []
    parts = [f"{value} ({len(labels)})" for value, labels in by_value.items()]
    return [f"{task}: {name} differs between runs: {listing(parts)}."]


def _clashing_ops(values: list[tuple[Arm, Any]]) -> dict[str, list[str]]:
    """Operators that ran with several implementations; one that an arm lacks is no clash."""
    used: dict[str, dict[str, list[str]]] = {}
    for arm, ops in values:
        for op, impl in (ops if isinstance(ops, dict) else {}).items():
            used.setdefault(str(op), {}).setdefault(str(impl), []).append(arm.label)
    clashes = {op: impls for op, impls in used.items() if len(impls) > 1}
    return {f"{op}={impl}": arms for op, impls in clashes.items() for impl, arms in impls.items()}


def _early(task: str, found: list[tuple[Arm, Run, dict[str, Any]]]) -> list[str]:
    """Results of a checkpoint that is not the last one.

    Speed is that of any weights, a conversion's tables tell of stages, and weights that a run began
    with were not trained in its folder.
    """
    early = []
    for arm, run, result in found:
        if result.get("kind") in (SPEED, CONVERSION) or number(run.status.get("steps")) == 0:
            continue
        step, steps = (
            number(result.get("step")),
            number((run.config.get("train") or {}).get("steps")),
        )
        if step is not None and steps is not None and step < steps:
            early.append(f"{arm.label} seed {run.seed} (step {step:.0f} of {steps:.0f})")
    return [f"{task}: measured before the end of training: {listing(early)}."] if early else []


def _beyond(task: str, found: list[tuple[Arm, Run, dict[str, Any]]]) -> list[str]:
    """Contexts longer than the trained ones."""
    longer = [r for _, _, r in found if r.get("is_extrapolated") is True]
    if not longer:
        return []
    return [
        f"{task}: contexts of {longer[0].get('seq_len')} tokens are longer than the "
        f"{longer[0].get('trained_seq_len')} tokens of training."
    ]


def unmatched(arms: list[dict[str, Any]], declared: tuple[str, ...]) -> list[str]:
    """Arms whose config has no cost, and what a study declares equal although the arms differ."""
    out = [
        f"{arm['label']}: its config cannot be resolved, so it has no cost figures "
        f"({arm['cost_error']})."
        for arm in arms
        if arm["cost_error"]
    ]
    for word in declared:
        key = next((key for part, key in _MATCHED.items() if part in word.lower()), None)
        known = [arm[key] for arm in arms if arm[key]] if key else []
        if known and max(known) > MATCHED_WITHIN * min(known):
            over = 100 * (max(known) / min(known) - 1)
            out.append(
                f"{declared_words(word)}: declared equal, but the largest arm has {over:.0f} % "
                "more than the smallest."
            )
    return out
