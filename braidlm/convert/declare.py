"""From the command line and a conversion file to a complete declaration and its teacher."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braidlm.arch.convert import Conversion
from braidlm.arch.kept import kept_recipe
from braidlm.arch.recipe import override, read_toml
from braidlm.errors import InputError
from braidlm.interop.imports import recipe_of
from braidlm.manifest import CONFIG
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
    written = read_toml(file) if file is not None else {}
    asked = _with_flags(override(written, overrides), flags or {})
    teacher = asked["convert"].get("teacher")
    if not isinstance(teacher, str):
        raise InputError(
            "convert.teacher: no teacher is given: a run, or a folder of transformers; "
            "to go on, add --resume to the whole command"
        )
    start = open_teacher(teacher, out)
    _check_named(asked.get("data"), start)
    complete = _with_flags(override(_over(_known(start), written), overrides), flags or {})
    conversion = Conversion.from_dict(complete, "" if file is None else str(file))
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


def _with_flags(data: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Let flags go before the fields of ``[convert]``."""
    table = data.get("convert", {})
    if not isinstance(table, dict):
        raise InputError(f"convert = {table!r}: must be a table")
    given = {name: value for name, value in flags.items() if value is not None}
    replaced = TARGETS if set(given) & set(TARGETS) else ()
    return data | {"convert": {k: v for k, v in table.items() if k not in replaced} | given}


def _known(start: Start) -> dict[str, Any]:
    """Return data, training and tasks of the teacher's recipe."""
    if start.is_ours:
        recipe = kept_recipe(start.folder / CONFIG, start.folder.parent.parent)
    else:
        recipe = recipe_of(start.spec, start.origin["name"], start.tokenizer or "bytes")
    found = recipe.to_dict()
    for table, fields in OF_AN_INIT.items():
        found[table] = {k: v for k, v in found[table].items() if k not in fields}
    return {key: found[key] for key in ("data", "train", "tasks")}


def _over(known: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """Put what is written over what is known, field by field in data and training."""
    tables = {
        key: known[key] | written[key]
        for key in ("data", "train")
        if isinstance(written.get(key), dict)
    }
    return known | written | tables


def _check_named(data: Any, start: Start) -> None:
    """Refuse weights without a tokenizer where nobody names one."""
    if start.tokenizer is None and not (isinstance(data, dict) and "tokenizer" in data):
        raise InputError(
            f"data.tokenizer: teacher = '{start.init}' came without a tokenizer: name its own"
        )
