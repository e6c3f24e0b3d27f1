"""Rotary positions and windows in configurations, without their library."""

from typing import Any

import pytest

from braidlm.arch import Spec
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec
from braidlm.interop.families import FAMILIES

SIZES: dict[str, Any] = {
    "vocab_size": 31,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 96,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}


SCALES = {"mscale": 1.0, "mscale_all_dim": 0.5}


def mixers(spec: Spec) -> dict[str, Any]:
    return {x.letter: x.mixer for x in spec.mixers}


def scaling(rope: dict[str, Any], **config: Any) -> dict[str, Any]:
    """What a Llama with these rotary parameters declares, beside the defaults of YaRN."""
    spec = FAMILIES["llama"].spec({**SIZES, "rope_parameters": rope, **config})
    found = mixers(spec)["*"].rope_scaling.model_dump()
    usual = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0}
    usual |= dict.fromkeys(("attention_factor", "mscale", "mscale_all_dim")) | {"truncate": True}
    return {k: v for k, v in found.items() if usual.get(k, k) != v}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {}),
        ({"beta_fast": None, "beta_slow": 0, "attention_factor": None}, {}),
        ({"beta_fast": 16, "truncate": False}, {"beta_fast": 16.0, "truncate": False}),
        (
            {"attention_factor": 0.5, "mscale": 1.0, "mscale_all_dim": 1.0},
            {"attention_factor": 0.5},
        ),
        (SCALES, SCALES),
        ({"mscale": 1.0}, {}),
        ({"mscale": 1.0, "mscale_all_dim": 0}, {}),
    ],
)
def test_what_is_null_zero_or_without_effect_in_yarn_is_left_out(given, found):
    """As transformers takes it: two numbers by `or`, the scales only together."""
    expected = {"kind": "yarn", "factor": 4.0, "original_length": 24}
    assert scaling({**YARN, **given}) == expected | found


def test_the_first_length_is_the_length_where_it_is_left_out():
    short = {"rope_type": "yarn", "factor": 4.0}
    assert scaling(short)["original_length"] == 96
    with pytest.raises(InputError, match="'max_position_embeddings' is missing"):
        scaling(short, max_position_embeddings=None)


def test_the_older_form_is_read_too():
    old = {k: v for k, v in YARN.items() if k != "rope_type"} | {"type": "yarn"}
    spec = FAMILIES["llama"].spec({**SIZES, "rope_scaling": old, "rope_theta": 500.0})
    new = FAMILIES["llama"].spec({**SIZES, "rope_parameters": {**YARN, "rope_theta": 500.0}})
    assert spec == new


@pytest.mark.parametrize(
    ("rope", "reason"),
    [
        ({**YARN, "factor": None}, "rope_scaling.factor = None"),
        ({**YARN, "truncate": None}, "rope_scaling.truncate = None"),
        ({**YARN, "beta_fast": 0.5}, "beta_fast = 0.5: must be greater than beta_slow = 1.0"),
        ({**YARN, "attention_factor": -1.0}, "rope_scaling.attention_factor = -1.0"),
        ({**YARN, "attention_factor": 0}, "rope_scaling.attention_factor = 0"),
        ({**YARN, "rope_theta": 1.0}, "rope_theta = 1.0: must be greater than 1 with yarn"),
        ({**YARN, "long_factor": [1.0]}, r"rope_parameters.long_factor = \[1.0\]"),
        ({"rope_type": "linear", "factor": 2.0, "beta_fast": 8.0}, "rope_parameters.beta_fast"),
        ({"rope_type": "longrope"}, "rope_type = 'longrope': .*default, linear, llama3, yarn"),
        ({**YARN, "partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5: .*allowed: 1.0"),
    ],
)
def test_rotary_parameters_that_we_do_not_compute_are_refused(rope, reason):
    with pytest.raises(InputError, match=reason):
        scaling(rope)


def test_two_tables_must_say_the_same():
    """transformers takes the older one, and then forgets the base that the other holds."""
    with pytest.raises(InputError, match=r"rope_scaling = .*allowed: what rope_parameters, given"):
        scaling({"rope_type": "default", "rope_theta": 1e6}, rope_scaling=YARN)
    assert scaling(YARN, rope_scaling=YARN)["kind"] == "yarn"


def declared(pattern: str, **fields: dict[str, Any]) -> Spec:
    mixers = {x: {"qk_norm": "head", **fields.get(x, {})} for x in "*W" if x in pattern}
    return Spec.of({"pattern": pattern, "d_model": 32, "vocab_size": 31, "mixers": mixers})


def test_yarn_goes_out_without_what_it_is_by_default():
    yarn = {"kind": "yarn", "factor": 2.0, "original_length": 16, "beta_slow": 0.5}
    _, written = for_spec(declared("*-", **{"*": {"rope_scaling": yarn}}), "qwen3")
    assert written["rope_parameters"] == {
        "rope_type": "yarn",
        "rope_theta": 10_000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "beta_slow": 0.5,
    }


@pytest.mark.parametrize("family", ["jamba", "nemotron_h"])
def test_families_without_positions_refuse_stretched_ones(family):
    yarn = {"kind": "yarn", "factor": 2.0, "original_length": 16}
    mixers = {"*": {"rope_scaling": yarn}}
    spec = Spec.of({"pattern": "*-", "d_model": 32, "vocab_size": 31, "mixers": mixers})
    with pytest.raises(InputError, match=r"position = 'rope'; only 'none' can be said") as caught:
        for_spec(spec, family)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "qwen3", "falcon_h1", "granitemoehybrid"])
