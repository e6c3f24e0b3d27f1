import re

import pytest
from pydantic import ValidationError

from braidlm.arch.config import MAX_MESSAGE, Config, nearest
from braidlm.arch.experiment import DataConfig
from braidlm.arch.spec import Spec
from braidlm.errors import InputError


class Inner(Config):
    size: int = 1
    share: float = 0.5


class Outer(Config):
    name: str
    steps: int = 3
    is_on: bool = False
    inner: Inner = Inner()
    lengths: tuple[int, ...] = ()


def refused(data, where=""):
    with pytest.raises(InputError) as caught:
        Outer.of(data, where)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_plain_data_becomes_a_frozen_record():
    outer = Outer.of({"name": "a", "inner": {"size": 4}, "lengths": [1, 2]})
    assert (outer.inner.size, outer.inner.share, outer.lengths) == (4, 0.5, (1, 2))
    with pytest.raises(ValidationError):
        outer.steps = 4  # type: ignore[misc]
    assert Outer.of(outer.model_dump()) == outer


def test_an_unknown_key_offers_the_nearest_name():
    assert "unknown field 'step' (did you mean 'steps'?)" in refused({"name": "a", "step": 1})
    assert "allowed: name, steps, is_on, inner, lengths" in refused({"name": "a", "zzzzzz": 1})
    assert "did you mean" not in refused({"name": "a", "zzzzzz": 1})
    assert refused({"name": "a", "inner": {"sizes": 1}}).startswith(
        "inner: unknown field 'sizes' (did you mean 'size'?)"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", "4"), ("steps", True), ("steps", 4.0), ("name", 4), ("is_on", 1), ("is_on", "true"),
     ("lengths", [1, "2"]), ("lengths", 3), ("inner", 3), ("inner", None)],
)  # fmt: skip
def test_values_are_never_coerced(field, value):
    assert refused({"name": "a", field: value}).startswith(field)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True])
def test_a_float_is_a_finite_number(value):
    assert refused({"name": "a", "inner": {"share": value}}).startswith("inner.share = ")


def test_a_whole_number_may_stand_for_a_float():
    assert Inner.of({"share": 2}).share == 2.0


def test_messages_name_path_value_and_file_part():
    assert refused({}) == "name: this field is required"
    assert refused({"name": "a", "steps": "x"}, "model").startswith("model.steps = 'x': ")
    assert refused({"name": 1, "steps": "x"}).endswith("(and 1 more)")
    assert refused(3) != ""


def test_nearest():
    assert nearest("d_modle", ["d_model", "d_ff"]) == " (did you mean 'd_model'?)"
    assert re.fullmatch("", nearest("q", ["d_model"]))


def test_a_path_is_the_files_own_and_names_no_kind():
    data = {"seq_len": 8, "sources": [{"kind": "text", "path": 5}]}
    with pytest.raises(InputError, match=r"^data\.sources\.0\.path = 5: "):
        DataConfig.of(data, "data")
    data["sources"][0] = {"kind": "text", "path": "x", "weight": -1}
    with pytest.raises(InputError, match=r"^data\.sources\.0\.weight = -1: "):
        DataConfig.of(data, "data")
    data["sources"][0] = {"kind": "text"}
    with pytest.raises(InputError, match=r"^data\.sources\.0\.path: this field is required"):
        DataConfig.of(data, "data")


def test_half_a_character_is_shown_by_its_number():
    with pytest.raises(InputError, match=r"'M\\udc8b', character 2: '\\udc8b' is no symbol"):
        Spec.parse("M\udc8b", d_model=8, vocab_size=8)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**400], ids=["over", "under", "huge"])
def test_a_number_that_no_machine_holds_is_refused(value):
    assert refused({"name": "a", "steps": value}).startswith(f"steps = {str(value)[:24]}: must")
    assert refused({"name": "a", "steps": value}).endswith("be below 2^63")


def test_a_long_kind_is_cut():
    data = {"seq_len": 8, "sources": [{"kind": "x" * 10_000}]}
    with pytest.raises(InputError, match=r"sources\.0\.kind = 'x{60}': allowed are 'text'"):
        DataConfig.of(data)


def test_a_message_never_quotes_a_value_without_end():
    found = refused({"name": "a", "x" * 100_000: 1})
    assert found.startswith("unknown field 'xxx")
    assert len(found) == MAX_MESSAGE + 3
