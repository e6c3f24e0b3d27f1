"""Scoring in packed rows is scoring every part alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from braidlm.device import choose_device
from braidlm.generate.mode import choose_dtype, inference
from braidlm.model import HybridLM
from braidlm.tasks import scoring
from braidlm.tasks.scoring import Part, cut, pack, score
from tests.specs import PARALLEL, SINGLE, WHOLE


def test_cut_by_hand():
    assert cut([5, 0, 2], 2) == [
        Part(0, 0, 2),
        Part(0, 2, 2),
        Part(0, 4, 1),
        Part(2, 0, 2),
    ]


@given(st.lists(st.integers(0, 70), max_size=30), st.integers(1, 20))
def test_packing_loses_nothing_and_wastes_little(lengths, seq_len):
    parts = cut(lengths, seq_len)
    rows = pack(parts, seq_len)
    assert sorted(p for row in rows for p in row) == sorted(parts)
    filled = [sum(part.length for part in row) for row in rows]
    assert all(0 < n <= seq_len for n in filled)
    assert sum(2 * n <= seq_len for n in filled) <= 1
    assert sum(lengths) == sum(filled)


SPECS = {
    "mamba2": SINGLE["mamba2"],
    "attention": SINGLE["attention rope"],
    "sequential": WHOLE["sequential hybrid"],
    "cross_attention": PARALLEL["cross-attention (Lee)"],
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("at_once", [16, 1000])
def test_packed_scores_are_those_of_each_part_alone(name, at_once, monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", at_once)
    model = HybridLM(SPECS[name])
    rng = np.random.default_rng(0)
    sequences = [rng.integers(31, size=n) for n in (2, 17, 34, 9, 3, 40, 16, 18, 2)]
    with inference(model):
        found = score(model, sequences, 16)
        for tokens, losses in zip(sequences, found, strict=True):
            alone = []
            for start in range(0, len(tokens) - 1, 16):
                part = torch.from_numpy(tokens[start : start + 17])[None]
                logits = model.head(model(part[:, :-1]).hidden).log_softmax(-1)
                alone.append(-logits[0].gather(-1, part[0, 1:, None])[:, 0])
            assert losses.shape == (len(tokens) - 1,)
            np.testing.assert_allclose(losses, torch.cat(alone).numpy(), rtol=0, atol=2e-5)


def test_a_longer_context_tells_more_apart():
    """Parts see nothing of each other: with a context of 1 the loss is a bigram's."""
    model = HybridLM(SPECS["sequential"])
    tokens = np.array([5, 9, 5, 9, 9, 5, 5, 9])
    with inference(model):
        (short,) = score(model, [tokens], 1)
        (long,) = score(model, [tokens], 7)
    pairs = list(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    first = [short[pairs.index(pair)] for pair in pairs]
    np.testing.assert_allclose(short, first, atol=1e-6)
    assert long[0] == pytest.approx(short[0], abs=1e-6)
    assert np.abs(long[1:] - short[1:]).max() > 1e-3


def test_precision_and_device_are_chosen_by_rule():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_dtype(None, cpu, "bf16") == "fp32"
    assert choose_dtype(None, gpu, "auto") == "bf16"
    assert choose_dtype(None, gpu, "fp32") == "fp32"
    assert choose_dtype("bf16", cpu, "fp32") == "bf16"
    with pytest.raises(ValueError, match="dtype = 'fp16': allowed are fp32 and bf16"):
        choose_dtype("fp16", cpu, "fp32")
    with pytest.raises(ValueError, match="device = 'tpu': allowed are auto, cpu and cuda"):
        choose_device("tpu")
    assert choose_device("cpu") == cpu


def test_bf16_runs_and_differs():
    model = HybridLM(SPECS["sequential"])
    tokens = np.arange(20)
    with inference(model, "bf16"):
        (coarse,) = score(model, [tokens], 8)
    with inference(model, "fp32"):
        (fine,) = score(model, [tokens], 8)
    assert 0 < np.abs(coarse - fine).max() < 0.1
