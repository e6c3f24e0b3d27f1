"""What is needed to run it again: commands, versions, devices, operators and resolved configs."""

from __future__ import annotations

from typing import Any

from braidlm.report.load import Arm, Loaded, as_command
from braidlm.report.run import Run

_LEFT_OUT = ("command", "earlier", "schema_version", "started_at")


def reproduce(loaded: Loaded) -> dict[str, Any]:
    """Commands (study first), `environment` (name -> value -> runs), `measured` and `configs`."""
    runs = [(arm, run) for arm in loaded.arms for run in arm.runs]
    return {
        "commands": [
            *({"run": "study", "command": command} for command in loaded.commands),
            *(entry for arm, run in runs for entry in _commands(arm, run)),
        ],
        "environment": _environment(runs),
        "measured": [row for arm, run in runs for row in _measured(arm, run)],
        "configs": {arm.name: arm.config for arm in loaded.arms},
    }


def _name(arm: Arm, run: Run) -> str:
    return arm.label if run.seed is None else f"{arm.label}, seed {run.seed}"


def _commands(arm: Arm, run: Run) -> list[dict[str, str]]:
    """The command of every session of a run, oldest first: a resumed run has several."""
    earlier = run.env.get("earlier")
    sessions = [*(earlier if isinstance(earlier, list) else []), run.env]
    found = [session.get("command") for session in sessions if isinstance(session, dict)]
    return [
        {"run": _name(arm, run), "command": as_command(command)} for command in found if command
    ]


def _environment(runs: list[tuple[Arm, Run]]) -> dict[str, dict[str, list[str]]]:
    table: dict[str, dict[str, list[str]]] = {}
    for arm, run in runs:
        for name, value in _flat(run.env):
            table.setdefault(name, {}).setdefault(value, []).append(_name(arm, run))
    return table


def _flat(env: dict[str, Any]) -> list[tuple[str, str]]:
    out = []
    for name, value in env.items():
        if name in _LEFT_OUT:
            continue
        if isinstance(value, dict):
            out += [(f"{name}: {key}", str(inner)) for key, inner in value.items()]
        elif value is not None:
            out.append((name, str(value)))
    return out


def _measured(arm: Arm, run: Run) -> list[dict[str, str]]:
    rows = []
    for stem, result in run.results.items():
        ops = result.get("ops") or {}
        rows.append(
            {
                "run": _name(arm, run),
                "task": stem,
                "step": str(result.get("step", "–")),
                "n": str(result.get("n", "–")),
                "device": str(result.get("device", "–")),
                "dtype": str(result.get("dtype", "–")),
                "operators": ", ".join(f"{op}={impl}" for op, impl in ops.items()) or "–",
                "code_version": str(result.get("code_version", "–")),
            }
        )
    return rows
