"""The laws on a GPU in fp64, and how near to the truth it is in fp32 and bf16."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from braidlm import laws
from braidlm.generate import generate
from braidlm.tasks.greedy import answer
from tests.laws.test_model_laws import ALL, build, check, tokens
from tests.ops.compare import relative_l2

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


def hidden(model, device: str, dtype: torch.dtype) -> torch.Tensor:
    """Return what a copy of the model computes there, in fp64; weights stay as they are in bf16."""
    there = copy.deepcopy(model).to(device)
    there = there.double() if dtype == torch.float64 else there
    row = tokens(37)[None].to(device)
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype == torch.bfloat16):
        return there(row, return_state=False).hidden.double().cpu()


@pytest.mark.parametrize("name", ALL)
def test_fp32_is_near_the_truth(name):
    """Measured: at most 1.6e-5, and 2.4e-14 in fp64."""
    model = build(name, torch.float32)
    truth = hidden(model, "cpu", torch.float64)
    assert float((hidden(model, "cuda", torch.float32) - truth).abs().max()) < 2e-5
    assert float((hidden(model, "cuda", torch.float64) - truth).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ALL)
def test_bf16_is_as_near_to_the_truth_as_on_a_cpu(name):
    """A fixed bound fits no two models: deep ones round more, and a CPU's bf16 rounds alike."""
    model = build(name, torch.float32)
    truth = hidden(model, "cpu", torch.float64)
    here, there = (hidden(model, device, torch.bfloat16) for device in ("cpu", "cuda"))
    assert relative_l2(there, truth) <= 1.5 * relative_l2(here, truth)


def test_generation_is_the_same_on_both_devices():
    model = build("sequential hybrid", torch.float64)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [30]]
    here = generate(model, prompts, max_new_tokens=12, temperature=0.0)
    assert generate(model.cuda(), prompts, max_new_tokens=12, temperature=0.0) == here


@pytest.mark.parametrize("name", ["sequential hybrid", "window"])
def test_questions_are_answered_alike_on_both_devices(name):
    model = build(name, torch.float64).eval()
    prompts = [np.array([1, 2, 3]), np.array([4, 5, 6, 7, 8, 9, 10, 11, 12]), np.array([30])]
    answers = [np.array([5, 6]), np.array([7]), np.array([1, 2, 3])]
    with torch.inference_mode():
        losses, given = answer(model, prompts, answers, 12)
        there, given_there = answer(model.cuda(), prompts, answers, 12)
    assert given_there == given
    np.testing.assert_allclose(there, losses, rtol=1e-9)
