"""The figures that the papers print, from their own formulas, to the digits they print."""

import re
from pathlib import Path

import pytest

from braidlm.arch import Spec
from braidlm.arch.allocate import even_spread
from braidlm.arch.cost import cost
from braidlm.arch.published import differences, published
from braidlm.arch.recipe import load_spec
from braidlm.errors import InputError

FOLDER = Path(__file__).parents[2] / "recipes" / "published"
MIB = 2**20
TOKENS = 60 * 10**9
BAE = ["transformer", "mamba", "inter-1to1", "inter-1to3", "inter-1to5", "inter-1to12", "swa-1to5"]


def nvidia(name):
    return load_spec(FOLDER / f"nvidia-8b-{name}.toml")


def bae(name):
    return load_spec(FOLDER / f"bae-1b-{name}.toml")


def rows(paper, symbol):
    return [s for s in paper.sublayers if s.symbol == symbol]


def test_nvidia_8b_hybrid():
    spec = nvidia("hybrid")
    paper = published("nvidia", spec, 4096)
    assert spec.pattern == even_spread(56, 0.08, 0.5)
    assert {x: len(rows(paper, x)) for x in "M*-"} == {"M": 24, "*": 4, "-": 28}
    assert round(paper.n_params / 1e9, 3) == 8.655
    assert [round(rows(paper, x)[0].n_params / 1e6, 2) for x in "M*-"] == [109.64, 41.95, 134.22]
    assert paper.kv_bytes_per_token == 16 * 1024
    assert round(paper.state_bytes / 1e6, 1) == 52.3
    assert round(128 * 1024 * paper.kv_bytes_per_token / 1e9, 1) == 2.1
    assert paper.cache_bytes == 4096 * 16 * 1024 + paper.state_bytes
    assert paper.training_flops_per_token is None


def test_nvidia_8b_pure_mamba2():
    paper = published("nvidia", nvidia("mamba2"), 4096)
    assert round(paper.n_params / 1e9, 3) == 8.237
    assert paper.kv_bytes_per_token == 0


@pytest.mark.parametrize("name", ["hybrid", "mamba2"])
def test_the_exact_count_has_nvidias_parameters_and_its_own_state(name):
    spec = nvidia(name)
    exact, paper = cost(spec, 1), published("nvidia", spec, 1)
    assert exact.n_params == paper.n_params
    assert differences("nvidia", spec) == {}
    # fp32 instead of bf16, and 3 columns of the convolution instead of 4.
    n = spec.pattern.count("M") if name == "hybrid" else 56
    assert exact.state_bytes == 2 * paper.state_bytes - n * 4 * (8192 + 2 * 8 * 128)


def test_bae_1b_blocks():
    mamba, attention = (published("bae", bae(n), 8192) for n in ("mamba", "transformer"))
    assert round(rows(attention, "*")[0].n_params / 1e6, 2) == 10.49
    assert round(rows(mamba, "M")[0].n_params / 1e6, 2) == 25.77
    assert rows(attention, "*")[0].cache_bytes == 16 * MIB
    assert round(rows(mamba, "M")[0].cache_bytes / MIB, 3) == 1.033
    assert round(attention.n_params / 1e9, 2) == 0.97


@pytest.mark.parametrize(
    ("name", "mib"),
    [("transformer", 256.0), ("mamba", 13.4), ("inter-1to1", 119), ("inter-1to3", 58),
     ("inter-1to5", 43), ("inter-1to12", 28), ("swa-1to5", 63)],
)  # fmt: skip
def test_bae_1b_cache_at_8k(name, mib):
    total = published("bae", bae(name), 8192).cache_bytes / MIB
    assert round(total, 1 if isinstance(mib, float) else None) == mib


def test_bae_1b_windows_grow_only_by_their_full_attention():
    assert round(published("bae", bae("swa-1to5"), 32 * 1024).cache_bytes / MIB) == 207
    paper = published("bae", bae("swa-1to5"), 8192)
    assert rows(paper, "W")[0].cache_bytes == 4 * 64 * 8 * (512 + 64)
    assert paper.kv_bytes_per_token == 3 * 4 * 64 * 8
    seen = 12 * 2048 * 576 * (577 / 2 + 8192 - 576)
    assert rows(paper, "W")[0].training_flops == 6 * 10_485_760 * 8192 + seen


@pytest.mark.parametrize(
    ("name", "flops"), [("transformer", 4.47), ("mamba", 3.67), ("swa-1to5", 3.79)]
)
def test_bae_1b_training_flops(name, flops):
    paper = published("bae", bae(name), 8192)
    assert paper.training_flops_per_token is not None
    assert round(paper.training_flops_per_token * TOKENS / 1e20, 2) == flops


