"""Configurations of Mamba, FalconMamba and Jamba in and out, without their library."""

from typing import Any

import pytest

from braidlm.arch import Spec
from braidlm.errors import InputError
from braidlm.interop.choose import for_spec
from braidlm.interop.families import FAMILIES
from braidlm.interop.families.jamba import Periodic
from braidlm.interop.fields import Foreign

MAMBA = {"vocab_size": 31, "hidden_size": 32, "num_hidden_layers": 3}
JAMBA = {
    **MAMBA,
    "num_hidden_layers": 9,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_experts": 1,
}
SCAN = {"kind": "mamba1"}


def mixer(spec: Spec, letter: str) -> Any:
    return {x.letter: x.mixer for x in spec.mixers}[letter]


def test_what_a_file_leaves_out_is_the_default_of_the_class():
    spec = FAMILIES["mamba"].spec({**MAMBA, "expand": 3, "time_step_rank": "auto"})
    scan = mixer(spec, "S")
    assert (spec.pattern, spec.tie_embeddings, spec.norm_eps) == ("S3", True, 1e-5)
    assert (scan.d_inner, scan.dt_rank, scan.d_state, scan.d_conv) == (96, 2, 16, 4)
    assert scan.dt_bc_norm == "none"
    falcon = mixer(FAMILIES["falcon_mamba"].spec({**MAMBA, "mixer_rms_eps": 0.5}), "S")
    assert (falcon.dt_bc_norm, falcon.dt_bc_norm_eps) == ("rms_unweighted", 0.5)


def test_jambas_layers_return_after_a_period():
    spec = FAMILIES["jamba"].spec({**JAMBA, "rms_norm_eps": 0.25})
    assert spec.pattern == "S-S-S-S-*-S-S-S-S-"
    assert mixer(spec, "*").position == "none"
    assert (mixer(spec, "S").dt_bc_norm_eps, spec.norm_eps) == (0.25, 0.25)
    spec = FAMILIES["jamba"].spec({**JAMBA, "attn_layer_period": 3, "attn_layer_offset": 0})
    assert spec.pattern == "(*-S-S-)3"


@pytest.mark.parametrize(
    ("layers", "written"),
    [
        ("SSSS*SSS", (8, 4)),
        ("*S*S*", (2, 0)),
        ("S*", (2, 1)),
        ("***", (1, 0)),
        ("SS", (8, 4)),
        ("S*SS*", (3, 1)),
        ("SSSSS", (6, 5)),
    ],
)
def test_a_period_is_found_for_layers(layers, written):
    kinds = ["attention" if x == "*" else "mamba" for x in layers]
    config = Periodic().write(kinds)
    assert (config["attn_layer_period"], config["attn_layer_offset"]) == written
    defaults = {**FAMILIES["jamba"].defaults, "num_experts": 1}
    assert Periodic().read(Foreign(config, defaults, "config.json")) == kinds


def test_experts_lie_at_a_period_of_their_own():
    fields = {"n_experts": 4, "d_ff": 24, "norm_topk": False, "balance": "none"}
    mixers = {"S": {"dt_bc_norm": "rms"}, "*": {"position": "none"}, "E": fields}
    declared = {"d_model": 64, "vocab_size": 31, "norm_eps": 1e-6, "mixers": mixers}
    spec = Spec.of({"pattern": "SES-*ES-", **declared, "mixers": {**mixers, "-": {"d_ff": 24}}})
    found, written = for_spec(spec)
    assert found.model_type == "jamba"
    assert (written["expert_layer_period"], written["expert_layer_offset"]) == (2, 0)
    assert written["num_experts"] == 4
    assert found.spec(written).pattern == spec.pattern
    wide = Spec.of({"pattern": "SES-", **declared, "mixers": {**mixers, "-": {"d_ff": 25}}})
    with pytest.raises(InputError, match=r"sublayer [13] \([E-]\): d_ff"):
        for_spec(wide, "jamba")
    apart = Spec.of({"pattern": "SESES-", **declared, "mixers": {**mixers, "-": {"d_ff": 24}}})
    with pytest.raises(InputError, match="expert layers do not return after the same number"):
        for_spec(apart, "jamba")


@pytest.mark.parametrize(
    ("pattern", "fields", "family"),
    [
        ("S3", {}, "mamba"),
        ("S3", {"mixers": {"S": {"dt_bc_norm_eps": 0.1}}}, "mamba"),
        ("S", {"mixers": {"S": {"dt_bc_norm": "rms_unweighted"}}}, "falcon_mamba"),
        ("a", {"mixers": {"a": SCAN}}, "mamba"),
        ("S-*-S-", {"norm_eps": 1e-6}, "jamba"),
    ],
)
def test_a_model_of_ours_finds_its_family(pattern, fields, family):
    fields = dict(fields)
    if family == "jamba":
        fields["mixers"] = {"S": {"dt_bc_norm": "rms"}, "*": {"position": "none"}}
    spec = Spec.of({"pattern": pattern, "d_model": 64, "vocab_size": 31, **fields})
    found, written = for_spec(spec)
    assert found.model_type == family
    assert len(found.spec(written).sublayers) == len(spec.sublayers)


@pytest.mark.parametrize(
    ("pattern", "fields", "reason"),
    [
        ("S", {"mixers": {"S": {"dt_bc_norm": "rms"}}}, r"sublayer 0 \(S\): dt_bc_norm = 'rms'"),
        ("S", {"mixers": {"S": {"d_inner": 96}}}, r"S.d_inner = 96: is no whole multiple of d_mod"),
        ("S-*-*-S-", {}, "attention layers do not return after the same number"),
        ("S", {"mixers": {"S": {"n_groups": 2}}}, r"sublayer 0 \(S\): n_groups = 2"),
        ("S", {"mixers": {"S": {"in_bias": True}}}, r"sublayer 0 \(S\): in_bias = True"),
    ],
)
def test_a_model_that_no_family_expresses_names_what_and_where(pattern, fields, reason):
    spec = Spec.of({"pattern": pattern, "d_model": 64, "vocab_size": 31, **fields})
    with pytest.raises(InputError, match=reason):
        for_spec(spec)


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("mamba", {**MAMBA, "use_bias": 1}, r"_bias = 1: input should be a valid boolean"),
        ("mamba", {**MAMBA, "expand": 1.5}, r"expand = 1.5: .*allowed: a whole number"),
        ("falcon_mamba", {**MAMBA, "time_step_rank": "few"}, "time_step_rank = 'few'"),
        ("mamba", {**MAMBA, "mixer_rms_eps": 0.1}, "mixer_rms_eps = 0.1"),
        ("jamba", {**JAMBA, "num_experts": 0}, "E.n_experts = 0"),
        ("jamba", {**JAMBA, "expert_layer_offset": 2}, "expert_layer_offset = 2: .*from 0 to 1"),
        ("jamba", {**JAMBA, "attn_layer_offset": 8}, "attn_layer_offset = 8: .*from 0 to 7"),
        ("jamba", {**JAMBA, "attn_layer_period": 0}, "attn_layer_period = 0"),
    ],
)
def test_a_setting_that_we_do_not_compute_is_refused(family, config, reason):
    with pytest.raises(InputError, match=reason):
        FAMILIES[family].spec(config)
