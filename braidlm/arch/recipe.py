"""A recipe: one TOML file that says everything about a run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from braidlm.arch.carry import check_carry
from braidlm.arch.config import Config
from braidlm.arch.defaults import LETTERS
from braidlm.arch.experiment import DataConfig, TrainConfig
from braidlm.arch.init_changes import InitChanges
from braidlm.arch.pairs import PairsSource
from braidlm.arch.sources import PathText
from braidlm.arch.spec import Spec
from braidlm.arch.symbols import MQARSource, SymbolSource
from braidlm.arch.tasks import AnyTask, CopyingTask, LMTask, MADTask, MQARTask, RecallTask
from braidlm.errors import InputError
from braidlm.files import read_json
from braidlm.foreign import ADVICE, is_gguf

PLAIN = {*LETTERS, *"(){}0123456789"}
"""Of a pattern that needs no letters of its own."""
_SOURCES = {LMTask: "text", MQARTask: "mqar", MADTask: "mad", CopyingTask: "copying"}
"""Which kind of source a task reads."""


class ModelFile(Config):
    """What a file that only declares a model may hold: enough to describe it, not to train it."""

    name: str = "run"
    """Name of the run in reports."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the initial weights and of the order of the data."""
    spec: Spec = Field(alias="model")
    """The model; in a recipe file this table is called ``[model]``."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that makes the same declaration again."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Recipe(ModelFile):
    """A model, its data, its training and its tasks."""

    init: PathText | None = None
    """A run, a checkpoint of one, a folder in the form of transformers or a GGUF file, whose
    weights the training begins with; default: none, they are drawn from the seed."""
    init_changes: InitChanges | None = None
    """How the model differs from that of its init. Default: not at all."""
    data: DataConfig
    """The data."""
    train: TrainConfig = TrainConfig()
    """The training."""
    tasks: tuple[AnyTask, ...] = ()
    """What is asked of the model afterwards."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """Read a recipe file and apply overrides such as ``train.steps=4``.

        Raises:
            InputError: for a file that cannot be read, or a field that cannot be.
        """
        return cls.from_dict(override(read_toml(path), overrides), str(path))

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "") -> Self:
        """Read a recipe from plain data; sizes that were left out are filled in.

        Raises:
            InputError: naming the first wrong field.
        """
        try:
            return cls.of(data)
        except InputError as error:
            is_config = where.endswith("config.json") and isinstance(data, dict)
            if is_config and not {"model", "data", "train"} & set(data):
                raise InputError(f"{where}: is no recipe; of another's folder {ADVICE}") from None
            raise InputError(f"{where}: {error}" if where else str(error)) from None

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        kinds = {s.name: s.kind for s in self.data.sources}
        for source in self.data.sources:
            if isinstance(source, SymbolSource):
                self._symbols_fit(source.name, source.token_offset + source.vocab_size)
        for task in self.tasks:
            if isinstance(task, RecallTask):
                self._is_not_learnt(task)
            if not isinstance(task, LMTask | MQARTask | MADTask | CopyingTask):
                continue  # the others read no source of the recipe
            if isinstance(task, MADTask | CopyingTask) and not task.source:
                continue  # these can do without
            needed = _SOURCES[type(task)]
            if kinds.get(task.source) != needed:
                named = [n for n, k in kinds.items() if k == needed]
                raise ValueError(
                    f"task '{task.name}': source = '{task.source}' is no {needed} source of this "
                    f"recipe; allowed: {', '.join(named) or 'none is declared'}"
                )
            if isinstance(task, LMTask | MQARTask):
                self._can_be_asked(task)
        if self.spec.mup_base_width and self.train.optimizer == "muon":
            raise ValueError(
                f"model.mup_base_width = {self.spec.mup_base_width}: its learning rates are those "
                "of AdamW; with train.optimizer = 'muon' it must be 0"
            )
        check_carry(self.spec, self.data, self.train)
        names = [(t.kind, t.name) for t in self.tasks]
        for kind, name in names:
            if names.count((kind, name)) > 1:
                raise ValueError(f"tasks: two {kind} tasks are named '{name}'; names must differ")
        return self

    def _is_not_learnt(self, task: RecallTask) -> None:
        """Refuse to ask about documents that a source of pairs trains on."""
        for source in self.data.sources:
            if not isinstance(source, PairsSource) or (source.dataset or "pairs") != task.dataset:
                continue
            is_same = source.path == task.path and (not source.is_hub or source.split == task.split)
            if is_same and not 0 < task.held_out <= self.data.held_out:
                raise ValueError(
                    f"task '{task.name}' and source '{source.name}' read the same documents of "
                    f"{task.path}: task.held_out = {task.held_out} must be above 0 and at most "
                    f"data.held_out = {self.data.held_out}"
                )

    def _can_be_asked(self, task: LMTask | MQARTask) -> None:
        """Refuse before the training what could only fail after it."""
        if isinstance(task, LMTask):
            if self.data.held_out == 0:
                raise ValueError(
                    f"task '{task.name}' reads held-out documents: data.held_out = 0 must be "
                    "greater than 0, or the task left out"
                )
            return
        source = next(s for s in self.data.sources if s.name == task.source)
        assert isinstance(source, MQARSource)
        try:
            source.check_pairs(task.n_pairs or source.n_pairs, task.length or source.length)
        except ValueError as error:
            raise ValueError(f"task '{task.name}': {error}") from None

    def _symbols_fit(self, name: str, end: int) -> None:
        if end > self.spec.vocab_size:
            raise ValueError(
                f"source '{name}': token_offset + vocab_size = {end} must not exceed the model's "
                f"vocab_size = {self.spec.vocab_size}"
            )


def load_spec(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    d_model: int | None = None,
    vocab_size: int | None = None,
) -> Spec:
    """Return the model of a recipe file, or of a pattern with every other field at its default.

    Args:
        source: a TOML file with at least a ``[model]`` table, a run directory or its config.json,
            or a pattern such as ``(M-M-M*-)4``.
        overrides: as for `Recipe.load`, e.g. ``model.mixers.M.d_state=64``.
        d_model: replaces the width.
        vocab_size: replaces the vocabulary.

    Raises:
        InputError: for a file that cannot be read, or a field that cannot be.
    """
    sizes = {"d_model": d_model, "vocab_size": vocab_size}
    given = [f"model.{name}={size}" for name, size in sizes.items() if size is not None]
    return load_declaration(source, [*given, *overrides]).spec


def load_declaration(source: str | Path, overrides: Sequence[str] = ()) -> ModelFile:
    """Return all that a file declares: a `Recipe`, or a model alone; arguments as for `load_spec`.

    Raises:
        InputError: for a file that cannot be read, or a field that cannot be.
    """
    is_file = Path(source).suffix != "" or _is_path(source)  # no pattern holds a dot
    if is_file and Path(source).is_dir():
        source = Path(source) / "config.json"
    data = _read(Path(source)) if is_file else {"model": {"pattern": str(source)}}
    try:
        return _declared(override(data, overrides))
    except InputError as error:
        if not is_file and _names_a_place(str(source)):
            raise InputError(f"{source}: is no recipe, run or pattern, or is not there") from None
        is_own = not is_file or str(error).startswith("--set ")
        raise InputError(str(error) if is_own else f"{source}: {error}") from None


def _is_path(source: str | Path) -> bool:
    """Whether `source` names something that is there: with a slash, which tells "./M" from the
    pattern "M", or a run whose name is no pattern of the letters that need no declaration."""
    if "/" in str(source):
        return Path(source).exists()
    is_run = (Path(source) / "config.json").is_file()
    return is_run and not set(str(source)) <= PLAIN


def _names_a_place(source: str) -> bool:
    """Whether text that is no pattern looks like a path, or is one: "runs/a", a folder."""
    is_there = source != "" and Path(source).exists()  # "" would be the current folder
    is_word = re.search("[a-z]{2}", source) is not None  # letters of mixers are capitals
    return is_there or is_word or ("/" in source and not set(source) <= PLAIN | set("/|"))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".json":
        return read_toml(path)
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: must be a table with a 'model'")
    return data


def _declared(data: dict[str, Any]) -> ModelFile:
    """Read a whole recipe, or a file that declares nothing but a model."""
    misplaced = next((k for k in data if k in Spec.model_fields), None)
    if misplaced is not None:
        raise InputError(f"unknown field '{misplaced}' (did you mean 'model.{misplaced}'?)")
    whole = {"data", "train", "tasks"} & set(data)
    return (Recipe if whole else ModelFile).of(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: if it is missing, unreadable or not TOML.
    """
    if is_gguf(path):
        raise InputError(f"{path}: is a GGUF file, not a recipe; {ADVICE} of it")
    try:
        return tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise InputError(f"{str(path)[:500]}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid TOML ({error})") from None


