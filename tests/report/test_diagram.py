import pytest

from braidlm.arch.cost import cost
from braidlm.arch.recipe import Recipe
from braidlm.errors import InputError
from braidlm.report.diagram import Cell, Repeat, cells, draw, fold
from braidlm.report.figures import arch_figures

from .making import config

M, A, F = Cell(("mamba2",)), Cell(("attention",)), Cell(("mlp",))


def _unfold(items):
    out = []
    for item in items:
        out += _unfold(item.items) * item.count if isinstance(item, Repeat) else [item]
    return out


@pytest.mark.parametrize(
    "pattern", ["(M-)9", "(M-M-M-*-M-M-)4", "MMMM*-M", "M" * 40, "*M-*MM-*MMM-", "-M-M-*-M-M-*"]
)
def test_folding_loses_no_sublayer(pattern):
    items = cells(config(pattern))
    assert _unfold(fold(items)) == items


def test_folding_finds_nested_units_by_layer():
    assert fold([M, F] * 9) == (Repeat((M, F), 9),)
    inner = (Repeat((M, F), 3), A, F, Repeat((M, F), 2))
    assert fold(([M, F] * 3 + [A, F] + [M, F] * 2) * 2) == (Repeat(inner, 2),)
    assert fold([M] * 4 + [A]) == (Repeat((M,), 4), A)


def test_windowed_attention_has_a_box_of_its_own():
    """Also where only the pattern can be read."""
    W = Cell(("window_attention",))
    assert cells(config("W-*-")) == [W, F, A, F]
    windowed = config("A*", mixers={"A": {"kind": "attention", "window": 3}})
    assert cells(windowed) == [W, A]
    assert cells({"model": {"pattern": "W*", "unknown": 1}}) == [W, A]
    assert "window attention" in draw([W], "x")


def test_a_shared_letter_is_on_all_its_boxes():
    shared = {"*": {"shared": True}, "A": {"kind": "attention", "shared": True}}
    items = cells(config("M*MAM*", mixers=shared))
    assert [item.shared for item in items] == ["", "*", "", "A", "", "*"]
    assert fold(items) == tuple(items)  # A repeats nothing: its weights are others
    drawn = draw(items, "x")
    assert drawn.count("attention, shared *</title>") == 2
    assert drawn.count("attention, shared A</title>") == 1
    assert ">attention, shared A</text>" in drawn


def test_a_parallel_sublayer_shows_its_branches_and_its_fusion():
    items = cells(config("{M*}-", fusion={"combine": "mean", "norm": "rms"}))
    assert items == [Cell(("mamba2", "attention"), "mean, rms"), F]
    drawn = draw(items, "x")
    assert drawn.count('class="box') == 3
    assert "mean, rms" in drawn


@pytest.mark.parametrize(
    ("fusion", "words"),
    [
        ({"combine": "gate", "gate": "token", "norm": "group"}, "gate, per token, group"),
        ({"combine": "cross_attention"}, "cross attention, rms"),
        (
            {"combine": "cross_attention", "cross": {"query": "recurrent", "position": "rope"}},
            "cross attention, SSM asks, rope, rms",
        ),
        ({"combine": "merge_attention", "norm": "none"}, "merge attention"),
        (
            {"combine": "merge_attention", "norm": "none", "cross": {"window": 9}},
            "merge attention, window 9",
        ),
    ],
)
def test_the_label_of_a_fusion_tells_its_settings_apart(fusion, words):
    equal = {"M": {"expand": 1}}
    (cell,) = cells(config("{M*}", fusion=fusion, mixers=equal))
    assert cell.fusion == words
    assert f"<title>{words}</title>" in draw([cell], "x")


def test_a_repeat_is_drawn_once_with_its_count():
    drawn = draw(cells(config("(M-)9")), "x")
    assert drawn.count('class="box') == 2
    assert "×9" in drawn
    assert draw(cells(config("(M-)2")), "x").count('class="box') == 4  # short: every layer


def test_a_config_of_another_version_is_read_by_its_pattern():
    assert cells({"model": {"pattern": "M*Z", "unknown": 1}}) == [M, A, Cell(("Z",))]
    with pytest.raises(InputError, match=r"model\.pattern"):
        cells({"model": {}})


def test_arch_figures_are_those_of_arch():
    plain = config("M-*-", steps=100)
    spec = Recipe.from_dict(plain).spec
    found = arch_figures(plain, 1000)
    assert found["n_params"] == cost(spec, 1000).n_params
    assert found["cache_bytes"] == cost(spec, 1000).cache_bytes
    assert found["kv_bytes"] == 1000 * 2 * 64 * 2  # one attention: keys and values, 64 wide, bf16
    assert found["kv_bytes"] + found["state_bytes"] == found["cache_bytes"]
    assert found["training_tokens"] == 100 * 4 * 64
    assert found["training_flops"] == cost(spec, 64).training_flops * 400


def test_arch_figures_say_why_there_are_none():
    found = arch_figures({"model": {"pattern": "M-", "d_modle": 64}}, 1000)
    assert found["n_params"] is None
    assert found["pattern"] == "M-"
    assert "d_modle" in found["cost_error"]