def test_the_head_is_what_bae_leaves_out_of_the_flops():
    for name, with_head in (("transformer", 5.4), ("mamba", 4.6)):
        exact = cost(bae(name), 8192).training_flops_per_token * TOKENS / 1e20
        assert round(exact, 1) == with_head


@pytest.mark.parametrize("name", BAE)
def test_the_exact_count_differs_from_baes_by_named_terms_alone(name):
    spec = bae(name)
    terms = differences("bae", spec)
    exact, paper = cost(spec, 1), published("bae", spec, 1)
    assert exact.n_params - paper.n_params == sum(terms.values())
    n_mamba, n = sum(s.symbol == "M" for s in spec.sublayers), spec.n_layers
    by_hand = {
        "norm of each sublayer": n * 2048,
        "convolution over B and C": n_mamba * 2 * 128 * 4,
        "bias of the convolution": n_mamba * (4096 + 2 * 128),
        "one of A_log, D, dt_bias": n_mamba * 32,
        "gated norm": n_mamba * 4096,
        "final norm": 2048,
        "embedding": 128256 * 2048,
    }
    assert terms == {name: count for name, count in by_hand.items() if count}


def test_samba_421m():
    """The paper's names give whole millions; 12 layers of 1536 by hand."""
    exact = cost(load_spec(FOLDER / "samba-421m.toml"), 8192)
    mamba = 1536 * 6144 + 3072 * (96 + 32) + 96 * 3072 + 3072 * 1536 + 3072 * (4 + 1 + 16 + 2)
    attention, mlp = 4 * 1536 * 1536, 3 * 1536 * 4096
    by_hand = 32000 * 1536 + 6 * (mamba + attention) + 12 * mlp + 25 * 1536
    assert exact.n_params == by_hand == 421_793_280
    assert exact.kv_bytes == 6 * 2048 * 2 * 2 * 1536
    assert exact.state_bytes == 6 * 4 * 3072 * (16 + 3)


@pytest.mark.parametrize(
    ("d_model", "n_layers", "millions"),
    [(768, 24, 129.1), (1024, 48, 371.5), (2048, 48, 1372.2), (2560, 64, 2768.3)],
)
def test_mambas_own_sizes(d_model, n_layers, millions):
    """The checkpoints of state-spaces: 130M, 370M, 1.4B, 2.8B; vocabulary 50280, tied."""
    spec = Spec.parse(f"(S){n_layers}", d_model=d_model, vocab_size=50280)
    assert round(cost(spec, 1).n_params / 1e6, 1) == millions


def test_nvidia_counts_the_cache_of_a_cross_attention():
    spec = Spec.of({"pattern": "{M*}", "fusion": {"combine": "cross_attention"}})
    paper = published("nvidia", spec, 100)
    assert paper.kv_bytes_per_token == 2 * 2 * 2 * 512
    assert paper.cache_bytes == 100 * paper.kv_bytes_per_token + paper.state_bytes


@pytest.mark.parametrize(
    ("convention", "given", "context", "message"),
    [
        ("meta", {"pattern": "M"}, 1, "convention = 'meta': allowed are bae, nvidia"),
        ("bae", {"pattern": "M"}, 0, "context = 0: must be at least 1"),
        ("bae", {"pattern": "M{M*}"}, 1, "no formula for the parallel sublayer {M*}"),
        ("bae", {"pattern": "M", "mixers": {"M": {"n_groups": 2}}}, 1, "not n_groups = 2; use"),
        ("bae", {"pattern": "*", "mixers": {"*": {"v_head_dim": 8}}}, 1, "not v_head_dim = 8 with"),
        (
            "bae",
            {"pattern": "*", "mixers": {"*": {"qk_norm": "head"}}},
            1,
            "rope, qk norm; use the",
        ),
        (
            "bae",
            {"pattern": "W", "mixers": {"W": {"output_gate": "head"}}},
            1,
            "gate per head; use",
        ),
        ("bae", {"pattern": "W", "mixers": {"W": {"sink_logit": True}}}, 1, "sink logit; use the"),
        (
            "bae",
            {"pattern": "M", "mixers": {"M": {"in_bias": True}}},
            1,
            "no biases of projections",
        ),
        (
            "bae",
            {"pattern": "*B", "mixers": {"B": {"kind": "attention", "kv_from": "*"}}},
            1,
            "keys of *; use the",
        ),
        ("bae", {"pattern": "M", "n_meta_tokens": 3}, 1, "no meta tokens (n_meta_tokens = 3)"),
        ("bae", {"pattern": "+"}, 1, "not MLAConfig; use"),
        ("bae", {"pattern": "-", "mixers": {"-": {"out_bias": True}}}, 1, "no biases of"),
    ],
)
def test_what_a_formula_does_not_cover_is_refused(convention, given, context, message):
    with pytest.raises(InputError, match=re.escape(message)):
        published(convention, Spec.of(given), context)
