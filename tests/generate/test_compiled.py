"""The compiled step against the step as it stands."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from braidlm import state as states
from braidlm.errors import InputError
from braidlm.generate import CompiledStep, generate
from braidlm.model import HybridLM
from braidlm.ops.attention import Reserved
from tests.specs import ALL

PROMPTS = [[3, 14, 15, 9, 2, 6, 5, 3, 5, 8, 9], [7], [2, 7, 1, 8, 2], [1, 4]]
NOT_COMPILED = {
    "merge-attention, window",
    "merge-attention, window, sinks",
    "meta tokens that a merge attention sees",
}
"""Merge attentions under a window; see `test_what_is_no_graph_is_said`."""
QUICK = {"sequential hybrid", "every option of attention", "merge-attention", "muP"}

# The compiler itself instantiates autograd functions, which warns.
pytestmark = pytest.mark.filterwarnings("ignore")


def _model(name: str) -> HybridLM:
    torch.manual_seed(4)
    return HybridLM(ALL[name]).double()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in ALL
        if name not in NOT_COMPILED
    ],
)
def test_it_gives_the_same_tokens(name):
    model = _model(name)
    step = CompiledStep(model, backend="eager")
    settings = {"max_new_tokens": 12, "temperature": 0.0, "stop_ids": (5,)}
    assert generate(model, PROMPTS, **settings, step=step) == generate(model, PROMPTS, **settings)


def test_rows_that_end_and_rows_that_are_drawn_are_the_same_too():
    model = _model("sequential hybrid")
    step = CompiledStep(model, backend="eager")
    for seed in range(4):
        settings = {"max_new_tokens": 30, "stop_ids": (1, 2, 3, 4, 5), "seed": seed}
        found = generate(model, PROMPTS, **settings, step=step)
        assert found == generate(model, PROMPTS, **settings)
        assert len({len(row) for row in found}) > 1


def test_a_call_of_similar_length_compiles_nothing():
    model = _model("parallel hybrid, untied")
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph

    step = CompiledStep(model, backend=counting)
    for prompt, n_new in (([1, 2, 3], 8), ([4] * 20, 30), ([5], 100)):
        generate(model, [prompt], max_new_tokens=n_new, temperature=0, step=step)
    assert len(graphs) == 1


def test_room_changes_no_output():
    """Longer than the room's step, so that a cache of two sizes is compared."""
    model = _model("every option of attention")
    tokens = torch.randint(0, 31, (2, 20))
    with torch.no_grad():
        start = model(tokens[:, :10]).state
        plain, roomy = start, model.reserve(states.map_tensors(torch.clone, start), 300)
        for t in range(10, 20):
            a, b = (model(tokens[:, t : t + 1], state=s) for s in (plain, roomy))
            torch.testing.assert_close(a.hidden, b.hidden, rtol=0, atol=1e-12)
            plain, roomy = a.state, b.state


def test_room_is_made_once_and_its_end_is_told():
    model = _model("attention nope, multi-query")
    with torch.no_grad():
        state = model.reserve(model(torch.zeros(1, 3, dtype=torch.int64)).state, 1)
        assert isinstance(state[0], Reserved)
        places = state[0].k.data_ptr()
        for _ in range(256 - 3):
            state = model(torch.zeros(1, 1, dtype=torch.int64), state=state).state
        assert state[0].k.data_ptr() == places
        with pytest.raises(IndexError):
            model(torch.zeros(1, 1, dtype=torch.int64), state=state)


def test_changed_weights_and_other_models_are_refused():
    model = _model("mamba2")
    step = CompiledStep(model, backend="eager")
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(_model("mamba2"), [[1]], max_new_tokens=2, step=step)
    with torch.no_grad():
        model.norm.weight.mul_(1.5)
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(model, [[1]], max_new_tokens=2, step=step)


def test_a_hook_that_came_later_is_refused_and_one_that_went_again_is_not():
    model = _model("mamba2")
    step = CompiledStep(model, backend="eager")
    before = generate(model, [[1, 2]], max_new_tokens=3, step=step)
    norm: Any = model.blocks[0].norm
    hook = norm.register_forward_hook(lambda module, given, x: 2 * x)
    with pytest.raises(InputError, match="other weights or hooks than the model"):
        generate(model, [[1, 2]], max_new_tokens=3, step=step)
    hook.remove()
    assert generate(model, [[1, 2]], max_new_tokens=3, step=step) == before


def test_what_is_no_graph_is_said():
    model = _model("merge-attention, window")
    with pytest.raises(InputError, match="a merge_attention with a window"):
        generate(model, [[1]], max_new_tokens=2, step=CompiledStep(model, backend="eager"))


@pytest.mark.slow
def test_the_real_compiler_agrees():
    torch.manual_seed(0)
    model = HybridLM(ALL["sequential hybrid"]).eval()
    settings = {"max_new_tokens": 12, "temperature": 0.0}
    compiled = generate(model, PROMPTS, **settings, step=CompiledStep(model))
    assert compiled == generate(model, PROMPTS, **settings)
