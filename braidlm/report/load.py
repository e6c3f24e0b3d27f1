"""Reads run and study directories, and gathers their runs into arms."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.report.run import Run, check_version, is_run, read_object, read_run, seed_folders
from braidlm.report.stats import number


@dataclass(frozen=True)
class Missing:
    """A run that a study planned and that left no directory."""

    arm: str
    seed: str
    state: str
    error: str


@dataclass(frozen=True)
class Point:
    """Where an arm stands in a sweep of the learning rate."""

    sweep: str
    width: int
    lr: float


@dataclass
class Arm:
    """Runs of one configuration that differ in their seed alone."""

    name: str
    label: str
    runs: list[Run] = field(default_factory=list)
    overrides: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    """What its study changed in it so that it matches another arm, e.g. "mixers.-.d_ff 64 → 72"."""
    point: Point | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The resolved recipe of the first readable run, or an empty dict."""
        return next((run.config for run in self.runs if run.config), {})


@dataclass(frozen=True)
class Study:
    """A study's folder, its `study.json`, and its arms by the names that they have there."""

    path: Path
    book: dict[str, Any]
    arms: dict[str, Arm]


@dataclass
class Loaded:
    """All that was found under the given directories."""

    title: str
    description: str
    arms: list[Arm]
    matched: tuple[str, ...] = ()
    missing: list[Missing] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    studies: list[Study] = field(default_factory=list)


def load(dirs: Iterable[Path]) -> Loaded:
    """Read every run and study directory of `dirs`, in the given order.

    Run directories whose configurations differ only in the seed become one arm.

    Raises:
        InputError: a directory is neither a run nor a study, no run can be read, or a file carries
            another schema version.
    """
    paths = [Path(d) for d in dirs]
    studies = [_study(path) for path in paths if is_study(path)]
    loose = [read_run(path) for path in paths if not is_study(path) and _checked_run_dir(path)]
    arms = [arm for study in studies for arm in study.arms] + _group(loose)
    if not any(run.is_readable for arm in arms for run in arm.runs):
        places = ", ".join(repr(str(path)) for path in paths) or "an empty list of directories"
        raise InputError(f"no readable run in {places}: a run needs at least a config.json")
    _make_names_unique(arms)
    titles = [study.title for study in studies] + [arm.name for arm in arms if not studies]
    return Loaded(
        title=_join(titles),
        description=" ".join(study.description for study in studies if study.description),
        arms=arms,
        matched=tuple(dict.fromkeys(m for study in studies for m in study.matched)),
        missing=[m for study in studies for m in study.missing],
        commands=[c for study in studies for c in study.commands],
        studies=[found for study in studies for found in study.studies],
    )


def with_initial(dirs: Iterable[Path | str]) -> list[Path]:
    """Return the directories, and behind each fine-tuned run the run of its initial weights."""
    found = []
    for path in map(Path, dirs):
        found += [path, path / "init"] if is_run(path / "init") else [path]
    return list(dict.fromkeys(found))


def is_study(path: Path) -> bool:
    """Whether a folder is a study's."""
    return (path / "study.json").is_file()


def _checked_run_dir(path: Path) -> bool:
    if not is_run(path):
        raise InputError(
            f"directory {str(path)!r} is neither a run (config.json) nor a study (study.json)"
        )
    return True


def _study(path: Path) -> Loaded:
    data, note = read_object(path / "study.json")
    if note:
        raise InputError(f"study {str(path)!r}: {note}")
    check_version(path / "study.json", data)
    _check_study(path / "study.json", data)
    arms, missing = [], []
    for entry in data.get("arms") or []:
        entry = entry if isinstance(entry, dict) else {"name": str(entry)}
        name = str(entry.get("name"))
        overrides = tuple(str(o) for o in entry.get("overrides") or ())
        label = str(entry.get("label") or name)
        arm = Arm(name, label, overrides=overrides, changes=_changes(data, name))
        arm.point = _point(data, name)
        states = data.get("runs") or {}
        arm.runs = [
            read_run(d, str(states.get(f"{name}/{d.name}", {}).get("error") or ""))
            for d in seed_folders(path / name)
        ]
        arms.append(arm)
        missing += _missing(data, path, name)
    return Loaded(
        title=str(data.get("name") or path.name),
        description=str(data.get("description") or ""),
        arms=arms,
        matched=tuple(_matched(data.get("matched"))),
        missing=missing,
        commands=[as_command(data["command"])] if data.get("command") else [],
        studies=[Study(path, data, {arm.name: arm for arm in arms})],
    )


