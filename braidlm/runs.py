"""A run directory: plain files that say what ran, where, how it went and what was found.

    config.json      the complete recipe
    env.json         python, platform, packages, code version, command line, threads, device
    metrics.jsonl    one JSON object per logged step
    status.json      {"state": "running|done|failed|interrupted", "step", "steps", "error"}
    checkpoints/     written by `braidlm.checkpoint`
    results/         one complete JSON file per measurement, and what it says of each item

Every file but `metrics.jsonl` is replaced as a whole, so that a reader never sees half of one.
JSON is strict: a number that is not finite is written as null.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from braidlm.errors import InputError
from braidlm.files import atomic_write, read_json, strict_json, write_json
from braidlm.foreign import no_folder
from braidlm.items import write_items
from braidlm.provenance import capture_env, code_version, now, package_versions

try:
    import fcntl
except ImportError:  # a system without flock: two writers of one run are then not told apart
    fcntl = None

__all__ = ["RESULT_FIELDS", "SCHEMA_VERSION", "STATES", "Run", "capture_env", "code_version"]

SCHEMA_VERSION = 1
STATES = ("running", "done", "failed", "interrupted")
RESULT_FIELDS = (
    *("schema_version", "kind", "name", "metric", "value", "stderr", "n", "metrics", "tables"),
    *("step", "checkpoint", "seed", "device", "dtype", "ops", "wall_sec"),
    *("config", "code_version", "packages", "written_at"),
)


INIT, ORIGIN = "init", "origin.json"


def read_origin(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return where the initial weights in a folder came from; {} where nothing says so.

    Raises:
        InputError: its `origin.json` is no JSON object.
    """
    path = Path(folder) / ORIGIN
    origin = read_json(path) if path.is_file() else {}
    if not isinstance(origin, dict):
        raise InputError(f"{path}: must be a JSON object, not {origin!r:.40}")
    return origin


