"""Wiring against transformers: biases, factors, places of norms, weight for weight.

Logits and the gradient of every parameter, through maps that share nothing with `braidlm.interop`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from braidlm.model import HybridLM
from tests.judges.judging import Widened, distance, enliven, gradients, probe, relative
from tests.judges.wired_cases import CASES, FAMILIES
from tests.judges.wired_parts import Names, gather, load, present

transformers = pytest.importorskip("transformers", minversion="5.15.1")

EXACT = 1e-11
"""Both compute in fp64; measured 1e-12 at most, 4e-14 in most."""
SHIPPED = 1e-3
"""The judge untouched, in fp32; measured 3e-4 at most, 6e-6 in most."""


class Pair(NamedTuple):
    ours: HybridLM
    theirs: Any
    names: Names


def pair(case: str, dtype: torch.dtype = torch.float64) -> Pair:
    """Both models with the same weights, the judge's drawn at random."""
    family, fields = CASES[case]
    config = getattr(transformers, f"{family}Config")(**fields)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    enliven(theirs)
    theirs = theirs.to(dtype)
    to_spec, to_names = FAMILIES[family]
    ours, names = HybridLM(to_spec(config)).to(dtype), present(to_names(config), theirs)
    load(ours, names, theirs)
    share_frequencies(ours, theirs)
    return Pair(ours, theirs, names)


def share_frequencies(ours: HybridLM, theirs: Any) -> None:
    """Frequencies are fp32 on both sides and may differ in the last bit: 1e-7 of an angle."""
    own = [b for name, b in ours.named_buffers() if name.endswith("inv_freq") and len(b)]
    for name, buffer in theirs.named_buffers():
        if "rotary_emb." in name and name.endswith("inv_freq") and "original" not in name:
            torch.testing.assert_close(own[0], buffer, rtol=3e-7, atol=0)
            buffer.copy_(own[0])


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 37, shape, generator=torch.Generator().manual_seed(2))


def differences(p: Pair, ids: Tensor) -> tuple[float, float]:
    """Largest difference of logits and of gradients, relative, for rows (B, T)."""
    logits = p.ours.head(p.ours(ids, return_state=False).hidden)
    expected = p.theirs(input_ids=ids, use_cache=False).logits
    direction = probe(tuple(expected.shape)).to(expected)
    mine = gradients((logits * direction).sum(), p.ours)
    yours = gradients((expected * direction).sum(), p.theirs)
    return distance(logits, expected), relative(mine, gather(p.names, yours, mine))


@pytest.mark.parametrize("length", [5, 8, 29])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_agree(case, length):
    p = pair(case)
    torch.set_default_dtype(torch.float64)  # of a quotient of integers, such as positions
    try:
        with Widened():
            assert max(differences(p, tokens(2, length))) < EXACT
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_as_shipped(case):
    assert max(differences(pair(case, torch.float32), tokens(2, 29))) < SHIPPED


WRONG = {
    "falcon_h1, multipliers": ("blocks.1.mix.mixer", "gate_multiplier", 1.0),
    "falcon_h1, biases and multipliers": ("blocks.0.mix.combine", "out_multipliers", (1.0, 1.0)),
    "granite, dense": ("blocks.0", "residual_multiplier", 1.0),
    "mamba2, biases, limited steps": ("blocks.0.mix.mixer", "dt_limits", (0.0, None)),
    "nemotron_h, dense": ("blocks.3.mix.mixer", "dt_limits", (0.0, None)),
    "zamba2, two blocks": ("blocks.3", "input", "handed"),
    "ministral3": ("blocks.2.mix.mixer", "position_scale", None),
    "olmo hybrid": ("blocks.3", "is_post_normed", False),
    "qwen3-next, dense": ("blocks.1.norm", "offset", 0.0),
    "olmo3": ("blocks.0.mix.mixer.q_norm", "n_groups", 4),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_comparison_has_teeth(case):
    """Without one of its factors, or with a norm per head, a model is not theirs."""
    p = pair(case)
    path, name, value = WRONG[case]
    module = p.ours.get_submodule(path)
    assert getattr(module, name) != value
    setattr(module, name, value)
    with Widened():
        assert min(differences(p, tokens(2, 29))) > 1e-4
