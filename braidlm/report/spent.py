"""What the arms of a study were given: tokens, and models that agree in one size or another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from braidlm.report.figures import arch_figures
from braidlm.report.load import Arm, Study
from braidlm.report.run import read_run, seed_folders
from braidlm.report.stats import mean, number

SIZES = ("n_params", "cache_bytes")
"""Figures of an architecture in which arms can be matched."""
COUNTED = ("input", "loss", "unique")
"""What a training counts: tokens that it read, that it learnt, and how many of them differ."""


def base_runs(study: Study) -> list[Arm]:
    """The bases that a study trains, as arms."""
    found, states = [], study.book.get("runs") or {}
    for row in study.book.get("bases") or []:
        if row.get("init"):
            continue
        name = str(row.get("name"))
        runs = [
            read_run(path, str(states.get(f"{name}/{path.name}", {}).get("error") or ""))
            for path in seed_folders(study.path / name)
        ]
        found.append(Arm(name, str(row.get("label") or name), runs))
    return found


def tokens(study: Study, own: str, bases: Sequence[Arm]) -> dict[str, float | None]:
    """Tokens of one run of an arm, the mean over its finished seeds.

    Args:
        study: the study.
        own: the arm's name in it.
        bases: those that it trains.

    Returns:
        `base`: those of its base's whole training, null where there is none or it was given;
        and each of `COUNTED` as the last logged step says, the sum over sources. Generated rows
        have no `unique` and do not count in it.
    """
    rows = [row for row in study.book.get("arms") or [] if row.get("name") == own]
    base = next((b for b in bases if rows and b.name == rows[0].get("base")), None)
    done = [run for run in study.arms[own].runs if run.status.get("state") == "done"]
    ends = [run.metrics[-1] for run in done if run.metrics]
    found: dict[str, float | None] = {}
    for name in COUNTED:
        known = [v for end in ends if (v := _counted(end, name)) is not None]
        found[name] = mean(known) if known else None
    spent = None if base is None else arch_figures(base.config, 1)["training_tokens"]
    return {"base": spent, **found}


def _counted(row: dict[str, Any], name: str) -> float | None:
    """The sum over the sources of a logged step; None where no source says it."""
    sources = row.get("source_tokens")
    rows = list(sources.values()) if isinstance(sources, dict) else []
    known = [
        v for row in rows if isinstance(row, dict) and (v := number(row.get(name))) is not None
    ]
    return math.fsum(known) if known else None


def matching(study: Study, base_of: Mapping[str, str]) -> list[dict[str, Any]]:
    """What each architecture was matched in, and how far it is from the reference in the others.

    Args:
        study: the study.
        base_of: arm -> its base.

    Returns:
        One row for each base and for each arm without one: `name`, `label`, `on` (what it was
        resized for; "reference"; "" where nothing was) and each of `SIZES` with its distance from
        the reference as a share of that, `off_...`. [] where there is one architecture.
    """
    book = study.book
    rule: dict[str, Any] = book["match"] if isinstance(book.get("match"), dict) else {}
    labels = {str(row.get("name")): row.get("label") for row in book.get("bases") or []}
    first: dict[str, Arm] = {}
    for own, arm in study.arms.items():
        first.setdefault(base_of.get(own) or own, arm)
    context = round(number(book.get("context")) or 8192)
    found = {name: arch_figures(arm.config, context) for name, arm in first.items()}
    reference = str(rule.get("reference") or next(iter(found), ""))
    rows = []
    for name, figures in found.items():
        on = str((rule.get("on_of") or {}).get(name) or rule.get("on") or "")
        row: dict[str, Any] = {
            "name": name,
            "label": str(labels.get(name) or first[name].label),
            "on": "reference" if rule and name == reference else on,
        }
        for key in SIZES:
            goal = found.get(reference, {}).get(key)
            row[key] = figures[key]
            row[f"off_{key}"] = figures[key] / goal - 1 if goal and figures[key] else None
        rows.append(row)
    return rows if len(rows) > 1 else []
