"""OLMo Hybrid and Kimi Linear in and out, without their library."""

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from braidlm import interop
from braidlm.arch import Spec
from braidlm.arch.recipe import load_spec
from braidlm.errors import InputError
from braidlm.interop import weights
from braidlm.interop.choose import for_spec
from braidlm.interop.families import FAMILIES
from braidlm.interop.names import entries
from braidlm.model import HybridLM
from braidlm.tensors import Held
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


@pytest.mark.parametrize("name", ["olmo-hybrid-7b", "kimi-linear-48b-a3b"])
def test_a_published_recipe_goes_out_and_comes_back(name):
    spec = load_spec(PUBLISHED / f"{name}.toml")
    family, written = for_spec(spec)
    assert family.model_type == "_".join(name.split("-")[:2])
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


KIMI: dict[str, Any] = {
    "vocab_size": 163_840,
    "hidden_size": 2304,
    "num_hidden_layers": 27,
    "linear_attn_config": {
        "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
        "kda_layers": [i for i in range(1, 27) if i % 4],
        "head_dim": 128,
        "num_heads": 32,
        "short_conv_kernel_size": 4,
    },
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "mla_use_nope": True,
    "rope_theta": 10000.0,
    "q_lora_rank": None,
}


def test_kimis_published_configuration_is_the_recipe():
    recipe = load_spec(PUBLISHED / "kimi-linear-48b-a3b.toml")
    spec = FAMILIES["kimi_linear"].spec(KIMI)
    for mine, yours in zip(recipe.sublayers, spec.sublayers, strict=True):
        assert mine.branches[0].model_dump() == yours.branches[0].model_dump()
    assert spec.norm_eps == recipe.norm_eps


def test_kimi_goes_out_in_both_forms_if_both_can_say_it():
    written = FAMILIES["kimi_linear"].config(FAMILIES["kimi_linear"].spec(KIMI))
    assert written["layer_types"].count("full_attention") == 7
    assert written["mlp_layer_types"] == ["dense"] + ["sparse"] * 26
    for field in ("linear_attn_config", "first_k_dense_replace"):
        assert written[field] == KIMI[field]
    later = declared("kimi_linear", "AE+-")
    written = FAMILIES["kimi_linear"].config(later)
    assert written["mlp_layer_types"] == ["sparse", "dense"]
    assert "first_k_dense_replace" not in written


AFTER = {"norm_position": "post"}
MIXERS = {
    "G": {"norm_eps": 1e-5},
    "*": {"qk_norm": "width", **AFTER},
    "F": {"kind": "mlp", **AFTER},
}
LATENT = {
    "A": {"kind": "kda", "gate_bias": False},
    "+": {"position": "none", "norm_eps": 1e-6},
    "E": {
        "router": "sigmoid",
        "balance": "bias",
        "n_experts": 6,
        "n_groups": 3,
        "topk_group": 2,
        "d_ff": 24,
        "d_shared": 48,
        "routed_scale": 1.5,
    },
}
FORMS = {"olmo_hybrid": ("G-*F", MIXERS), "kimi_linear": ("A-+E", LATENT)}


def declared(family: str, pattern: str = "", **changes: Any) -> Spec:
    """A model that the family expresses but for `changes`: of a letter, or of the spec."""
    usual, mixers = FORMS[family]
    own = {k: v for k, v in changes.items() if not isinstance(v, dict)}
    own = {"tie_embeddings": family == "olmo_hybrid", **own}
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


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pattern": "A-*E"}, r"sublayer 2 \(\* E ...\) begins no layer of it: A-, AE, \+-, \+E"),
        ({"A": {"gate_bias": True}}, r"sublayer 0 \(A\): gate_bias = True; only False"),
        ({"A": {"n_heads": 4, "n_v_heads": 8}}, r"sublayer 0 \(A\): n_v_heads = 8; only 4"),
        ({"A": {"v_head_dim": 8}}, r"sublayer 0 \(A\): v_head_dim = 8; only 32"),
        ({"A": {"decay_rank": 5}}, r"sublayer 0 \(A\): decay_rank = 5; only 32"),
        ({"A": {"allow_negative_eigenvalues": True}}, r"sublayer 0 \(A\): allow_negative_eigenval"),
        ({"+": {"position": "rope"}}, r"sublayer 2 \(\+\): position = 'rope'; only 'none'"),
        ({"+": {"norm_eps": None}}, r"sublayer 2 \(\+\): norm_eps = 1e-05; only 1e-06"),
        ({"+": {"softmax_scale": 0.5}}, r"sublayer 2 \(\+\): softmax_scale = 0.5; only 0.1"),
        ({"E": {"d_shared": None}}, r"sublayer 3 \(E\): d_shared = None; only 24"),
        ({"E": {"d_shared": 30}}, r"sublayer 3 \(E\): d_shared = 30; only 24"),
        ({"E": {"router": "softmax"}}, r"sublayer 3 \(E\): router = 'softmax'"),
        ({"E": {"balance": "none"}}, r"sublayer 3 \(E\): balance = False; only True"),
        ({"E": {"activation": "gelu"}}, r"sublayer 3 \(E\): activation = 'gelu'"),
        ({"tie_embeddings": True}, "tie_embeddings = True; only False can be said"),
    ],
)
def test_what_kimi_cannot_say_names_the_sublayer(changes, reason):
    with pytest.raises(InputError, match=reason):
        for_spec(declared("kimi_linear", **changes), "kimi_linear")


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


