"""The shipped JSON Schema is the declarations' own, and accepts what they accept."""

import json
import re
from pathlib import Path

import pytest

from braidlm.arch import Recipe, schema
from braidlm.arch.recipe import read_toml

RECIPES = Path(__file__).parents[2] / "recipes"
FILES = [p for p in sorted(RECIPES.rglob("*.toml")) if not p.stem.endswith((".study", ".convert"))]
TYPES = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip
LIMITS = {
    "minimum": lambda v, x: v >= x,
    "maximum": lambda v, x: v <= x,
    "exclusiveMinimum": lambda v, x: v > x,
    "exclusiveMaximum": lambda v, x: v < x,
    "minLength": lambda v, x: len(v) >= x,
    "maxLength": lambda v, x: len(v) <= x,
    "minItems": lambda v, x: len(v) >= x,
    "maxItems": lambda v, x: len(v) <= x,
    "enum": lambda v, x: v in x,
    "const": lambda v, x: v == x,
    "pattern": lambda v, x: re.search(x, v) is not None,
}
ANNOTATIONS = {"type", "title", "description", "default", "$defs", "$schema", "discriminator"}


def accepts(value, rule, whole):
    """Validate by the part of JSON Schema that ours uses; an unknown keyword is an error."""
    if isinstance(rule, bool):
        return rule
    if not _has_type(value, rule.get("type")):
        return False
    return all(_keyword(k, v, value, rule, whole) for k, v in rule.items() if k not in ANNOTATIONS)


def _has_type(value, name):
    if name is None or isinstance(value, bool):
        return name in (None, "boolean")
    return isinstance(value, TYPES[name])


def _keyword(key, limit, value, rule, whole):
    if key == "$ref":
        return accepts(value, whole["$defs"][limit.rsplit("/", 1)[1]], whole)
    if key in ("anyOf", "oneOf"):
        n = sum(accepts(value, r, whole) for r in limit)
        return n >= 1 if key == "anyOf" else n == 1
    if key == "items":
        return all(accepts(v, limit, whole) for v in value)
    if key == "required":
        return set(limit) <= set(value)
    if key == "dependentRequired":
        return all(set(needs) <= set(value) for has, needs in limit.items() if has in value)
    if key == "properties":
        return all(accepts(v, limit[k], whole) for k, v in value.items() if k in limit)
    if key == "propertyNames":
        return all(accepts(k, limit, whole) for k in value)
    if key == "additionalProperties":
        named = rule.get("properties", {})
        return all(accepts(v, limit, whole) for k, v in value.items() if k not in named)
    return LIMITS[key](value, limit)


def valid(data):
    whole = schema.json_schema()
    return accepts(data, whole, whole)


def test_the_shipped_file_is_what_the_declarations_say():
    assert schema.PATH.read_text(encoding="utf-8") == schema.text(), (
        "run `python -m braidlm.arch.schema`"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_recipes_and_their_stored_form_are_accepted(path):
    data = read_toml(path)
    assert valid(json.loads(json.dumps(data)))
    if "data" in data:
        assert valid(Recipe.from_dict(data).to_dict())


def changed(**tables):
    data = json.loads(json.dumps(read_toml(RECIPES / "tiny.toml")))
    for name, fields in tables.items():
        data[name] = {**data.get(name, {}), **fields}
    return data


@pytest.mark.parametrize(
    "model",
    [
        {"mixers": {"M": {"expand": 2}, "A": {"kind": "attention", "n_heads": 2}}},
        {"mixers": {"M": {"width": 256}, "*": {"width": 128}}},
        {"parallel": {"P": {"branches": "M*", "combine": "concat"}}},
        {"fusion": {"combine": "cross_attention", "cross": {"n_kv_heads": 1}}},
        {"mixers": {"*": {"norm_position": "post", "in_bias": True}}},
        {"parallel": {"P": {"branches": "M*", "norm_position": "post"}}},
        {"mixers": {"M": {"multipliers": [1, 0.5, 2.0, 1, 1], "dt_limit_max": 0.1}}},
    ],
)
def test_short_forms_are_accepted(model):
    assert valid(changed(model=model))


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        ("model", {"d_modle": 3}),
        ("model", {"d_model": 0}),
        ("model", {"d_model": True}),
        ("model", {"pattern": 3}),
        ("model", {"mixers": {"M": {"d_sate": 3}}}),
        ("model", {"mixers": {"MM": {}}}),
        ("model", {"parallel": {"P": {"combine": "add"}}}),
        ("model", {"mixers": {"M": {"multipliers": [1.0, 1.0, 1.0, 1.0]}}}),
        ("model", {"mixers": {"M": {"norm_position": "both"}}}),
        ("model", {"fusion": {"combine": "max"}}),
        ("train", {"steps": "4"}),
        ("train", {"schedule": "linear"}),
        ("data", {"sources": []}),
        ("nope", {}),
    ],
)
def test_what_the_declarations_refuse_is_refused(table, fields):
    assert valid(changed())
    assert not valid(changed(**{table: fields}))


def test_training_needs_data_and_a_model_alone_does_not():
    data = changed()
    del data["data"], data["tasks"]
    assert not valid(data)
    del data["train"]
    assert valid(data)


def test_every_field_is_described():
    parts = {k: v for k, v in schema.json_schema()["$defs"].items() if k != "ParallelTable"}
    bare = [
        f"{part}.{name}"
        for part, rule in parts.items()
        for name, field in rule["properties"].items()
        if not field.get("description")
    ]
    assert bare == []
