"""The laws on a GPU, in fp64, and the same model on both devices."""

from __future__ import annotations

import pytest
import torch

from braidlm import laws
from braidlm.generate import generate
from braidlm.model import HybridLM
from tests.laws.test_model_laws import ALL, build, check, tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("name", ALL)
def test_every_law_holds(name):
    model = build(name).cuda()
    row = tokens(60).cuda()
    check(laws.stepped(model, row[:17], 9))
    check(laws.carried(model, row[:29], (3, 1, 8, 2, 15)))
    check(laws.packed(model, row, [(8, 8, 4), (20,)]))
    check(laws.padded(model, row, (1, 17, 8, 3), "left"))
    check(laws.padded(model, row, (1, 17, 8, 3), "right"))
    assert laws.causality(model, row[:29], 16) < 1e-12


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.15)])
def test_both_devices_compute_the_same(name, dtype, tolerance):
    """bf16: both round, so hidden states of order 1 differ by a few of its steps of 2^-8."""
    row = tokens(37)[None]
    here = build(name, torch.float32)
    there = HybridLM(here.spec).cuda()
    there.load_state_dict(here.state_dict())
    with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
        found = there(row.cuda(), return_state=False).hidden.float().cpu()
        expected = here(row, return_state=False).hidden
    assert float((found - expected).abs().max()) < tolerance


def test_generation_is_the_same_on_both_devices():
    model = build("sequential hybrid", torch.float64)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [30]]
    here = generate(model, prompts, max_new_tokens=12, temperature=0.0)
    assert generate(model.cuda(), prompts, max_new_tokens=12, temperature=0.0) == here
