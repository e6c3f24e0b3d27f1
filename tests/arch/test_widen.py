"""A model at another width: inner widths in proportion, everything else as it was."""

from fractions import Fraction

import pytest

from braidlm.arch import Spec
from braidlm.arch.knobs import heads, with_setting
from braidlm.arch.toml import model_table
from braidlm.arch.widen import widen
from braidlm.errors import InputError
from tests.specs import ALL, spec


@pytest.mark.parametrize("name", sorted(ALL))
def test_twice_as_wide_and_back_is_the_same_model(name: str):
    wide = widen(ALL[name], 32)
    assert wide.d_model == 2 * ALL[name].d_model
    assert [b.width for s in wide.sublayers for b in s.branches] == [
        2 * b.width for s in ALL[name].sublayers for b in s.branches
    ]
    assert widen(wide, 16) == ALL[name]
    assert widen(ALL[name], 16) == ALL[name]


def test_states_channels_and_the_vocabulary_stay():
    table = model_table(widen(spec("M*-"), 64))
    mamba, attention = table["mixers"]["M"], table["mixers"]["*"]
    assert (mamba["n_heads"], mamba["head_dim"], mamba["d_state"]) == (16, 4, 6)
    assert (attention["n_heads"], attention["n_kv_heads"], attention["head_dim"]) == (16, 8, 4)
    assert (table["mixers"]["-"]["d_ff"], table["vocab_size"]) == (96, 31)
    assert "softmax_scale" not in attention


def test_value_heads_stay_a_multiple_of_key_heads():
    grouped = spec("G", mixers={"G": {"n_v_heads": 4}})
    gdn = model_table(widen(grouped, 48))["mixers"]["G"]
    assert (gdn["n_heads"], gdn["n_v_heads"], gdn["head_dim"]) == (6, 12, 4)
    table = model_table(grouped)
    for setting in heads(table, Fraction(2)):
        wide = with_setting(table, setting)["mixers"]["G"]
        assert wide["n_v_heads"] == 2 * wide["n_heads"]


def test_the_scale_falls_as_one_over_head_dim_where_channels_must_shrink():
    narrow = widen(spec("*", mixers={"*": {"n_heads": 1, "n_kv_heads": 1, "head_dim": 4}}), 8)
    attention = model_table(narrow)["mixers"]["*"]
    assert (attention["n_heads"], attention["head_dim"]) == (1, 2)
    assert attention["softmax_scale"] == pytest.approx(4**-0.5 * 4 / 2)


def test_the_initial_spread_follows_the_width_or_mup_base():
    assert widen(Spec.parse("M-", d_model=64), 128).init_std == 128**-0.5
    base = Spec.of({"pattern": "M-", "d_model": 64, "mup_base_width": 64})
    wide = widen(base, 256)
    assert (wide.init_std, wide.hidden_init_std) == (64**-0.5, 64**-0.5 / 2)
    assert (wide.width_ratio, wide.logits_scale) == (4.0, 0.25)
    assert widen(Spec.of({**model_table(base), "init_std": 0.02}), 256).init_std == 0.02


def test_a_width_that_is_not_whole_is_named():
    with pytest.raises(InputError, match=r"mixers\.-\.d_ff = 24: times 17/16 is no whole number"):
        widen(spec("-"), 17)
    with pytest.raises(InputError, match="d_model = 0"):
        widen(spec("-"), 0)


@pytest.mark.parametrize(("d_model", "rank"), [(24, 3), (32, 4), (40, 5), (8, 1)])
def test_a_rank_grows_with_the_width_and_is_rounded_up(d_model: int, rank: int):
    narrow = spec("S", mixers={"S": {"d_inner": 16, "dt_rank": 2}})
    scan = model_table(widen(narrow, d_model))["mixers"]["S"]
    assert (scan["d_inner"], scan["dt_rank"], scan["d_state"]) == (d_model, rank, 3)
