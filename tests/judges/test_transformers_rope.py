"""YaRN and windows against transformers: frequencies, and whole models of every rotating family.

Their frequencies are computed in fp32, ours in fp64 and rounded once.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from braidlm.arch.mixers import RopeScaling
from braidlm.mixers.attention import scaling
from braidlm.ops.rope import rope_frequencies
from tests.judges.judging import Widened, distance
from tests.judges.transformers_pairs import (
    BAMBA,
    CASES,
    EXACT,
    FALCON,
    GRANITE,
    LLAMA,
    OLMO,
    YARN,
    ZAMBA2,
    differences,
    judged,
    our_logits,
    pair,
    tokens,
)

transformers = pytest.importorskip("transformers", minversion="5.15.1")
FP32 = 3e-6
"""Largest relative difference of a frequency; measured 2e-6, between channels, in their fp32."""


def drawn(seed: int) -> tuple[int, dict[str, Any]]:
    """The channels of a head, and rotary parameters of theirs, each optional one now and then."""
    draw = random.Random(seed)
    fields: dict[str, Any] = {
        "rope_type": "yarn",
        "rope_theta": draw.choice([2.0, 500.0, 1e4, 5e5, 1e6]),
        "factor": draw.choice([0.5, 1.0, 1.5, 4.0, 40.0]),
        "original_max_position_embeddings": draw.choice([4, 16, 512, 4096, 32768]),
    }
    options = {
        "truncate": draw.choice([True, False]),
        "beta_fast": draw.choice([2.0, 8.0, 64.0]),
        "beta_slow": draw.choice([0.1, 1.5]),
    }
    fields |= {k: v for k, v in options.items() if draw.random() < 0.5}
    scales: dict[str, Any] = {"mscale": draw.choice([0.7, 1.0]), "mscale_all_dim": 0.5}
    return draw.choice([4, 10, 64, 128]), fields | draw.choice(
        [{}, {"attention_factor": 1.7}, scales]
    )


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_frequencies_and_magnitude_are_theirs(seed):
    compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"]
    for one in range(seed, seed + 20):
        dim, fields = drawn(one)
        config = transformers.LlamaConfig(
            hidden_size=2 * dim,
            num_attention_heads=2,
            head_dim=dim,
            rope_parameters=dict(fields),
        )
        frequency, magnitude = compute(config, None)
        named = {k: v for k, v in fields.items() if not k.startswith(("rope", "original"))}
        length = fields["original_max_position_embeddings"]
        ours = RopeScaling(kind="yarn", original_length=length, **named)
        assert ours.magnitude == magnitude
        found = rope_frequencies(dim, fields["rope_theta"], scaling(ours))
        torch.testing.assert_close(found, frequency, rtol=FP32, atol=0)


TURNED: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("Bamba", {**BAMBA, "num_attention_heads": 2}),
    "falcon_h1": ("FalconH1", FALCON),
    "granite": ("GraniteMoeHybrid", {**GRANITE, "position_embedding_type": "rope"}),
    "olmo_hybrid": ("OlmoHybrid", OLMO),
    "qwen3_next": CASES["qwen3_next, experts"],
    "llama": ("Llama", LLAMA),
    "zamba2": ("Zamba2", {**ZAMBA2, "use_mem_rope": True}),
}
SCALES = {"mscale": 1.0, "mscale_all_dim": 0.4}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "qwen3_next" else pytest.mark.slow) for f in TURNED]
)
def test_a_family_under_yarn_is_theirs(monkeypatch, family):
    name, fields = TURNED[family]
    own = {"partial_rotary_factor": 0.5} if family in ("bamba", "qwen3_next") else {}
    monkeypatch.setitem(
        CASES, "yarn", (name, {**fields, "rope_parameters": {**YARN, **SCALES, **own}})
    )
    p = pair("yarn")
    with Widened():
        assert max(differences(p, tokens(2, 29))) < EXACT
    rotated: list[Any] = [m for m in p.ours.modules() if getattr(m, "magnitude", 1.0) != 1.0]
    assert rotated
    for module in rotated:
        module.magnitude = 1.0
    with Widened():
        assert distance(our_logits(p.ours, tokens(2, 29)), judged(p.theirs, tokens(2, 29))) > 1e-4


@torch.no_grad()
def test_both_continue_over_the_edge_of_a_window():
    """Windows of 5 and a full layer, by one token and by several."""
    p, ids = pair("qwen3, windows, yarn"), tokens(2, 29)
    with Widened():
        expected = judged(p.theirs, ids)
        cache, state, mine, yours = None, None, [], []
        for part in ids.split([3, 1, 1, 9, 1, 14], dim=1):
            theirs = p.theirs(input_ids=part, past_key_values=cache, use_cache=True)
            out = p.ours(part, state=state)
            cache, state = theirs.past_key_values, out.state
            mine.append(p.ours.head(out.hidden))
            yours.append(theirs.logits)
    assert distance(torch.cat(mine, dim=1), expected) < EXACT
    assert distance(torch.cat(yours, dim=1), expected) < EXACT