def _changes(data: dict[str, Any], arm: str) -> tuple[str, ...]:
    """What a study's rule of matching made of an arm."""
    rule = data.get("match")
    rows = (rule.get("changes") or {}).get(arm) if isinstance(rule, dict) else None
    sound = [row for row in rows or () if isinstance(row, dict)]
    return tuple(f"{row.get('field')} {row.get('old')} → {row.get('new')}" for row in sound)


def _point(data: dict[str, Any], arm: str) -> Point | None:
    """The rate and width of an arm, if its study is a sweep that says both."""
    points = data.get("sweep")
    row = points.get(arm) if isinstance(points, dict) else None
    if not isinstance(row, dict):
        return None
    lr, width = number(row.get("lr")), number(row.get("width"))
    if lr is None or lr <= 0 or width is None:
        return None
    return Point(str(data.get("name")), round(width), lr)


def _matched(value: Any) -> Iterator[str]:
    for item in value if isinstance(value, list) else filter(None, [value]):
        yield str(item)


def _missing(data: dict[str, Any], path: Path, arm: str) -> Iterator[Missing]:
    """Runs that the study names and that have no directory of their own."""
    states = data.get("runs") or {}
    planned = {f"{arm}/seed-{seed}" for seed in data.get("seeds") or []}
    planned |= {key for key in states if key.rsplit("/", 1)[0] == arm}
    for key in sorted(planned):
        if not is_run(path / key):
            entry = states.get(key) or {}
            yield Missing(
                arm=arm,
                seed=key.rsplit("seed-", 1)[-1],
                state=str(entry.get("state") or "not started"),
                error=str(entry.get("error") or ""),
            )


def _check_study(path: Path, data: dict[str, Any]) -> None:
    states = data.get("runs") or {}
    is_sound = (
        isinstance(data.get("arms") or [], list)
        and isinstance(data.get("seeds") or [], list)
        and all(_are_objects(data.get(name)) for name in ("bases", "comparisons"))
        and isinstance(states, dict)
        and all(isinstance(state, dict) for state in states.values())
    )
    if not is_sound:
        raise InputError(
            f"file {str(path)!r}: 'arms' and 'seeds' must be lists, 'bases' and 'comparisons' "
            "lists of objects, 'runs' an object of objects"
        )


def _are_objects(value: Any) -> bool:
    return isinstance(value or [], list) and all(isinstance(row, dict) for row in value or [])


def _group(runs: list[Run]) -> list[Arm]:
    arms: dict[str, Arm] = {}
    for run in runs:
        bare = {key: value for key, value in run.config.items() if key != "seed"}
        key = json.dumps(bare, sort_keys=True, default=str) if bare else str(run.path)
        name = str(run.config.get("name") or run.path.name)
        arms.setdefault(key, Arm(name, name)).runs.append(run)
    return list(arms.values())


def _make_names_unique(arms: list[Arm]) -> None:
    """Tell arms of one name apart by the directory that they came from, then by a number."""
    for attribute in ("name", "label"):
        seen: set[str] = set()
        names = [getattr(arm, attribute) for arm in arms]
        for arm, name in zip(arms, names, strict=True):
            if names.count(name) > 1 and arm.runs:
                name = f"{name} ({_place(arm.runs[0].path, arm.name)})"
            candidate, number = name, 2
            while candidate in seen:
                candidate, number = f"{name} #{number}", number + 1
            seen.add(candidate)
            setattr(arm, attribute, candidate)


def _place(path: Path, arm: str) -> str:
    in_study = path.name.startswith("seed-") and (path.parent.parent / "study.json").is_file()
    return path.parent.parent.name if in_study else path.name


def _join(titles: list[str]) -> str:
    unique = list(dict.fromkeys(titles))
    return " and ".join(unique) if len(unique) <= 2 else f"{unique[0]} and {len(unique) - 1} more"


def as_command(value: Any) -> str:
    """A command line as one string, whether stored as text or as a list of words."""
    return shlex.join(map(str, value)) if isinstance(value, list | tuple) else str(value)