def _table(**changes: Any) -> dict[str, Any]:
    return {"linear_attn_config": {**KIMI["linear_attn_config"], **changes}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"linear_attn_config": None}, "'layer_types' is missing"),
        ({"linear_attn_config": [1]}, r"linear_attn_config = \[1\]: .*allowed: a table"),
        (_table(kda_layers=None), "linear_attn_config.kda_layers = None: .*numbers from 1 to 27"),
        (_table(kda_layers=[0]), r"linear_attn_config.kda_layers = \[0\]: .*numbers from 1 to 27"),
        (_table(full_attn_layers=[1]), r"full_attn_layers = \[1\]: .*each once"),
        (_table(full_attn_layers=[4]), "every layer in one list; layer 8 is in none"),
        (_table(taps=3), "linear_attn_config.taps = 3"),
        (
            {"layer_types": ["full_attention"] * 27},
            r"layer_types = .*allowed: what the older field",
        ),
        ({"mlp_layer_types": ["sparse"] * 27}, r"mlp_layer_types = .*allowed: what the older fiel"),
        ({"first_k_dense_replace": -1}, "first_k_dense_replace = -1"),
        ({"moe_layer_freq": 2}, "moe_layer_freq = 2: .*allowed: 1"),
        ({"num_key_value_heads": 8}, "num_key_value_heads = 8: .*num_attention_heads = 32"),
        ({"mla_use_nope": False}, "mla_use_nope = False: .*allowed: True"),
        ({"attention_bias": True}, "attention_bias = True: .*allowed: False"),
        ({"num_shared_experts": 0}, "num_shared_experts = 0: .*at least 1"),
        ({"moe_router_activation_func": "softmax"}, "moe_router_activation_func = 'softmax'"),
        ({"topk_method": "greedy"}, "topk_method = 'greedy': .*'noaux_tc'"),
        ({"num_nextn_predict_layers": 1}, "num_nextn_predict_layers = 1: .*allowed: 0"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings = True: .*allowed: False"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling = {'type': 'yarn'}: no field of ours"),
        ({"n_group": 2}, "n_group = 2: no field of ours expresses it"),
    ],
)
def test_a_setting_of_kimi_that_we_do_not_compute_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        FAMILIES["kimi_linear"].spec({**KIMI, **changes})


@pytest.mark.parametrize("family", FORMS)
def test_a_model_of_ours_goes_out_and_comes_back_bit_for_bit(tmp_path, family):
    interop.save(HybridLM(declared(family)), tmp_path / "a")
    interop.import_run(tmp_path / "a", tmp_path / "run")
    assert interop.export_run(tmp_path / "run", tmp_path / "b")["family"] == family
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in "ab")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("family", FORMS)
def test_every_tensor_is_needed_in_its_shape_and_no_other(family):
    plan = entries(FAMILIES[family], declared(family))
    whole = {name: torch.zeros(shape) for e in plan for name, shape in e.theirs.items()}

    def check(tensors: dict[str, torch.Tensor]) -> None:
        assert weights.check(Held(tensors), plan, (), "here") == []

    check(whole)
    for name, tensor in whole.items():
        with pytest.raises(InputError, match=f"here: tensor '{name}' of shape .* is missing"):
            check({k: t for k, t in whole.items() if k != name})
        with pytest.raises(InputError, match=r"here: tensor '\S+' has shape .*, expected"):
            check({**whole, name: torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)})
        with pytest.raises(InputError, match=r"here: tensor '\S+' has shape .*, expected"):
            check({**whole, name: tensor[1:] if len(tensor) > 1 else tensor[None]})
    with pytest.raises(
        InputError, match=r"'model.layers.0.mlp.more' of shape \(3,\) is unexpected"
    ):
        check({**whole, "model.layers.0.mlp.more": torch.zeros(3)})
