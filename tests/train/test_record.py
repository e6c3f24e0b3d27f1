"""Recorded passes: on a GPU for real (test_cuda.py), here repeated into the places of the first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from braidlm.arch.experiment import TrainConfig
from braidlm.arch.replay import Replay
from braidlm.errors import InputError
from braidlm.model import HybridLM
from braidlm.recording import Body
from braidlm.segments import Segments
from braidlm.train import record, session
from braidlm.train.precision import resolve_precision
from braidlm.train.record import LEAST_RUNS, Recorder, check_launches, covering
from braidlm.train.step import Place, accumulate
from tests.specs import spec

from .test_compile import packed, update
from .test_loop import assert_same_run
from .tiny import TinyLM, TinyMixture, recipe, run

CPU = torch.device("cpu")
FP32 = resolve_precision("fp32", CPU)


def in_places(recorder: Recorder, told: list[Any]) -> Callable[[Body], Body]:
    """Record as a graph does: what is repeated writes where the recording wrote."""

    def recorded(body: Body) -> Body:
        body()
        told.append(recorder._held)
        made, loss = recorder._made, recorder._loss
        assert loss is not None

        def again() -> None:
            body()
            for place, new in zip(made, recorder._made, strict=True):
                if place is not None and new is not None:
                    place.copy_(new)
            assert recorder._loss is not None
            loss.copy_(recorder._loss)
            recorder._made, recorder._loss = made, loss

        return again

    return recorded


def recorder_of(model: torch.nn.Module, told: list[Any] | None = None) -> Recorder:
    recorder = Recorder(model, FP32, CPU)
    recorder._record = in_places(recorder, [] if told is None else told)
    return recorder


@pytest.mark.parametrize("micro_batch_size", [0, 1, 3])
def test_recorded_micro_batches_are_those_that_are_not(micro_batch_size):
    model = TinyLM(dtype=torch.float64)
    recorder = recorder_of(model)

    def passes(step: int, recorder: Recorder | None) -> list[Tensor]:
        model.zero_grad()
        batch = TinyMixture().batch(step)
        loss = accumulate(
            model, batch, micro_batch_size, FP32, Place(CPU), 0, step, recorder=recorder
        )
        return [loss, *(g.clone() for g in model.gradients().values())]

    for step in range(3):
        found, expected = passes(step, recorder), passes(step, None)
        assert len(found) == 7
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-10)


def test_gradients_that_are_there_are_added_to_and_kept():
    model = TinyLM()
    batch = TinyMixture().batch(0)
    given = batch.tokens, batch.targets, batch.segments, 12
    recorder = recorder_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    recorder.add(*given)
    once = {name: g.clone() - 1 for name, g in model.gradients().items()}
    model.zero_grad()
    recorder.add(*given)
    kept = model.gradients()  # of an update whose weights are not changed yet
    recorder.add(*given)
    for name, gradient in model.gradients().items():
        torch.testing.assert_close(gradient, 2 * once[name], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept[name], once[name], rtol=1e-5, atol=1e-5)


def test_one_recording_serves_every_packing_of_a_shape():
    told: list[Any] = []
    torch.manual_seed(0)
    model = HybridLM(spec("MG-"))
    recorder = recorder_of(model, told)
    lengths = [[[7, 1, 20], [12, 18]], [[40], [1, 1, 1]], [[40], [39, 1]], [[], [3] * 13]]
    for documents in lengths:
        tokens, segments = torch.randint(31, (2, 40)), Segments.from_lengths(documents, 40)
        expected = update(model, tokens, segments)
        targets = tokens.roll(1).where(segments.is_real, -100)
        model.zero_grad()
        loss = recorder.add(tokens, targets, segments, int(segments.lengths.sum()))
        found = [loss, *(p.grad for p in model.parameters() if p.grad is not None)]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert len(told) == 1


def test_another_shape_or_more_documents_are_recorded_anew():
    told: list[Any] = []
    recorder = recorder_of(TinyLM(), told)
    tokens = torch.zeros(2, LEAST_RUNS, dtype=torch.int64)
    many = [[1] * (LEAST_RUNS - 1), [LEAST_RUNS]]
    calls = [None, None, [[5], [9]], [[3, 4], [1]], many, [[*many[0], 1], [2]], [[1], [1]], None]
    counts = []
    for lengths in calls:
        segments = None if lengths is None else Segments.from_lengths(lengths, LEAST_RUNS)
        recorder.add(tokens, tokens, segments, 3)
        counts.append(len(told))
    assert counts == [1, 1, 2, 2, 3, 3, 3, 4]
    recorder.add(tokens[:1], tokens[:1], None, 3)
    assert len(told) == 5
    assert all(held is None for held in told)  # the last one's memory is free meanwhile


def test_documents_cover_everything_and_the_last_are_empty():
    given = Segments.from_lengths([[2, 3], [], [6]], 6)
    found = covering(given)
    assert found is not None
    assert found.n_docs == LEAST_RUNS
    runs = list(
        zip(found.rows.tolist(), found.starts.tolist(), found.lengths.tolist(), strict=True)
    )
    assert runs[:5] == [(0, 0, 2), (0, 2, 3), (0, 5, 1), (1, 0, 6), (2, 0, 6)]
    assert set(runs[5:]) == {(0, 0, 0)}
    assert torch.equal(found.position, given.position)
    assert found.doc.flatten().unique().tolist() == [0, 1, 2, 3, 4]
    ends = record.Unread(found.doc, found.position, found.rows, found.starts, found.lengths)
    assert ends.cu_seqlens.tolist() == [0, 2, 5, 6, 12, *[18] * (LEAST_RUNS - 4)]
    assert (ends.max_length, ends.places) == (6, None)


def test_a_model_that_asks_for_lengths_is_refused():
    tokens, segments = packed()
    with pytest.raises(InputError, match="asks the GPU for a number"):
        recorder_of(HybridLM(spec("*-"))).add(tokens, tokens, segments, 3)


def test_a_recorded_run_is_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("braidlm.train.loop.check_launches", lambda *_: None)
    monkeypatch.setattr(session, "Recorder", lambda model, *_: recorder_of(model))
    run(tmp_path / "recorded", recipe(cuda_graph=True, micro_batch_size=2))
    run(tmp_path / "plain", recipe(micro_batch_size=2))
    assert_same_run(tmp_path / "recorded", tmp_path / "plain")


@pytest.mark.parametrize(
    ("field", "pattern", "device", "replays", "word"),
    [
        ("cuda_graph", "*-", "cpu", False, "cuda_graph = true: needs an NVIDIA GPU; device is cpu"),
        ("cuda_graph", "*E", "cuda", False, "a mixture of experts cannot be recorded"),
        ("cuda_graph", "*-", "cuda", True, "cannot be recorded together with data.replay"),
        ("overlap_branches", "{M*}", "cpu", False, "overlap_branches = true: needs an NVIDIA GPU"),
        (
            "overlap_branches",
            "M*",
            "cuda",
            True,
            "the model has no parallel sublayer; use train.ov",
        ),
    ],
)
def test_what_cannot_be_launched_so_is_named(field, pattern, device, replays, word):
    config = recipe(**{field: True})
    if replays:
        data = config.data.model_copy(update={"replay": Replay(fraction=0.5)})
        config = config.model_copy(update={"data": data})
    model = HybridLM(spec(pattern))
    with pytest.raises(InputError, match=word):
        check_launches(config, model, torch.device(device))
    check_launches(recipe(), model, torch.device(device))


def test_nothing_is_left_where_a_run_cannot_be_recorded(tmp_path):
    with pytest.raises(InputError, match=r"train\.cuda_graph = true: needs an NVIDIA GPU"):
        run(tmp_path / "run", recipe(cuda_graph=True))
    assert not (tmp_path / "run").exists()


def test_what_has_another_way_of_its_own_is_refused():
    with pytest.raises(ValueError, match="cannot be recorded together with carry_states"):
        TrainConfig(cuda_graph=True, carry_states=True)
    with pytest.raises(ValueError, match="together with activation_checkpointing"):
        TrainConfig(cuda_graph=True, activation_checkpointing=1)
