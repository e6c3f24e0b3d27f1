"""Answers by recorded steps are those of steps as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from braidlm.errors import InputError
from braidlm.generate import GraphStep
from braidlm.generate.mode import inference
from braidlm.model import HybridLM
from braidlm.tasks import greedy
from tests.specs import ALL

NAMES = ["sequential hybrid", "every option of attention", "window"]
PROMPTS = [np.array(ids) for ids in ([3, 1, 4], [1, 5, 9, 2, 6, 5, 3], [5], [8, 9, 7])]
ANSWERS = [np.array(ids) for ids in ([2, 7], [1], [8, 2, 8], [4])]


def _model(name: str, device: str = "cpu") -> HybridLM:
    torch.manual_seed(7)
    return HybridLM(ALL[name]).to(device, torch.float64)


@pytest.fixture
def recorded(monkeypatch) -> list[int]:
    """On a CPU steps are repeated instead of recorded; lists how often one was made to be."""
    made: list[int] = []

    def repeated(body):
        made.append(1)
        body()
        return body

    def step(model: HybridLM, dtype: str = "fp32") -> GraphStep:
        return GraphStep(model, record=repeated, dtype=dtype)

    monkeypatch.setattr(greedy, "GraphStep", step)
    monkeypatch.setattr(greedy, "is_recorded", lambda tokens, n_new: n_new >= 6)
    return made


def both(model: HybridLM, recorded: list[int], monkeypatch, **settings: Any) -> list[Any]:
    """Answers as they stand, and by recorded steps."""
    found = []
    for is_recorded in (lambda tokens, n_new: False, greedy.is_recorded):
        with monkeypatch.context() as patch, inference(model, settings.get("dtype", "fp32")):
            patch.setattr(greedy, "is_recorded", is_recorded)
            n_new, is_done = settings.get("n_new", 20), settings.get("is_done")
            found.append(greedy.answer(model, PROMPTS, ANSWERS, n_new, is_done))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_the_same(name, recorded, monkeypatch):
    model = _model(name)
    plain, ahead = both(model, recorded, monkeypatch)
    assert ahead == plain
    assert len(recorded) == 1
    assert {len(row) for row in ahead[1]} == {20}


def test_they_end_where_every_row_is_done(recorded, monkeypatch):
    model = _model("sequential hybrid")

    def is_done(tokens: list[int]) -> bool:
        return len(tokens) >= 4 + tokens[0] % 5

    plain, ahead = both(model, recorded, monkeypatch, is_done=is_done)
    assert ahead == plain
    assert 4 <= len(ahead[1][0]) < 20


def test_a_step_under_autocast_has_its_precision(recorded, monkeypatch):
    torch.manual_seed(7)
    model = HybridLM(ALL["sequential hybrid"])
    plain, ahead = both(model, recorded, monkeypatch, dtype="bf16", n_new=30)
    assert ahead == plain
    modes: list[bool] = []
    model.blocks[0].register_forward_hook(lambda *_: modes.append(torch.is_autocast_enabled("cpu")))
    with inference(model, "bf16"):
        greedy.continued(model, PROMPTS, 8)
    assert modes
    assert all(modes)


def test_a_form_is_recorded_once_inside(recorded):
    model = _model("sequential hybrid")
    with inference(model), greedy.steps_kept():
        for n_new in (8, 12, 7):
            greedy.continued(model, PROMPTS, n_new)
        assert len(recorded) == 1
        greedy.continued(model, PROMPTS[:2], 8)
        assert len(recorded) == 2
        greedy.continued(model, PROMPTS, 3)
        assert len(recorded) == 2
    with inference(model):
        greedy.continued(model, PROMPTS, 8)
        greedy.continued(model, PROMPTS, 8)
    assert len(recorded) == 4


def test_what_cannot_be_recorded_is_not_tried_again(monkeypatch, recorded):
    model = _model("sequential hybrid")
    tried: list[int] = []

    def refuse(body):
        tried.append(1)
        raise InputError("no")

    monkeypatch.setattr(
        greedy, "GraphStep", lambda model, dtype: GraphStep(model, record=refuse, dtype=dtype)
    )
    plain, ahead = both(model, recorded, monkeypatch)
    assert ahead == plain
    assert len(tried) == 1
    with inference(model), greedy.steps_kept():
        for _ in range(3):
            assert greedy.continued(model, PROMPTS, 20) == plain[1]
    assert len(tried) == 2


def test_broken_logits_give_what_they_gave(recorded, monkeypatch):
    model = _model("sequential hybrid")
    plain, _ = both(model, recorded, monkeypatch)
    word = plain[1][0][9]
    read = model.embedding.forward

    def breaking(tokens):
        return read(tokens).masked_fill((tokens == word)[..., None], torch.nan)

    model.embedding.forward = breaking  # type: ignore[method-assign]
    with inference(model):
        expected, found = (pair[1] for pair in both(model, recorded, monkeypatch))
    assert found == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cpu_records_nothing():
    assert not greedy.is_recorded(torch.zeros(3, dtype=torch.int64), 100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_gpu_gives_the_same_answers(dtype, monkeypatch):
    torch.manual_seed(7)
    model = HybridLM(ALL["sequential hybrid"]).cuda()
    plain, ahead = both(model, [], monkeypatch, dtype=dtype, n_new=30)
    assert ahead == plain