def test_a_head_that_is_rotated_in_part_is_not_theirs(family):
    """Their classes rotate whole heads, and would do so without a word."""
    fields = {"rope_fraction": 0.5, **({"qk_norm": "head"} if family == "qwen3" else {})}
    fusion = {"fusion": {"combine": "add", "norm": "none"}}
    pattern = "{M*}-" if family == "falcon_h1" else "*-"
    spec = Spec.of(
        {
            "pattern": pattern,
            "d_model": 64,
            "vocab_size": 31,
            "mixers": {"*": fields},
            **(fusion if family == "falcon_h1" else {}),
        }
    )
    with pytest.raises(InputError, match=r"rope_fraction = 0.5; only 1.0 can be said"):
        for_spec(spec, family)


SLIDING = {"use_sliding_window": True, "sliding_window": 5}


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ({}, "(*-)3"),
        ({"sliding_window": 5, "max_window_layers": 1}, "(*-)3"),
        ({**SLIDING, "max_window_layers": 1}, "*-W-W-"),
        ({**SLIDING, "max_window_layers": 0}, "(W-)3"),
        (SLIDING, "(*-)3"),
        ({**SLIDING, "sliding_window": None, "max_window_layers": 0}, "(*-)3"),
        ({"use_sliding_window": True, "max_window_layers": 2}, "*-*-W-"),
        ({**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}, "(W-*-)2"),
    ],
)
def test_qwen3s_windows_are_where_transformers_has_them(config, pattern):
    """From a layer on, or in the layers of a list; none without leave, or if the window is null."""
    n = len(config.get("layer_types", [0] * 3))
    spec = FAMILIES["qwen3"].spec({**SIZES, "num_hidden_layers": n, **config})
    assert spec.pattern == pattern
    if "W" in pattern:
        assert mixers(spec)["W"].window == config.get("sliding_window", 4096)
        assert mixers(spec)["W"].n_sinks == 0
    family, written = for_spec(spec, "qwen3")
    assert family.spec(written).pattern == pattern
    assert written["use_sliding_window"] == ("W" in pattern)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types = 'sliding_attention': .*unless"),
        ({"use_sliding_window": 1}, "use_sliding_window = 1: .*true, false"),
        ({"max_window_layers": -1}, "max_window_layers = -1"),
        ({**SLIDING, "max_window_layers": 0, "sliding_window": 0}, "mixers.W.window = 0"),
        ({"layer_types": ["chunked_attention"] * 3}, "layer_types = 'chunked_attention'"),
    ],
)
def test_windows_that_we_do_not_compute_are_refused(config, reason):
    with pytest.raises(InputError, match=reason):
        FAMILIES["qwen3"].spec({**SIZES, **config})


HEADS = {"n_heads": 2, "head_dim": 16}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_sinks": 2}, r"sublayer 2 \(W\): n_sinks = 2; only 0 can be said"),
        ({"rope_theta": 5.0}, r"sublayer 0 \(\*\): rope_theta = 10000.0; only 5.0"),
        ({"n_kv_heads": 1}, r"sublayer 0 \(\*\): n_kv_heads = 2; only 1"),
    ],
)
def test_windowed_layers_differ_in_their_window_alone(fields, reason):
    with pytest.raises(InputError, match=reason):
        for_spec(declared("*-W-", **{"*": HEADS, "W": {**HEADS, **fields}}), "qwen3")
