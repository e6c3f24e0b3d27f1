"""Configurations of OLMo Hybrid in and out, without their library."""

from typing import Any

import pytest

from braidlm.arch import Spec
from braidlm.arch.recipe import load_spec
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec
from braidlm.interop.families import FAMILIES
from tests.house import ROOT

OLMO: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 9,
    "num_attention_heads": 4,
}
PUBLISHED = ROOT / "recipes" / "published"


def mixer(spec: Spec, letter: str) -> Any:
    return {x.letter: x.mixer for x in spec.mixers}[letter]


def test_what_a_file_of_olmo_leaves_out_is_the_default_of_the_class():
    spec = FAMILIES["olmo_hybrid"].spec(OLMO)
    assert spec.pattern == "G-G-G-*FG-G-G-*FG-"
    delta, attention = mixer(spec, "G"), mixer(spec, "*")
    assert (delta.n_heads, delta.n_v_heads, delta.head_dim, delta.v_head_dim) == (4, 4, 6, 12)
    assert (delta.allow_negative_eigenvalues, delta.norm_eps, spec.norm_eps) == (True, 1e-5, 1e-6)
    assert (attention.n_kv_heads, attention.head_dim, attention.qk_norm) == (4, 8, "width")
    assert (attention.position, attention.rope_theta) == ("rope", 10_000.0)
    assert [s.wiring.norm_position for s in spec.sublayers[4:8]] == ["pre", "pre", "post", "post"]
    few = FAMILIES["olmo_hybrid"].spec({**OLMO, "num_hidden_layers": 2})
    assert few.pattern == "G-*F"


@pytest.mark.parametrize("name", ["olmo-hybrid-7b"])
def test_a_published_recipe_goes_out_and_comes_back(name):
    spec = load_spec(PUBLISHED / f"{name}.toml")
    family, written = for_spec(spec)
    assert family.model_type == name.rpartition("-")[0].replace("-", "_")
    again = family.spec(written)
    for mine, yours in zip(spec.sublayers, again.sublayers, strict=True):
        assert (mine.branches, mine.wiring) == (yours.branches, yours.wiring)


def test_olmos_published_configuration_is_the_recipe():
    """What its files say of the model of 7 billion parameters, the defaults of its class."""
    config = {
        "vocab_size": 100_352,
        "hidden_size": 3840,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 30,
        "rope_parameters": None,
        "rope_theta": None,
    }
    recipe = load_spec(PUBLISHED / "olmo-hybrid-7b.toml")
    spec = FAMILIES["olmo_hybrid"].spec(config)
    for mine, yours in zip(recipe.sublayers, spec.sublayers, strict=True):
        assert (mine.branches, mine.wiring) == (yours.branches, yours.wiring)
    assert spec.norm_eps == recipe.norm_eps


AFTER = {"norm_position": "post"}
MIXERS = {
    "G": {"norm_eps": 1e-5},
    "*": {"qk_norm": "width", **AFTER},
    "F": {"kind": "mlp", **AFTER},
}
FORMS = {"olmo_hybrid": ("G-*F", MIXERS)}


def declared(family: str, pattern: str = "", **changes: Any) -> Spec:
    """A model that the family expresses but for `changes`: of a letter, or of the spec."""
    usual, mixers = FORMS[family]
    own = {k: v for k, v in changes.items() if not isinstance(v, dict)}
    fields = {x: {**mixers.get(x, {}), **changes.get(x, {})} for x in {*mixers, *changes} - {*own}}
    return Spec.of(
        {"pattern": pattern or usual, "d_model": 32, "vocab_size": 31, "mixers": fields, **own}
    )


@pytest.mark.parametrize("family", FORMS)
def test_a_model_of_ours_finds_its_family(family):
    assert for_spec(declared(family))[0].model_type == family


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"pattern": "G-G-"},
            "its layers are at least one linear_attention and one full_attention",
        ),
        ({"pattern": "G-**F"}, r"sublayer 2 \(\* \* F ...\) begins no layer of it: G-, \*F"),
        ({"*": {"norm_position": "pre"}}, r"sublayer 2 \(\*\): norm_position = 'pre'; only 'post'"),
        ({"G": {"norm_eps": 1e-4}}, r"sublayer 0 \(G\): norm_eps = 0.0001; only 1e-05"),
        ({"G": {"conv_bias": True}}, r"sublayer 0 \(G\): conv_bias = True"),
        ({"G": {"gate_activation": "sigmoid"}}, r"sublayer 0 \(G\): gate_activation = 'sigmoid'"),
        ({"*": {"window": 4}}, r"sublayer 2 \(\*\): window = 4; only None can be said"),
        ({"*": {"qk_norm": "head"}}, r"sublayer 2 \(\*\): qk_norm = 'head'; only 'width'"),
        ({"*": {"rope_fraction": 0.5}}, r"sublayer 2 \(\*\): rope_fraction = 0.5; only 1.0"),
        ({"F": {"d_ff": 24}}, r"sublayer 1 \(-\): d_ff = 128; only 24"),
        ({"norm_offset": 1.0}, "norm_offset = 1.0; only 0.0 can be said"),
    ],
)
def test_what_olmo_cannot_say_names_the_sublayer(changes, reason):
    with pytest.raises(InputError, match=reason):
        for_spec(declared("olmo_hybrid", **changes), "olmo_hybrid")


def test_an_epsilon_may_be_said_by_the_model_or_by_the_mixer():
    """Without one of its own a mixer has the model's: the same function under another name."""
    own = declared("olmo_hybrid", G={"norm_eps": None}, norm_eps=1e-5)
    assert for_spec(own, "olmo_hybrid")[1]["rms_norm_eps"] == 1e-5
    with pytest.raises(InputError, match=r"norm_eps = 1e-06; only 1e-05"):
        for_spec(declared("olmo_hybrid", G={"norm_eps": None}, norm_eps=1e-6), "olmo_hybrid")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer_types": ["linear_attention"] * 9}, "at least one linear_attention and one full"),
        ({"layer_types": ["sliding_attention"] * 9}, "layer_types = 'sliding_attention': .*full"),
        ({"layer_types": ["full_attention"]}, "num_hidden_layers = 9: .*1, the length of layer"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': .*allowed: 'silu'"),
        ({"linear_num_value_heads": 6}, "n_v_heads = 6: must be a multiple of n_heads = 4"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_type = 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5: .*1.0, all channels"),
        ({"linear_use_gate": True}, "linear_use_gate = True: no field of ours expresses it"),
        ({"linear_conv_kernel_dim": 1}, "G.d_conv = 1"),
    ],
)
def test_a_setting_of_olmo_that_we_do_not_compute_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        FAMILIES["olmo_hybrid"].spec({**OLMO, **changes})
