"""The laws on a GPU, in fp64, and how near to the truth it is in other precisions."""

from __future__ import annotations

import copy

import pytest
import torch

from braidlm import laws
from braidlm.generate import generate
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
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 2e-5), (torch.bfloat16, 0.15)])
def test_a_gpu_is_as_near_to_the_truth_as_a_cpu(name, dtype, least):
    """Rounding grows with depth, so the bound is what a CPU loses against fp64, three times over.

    bf16: hidden states of order 1 may differ by a few of its steps of 2^-8 whatever the depth.
    """
    row = tokens(37)[None]
    model = build(name, torch.float32)

    def hidden(device: str, dtype: torch.dtype) -> torch.Tensor:
        there = copy.deepcopy(model).to(device)
        if dtype == torch.float64:
            there = there.to(dtype)
        with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype == torch.bfloat16):
            return there(row.to(device), return_state=False).hidden.double().cpu()

    truth = hidden("cpu", torch.float64)
    lost_here = float((hidden("cpu", dtype) - truth).abs().max())
    lost_there = float((hidden("cuda", dtype) - truth).abs().max())
    assert lost_there < max(least, 3 * lost_here)


def test_generation_is_the_same_on_both_devices():
    model = build("sequential hybrid", torch.float64)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [30]]
    here = generate(model, prompts, max_new_tokens=12, temperature=0.0)
    assert generate(model.cuda(), prompts, max_new_tokens=12, temperature=0.0) == here
