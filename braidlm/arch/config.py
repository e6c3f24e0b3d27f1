"""The base of every declaration: frozen, typed, and clear about what is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from braidlm.errors import InputError

MAX_MESSAGE = 1000
"""Characters of a message; what goes beyond is a value that somebody pasted."""


def nearest(word: str, allowed: list[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


class Config(BaseModel):
    """A frozen record whose unknown keys are refused and whose values are never coerced.

    Calling the class validates too, with pydantic's own ValidationError (a ValueError).
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    short_forms: ClassVar[tuple[str, ...]] = ()
    """Keys that a short declaration may hold and that `braidlm.arch.defaults` turns into fields."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Keys that a file writes beside the fields, and that belong to what holds them."""

    @classmethod
    def of(cls, data: Any, where: str = "") -> Self:
        """Validate plain data, as read from TOML or JSON.

        Args:
            data: a dict of fields.
            where: path of the data in its file, put before the field's name in messages.

        Raises:
            InputError: naming the first wrong field, its value, and what is allowed.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InputError(_short(sentence(error, where, data))) from None
        except UnicodeEncodeError as error:  # pydantic cannot hold a message with such a character
            raise InputError(error.object.encode("utf-8", "backslashreplace").decode()) from None

    @model_validator(mode="before")
    @classmethod
    def _known_keys_and_tuples(cls, data: Any) -> Any:
        """Name the nearest field for an unknown one; read a list as the tuple it stands for."""
        if not isinstance(data, dict):
            return data
        allowed = [field.alias or name for name, field in cls.model_fields.items()]
        for key in data:
            if key not in allowed:
                allowed += (*cls.short_forms, *cls.beside)
                raise ValueError(
                    f"unknown field '{key}'{nearest(str(key), allowed)}; "
                    f"allowed: {', '.join(allowed)}"
                )
        return {k: _tuples(v) for k, v in data.items()}

    @model_validator(mode="after")
    def _numbers_fit_a_machine(self) -> Self:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} = {str(value)[:24]}: must be below 2^63")
        return self


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _short(message: str) -> str:
    """Cut what quotes a value without end."""
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."


def _written(path: tuple[int | str, ...], data: Any) -> Iterator[int | str]:
    """Yield a path as the file has it: pydantic also names the kind of each entry on the way."""
    for part in path:
        if isinstance(data, dict) and part not in data and part == data.get("kind"):
            continue
        yield part
        if isinstance(data, list | tuple) and isinstance(part, int):
            data = data[part] if part < len(data) else None  # a place that is missing
        else:
            data = data.get(part) if isinstance(data, dict) else None


def sentence(error: ValidationError, where: str = "", data: Any = None) -> str:
    """Turn pydantic's report on `data` into one sentence: path, value, what is allowed."""
    first = error.errors()[0]
    path = ".".join(str(p) for p in (*filter(None, [where]), *_written(first["loc"], data)))
    message = first["msg"].removeprefix("Value error, ")
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    if first["type"] == "missing":
        return f"{path}: this field is required{tail}"
    if first["type"] == "value_error":
        return f"{path}: {message}{tail}" if path else f"{message}{tail}"
    if not path:
        return f"must be a table of fields, not {first['input']!r:.80}{tail}"
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        return f"{path}.kind = '{context['tag']:.60}': allowed are {context['expected_tags']}{tail}"
    if first["type"] == "tuple_type":  # which is what a list of the file becomes
        message = "input should be a list"
    return f"{path} = {first['input']!r:.80}: {message[0].lower()}{message[1:]}{tail}"


def differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, old, new) of every leaf that differs between two plain values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{path}.{index}")
    elif old != new:
        yield path, old, new
