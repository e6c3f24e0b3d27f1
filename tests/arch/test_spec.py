import json
import re
from typing import Any

import pytest

from braidlm.arch import Spec
from braidlm.arch.mixers import AttentionConfig, Mamba2Config, MLPConfig
from braidlm.errors import InputError


def mixer(spec: Spec, letter: str) -> Any:
    return next(x.mixer for x in spec.mixers if x.letter == letter)


def test_a_pattern_is_enough_and_every_size_becomes_explicit():
    spec = Spec.parse("M-*", d_model=384, vocab_size=1000)
    assert (spec.d_model, spec.vocab_size, spec.tie_embeddings) == (384, 1000, True)
    assert spec.init_std == pytest.approx(384**-0.5)
    assert mixer(spec, "M") == Mamba2Config(n_heads=12, head_dim=64)
    assert mixer(spec, "*") == AttentionConfig(n_heads=6, n_kv_heads=6, head_dim=64, v_head_dim=64)
    assert mixer(spec, "-") == MLPConfig(d_ff=1024)
    assert [x.letter for x in spec.mixers] == ["*", "-", "M"]


def test_letter_w_has_a_window_unless_it_is_something_else():
    given = {"pattern": "W*X", "d_model": 64, "mixers": {"X": {"kind": "attention", "window": 7}}}
    spec = Spec.of(given)
    assert [mixer(spec, x).window for x in "W*X"] == [512, None, 7]
    assert Spec.of(spec.model_dump(mode="json", exclude_none=True)) == spec
    for fields, window in (({"kind": "attention"}, 512), ({"window": 9}, 9), ({"n_sinks": 4}, 512)):
        assert mixer(Spec.of({"pattern": "W", "mixers": {"W": fields}}), "W").window == window
    other = Spec.of({"pattern": "W", "mixers": {"W": {"kind": "mlp"}}})
    assert isinstance(mixer(other, "W"), MLPConfig)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": 0}, "mixers.W.window = 0: input should be greater than 0"),
        ({"window": 1.5}, "mixers.W.window = 1.5"),
        ({"n_sinks": -1}, "mixers.W.n_sinks = -1: input should be greater than or equal to 0"),
        ({"windw": 3}, "unknown field 'windw' (did you mean 'window'?)"),
    ],
)
def test_a_window_that_cannot_be_is_refused(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Spec.of({"pattern": "W", "mixers": {"W": fields}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"softcap": 0.0}, "mixers.*.softcap = 0.0: input should be greater than 0"),
        ({"softcap": "50"}, "mixers.*.softcap = '50'"),
        ({"sink_logit": 1}, "mixers.*.sink_logit = 1: input should be a valid boolean"),
        ({"qk_norm": True}, "mixers.*.qk_norm = True: input should be 'none', 'head' or 'width'"),
        ({"output_gate": "x"}, "output_gate = 'x': input should be 'none', 'head' or 'channel'"),
        ({"soft_cap": 50.0}, "unknown field 'soft_cap' (did you mean 'softcap'?)"),
    ],
)
def test_options_of_attention_that_cannot_be_are_refused(fields, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Spec.of({"pattern": "*", "mixers": {"*": fields}})


def test_sinks_need_a_window():
    with pytest.raises(InputError, match="n_sinks = 4: needs a window"):
        Spec.of({"pattern": "*", "mixers": {"*": {"n_sinks": 4}}})


def test_defaults_follow_what_is_given():
    spec = Spec.of(
        {
            "pattern": "M*-",
            "d_model": 96,
            "mixers": {
                "M": {"expand": 1.5, "head_dim": 16},
                "*": {"head_dim": 32, "n_heads": 8, "n_kv_heads": 2},
                "-": {"gated": False},
            },
        }
    )
    assert mixer(spec, "M").n_heads == 9
    assert (mixer(spec, "*").v_head_dim, mixer(spec, "*").width) == (32, 256)
    assert mixer(spec, "-").d_ff == 384


def test_small_models_have_small_heads():
    spec = Spec.parse("M*", d_model=32)
    assert (mixer(spec, "*").head_dim, mixer(spec, "*").n_heads) == (32, 1)
    assert (mixer(spec, "M").head_dim, mixer(spec, "M").n_heads) == (64, 1)


def test_a_recipe_may_declare_letters_of_its_own():
    spec = Spec.of(
        {
            "pattern": "MAB*P",
            "d_model": 64,
            "mixers": {
                "A": {"kind": "attention", "position": "none"},
                "B": {"kind": "mamba2", "d_state": 16},
                "*": {"kind": "mlp"},
            },
            "parallel": {"P": {"branches": "AB", "combine": "add"}},
        }
    )
    kinds = [[b.kind for b in s.branches] for s in spec.sublayers]  # type: ignore[attr-defined]
    assert kinds == [["mamba2"], ["attention"], ["mamba2"], ["mlp"], ["attention", "mamba2"]]
    last = spec.sublayers[-1]
    assert (last.symbol, last.letters, last.is_parallel) == ("P", ("A", "B"), True)
    assert last.fusion is not None
    assert (last.fusion.combine, spec.fusion.combine) == ("add", "mean")


def test_sublayers_are_numbered_and_braces_take_the_default_fusion():
    spec = Spec.of({"pattern": "(M{M*})2", "fusion": {"combine": "subtract"}})
    assert [(s.index, s.symbol) for s in spec.sublayers] == [
        (0, "M"), (1, "{M*}"), (2, "M"), (3, "{M*}")
    ]  # fmt: skip
    assert [s.fusion is spec.fusion for s in spec.sublayers] == [False, True, False, True]
    assert spec.n_layers == 4


STORED = [
    {"pattern": "(M-)2"},
    {"pattern": "({M*}-)2P", "d_model": 64, "fusion": {"combine": "cross_attention"},
     "parallel": {"P": {"branches": "M*", "combine": "concat", "norm": "group"}}},
    {"pattern": "*", "mixers": {"*": {"rope_scaling": {"kind": "llama3", "factor": 32}}}},
    {"pattern": "*", "mixers": {"*": {"rope_scaling": {"kind": "yarn", "factor": 4,
     "truncate": False}}}},
    {"pattern": "M", "mixers": {"M": {"expand": 1}, "A": {"kind": "attention"}}},
]  # fmt: skip


@pytest.mark.parametrize("given", STORED)
def test_the_stored_form_is_the_same_spec(given):
    spec = Spec.of(given)
    assert Spec.of(spec.model_dump()) == spec
    assert Spec.of(json.loads(spec.model_dump_json())) == spec
    assert Spec.of(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_equal_declarations_are_equal_and_hashable():
    assert Spec.of({"pattern": "(M)(M)"}) == Spec.of({"pattern": "MM"})
    assert hash(Spec.parse("M-")) == hash(Spec.parse("(M-)"))


BAD = [
    ({}, "pattern: this field is required"),
    ({"pattern": 3}, "pattern = 3"),
    ({"pattern": "Q"}, "letter 'Q' names no mixer: declare [mixers.Q] with a kind, or use one of"),
    ({"pattern": "MD"}, "letter 'D' is Megatron's sparse attention"),
    ({"pattern": "M|M"}, "Megatron's pipeline-stage split"),
    ({"d_modle": 3}, "unknown field 'd_modle' (did you mean 'd_model'?)"),
    ({"d_model": 0}, "d_model = 0: must be a whole number of at least 1"),
    ({"d_model": "64"}, "d_model = '64': must be a whole number"),
    ({"d_model": 64.0}, "d_model = 64.0: must be a whole number"),
    ({"d_model": True}, "d_model = True"),
    ({"vocab_size": 1}, "vocab_size = 1: input should be greater than 1"),
    ({"vocab_size": "4"}, "vocab_size = '4'"),
    ({"tie_embeddings": 1}, "tie_embeddings = 1"),
    ({"norm_eps": -1}, "norm_eps = -1"),
    ({"init_std": float("inf")}, "init_std = inf: input should be a finite number"),
    ({"mixers": 3}, "mixers = 3: must be a table of letters"),
    ({"mixers": {"M": 3}}, "mixers.M = 3: must be a table of fields"),
    ({"mixers": {"MM": {}}}, "mixers.MM: a letter is one of"),
    ({"mixers": {"": {}}}, "mixers.: a letter is one of"),
    ({"mixers": {"é": {}}}, "mixers.é: a letter is one of"),
    ({"mixers": {1: {}}}, "mixers.1: a letter is one of"),
    ({"mixers": [3]}, "mixers: every entry must have a letter of its own, not 3"),
    ({"mixers": [{"letter": "M"}, {"letter": "M"}]}, "must have a letter of its own"),
    ({"mixers": {"M": {"mixer": 3}}}, "mixers.M.mixer = 3: must be a table of fields"),
    ({"mixers": {"M": {"mixer": {}, "d_state": 3}}}, "mixers.M: 'd_state' belongs inside 'mixer'"),
    (
        {"parallel": {"P": {"branches": "M*", "fusion": {}, "norm": "rms"}}},
        "parallel.P: 'norm' belongs inside 'fusion'",
    ),
    ({"mixers": {"A": {}}}, "letter 'A' names no mixer"),
    ({"mixers": {"M": {"kind": "mamba9"}}}, "mixers.M.kind = 'mamba9' (did you mean 'mamba2'?)"),
    ({"mixers": {"M": {"kind": []}}}, "mixers.M.kind = []"),
    ({"mixers": {"M": {"d_sate": 3}}}, "mixers.M: unknown field 'd_sate' (did you mean 'd_state'"),
    ({"mixers": {"M": {"d_state": 0}}}, "mixers.M.d_state = 0: input should be greater than 0"),
    ({"mixers": {"M": {"d_state": "16"}}}, "mixers.M.d_state = '16'"),
    ({"mixers": {"M": {"head_dim": "a"}}}, "mixers.M.head_dim = 'a': must be a whole number"),
    ({"mixers": {"M": {"head_dim": 60}}}, "head_dim = 60: must divide expand * d_model = 1024"),
    ({"mixers": {"M": {"expand": "x"}}}, "mixers.M.expand = 'x': must be a finite number"),
    ({"mixers": {"M": {"expand": True}}}, "mixers.M.expand = True"),
    ({"mixers": {"M": {"expand": float("nan")}}}, "mixers.M.expand = nan"),
    ({"mixers": {"M": {"expand": 0}}}, "mixers.M.expand = 0"),
    ({"mixers": {"M": {"expand": 2, "width": 4}}}, "mixers.M: give width or expand, not both"),
    (
        {"mixers": {"S": {"expand": 2, "d_inner": 4}}},
        "mixers.S: give one of expand, width and d_inner, not 2",
    ),
    ({"mixers": {"S": {"width": 0}}}, "mixers.S.width = 0: must be a whole number of at least 1"),
    ({"mixers": {"S": {"expand": -1}}}, "mixers.S.expand = -1: must be a finite number"),
    ({"mixers": {"S": {"d_inner": 9, "n_groups": 2}}}, "n_groups = 2: must divide d_inner = 9"),
    ({"mixers": {"S": {"dt_min": 0.2}}}, "dt_min = 0.2: must not exceed dt_max = 0.1"),
    ({"mixers": {"S": {"dt_bc_norm": "layer"}}}, "mixers.S.dt_bc_norm = 'layer': input should be"),
    ({"mixers": {"S": {"dt_rank": 0}}}, "mixers.S.dt_rank = 0: input should be greater than 0"),
    ({"mixers": {"M": {"width": 100}}}, "mixers.M.head_dim = 64: must divide width = 100"),
    ({"mixers": {"M": {"width": 0}}}, "mixers.M.width = 0: must be a whole number of at least 1"),
    ({"mixers": {"M": {"width": 64.0}}}, "mixers.M.width = 64.0"),
    ({"mixers": {"*": {"kind": "attention", "width": True}}}, "mixers.*.width = True"),
    (
        {"mixers": {"*": {"kind": "attention", "width": 8, "n_heads": 4, "head_dim": 2}}},
        "mixers.*: give two of width, n_heads and head_dim, not all three",
    ),
    (
        {"mixers": {"M": {"width": 8, "n_heads": 4, "head_dim": 2}}},
        "mixers.M: give two of width, n_heads and head_dim, not all three",
    ),
    (
        {"mixers": {"M": {"expand": 2, "n_heads": 4, "head_dim": 4}}},
        "give two of expand, n_heads and head_dim, not all three",
    ),
    ({"mixers": {"M": {"n_groups": 3}}}, "n_groups = 3: must divide n_heads = 16"),
    ({"mixers": {"M": {"d_conv": 1}}}, "mixers.M.d_conv = 1"),
    ({"mixers": {"M": {"dt_min": 1.0}}}, "dt_min = 1.0: must not exceed dt_max = 0.1"),
    ({"mixers": {"M": {"A_init_min": 20}}}, "A_init_min = 20.0: must not exceed A_init_max"),
    ({"mixers": {"M": {"norm": "layer"}}}, "mixers.M.norm = 'layer'"),
    ({"mixers": {"G": {"n_v_heads": 6}}}, "n_v_heads = 6: must be a multiple of n_heads = 4"),
    ({"mixers": {"G": {"head_dim": 50}}}, "head_dim = 50: must divide expand * d_model = 384"),
    ({"mixers": {"G": {"expand": 0.001}}}, "expand * d_model = 0.512: must be a whole number"),
    ({"mixers": {"G": {"expand": 1e308}}}, "expand * d_model = inf: must be a whole number"),
    ({"mixers": {"G": {"width": 7}}}, "mixers.G: width / expand_v = 3.5: must be a whole number"),
    ({"mixers": {"G": {"expand_v": 0.3}}}, "expand_v = 0.3: times head_dim = 96 must be a whole"),
    ({"mixers": {"G": {"expand_v": "2"}}}, "mixers.G.expand_v = '2': must be a finite number"),
    (
        {"mixers": {"G": {"expand_v": 2, "v_head_dim": 8}}},
        "mixers.G: give expand_v or v_head_dim, not both",
    ),
    ({"mixers": {"G": {"width": 8, "n_v_heads": 2}}}, "give width or n_v_heads, not both"),
    ({"mixers": {"G": {"width": 8, "expand": 2}}}, "mixers.G: give expand or width, not both"),
    ({"mixers": {"G": {"expand": 1, "n_heads": 2, "head_dim": 2}}}, "give two of expand, n_heads"),
    ({"mixers": {"G": {"norm_eps": 0.0}}}, "mixers.G.norm_eps = 0.0"),
    ({"mixers": {"G": {"A_init_min": 17.0}}}, "A_init_min = 17.0: must not exceed A_init_max"),
    ({"mixers": {"G": {"decay_rank": 2}}}, "mixers.G: unknown field 'decay_rank'"),
    ({"mixers": {"K": {"kind": "kda", "gate_rank": 0}}}, "mixers.K.gate_rank = 0"),
    ({"mixers": {"K": {"kind": "kda", "A_init_min": 0.0}}}, "mixers.K.A_init_min = 0.0"),
    ({"mixers": {"K": {"kind": "kda", "gate_activation": "gelu"}}}, "gate_activation = 'gelu'"),
    ({"pattern": "*", "d_model": 100}, "mixers.*.head_dim = 64: must divide d_model = 100"),
    ({"mixers": {"*": {"n_kv_heads": 3}}}, "n_kv_heads = 3: must divide n_heads = 8"),
    ({"mixers": {"*": {"head_dim": 0}}}, "mixers.*.head_dim = 0"),
    ({"mixers": {"*": {"position": "alibi"}}}, "mixers.*.position = 'alibi'"),
    ({"mixers": {"*": {"rope_fraction": 0.3}}}, "rotates 19 of head_dim = 64 channels"),
    ({"mixers": {"*": {"rope_scaling": {"factor": 0}}}}, "mixers.*.rope_scaling.factor = 0"),
    (
        {"mixers": {"*": {"rope_scaling": {"factor": 2, "high_freq_factor": 0.5}}}},
        "high_freq_factor = 0.5: must be greater than low_freq_factor = 1.0",
    ),
    (
        {"mixers": {"*": {"rope_scaling": {"kind": "yarn", "factor": 2, "beta_fast": 0.5}}}},
        "beta_fast = 0.5: must be greater than beta_slow = 1.0",
    ),
    (
        {"mixers": {"*": {"rope_scaling": {"factor": 2, "attention_factor": 0.5}}}},
        "attention_factor = 0.5: belongs to kind = 'yarn'",
    ),
    (
        {"mixers": {"*": {"rope_scaling": {"kind": "llama3", "factor": 2, "truncate": False}}}},
        "truncate = False: belongs to kind = 'yarn'",
    ),
    (
        {"mixers": {"*": {"rope_scaling": {"kind": "yarn", "factor": 2, "mscale": 1.0}}}},
        "mscale = 1.0: must be given together with mscale_all_dim",
    ),
    (
        {
            "mixers": {
                "*": {
                    "rope_scaling": {
                        "kind": "yarn",
                        "factor": 2,
                        "attention_factor": 1.0,
                        "mscale": 1.0,
                        "mscale_all_dim": 1.0,
                    }
                }
            }
        },
        "attention_factor = 1.0: give it or mscale, not both",
    ),
    *(
        (
            {"mixers": {x: {"rope_theta": 1.0, "rope_scaling": {"kind": "yarn", "factor": 2}}}},
            "rope_theta = 1.0: must be greater than 1 with yarn",
        )
        for x in "*+"
    ),
    ({"mixers": {"-": {"d_ff": 0}}}, "mixers.-.d_ff = 0"),
    ({"mixers": {"-": {"d_ff": 4.0}}}, "mixers.-.d_ff = 4.0"),
    ({"mixers": {"-": {"activation": "tanh"}}}, "mixers.-.activation = 'tanh'"),
    ({"parallel": {"P": {"branches": "M"}}}, "parallel.P.branches = 'M': must name at least two"),
    ({"parallel": {"P": {}}}, "parallel.P.branches = None: must name at least two"),
    ({"parallel": {"P": {"branches": "M*", "combin": "add"}}}, "(did you mean 'combine'?)"),
    ({"parallel": {"P": {"branches": "MQ"}}}, "letter 'Q' names no mixer"),
    ({"parallel": {"P": {"branches": "MP"}}}, "letter 'P' names a parallel sublayer"),
    ({"pattern": "{PM}", "parallel": {"P": {"branches": "M*"}}}, "a branch must be a mixer"),
    (
        {"pattern": "P", "mixers": {"P": {"kind": "mlp"}}, "parallel": {"P": {"branches": "M*"}}},
        "letter 'P' is declared both as a mixer and as parallel",
    ),
    ({"fusion": 3}, "fusion = 3"),
    ({"fusion": {"combine": "max"}}, "fusion.combine = 'max'"),
    ({"pattern": "M" * 5000}, "has 5000 sublayers; at most 4096 are allowed"),
]


@pytest.mark.parametrize(("given", "message"), BAD)
def test_every_bad_value_gets_its_sentence(given, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Spec.of({"pattern": "M", **given} if given else given)
    assert "\n" not in str(caught.value)


def test_parse_refuses_bad_sizes():
    with pytest.raises(InputError, match="d_model = -1"):
        Spec.parse("M", d_model=-1)


def test_a_size_that_two_others_decide_may_be_left_out():
    by_heads = Spec.of(
        {"pattern": "M*", "d_model": 48, "mixers": {"M": {"n_heads": 8}, "*": {"n_heads": 4}}}
    )
    mamba, attention = (x.branches[0] for x in by_heads.sublayers)
    assert isinstance(attention, AttentionConfig)
    assert isinstance(mamba, Mamba2Config)
    assert (attention.n_heads, attention.head_dim) == (4, 12)
    assert (mamba.n_heads, mamba.head_dim) == (8, 12)
    own_width = Spec.of(
        {"pattern": "*", "d_model": 20, "mixers": {"*": {"n_heads": 4, "head_dim": 6}}}
    )
    assert own_width.sublayers[0].branches[0].width == 24


def test_a_short_form_is_among_the_allowed_names():
    with pytest.raises(InputError, match=r"unknown field 'expnd' \(did you mean 'expand'\?\)"):
        Spec.of({"pattern": "M", "mixers": {"M": {"expnd": 2}}})