class Run:
    """One run directory. Make it with `Run.create` or `Run.open`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._tail_is_whole = False

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], *, resume: bool = False
    ) -> Run:
        """Make a run directory that holds `config` (a complete recipe as plain data).

        With `resume` a directory that is a run already is taken over, and its config replaced.

        Raises:
            InputError: `path` is a file, or a folder that already holds something else.
            OSError: the folder cannot be made or written.
        """
        cls.check_free(path, resume=resume)
        run = cls(path)
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config)
        run.checkpoints_dir.mkdir(exist_ok=True)
        run.results_dir.mkdir(exist_ok=True)
        return run

    @staticmethod
    def check_free(path: str | os.PathLike[str], *, resume: bool = False) -> None:
        """Refuse what `create` would refuse, without making anything.

        Raises:
            InputError: `path` is a file, or a folder that already holds something else.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; a run needs a new or empty directory")
        is_run = (path / "config.json").is_file()
        if not (resume and is_run) and path.is_dir() and _holds_something(path):
            hint = "or resume the run that it holds" if is_run else "it holds no run to resume"
            raise InputError(f"{path} is not empty; give a new directory ({hint})")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Open an existing run directory.

        Raises:
            InputError: naming the folder or the file that is missing.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise InputError(f"{run.path} is not a run directory: {no_folder(run.path)}")
        if not (run.path / "config.json").is_file():
            raise InputError(f"{run.path} is not a run directory: config.json is missing")
        return run

    @property
    def origin(self) -> dict[str, Any]:
        """What the weights were that the run began with; {} if they were drawn."""
        return read_origin(self.path / INIT)

    @property
    def checkpoints_dir(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def results_dir(self) -> Path:
        """Where the result files lie."""
        return self.path / "results"

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as plain data. Raises InputError when the file is missing or broken."""
        return read_json(self.path / "config.json")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Replace `config.json`."""
        write_json(self.path / "config.json", config)

    @property
    def env(self) -> dict[str, Any]:
        """The surroundings of the newest session, older ones under `earlier`; {} before any."""
        path = self.path / "env.json"
        env = read_json(path) if path.exists() else {}
        if not isinstance(env, dict) or not isinstance(env.get("earlier", []), list):
            raise InputError(f"{path}: must be a JSON object, its 'earlier' a list; delete it")
        return env

    def write_env(self, env: Mapping[str, Any]) -> None:
        """Store the surroundings of a session; those of sessions before it move to `earlier`."""
        before = self.env
        earlier = before.pop("earlier", [])
        write_json(
            self.path / "env.json",
            {**env, "earlier": [*earlier, before] if before else earlier},
        )

    # metrics

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one row to `metrics.jsonl`: the whole line is written, or nothing of it.

        Raises:
            OSError: the disk is full or the file cannot be written; earlier lines stay.
        """
        line = json.dumps(strict_json(row), ensure_ascii=False, allow_nan=False) + "\n"
        data = line.encode()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.path / "metrics.jsonl", flags, 0o666)
        try:
            self._drop_torn_tail(descriptor)
            end = os.fstat(descriptor).st_size
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    def _drop_torn_tail(self, descriptor: int) -> None:
        """Cut the half line that a killed process may have left, once per session."""
        if not self._tail_is_whole:
            data = (self.path / "metrics.jsonl").read_bytes()
            if data and not data.endswith(b"\n"):
                os.ftruncate(descriptor, data.rfind(b"\n") + 1)
            self._tail_is_whole = True

    def metrics(self) -> list[dict[str, Any]]:
        """Return the logged rows, oldest first, without a torn last line.

        Raises:
            InputError: a line other than the last is no JSON object.
        """
        return [row for _, row in self._metric_lines()]

    def _metric_lines(self) -> Iterator[tuple[bytes, dict[str, Any]]]:
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("step", 0), int):
                # A filesystem that loses power may keep a line's length and not its bytes.
                if number == len(lines) - 1:
                    return
                raise InputError(f"{path}, line {number}: not a JSON object with a whole 'step'")
            yield line + b"\n", row

    def truncate_metrics(self, step: int) -> None:
        """Drop the rows after `step`, so that a resumed run logs no step twice."""
        kept = b"".join(line for line, row in self._metric_lines() if row.get("step", 0) <= step)
        atomic_write(self.path / "metrics.jsonl", kept)

    def sync_metrics(self) -> None:
        """Force the logged rows to the disk: a checkpoint must never be newer than its log."""
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.path / "metrics.jsonl", "rb") as file,
        ):
            os.fsync(file.fileno())

    # status

    def set_status(self, state: str, step: int, steps: int, error: str | None = None) -> None:
        """Write `status.json`; `state` is one of `STATES`, `step` of `steps` updates are done.

        Raises:
            ValueError: an unknown state.
        """
        if state not in STATES:
            raise ValueError(f"state = {state!r}; allowed: {', '.join(STATES)}")
        row = {"state": state, "step": step, "steps": steps, "error": error, "updated_at": now()}
        write_json(self.path / "status.json", row)

    def status(self) -> dict[str, Any]:
        """Return the status; a run whose process is gone without a word reads as interrupted."""
        path = self.path / "status.json"
        if not path.exists():
            return {"state": "interrupted", "step": 0, "steps": 0, "error": "it never started"}
        status = read_json(path)
        if not isinstance(status, dict):
            raise InputError(f"{path}: must be a JSON object, not {status!r:.40}")
        if status.get("state") == "running" and not self.is_active():
            status |= {"state": "interrupted", "error": "its process ended without a word"}
        return status

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing while inside.

        Raises:
            InputError: another process holds it.
        """
        with open(self.path / ".lock", "ab") as file:
            hold(file, f"{self.path} is in use: another process is training it")
            yield

    @contextlib.contextmanager
    def measuring(self, kind: str, name: str) -> Iterator[None]:
        """Hold one result for writing while inside; other results are free.

        Raises:
            InputError: another process is measuring it.
        """
        path = self.results_dir / f".{kind}-{name}.lock"
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # nothing can be written, as will be said then
                self.results_dir.mkdir(exist_ok=True)
                file = stack.enter_context(open(path, "ab"))
                busy = self.results_dir / f"{kind}-{name}.json"
                hold(file, f"{busy} is in use: another process is measuring it")
            yield

    def is_active(self) -> bool:
        """Whether some process holds the run now (always True where the system cannot tell)."""
        path = self.path / ".lock"
        if not path.exists():
            return False
        with open(path, "rb") as file:
            return _try_lock(file) is not True

    # results

    def write_result(
        self,
        kind: str,
        name: str,
        payload: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]] = (),
    ) -> Path:
        """Complete `payload` and write `results/<kind>-<name>.json`; an older one is replaced.

        `rows`, what was measured of each item, go into a file beside it that `items` names.

        The caller gives `metric` (the primary metric's name) with its `value`, `stderr` and `n`,
        or these three inside `metrics[metric]`, and step, checkpoint, device, dtype, ops, wall_sec.
        Config, seed, code version, packages, schema version and time are filled in here.

        Raises:
            InputError: `kind` or `name` cannot be a part of a file name.
            ValueError: a field of the schema is absent.
            OSError: see `atomic_write`.
        """
        for field, word in (("kind", kind), ("name", name)):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", word):
                raise InputError(f"{field} = {word!r}; allowed: letters, digits, '.', '_' and '-'")
        config = self.config
        filled = {"metrics": {}, "tables": {}, "config": config, "seed": config.get("seed")}
        filled |= (payload.get("metrics") or {}).get(payload.get("metric"), {})
        filled.pop("unit", None)
        result = filled | dict(payload)
        result |= {"schema_version": SCHEMA_VERSION, "kind": kind, "name": name}
        result |= {"code_version": code_version(), "packages": package_versions()}
        result["written_at"] = now()
        absent = [field for field in RESULT_FIELDS if field not in result]
        if absent:
            raise ValueError(f"result {kind}-{name} lacks {', '.join(absent)}")
        first = {field: result.pop(field) for field in RESULT_FIELDS}
        self.results_dir.mkdir(exist_ok=True)
        path = self.results_dir / f"{kind}-{name}.json"
        if rows:
            about = write_items(path.with_name(f"{path.stem}.items.jsonl"), rows)
            result["items"] = {**about, **result.get("items", {})}
        write_json(path, first | result)
        return path

    def results(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the result files' contents, by file name, of one `kind` or all.

        Raises:
            InputError: a file is no JSON or of another schema version.
        """
        found = []
        for path in sorted(self.results_dir.glob("*.json")):
            result = read_json(path)
            version = result.get("schema_version") if isinstance(result, dict) else None
            if version != SCHEMA_VERSION:
                raise InputError(
                    f"{path}: schema_version = {version!r}; this version reads {SCHEMA_VERSION}"
                )
            if "kind" not in result:
                raise InputError(f"{path} lacks its 'kind'; measure it again")
            if kind in (None, result["kind"]):
                found.append(result)
        return found


def _holds_something(folder: Path) -> bool:
    """Whether anything but the hidden leftovers of a killed start lies in `folder`."""
    return any(not entry.name.startswith(".") for entry in folder.iterdir())


def hold(file: Any, busy: str) -> None:
    """Take the lock of a file, or say `busy`.

    Raises:
        InputError: another process holds it.
    """
    for _ in range(5):
        if _try_lock(file) is not False:
            return
        # Who asks for the status holds it for a moment, and must not stop a start.
        time.sleep(0.05)
    raise InputError(busy)


def _try_lock(file: Any) -> bool | None:
    """Take the lock without waiting: True taken, False held by another, None cannot be told.

    The lock goes with the closing of the file or the end of the process.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network folder without locks
        return None
    return True
