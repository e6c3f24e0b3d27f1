"""Configurations for mamba-ssm and fla read back as the declaration, or a sentence says why not."""

import pytest

from braidlm.arch import Spec
from braidlm.bench.contender import NoPeerError
from braidlm.bench.peers import fla, mamba_ssm
from tests.bench.conftest import MIXERS

WIDE = {"-": {"d_ff": 128}}
MAMBA1 = {"S": {"d_inner": 32, "d_state": 4, "dt_rank": 1, "chunk_size": 8}}


def spec(pattern: str, mixers=None, **fields) -> Spec:
    own = {name: MIXERS[name] for name in dict.fromkeys(pattern) if name in MIXERS}
    for name, changes in (mixers or {}).items():
        own[name] = {**own.get(name, {}), **changes}
    return Spec.of({"pattern": pattern, "d_model": 16, "vocab_size": 300, "mixers": own, **fields})


def test_a_hybrid_for_mamba_ssm():
    found = mamba_ssm.configuration(spec("M-M-*-", WIDE))
    assert (found["n_layer"], found["attn_layer_idx"], found["d_intermediate"]) == (3, [2], 128)
    assert found["ssm_cfg"]["headdim"] == 8
    assert found["attn_cfg"]["rotary_emb_dim"] == 4


def test_mamba_1_for_mamba_ssm():
    found = mamba_ssm.configuration(spec("SS", MAMBA1))["ssm_cfg"]
    assert (found["layer"], found["expand"], found["dt_rank"]) == ("Mamba1", 2, 1)


def test_a_hybrid_for_fla():
    found = fla.configuration(spec("G-*-G-"))
    assert (found["num_hidden_layers"], found["attn"]["layers"]) == (3, [1])
    assert (found["expand_v"], found["intermediate_size"]) == (1.0, 32)


@pytest.mark.parametrize(
    ("library", "model", "says"),
    [
        (mamba_ssm, spec("M-*-"), r"sublayer 1 \(-\): d_ff = 32; only 128 can be said"),
        (mamba_ssm, spec("{M*}-", WIDE), "no parallel sublayer such as {M"),
        (mamba_ssm, spec("*-", WIDE), "no model without Mamba"),
        (mamba_ssm, spec("MM-", WIDE), "follows every mixer or none, not so in 'MM-'"),
        (mamba_ssm, spec("M", norm_eps=1e-6), "norm_eps"),
        (mamba_ssm, spec("M", {"M": {"n_heads": 5}}), "multiple of d_model = 16, not 40"),
        (mamba_ssm, spec("MW"), "window = 10"),
        (fla, spec("M-", WIDE), "Gated DeltaNet with MLPs"),
        (fla, spec("G"), "Gated DeltaNet with MLPs"),
        (fla, spec("G-", {"G": {"conv_bias": True}}), "conv_bias = True"),
        (fla, spec("G-*-", {"*": {"position": "none"}}), "position = 'none'"),
    ],
)
def test_what_they_cannot_say_is_told(library, model, says):
    with pytest.raises(NoPeerError, match=says):
        library.configuration(model)