def override(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each ``a.b=value`` applied; lists are indexed by number or by name.

    A value is read as TOML (``4``, ``true``, ``"x"``, ``[1, 2]``) and otherwise taken as text.

    Raises:
        InputError: for text without ``=``, or a path that leads through something else.
    """
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not all(path.split(".")):
            raise InputError(f"--set {text}: must look like a.b=value")
        data = _set(data, path.split("."), _value(value), text)
    return data


def _set(node: Any, path: list[str], value: Any, text: str) -> Any:
    """Return a copy of `node` in which the leaf at `path` is `value`."""
    key, rest = path[0], path[1:]
    if isinstance(node, list):
        return _set_in_list(node, path, value, text)
    if not isinstance(node, dict):
        raise InputError(f"--set {text}: '{key}' lies inside a plain value ({node!r})")
    return {**node, key: _set(node.get(key, {}), rest, value, text) if rest else value}


def _set_in_list(node: list[Any], path: list[str], value: Any, text: str) -> list[Any]:
    key, rest = path[0], path[1:]
    names = [_name(x) for x in node]
    if key in names:
        at = names.index(key)
    elif key.isdecimal() and int(key) < len(node):
        at = int(key)
    else:
        known = ", ".join(n for n in names if n) or f"0 to {len(node) - 1}"
        raise InputError(f"--set {text}: '{key}' is no entry of this list; allowed: {known}")
    new = _set(node[at], rest, value, text) if rest else value
    return [*node[:at], new, *node[at + 1 :]]


def _name(entry: Any) -> str | None:
    """What an entry of a list is called: its name, its letter, or else its kind."""
    if not isinstance(entry, dict):
        return None
    return next((str(entry[k]) for k in ("name", "letter", "kind") if k in entry), None)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text
