"""Steps that run ahead: recorded on a GPU, elsewhere repeated as they stand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from braidlm.errors import InputError
from braidlm.generate import (
    CompiledStep,
    GraphStep,
    Sampling,
    generate,
    step_for,
    stream_tokens,
)
from braidlm.generate.ahead import AHEAD, Told, columns
from braidlm.model import HybridLM
from tests.generate.test_compiled import NOT_COMPILED
from tests.specs import ALL

PROMPTS = [[3, 14, 15, 9, 2, 6, 5, 3, 5, 8, 9], [7], [2, 7, 1, 8, 2], [1, 4]]
QUICK = {"sequential hybrid", "every option of attention", "parallel hybrid, untied"}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in ALL
    if name not in NOT_COMPILED
]


def _model(name: str, device: str = "cpu", dtype: torch.dtype = torch.float64) -> HybridLM:
    torch.manual_seed(4)
    return HybridLM(ALL[name]).to(device, dtype)


def as_it_stands(body):
    """Repeat a step by running it; it has run before, as when it is recorded."""
    body()
    return body


@pytest.mark.parametrize("name", NAMES)
def test_it_gives_the_same_tokens(name):
    model = _model(name)
    step = GraphStep(model, record=as_it_stands)
    for n in (1, 2, AHEAD + 1, 3 * AHEAD + 3):
        settings: dict[str, Any] = {"max_new_tokens": n, "temperature": 0.0, "stop_ids": (5,)}
        found = generate(model, PROMPTS, **settings, step=step)
        assert found == generate(model, PROMPTS, **settings)


def test_rows_that_end_and_rows_that_are_drawn_are_the_same_too():
    model = _model("sequential hybrid")
    step = GraphStep(model, record=as_it_stands)
    settings: dict[str, Any] = {"max_new_tokens": 30, "stop_ids": (1, 2, 3, 4, 5)}
    for seed in range(3):
        filters: dict[str, Any] = {"top_k": 12, "top_p": 0.9} if seed == 1 else {}
        found = generate(model, PROMPTS, **settings, **filters, seed=seed, step=step)
        assert found == generate(model, PROMPTS, **settings, **filters, seed=seed)
        assert len({len(row) for row in found}) > 1


def test_what_is_told_comes_in_order_and_ends_with_the_last_row():
    model = _model("sequential hybrid")
    settings: dict[str, Any] = {"max_new_tokens": 20, "sampling": Sampling(seed=3)}
    plain = list(stream_tokens(model, PROMPTS, **settings, stop_ids=(1, 2)))
    step = GraphStep(model, record=as_it_stands)
    assert list(stream_tokens(model, PROMPTS, **settings, stop_ids=(1, 2), step=step)) == plain


def test_a_step_is_recorded_once_for_a_form():
    model = _model("sequential hybrid")
    recorded: list[int] = []

    def counting(body):
        recorded.append(1)
        return as_it_stands(body)

    step = GraphStep(model, record=counting)
    for prompt, n_new in (([1, 2, 3], 8), ([4] * 20, 30), ([5], 100)):
        generate(model, [prompt], max_new_tokens=n_new, temperature=0, step=step)
    assert len(recorded) == 1
    for prompts, n_new, temperature in (([[5]], 300, 0), ([[5], [6]], 8, 0), ([[5], [6]], 8, 1)):
        before = len(recorded)
        settings: dict[str, Any] = {"max_new_tokens": n_new, "temperature": temperature}
        found = generate(model, prompts, **settings, step=step)
        assert len(recorded) == before + 1
        assert found == generate(model, prompts, **settings)


def test_two_groups_run_before_one_is_read():
    started: list[int] = []
    read: list[int] = []

    def start(n: int) -> Told:
        started.append(n)
        return Told(torch.zeros(n, 1, dtype=torch.int64), None)

    for _ in columns(start, 2 * AHEAD + 3):
        read.append(sum(started))
    assert started == [AHEAD, AHEAD, 3]
    assert read == [2 * AHEAD] * AHEAD + [2 * AHEAD + 3] * (AHEAD + 3)


def test_nobody_is_told_of_what_ran_ahead():
    """A text that stops early, and one whose reader goes away."""
    model = _model("mamba2")
    step = GraphStep(model, record=as_it_stands)
    settings: dict[str, Any] = {"max_new_tokens": 40, "sampling": Sampling(seed=1)}
    full = [t for _, t in stream_tokens(model, [[1, 2]], **settings)]
    stop = next(i for i in range(10, 40) if full[i] not in full[:i])
    tokens = stream_tokens(model, [[1, 2]], **settings, step=step)
    assert [next(tokens)[1] for _ in range(3)] == full[:3]
    fresh = stream_tokens(model, [[1, 2]], **settings, stop_ids=(full[stop],), step=step)
    assert [t for _, t in fresh] == full[:stop]
    with pytest.raises(InputError, match="a recorded step has one state"):
        list(tokens)


def test_a_row_that_breaks_is_named_after_what_was_sound():
    model = _model("mamba2")
    settings: dict[str, Any] = {"max_new_tokens": 40, "seed": 1}
    (full,) = generate(model, [[1, 2]], **settings)
    last = next(i for i in range(9, 40) if full[i] not in (1, 2, *full[:i]))
    read = model.embedding.forward

    def breaking(tokens):
        return read(tokens).masked_fill((tokens == full[last])[..., None], torch.nan)

    model.embedding.forward = breaking  # type: ignore[method-assign]
    told: list[int] = []
    settings |= {"stream": lambda _, token: told.append(token)}
    with pytest.raises(InputError, match="not finite for prompt 0"):
        generate(model, [[1, 2]], **settings, step=GraphStep(model, record=as_it_stands))
    assert told == full[: last + 1]


def test_changed_weights_and_other_models_are_refused():
    model = _model("mamba2")
    step = GraphStep(model, record=as_it_stands)
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(_model("mamba2"), [[1]], max_new_tokens=2, step=step)
    with torch.no_grad():
        model.norm.weight.mul_(1.5)
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(model, [[1]], max_new_tokens=2, step=step)


def test_a_hook_that_came_later_is_refused_and_one_that_went_again_is_not():
    model = _model("mamba2")
    step = GraphStep(model, record=as_it_stands)
    before = generate(model, [[1, 2]], max_new_tokens=3, step=step)
    norm: Any = model.blocks[0].norm
    hook = norm.register_forward_hook(lambda module, given, x: 2 * x)
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(model, [[1, 2]], max_new_tokens=3, step=step)
    hook.remove()
    assert generate(model, [[1, 2]], max_new_tokens=3, step=step) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cpu_records_nothing():
    with pytest.raises(InputError, match="recorded on a GPU"):
        GraphStep(_model("mamba2"))


def test_what_runs_steps_where():
    model = _model("mamba2")
    assert step_for(model) is None
    assert isinstance(step_for(model, is_compiled=True), CompiledStep)
    if torch.cuda.is_available():
        assert isinstance(step_for(model.cuda()), GraphStep)
        assert step_for(model, is_recorded=False) is None


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [name for name in ALL if name not in NOT_COMPILED])
def test_a_graph_gives_the_same_tokens(name, dtype):
    model = _model(name, "cuda", dtype)
    step = GraphStep(model)
    ways: list[dict[str, Any]] = [{"temperature": 0.0}, {"seed": 3, "stop_ids": (1, 2, 3)}]
    for settings in ways:
        found = generate(model, PROMPTS, max_new_tokens=20, **settings, step=step)
        assert found == generate(model, PROMPTS, max_new_tokens=20, **settings)


@needs_gpu
@pytest.mark.parametrize("name", ["sequential hybrid", "hybrid of experts"])
def test_a_graph_of_a_new_room_and_of_narrow_weights(name):
    model = _model(name, "cuda", torch.bfloat16)
    step = GraphStep(model)
    for n in (20, 300):
        settings: dict[str, Any] = {"max_new_tokens": n, "temperature": 0.0}
        assert generate(model, PROMPTS, **settings, step=step) == generate(
            model, PROMPTS, **settings
        )


@needs_gpu
def test_what_asks_the_gpu_is_not_recorded():
    model = _model("merge-attention, window", "cuda")
    with pytest.raises(InputError, match="cannot be recorded"):
        generate(model, PROMPTS, max_new_tokens=4, step=GraphStep(model))


@needs_gpu
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_step_is_recorded_too():
    model = _model("sequential hybrid", "cuda", torch.float32)
    settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0.0}
    found = generate(model, PROMPTS, **settings, step=GraphStep(model, compiled=True))
    assert found == generate(model, PROMPTS, **settings)
