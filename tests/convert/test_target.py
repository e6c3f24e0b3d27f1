"""The student's declaration: one sublayer for each of the teacher's, sizes from its heads."""

from typing import Any

import pytest

from braidlm.arch.convert import ConvertConfig
from braidlm.convert.target import attentions, target
from braidlm.errors import InputError
from tests.convert.tiny import aimed, spec


def mixer(found: Any, letter: str) -> Any:
    return next(x.mixer for x in found.mixers if x.letter == letter)


def test_an_attention_becomes_a_mixer_in_which_its_heads_fit():
    found, changes = aimed(spec(), "M-G-")
    m, g = mixer(found, "M"), mixer(found, "G")
    assert (m.n_heads, m.head_dim, m.d_state, m.n_groups) == (4, 4, 4, 4)
    assert (g.n_heads, g.n_v_heads, g.head_dim, g.v_head_dim) == (4, 4, 4, 4)
    assert [(c.index, c.new, c.kept) for c in changes] == [(0, (0,), None), (2, (0,), None)]
    assert "*" not in {x.letter for x in found.mixers}


def test_a_branch_beside_the_attention_has_a_factor_of_its_own():
    found, changes = aimed(spec(), "{M*}-*-")
    fusion = found.fusion
    assert (fusion.norm, fusion.combine, fusion.projection) == ("none", "add", "separate")
    assert fusion.scale == "learned"
    assert [(c.index, c.new, c.kept) for c in changes] == [(0, (0,), 1)]


def test_fields_of_a_new_letter_go_before_the_shapes_of_the_attention():
    found, _ = aimed(spec(), "M-M-", mixers={"M": {"d_state": 12, "d_conv": 3}})
    m = mixer(found, "M")
    assert (m.d_state, m.d_conv, m.n_heads) == (12, 3, 4)


def test_a_window_is_the_same_attention_otherwise():
    found, _ = aimed(spec(), "W-*-", mixers={"W": {"window": 7}})
    w = mixer(found, "W")
    assert (w.window, w.n_kv_heads, w.head_dim) == (7, 2, 4)


@pytest.mark.parametrize(("into", "pattern"), [("M", "M-*-"), ("{*G}", "{*G}-*-")])
def test_layers_that_stay_are_counted_among_the_attentions(into, pattern):
    found = target(spec(), ConvertConfig(keep_layers=(1,), into=into))
    assert found.spec.pattern == pattern


def test_only_plain_attentions_are_counted():
    teacher = spec(pattern="*-M-", mixers={**spec_mixers(), "*": {"head_dim": 4}})
    assert [s.index for s in attentions(teacher)] == [0]


def spec_mixers() -> dict[str, Any]:
    return {"-": {"d_ff": 24}}


@pytest.mark.parametrize(
    ("pattern", "fields", "says"),
    [
        ("M-M", {}, "has 3 sublayers, and must have one for each of the teacher's 4"),
        ("MMM-", {}, "sublayer 1 is 'M' where the teacher has '-'"),
        ("M-*M", {}, "sublayer 3 is 'M' where the teacher has '-'"),
        ("M---", {}, "sublayer 2 is '-' (mlp"),
        ("{MG}-*-", {}, "one of its branches must be the teacher's '*'"),
        ("(*-)2", {}, "is the teacher's, nothing is to be made"),
        ("Q-*-", {}, "letter 'Q' names no mixer"),
        ("M-*-", {"mixers": {"M": {"d_sate": 3}}}, "unknown field 'd_sate'"),
        ("M-*-", {"mixers": {"*": {"window": 3}}}, "convert.mixers.*: is a letter of the teacher"),
        ("M-*-", {"mixers": {"G": {"d_conv": 3}}}, "convert.mixers.G: is not in the pattern"),
        ("M-(", {}, "convert.pattern: "),
    ],
)
def test_what_does_not_lie_on_the_teacher_is_refused(pattern, fields, says):
    with pytest.raises(InputError) as told:
        aimed(spec(), pattern, **fields)
    assert says in str(told.value)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="2 is no attention of the teacher, which has 2"):
        target(spec(), ConvertConfig(keep_layers=(2,)))


def test_a_norm_behind_the_attention_stays_there():
    mixers = {**MODEL_POST, "-": {"d_ff": 24}}
    found, _ = aimed(spec(mixers=mixers), "M-*-")
    assert found.sublayers[0].wiring.norm_position == "post"
    with pytest.raises(InputError, match="norm_position = 'post'"):
        aimed(spec(mixers=mixers), "{M*}-*-")


MODEL_POST: dict[str, Any] = {"*": {"n_heads": 4, "norm_position": "post"}}
