"""From the command line and a conversion file to a complete declaration and its teacher."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braidlm import checkpoint
from braidlm.arch import Recipe
from braidlm.arch.convert import Conversion
from braidlm.arch.kept import kept_recipe
from braidlm.arch.recipe import override, read_toml
from braidlm.errors import InputError
from braidlm.interop.imports import recipe_of
from braidlm.train.start import INIT, Start, is_kept, open_start

TARGETS = ("pattern", "keep", "keep_layers")
"""Fields of which one says what the student is: a flag goes before all of them in the file."""

OF_AN_INIT = {"data": ("replay",), "train": ("warmup_from", "continue_optimizer")}
"""What the teacher's own training took from an init, which a stage does not have."""


def load_conversion(
    file: str | Path | None,
    overrides: Sequence[str] = (),
    flags: dict[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> tuple[Conversion, Start]:
    """Read a conversion; fields of data and training and tasks that it lacks are the teacher's.

    Args:
        file: the conversion file; None: flags say everything, and there are no stages.
        overrides: as for `Recipe.load`.
        flags: fields of ``[convert]`` that go before those of the file.
        out: the folder of the conversion; the teacher that it keeps is read, wherever its origin
            is now.

    Returns:
        The declaration and the teacher, whole and with the data's tokenizer.

    Raises:
        InputError: naming the file or the field.
    """
    data = override(read_toml(file) if file is not None else {}, overrides)
    data["convert"] = _with_flags(data.get("convert", {}), flags or {})
    where = "" if file is None else str(file)
    teacher = data["convert"].get("teacher")
    if not isinstance(teacher, str):
        raise InputError("convert.teacher: no teacher is given: a run, or a folder of transformers")
    start = open_teacher(teacher, out)
    known = _recipe_of(start).to_dict()
    for table, fields in OF_AN_INIT.items():
        known[table] = {k: v for k, v in known[table].items() if k not in fields}
    complete = {"tasks": known["tasks"], **data}
    complete["data"] = _with_tokenizer(data.get("data", {}), start)
    for key in ("data", "train"):
        given = complete.get(key, {})
        complete[key] = known[key] | given if isinstance(given, dict) else given
    conversion = Conversion.from_dict(complete, where)
    start.check_tokenizer(conversion.data.tokenizer, "teacher")
    return conversion, start


def open_teacher(teacher: str, out: str | os.PathLike[str] | None) -> Start:
    """Find the teacher's weights: those that a conversion keeps, or where they came from.

    Raises:
        InputError: there are none, or they are not whole.
    """
    if out is not None and is_kept(out):
        return open_start(str(Path(out) / INIT))
    try:
        return open_start(teacher)
    except InputError as error:
        told = str(error).removeprefix(f"init = '{teacher}': ")
        raise InputError(f"teacher = '{teacher}': {told}") from None


def _with_flags(table: Any, flags: dict[str, Any]) -> Any:
    if not isinstance(table, dict):
        raise InputError(f"convert = {table!r}: must be a table")
    given = {name: value for name, value in flags.items() if value is not None}
    replaced = TARGETS if set(given) & set(TARGETS) else ()
    return {k: v for k, v in table.items() if k not in replaced} | given


def _recipe_of(start: Start) -> Recipe:
    if start.is_ours:
        return kept_recipe(start.folder / checkpoint.CONFIG, start.folder.parent.parent)
    return recipe_of(start.spec, start.origin["name"], start.tokenizer or "bytes")


def _with_tokenizer(data: Any, start: Start) -> Any:
    """Give the data the teacher's tokenizer, unless it names one."""
    if not isinstance(data, dict) or "tokenizer" in data:
        return data
    if start.tokenizer is None:
        raise InputError(
            f"data.tokenizer: teacher = '{start.init}' came without a tokenizer: name its own"
        )
    return {"tokenizer": start.tokenizer, **data}
