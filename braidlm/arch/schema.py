"""The JSON Schema of a recipe, made from the declarations themselves.

`recipe.schema.json` beside this file is its text: editors complete and check recipes with it.
A recipe may leave out what `braidlm.arch.defaults` fills in, may write letters as tables, and may
declare a model alone, so the schema accepts all of these.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from braidlm.arch.mixers import KINDS
from braidlm.arch.recipe import Recipe
from braidlm.arch.wiring import WIRING

PATH = Path(__file__).with_name("recipe.schema.json")
LETTER = "^[A-Za-z*+-]$"
SHORT_FORMS: dict[str, dict[str, Any]] = {
    "expand": {
        "description": "Inner width (delta rules: of the keys) / d_model; instead of n_heads.",
        "exclusiveMinimum": 0,
        "type": "number",
    },
    "expand_v": {
        "description": "v_head_dim / head_dim; instead of v_head_dim.",
        "exclusiveMinimum": 0,
        "type": "number",
    },
    "width": {
        "description": "Channels of all heads; instead of n_heads or head_dim.",
        "exclusiveMinimum": 0,
        "type": "integer",
    },
}
"""What `braidlm.arch.defaults` takes instead of a size."""


def json_schema() -> dict[str, Any]:
    """Return the schema as plain data."""
    schema = Recipe.model_json_schema(by_alias=True)
    parts = schema["$defs"]
    wiring = {k: parts["Letter"]["properties"][k] for k in WIRING}
    for config in KINDS.values():
        parts[config.__name__].pop("required", None)
        parts[config.__name__]["properties"] |= wiring  # a file writes them beside the mixer's
        for name in config.short_forms:
            parts[config.__name__]["properties"][name] = dict(SHORT_FORMS[name])
    parts["CrossAttention"].pop("required", None)
    mixer = parts["Letter"]["properties"]["mixer"]
    parts["Letter"]["properties"]["mixer"] = {
        "anyOf": _any_mixer(),
        "description": mixer["description"],
    }
    _accept_tables(parts)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "BraidLM recipe",
        "required": ["model"],
        "dependentRequired": {"train": ["data"], "tasks": ["data"]},
    }


def text() -> str:
    """Return the schema as the shipped file holds it."""
    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _any_mixer() -> list[dict[str, str]]:
    return [{"$ref": f"#/$defs/{config.__name__}"} for config in KINDS.values()]


def _accept_tables(parts: dict[str, Any]) -> None:
    """Let ``[model.mixers.M]`` and ``[model.parallel.P]`` stand for lists of letters."""
    spec = parts["Spec"]
    spec["required"] = ["pattern"]
    branches = parts["ParallelLetter"]["properties"]["branches"]
    wiring = {k: parts["ParallelLetter"]["properties"][k] for k in WIRING}
    parts["ParallelTable"] = {
        **parts["Fusion"],
        "properties": {"branches": branches, **parts["Fusion"]["properties"], **wiring},
        "required": ["branches"],
        "title": "ParallelTable",
    }
    tables = {"mixers": {"anyOf": _any_mixer()}, "parallel": {"$ref": "#/$defs/ParallelTable"}}
    for field, of_letter in tables.items():
        stored = spec["properties"][field]
        text = {k: stored.pop(k) for k in ("title", "description", "default") if k in stored}
        table = {
            "type": "object",
            "propertyNames": {"pattern": LETTER},
            "additionalProperties": of_letter,
        }
        spec["properties"][field] = {"anyOf": [table, stored], **text}


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
